//! What can look at each instruction of drivers before it runs.

use std::rc::Rc;

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, Register};

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
    /// How many there are; of a repeated string instruction, those of one repetition.
    pub bytes: usize,
    /// Whether it reads.
    pub reads: bool,
    /// Whether it writes.
    pub writes: bool,
}

impl Step<'_> {
    /// The driver's address.
    #[must_use]
    pub const fn rip(&self) -> u64 {
        self.instruction.ip()
    }

    /// Whether it reads and writes memory as one.
    #[must_use]
    pub fn is_atomic(&self) -> bool {
        let exchanges = self.instruction.code().mnemonic() == iced_x86::Mnemonic::Xchg;
        self.instruction.has_lock_prefix() || exchanges && self.accesses().iter().any(|access| access.writes)
    }

    /// The accesses it makes, with those to the stack. Where an address is made of a segment, it is left out.
    #[must_use]
    pub fn accesses(&self) -> Vec<MemoryAccess> {
        let mut factory = InstructionInfoFactory::new();
        let value = |register: Register, _, _| match register {
            Register::RSP => Some(self.event.rsp),
            other => event::value(self.event, other),
        };
        let access = |used: &iced_x86::UsedMemory| {
            use OpAccess::{CondRead, CondWrite, Read, ReadCondWrite, ReadWrite, Write};
            let (kind, address) = (used.access(), used.virtual_address(0, value)?);
            let reads = matches!(kind, Read | CondRead | ReadWrite | ReadCondWrite);
            let writes = matches!(kind, Write | CondWrite | ReadWrite | ReadCondWrite);
            Some(MemoryAccess { address, bytes: used.memory_size().size(), reads, writes })
        };
        let used = factory.info(self.instruction).used_memory();
        used.iter().filter_map(access).filter(|access| access.reads || access.writes).collect()
    }
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

    fn is_observed(&self) -> bool {
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
}
