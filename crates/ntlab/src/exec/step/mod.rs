//! Runs driver code instruction by instruction, without a signal or a trap: on request, so that interrupts, DPCs, other threads and other
//! processors come in at any instruction, and so that instructions and basic blocks are counted.
//!
//! **Translation.** A block of the driver's instructions, up to the next branch, is encoded again in memory of the lab just before it
//! first runs, and runs there. Instructions stay as they are but for rip-relative operands; calls push the driver's own return address,
//! so that stack traces, unwinding and kernel calls see the driver's code and nothing else. Branches with one target go on through a cell
//! that leads to the stepper until the other block is translated; the others, returns too, through a table by target
//! (`lookup_entry`). No register, no flag and no byte of the driver's stack is used for any of it.
//!
//! **Budget.** Each block subtracts its number of instructions from a budget. Where that does not suffice, the driver comes back to the
//! stepper, which runs the rest of the budget in blocks of one instruction and has then reached, exactly, the instruction that was
//! chosen: every boundary of two instructions is such a point sometimes. What was granted less what is left is the number
//! of instructions the driver has executed. The kernel's own memcpy and relatives, which run on the driver's stack, are translated like
//! the rest but neither counted nor interrupted.
//!
//! **Torn instructions.** On a processor of its own, `inc [m]` without `lock` is a load and a store between which others come. So
//! an instruction that reads and writes one memory operand, and is neither locked nor `xchg`, is done in three parts where a point
//! falls on it: the operand is read, others go on, the instruction runs on what was read and the result is written. Locked
//! instructions, plain loads and stores are single. So are string instructions with their repetitions, those with two memory operands,
//! and `bts`, `btr` and `btc` with a bit number in a register. Memory is sequentially consistent: no reordering is tried.
//!
//! **Faults.** A fault in a translation is one of the instruction it was made from ([`Stepper::original`]); one that goes on, as an access
//! to a device register does, goes on in the translation. Each block reads a byte of the driver's code before it runs, so that code that
//! is paged out, discarded or unloaded faults as it does without the stepper.
//!
//! Refused by name: vector instructions with VEX prefixes (their upper halves are not kept over an event), far branches, system
//! calls, transactions, code in writable sections and in pool.

mod area;
mod block;
mod entry;
mod observe;
mod tear;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    rc::Rc,
};

use serde::{Deserialize, Serialize};

use self::{
    area::Area,
    block::{Block, Form, translate},
    entry::{ENTRIES, ENTRY, NOT_FOUND},
    tear::Torn,
};
pub use self::{
    block::Source,
    entry::lookup_entry,
    observe::{Accesses, MemoryAccess, Observer, Step},
};
use super::{
    Exec,
    entry::{Border, resume_entry},
    event::Event,
};
use crate::{
    config::{Config, Preemption},
    finding::Finding,
    kernel::Kernel,
    memory::{Arena, PAGE, PageKind, Space},
    rule::Rule,
};

/// Blocks of which it is known whether they have run.
const HITS: u64 = 64 * PAGE;
/// Instructions that run before the stepper looks again where there is no point to reach.
const SLICE: u64 = 1 << 20;

/// A processor that executes so many instructions without a kernel call is taken to do so for ever.
const SPIN_LIMIT: u64 = 50_000_000;

/// The start of a basic block of a driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct BlockStart {
    /// The image, by number in the order they were loaded.
    pub image: u32,
    /// The offset in it.
    pub offset: u32,
}

/// Why stepped code comes back.
#[derive(Clone, Copy, Debug)]
enum Exit {
    /// To `Border::target`.
    Target,
    /// To a target that is known. `cell` can lead there from now on.
    Branch { target: u64, leader: bool, cell: Option<u64> },
    /// The budget does not suffice for the block.
    Budget { rip: u64, weight: u32 },
}

/// How an instruction was reached.
#[derive(Clone, Copy, Default, Debug)]
struct Arrival {
    /// By a branch, a call, a return or a call of the kernel's.
    leader: bool,
    /// By way of the table.
    looked_up: bool,
    /// By way of a cell.
    cell: Option<u64>,
}

/// Steps the driver code of one machine.
pub struct Stepper {
    space: Rc<Space>,
    /// About once in so many instructions is a point; None: never.
    one_in: Option<u32>,
    /// Translations.
    code: Area,
    /// Addresses that translations load.
    cells: Area,
    /// Cells with the addresses of `resume_entry` and `lookup_entry`.
    resume: u64,
    lookup: u64,
    /// The table of branch targets.
    targets: u64,
    /// A byte for each block that says whether it has run.
    hits: u64,
    /// By address of the translation.
    blocks: RefCell<Vec<Rc<Block>>>,
    /// By the driver's address: blocks, and blocks of one instruction.
    linked: RefCell<HashMap<u64, Rc<Block>>>,
    single: RefCell<HashMap<u64, Rc<Block>>>,
    exits: RefCell<Vec<Exit>>,
    /// All instructions that were ever allowed to run.
    granted: Cell<u64>,
    /// How many had run when virtual time last passed for them, and when they were last charged to a processor.
    timed: Cell<u64>,
    charged: Cell<u64>,
    /// What looks at each instruction, and then how many may run until the next point: the budget is 0, so that each comes back.
    observer: RefCell<Option<Observer>>,
    left: Cell<u64>,
    /// Instructions of each processor since its last kernel call.
    since_call: RefCell<BTreeMap<u32, u64>>,
}

impl fmt::Debug for Stepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepper").field("one_in", &self.one_in).field("granted", &self.granted).finish_non_exhaustive()
    }
}

impl Stepper {
    /// The stepper of a machine, if its configuration asks for one.
    pub fn new(space: &Rc<Space>, config: &Config) -> Option<Self> {
        let one_in = match config.preemption {
            Preemption::Instructions { one_in } => Some(one_in),
            Preemption::KernelCalls => None,
        };
        if one_in.is_none() && !config.count_instructions {
            return None;
        }
        let host = |bytes| {
            let address = space.take(Arena::Kernel, bytes);
            space.open(address, bytes, PageKind::Host);
            address
        };
        let cells = Area::new(space, PageKind::Object);
        let cell = |entry: u64| cells.push(&entry.to_le_bytes());
        Some(Self {
            one_in,
            resume: cell(resume_entry as *const () as u64),
            lookup: cell(lookup_entry as *const () as u64),
            cells,
            code: Area::new(space, PageKind::Translated),
            targets: host(ENTRIES * ENTRY),
            hits: host(HITS),
            blocks: RefCell::default(),
            linked: RefCell::default(),
            single: RefCell::default(),
            exits: RefCell::default(),
            granted: Cell::new(0),
            timed: Cell::new(0),
            charged: Cell::new(0),
            observer: RefCell::default(),
            left: Cell::new(0),
            since_call: RefCell::default(),
            space: Rc::clone(space),
        })
    }

    /// Prepares what translations use of the border.
    pub fn attach(&self, border: &Border) {
        border.targets.set(self.targets);
    }

    /// The address at which the kernel calls the driver's `function`.
    pub fn entry(&self, k: &Kernel, function: u64) -> u64 {
        let Some(block) = self.block(k, function) else { return function };
        block.leader.set(true);
        block.code
    }

    /// The driver's instruction to which an address in a translation belongs, else the address itself.
    pub fn original(&self, rip: u64) -> u64 {
        self.around(rip).map_or(rip, |block| block.original(rip))
    }

    /// The translation around an address.
    fn around(&self, rip: u64) -> Option<Rc<Block>> {
        if self.space.kind(rip) != PageKind::Translated {
            return None;
        }
        let blocks = self.blocks.borrow();
        let after = blocks.partition_point(|block| block.start <= rip);
        // The address behind a breakpoint may be the end.
        blocks[..after].last().filter(|block| rip <= block.end).cloned()
    }

    /// Whether a fault at `rip` that read `address` is that of a block that touches the driver's code before it runs.
    pub fn is_fetch(&self, rip: u64, address: u64) -> bool {
        self.around(rip).is_some_and(|block| block.is_prologue(rip) && block.rip == address)
    }

    fn add_exit(&self, exit: Exit) -> u32 {
        let mut exits = self.exits.borrow_mut();
        exits.push(exit);
        u32::try_from(exits.len()).expect("there is less memory for translations") + 1
    }

    /// Serves what stepped code came back for, if that is what the event is.
    pub(super) fn serve(&self, k: &Kernel, event: &mut Event) -> bool {
        let border = k.exec.border();
        let exit = match border.exit.replace(0) {
            0 => return false,
            NOT_FOUND => Exit::Target,
            number => self.exits.borrow()[usize::try_from(number).unwrap_or(usize::MAX) - 2],
        };
        let arrival = match exit {
            Exit::Target => {
                event.rip = border.target.get();
                Arrival { leader: true, looked_up: true, cell: None }
            }
            Exit::Branch { target, leader, cell } => {
                event.rip = target;
                Arrival { leader, looked_up: false, cell }
            }
            Exit::Budget { rip, weight } => {
                event.rip = rip;
                border.budget.set(border.budget.get() + i64::from(weight));
                Arrival::default()
            }
        };
        self.go_on(k, event, arrival);
        true
    }

    /// Lets the driver go on in a translation, wherever an event left it.
    pub(super) fn resume(&self, k: &Kernel, event: &mut Event) {
        self.go_on(k, event, Arrival::default());
    }

    fn go_on(&self, k: &Kernel, event: &mut Event, arrival: Arrival) {
        let rip = event.rip;
        if arrival.leader && self.is_observed() {
            Self::note_runtime_call(k, event);
        }
        let Some(block) = self.block(k, rip) else {
            // A kernel call, or back to the kernel: known from now on.
            if arrival.looked_up && matches!(self.space.kind(rip), PageKind::KernelCode | PageKind::Free) {
                self.set_target(rip, rip);
            }
            return;
        };
        if arrival.leader {
            block.leader.set(true);
        }
        if arrival.looked_up {
            self.set_target(rip, block.code);
        }
        if let Some(cell) = arrival.cell {
            self.cells.set(cell, block.code);
        }
        // Others may use up, at the point, what was granted there.
        while self.remaining(k) == 0 && block.weight > 0 {
            self.point(k);
            let torn = self.one_in.and_then(|_| Torn::at(k, event, &block));
            if let Some(torn) = torn {
                self.look(k, event, &block);
                self.granted.set(self.granted.get() + 1);
                self.note_hit(&block);
                return torn.run(k, event);
            }
        }
        let budget = &k.exec.border().budget;
        event.rip = if budget.get() >= block.weight.into() {
            block.code
        } else {
            self.look(k, event, &block);
            self.take_one(k);
            self.note_hit(&block);
            self.single(k, rip).code
        };
    }

    fn note_hit(&self, block: &Block) {
        self.space.write(block.hit, &[1]);
    }

    /// The translation of the block at an address; None where no driver code is, which is then run, and faults, as it is.
    fn block(&self, k: &Kernel, rip: u64) -> Option<Rc<Block>> {
        let kind = self.space.kind(rip);
        let steps = matches!(kind, PageKind::ImageCode | PageKind::PagedCode) || k.exec.is_runtime(rip);
        if !steps {
            if matches!(kind, PageKind::ImageWritableCode | PageKind::ExecutablePool) {
                Finding::not_modelled("code in memory that can be written, stepped").raise();
            }
            return None;
        }
        if let Some(block) = self.linked.borrow().get(&rip) {
            return Some(Rc::clone(block));
        }
        let hit = self.hits + self.linked.borrow().len() as u64;
        if hit == self.hits + HITS {
            Finding::not_modelled(format!("more than {HITS} blocks of stepped code")).raise();
        }
        let block = self.translate(k, rip, Form::Linked { hit });
        self.linked.borrow_mut().insert(rip, Rc::clone(&block));
        Some(block)
    }

    fn single(&self, k: &Kernel, rip: u64) -> Rc<Block> {
        if let Some(block) = self.single.borrow().get(&rip) {
            return Rc::clone(block);
        }
        let block = self.translate(k, rip, Form::Single);
        self.single.borrow_mut().insert(rip, Rc::clone(&block));
        block
    }

    fn translate(&self, k: &Kernel, rip: u64, form: Form) -> Rc<Block> {
        let block = k.exec.with_code(rip, |source| translate(self, source, form));
        let block = Rc::new(block.expect("an image or the runtime has the address"));
        self.blocks.borrow_mut().push(Rc::clone(&block));
        block
    }

    fn set_target(&self, rip: u64, code: u64) {
        let entry = self.targets + rip % ENTRIES * ENTRY;
        let both = [rip.wrapping_neg().to_le_bytes(), code.to_le_bytes()].concat();
        self.space.write(entry, &both);
    }

    /// The budget is used up: grants another, and lets others go on.
    fn point(&self, k: &Kernel) {
        self.charge(k);
        let executed = self.executed(k);
        // The lowest draw is the latest point.
        let distance = self.one_in.map_or(SLICE, |one_in| {
            let most = 2 * u64::from(one_in) - 1;
            most - k.choices.between(0, most - 1)
        });
        self.allow(k, distance);
        if self.one_in.is_some() {
            k.sched.pass_instructions(k, executed - self.timed.replace(executed));
        }
    }

    /// How many of the driver's instructions have run; those of a block in which a fault is served count from its start.
    pub const fn executed(&self, k: &Kernel) -> u64 {
        self.granted.get() - k.exec.border().budget.get().cast_unsigned()
    }

    /// Charges the instructions that have run since the last time to the current processor: before anything that may switch to another.
    pub fn charge(&self, k: &Kernel) {
        let executed = self.executed(k);
        let ran = executed - self.charged.replace(executed);
        k.counting.ran(k, ran);
        let mut since_call = self.since_call.borrow_mut();
        let count = since_call.entry(k.processor_index()).or_default();
        *count += ran;
        if *count > SPIN_LIMIT {
            let count = *count;
            drop(since_call);
            spins(k, count).raise();
        }
    }

    /// The current processor calls the kernel.
    pub fn note_call(&self, k: &Kernel) {
        self.charge(k);
        self.since_call.borrow_mut().insert(k.processor_index(), 0);
    }

    /// The starts of basic blocks that have run since they were last forgotten.
    pub fn blocks(&self, exec: &Exec) -> BTreeSet<BlockStart> {
        let linked = self.linked.borrow();
        let ran = linked.values().filter(|block| block.leader.get() && self.has_hit(block));
        ran.filter_map(|block| exec.block_start(block.rip)).collect()
    }

    /// Forgets which blocks have run.
    pub fn forget_blocks(&self) {
        self.space.write(self.hits, &vec![0; self.linked.borrow().len()]);
    }

    fn has_hit(&self, block: &Block) -> bool {
        self.space.first_other(block.hit, 1, 0).is_some()
    }
}

/// A processor does not leave the driver.
fn spins(k: &Kernel, instructions: u64) -> Finding {
    let sentence =
        format!("processor {} has executed {instructions} instructions without a kernel call", k.processor_index());
    Rule::Spins.broken([k.irql().0.into(), instructions, 0], sentence)
}
