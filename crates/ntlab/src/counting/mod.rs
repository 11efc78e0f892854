//! Counts what driver code does between two points.
//!
//! Instructions, kernel calls by name, atomic operations, kernel stack, and the cache lines that more than one processor writes to. The
//! same run gives the same counts, whatever the host does meanwhile.
//!
//! ```no_run
//! use ntlab::{config::Config, counting::Detail, machine::Machine, user::{Access, Request}};
//!
//! # const INTERFACE: (u32, u16, u16, [u8; 8]) = (0, 0, 0, [0; 8]);
//! let config = Config { count_instructions: true, ..Config::default() };
//! let outcome = Machine::new(config).unwrap().run(|system| {
//!     let device = system.open_interface(INTERFACE, 0, Access::Read).unwrap();
//!     system.start_counting(Detail::Instructions);
//!     device.read(0, 16).unwrap();
//!     system.settle();
//!     system.take_counts()
//! });
//! println!("{} instructions", outcome.result.unwrap().total().instructions);
//! ```
//!
//! **Whose work.** What runs in the driver is counted under the call of the kernel's that led there: a dispatch routine, a DPC, an
//! interrupt service routine, a work item. What a kernel function calls back on the way, as a cancel-safe queue does, belongs to
//! the same; what interrupts it does not.
//!
//! **Instructions** are those of driver images; the C runtime functions of the kernel (`memcpy`) are calls by name.
//!
//! **Cache lines** have 64 bytes. Writes are those of the driver's instructions and those that kernel functions make to objects in the
//! driver's memory ([`writes`]); what the kernel keeps elsewhere is its own business and not counted.

mod counts;
mod lines;
mod memory;
mod writes;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use self::{
    counts::Described,
    lines::{By, Lines},
};
pub use self::{
    counts::{Call, Counts, InstructionCount, SharedLine, Work, Writer},
    memory::Lies,
};
use crate::{
    exec::{Accesses, Step},
    kernel::Kernel,
    machine::System,
    sched::ThreadId,
};

/// What runs in a driver without having been called since counting began.
const BEFORE: &str = "what had begun before";
/// Calls whose order is kept.
const CALLS: usize = 4096;

/// What to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Instructions and kernel calls: fast.
    Totals,
    /// Everything, instruction by instruction.
    Instructions,
}

/// What counts, while somebody wants to know.
#[derive(Debug, Default)]
pub struct Counting {
    on: Cell<bool>,
    state: RefCell<State>,
}

/// A call into a driver that has not returned.
#[derive(Debug)]
struct Frame {
    /// What the call is, and what the outermost call is that it belongs to.
    what: &'static str,
    root: &'static str,
    /// The stack pointer at the outermost call.
    base: u64,
    /// Where the interrupt or DPC began that the thread serves; calls under another are others' business.
    interrupted: u64,
}

#[derive(Debug, Default)]
struct State {
    is_detailed: bool,
    frames: BTreeMap<ThreadId, Vec<Frame>>,
    /// By outermost and innermost call.
    work: BTreeMap<(&'static str, &'static str), Work>,
    calls: Vec<Call>,
    /// By address: what each instruction accesses.
    decoded: BTreeMap<u64, Rc<Accesses>>,
    /// How often each ran, and for whom.
    ran: BTreeMap<(&'static str, u64), u64>,
    lines: Lines,
}

impl State {
    /// The innermost call into a driver on the current thread.
    fn frame(&self, k: &Kernel) -> Option<&Frame> {
        self.frames.get(&k.thread_id())?.last()
    }

    /// The outermost and the innermost call into a driver on the current thread.
    fn calls_of(&self, k: &Kernel) -> (&'static str, &'static str) {
        self.frame(k).map_or((BEFORE, BEFORE), |frame| (frame.root, frame.what))
    }

    fn work(&mut self, k: &Kernel) -> &mut Work {
        let calls = self.calls_of(k);
        self.work.entry(calls).or_default()
    }

    fn note_stack(&mut self, k: &Kernel, stack: u64) {
        if let Some(used) = self.frame(k).map(|frame| frame.base.saturating_sub(stack)) {
            let work = self.work(k);
            work.deepest_stack = work.deepest_stack.max(used);
        }
    }
}

impl Counting {
    fn with(&self, act: impl FnOnce(&mut State)) {
        if self.on.get() {
            act(&mut self.state.borrow_mut());
        }
    }

    /// The kernel calls a driver: `stack` is the stack pointer there.
    pub(crate) fn enter(&self, k: &Kernel, what: &'static str, arguments: &[u64], stack: u64) {
        self.with(|state| {
            let interrupted = k.exec.save().interrupted();
            let outer = state.frame(k).filter(|outer| outer.interrupted == interrupted);
            let (root, base) = outer.map_or((what, stack), |outer| (outer.root, outer.base));
            state.frames.entry(k.thread_id()).or_default().push(Frame { what, root, base, interrupted });
            state.work(k).calls += 1;
            if state.is_detailed {
                writes::before_callback(k, what, arguments, &mut state.lines);
            }
        });
    }

    /// The call returned.
    pub(crate) fn leave(&self, k: &Kernel) {
        self.with(|state| {
            if let Some(frames) = state.frames.get_mut(&k.thread_id()) {
                frames.pop();
            }
        });
    }

    /// The current thread has executed so many instructions of drivers.
    pub(crate) fn ran(&self, k: &Kernel, instructions: u64) {
        self.with(|state| {
            if instructions > 0 {
                state.work(k).instructions += instructions;
            }
        });
    }

    /// A driver calls a kernel function; `arguments` is where they lie on its stack.
    pub(crate) fn kernel_call(&self, k: &Kernel, name: &'static str, arguments: u64) {
        self.with(|state| {
            let work = state.work(k);
            *work.kernel_calls.entry(name).or_default() += 1;
            work.allocated += writes::allocated(name, arguments);
            work.kernel_atomics += u64::from(writes::is_atomic(name));
            state.note_call(k, name);
            state.note_stack(k, arguments - 8);
            if state.is_detailed {
                writes::by_function(k, name, arguments, &mut state.lines);
            }
        });
    }

    /// A driver calls a C runtime function of the kernel's; `registers` are rcx, rdx and r8.
    pub(crate) fn runtime_call(&self, k: &Kernel, name: &'static str, registers: [u64; 3]) {
        self.with(|state| {
            *state.work(k).runtime_calls.entry(name).or_default() += 1;
            state.note_call(k, name);
            if let Some((start, bytes)) = writes::by_runtime(name, registers) {
                state.lines.write(k, start, bytes, By::Kernel(name));
            }
        });
    }

    /// As [`System::start_counting`].
    pub(crate) fn begin(&self, k: &Kernel, detail: Detail) {
        let is_detailed = detail == Detail::Instructions;
        self.state.replace(State { is_detailed, ..State::default() });
        self.on.set(true);
        let observer = is_detailed.then(|| Rc::new(|k: &Kernel, step: &Step<'_>| k.counting.step(k, step)) as Rc<_>);
        assert!(k.exec.observe(k, observer), "Config::count_instructions asks for what counts");
    }

    /// As [`System::take_counts`].
    pub(crate) fn end(&self, k: &Kernel) -> Counts {
        k.exec.observe(k, None);
        self.on.set(false);
        self.state.take().finish(k)
    }

    /// An instruction is about to run.
    fn step(&self, k: &Kernel, step: &Step<'_>) {
        self.with(|state| {
            let accesses = state.decoded.entry(step.rip()).or_insert_with(|| Rc::new(step.decode()));
            let accesses = Rc::clone(accesses);
            let (root, _) = state.calls_of(k);
            *state.ran.entry((root, step.rip())).or_default() += 1;
            state.note_stack(k, step.stack());
            if accesses.is_atomic {
                state.work(k).atomics += 1;
            }
            for access in step.resolve(&accesses).filter(|access| access.writes) {
                state.lines.write(k, access.address, access.bytes as u64, By::Instruction(step.rip()));
            }
        });
    }
}

impl State {
    fn note_call(&mut self, k: &Kernel, name: &'static str) {
        if self.calls.len() < CALLS {
            let (within, inside) = self.calls_of(k);
            self.calls.push(Call { within, inside, name });
        }
    }

    fn finish(self, k: &Kernel) -> Counts {
        let places = self.ran.keys().map(|(_, rip)| *rip).chain(self.lines.places());
        let described = Described::new(k, places);
        let instructions = self.ran.iter().map(|((within, rip), count)| InstructionCount {
            within,
            frames: described.frames(*rip),
            count: *count,
            is_atomic: self.decoded.get(rip).is_some_and(|accesses| accesses.is_atomic),
        });
        let instructions = instructions.collect();
        let (shared, written) = self.lines.finish(k, &described);
        let (mut work, mut callbacks) = (BTreeMap::new(), BTreeMap::new());
        for ((root, what), part) in &self.work {
            *work.entry(*root).or_insert_with(Work::default) += part;
            *callbacks.entry(*what).or_insert_with(Work::default) += part;
        }
        for (root, work) in &mut work {
            work.calls = self.work.get(&(*root, *root)).map_or(0, |part| part.calls);
        }
        Counts { work, callbacks, calls: self.calls, instructions, shared, written }
    }
}

impl System {
    /// Begins to count what driver code does, from zero.
    ///
    /// # Panics
    ///
    /// Where the machine does not step driver code ([`Config::count_instructions`](crate::config::Config::count_instructions)).
    pub fn start_counting(&self, detail: Detail) {
        self.kernel.counting.begin(&self.kernel, detail);
    }

    /// Bytes of pool that drivers have and must free.
    #[must_use]
    pub fn driver_pool(&self) -> u64 {
        self.kernel.memory.pool.driver_blocks().iter().map(|block| block.request.bytes).sum()
    }

    /// Ends counting: what there was since it began.
    #[must_use]
    pub fn take_counts(&self) -> Counts {
        self.kernel.counting.end(&self.kernel)
    }
}
