//! What can look at each instruction of drivers before it runs.

use std::rc::Rc;

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, Register, UsedMemory};

use super::{Stepper, block::Block};
use crate::{
    exec::event::{self, Event},
    kernel::Kernel,
};

/// Called for each instruction of drivers just before it runs. While there is one, each comes back to the stepper.
pub type Observer = Rc<dyn Fn(&Kernel, &Step<'_>)>;

/// An instruction that is about to run.
#[derive(Debug)]
pub struct Step<'e> {
    instruction: &'e Instruction,
    event: &'e Event,
}

/// An access to memory that an instruction makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryAccess {
    /// The first byte.
    pub address: u64,
    /// How many there are, from there on; a repeated string instruction is taken to go up.
    pub bytes: usize,
    /// Whether it reads.
    pub reads: bool,
    /// Whether it writes.
    pub writes: bool,
}

/// What an instruction accesses wherever it runs.
#[derive(Clone, Debug)]
pub struct Accesses {
    used: Vec<UsedMemory>,
    /// Whether it repeats itself as often as rcx says.
    is_repeated: bool,
    /// Whether it reads and writes memory as one.
    pub is_atomic: bool,
}

impl Step<'_> {
    /// The driver's address.
    #[must_use]
    pub const fn rip(&self) -> u64 {
        self.instruction.ip()
    }

    /// The driver's stack pointer.
    #[must_use]
    pub const fn stack(&self) -> u64 {
        self.event.rsp
    }

    /// Whether it reads and writes memory as one.
    #[must_use]
    pub fn is_atomic(&self) -> bool {
        self.decode().is_atomic
    }

    /// The accesses it makes, with those to the stack. Where an address is made of a segment, it is left out.
    #[must_use]
    pub fn accesses(&self) -> Vec<MemoryAccess> {
        self.resolve(&self.decode()).collect()
    }

    /// What it accesses wherever it runs: for [`Step::resolve`], so that an instruction that runs often is looked at once.
    #[must_use]
    pub fn decode(&self) -> Accesses {
        let used = InstructionInfoFactory::new().info(self.instruction).used_memory().to_vec();
        let exchanges = self.instruction.code().mnemonic() == iced_x86::Mnemonic::Xchg;
        let is_atomic =
            self.instruction.has_lock_prefix() || exchanges && used.iter().any(|used| kinds(used.access()).1);
        let is_repeated = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        Accesses { used, is_repeated, is_atomic }
    }

    /// The accesses it makes here, with those to the stack. Where an address is made of a segment, it is left out.
    pub fn resolve<'a>(&'a self, accesses: &'a Accesses) -> impl Iterator<Item = MemoryAccess> + 'a {
        let value = |register: Register, _, _| match register {
            Register::RSP => Some(self.event.rsp),
            other => event::value(self.event, other),
        };
        let times = if accesses.is_repeated { event::value(self.event, Register::RCX).unwrap_or(0) } else { 1 };
        let access = move |used: &UsedMemory| {
            let (reads, writes) = kinds(used.access());
            let address = used.virtual_address(0, value)?;
            let bytes = used.memory_size().size() * usize::try_from(times).unwrap_or(usize::MAX);
            Some(MemoryAccess { address, bytes, reads, writes })
        };
        accesses.used.iter().filter_map(access).filter(|access| access.reads || access.writes)
    }
}

/// Whether an access reads, and whether it writes.
const fn kinds(access: OpAccess) -> (bool, bool) {
    use OpAccess::{CondRead, CondWrite, Read, ReadCondWrite, ReadWrite, Write};
    (
        matches!(access, Read | CondRead | ReadWrite | ReadCondWrite),
        matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite),
    )
}

impl Stepper {
    /// Lets `observer` look at each instruction from now on, or nobody.
    pub fn observe(&self, k: &Kernel, observer: Option<Observer>) {
        let left = self.remaining(k);
        self.granted.set(self.executed(k));
        k.exec.border().budget.set(0);
        self.observer.replace(observer);
        self.allow(k, left);
    }

    pub(super) fn is_observed(&self) -> bool {
        self.observer.borrow().is_some()
    }

    /// How many instructions may run until the next point.
    pub(super) fn remaining(&self, k: &Kernel) -> u64 {
        if self.is_observed() { self.left.get() } else { k.exec.border().budget.get().cast_unsigned() }
    }

    /// Lets so many instructions run until the next point.
    pub(super) fn allow(&self, k: &Kernel, instructions: u64) {
        if self.is_observed() {
            self.left.set(instructions);
        } else {
            k.exec.border().budget.set(instructions.cast_signed());
            self.granted.set(self.granted.get() + instructions);
        }
    }

    /// One of them runs.
    pub(super) fn take_one(&self, k: &Kernel) {
        let budget = &k.exec.border().budget;
        if self.is_observed() {
            self.left.set(self.left.get() - 1);
            self.granted.set(self.granted.get() + 1);
        } else {
            budget.set(budget.get() - 1);
        }
    }

    /// Shows the first instruction of a block, at which the driver is, to the observer.
    pub(super) fn look(&self, k: &Kernel, event: &Event, block: &Block) {
        let observer = self.observer.borrow().clone();
        if let Some(observer) = observer {
            observer(k, &Step { instruction: &block.first, event });
        }
    }

    /// Counts the call where the driver has just reached a C runtime function.
    pub(super) fn note_runtime_call(k: &Kernel, event: &Event) {
        if let Some(name) = k.exec.runtime_name(event.rip) {
            let registers = [Register::RCX, Register::RDX, Register::R8];
            let values = registers.map(|register| event::value(event, register).unwrap_or(0));
            k.counting.runtime_call(k, name, values);
        }
    }
}
