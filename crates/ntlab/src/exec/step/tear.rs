//! Instructions that read and write memory without a lock, in parts.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};

use super::block::Block;
use crate::{
    exec::event::{self, Event},
    kernel::Kernel,
    memory::{Access, Ptr},
};

/// An instruction that is done in parts.
#[derive(Clone, Copy, Debug)]
pub struct Torn {
    address: u64,
    size: usize,
}

impl Torn {
    /// The first instruction of a block, at which the driver is, if others may come in between what it reads and what it writes.
    pub fn at(k: &Kernel, event: &Event, block: &Block) -> Option<Self> {
        let (instruction, operand) = (block.first, block.torn?);
        let address = instruction.virtual_address(operand, 0, |register, _, _| event::value(event, register))?;
        let size = instruction.memory_size().size();
        // Elsewhere, and at device registers, it faults and is served as a whole.
        k.memory.space.allows(address, size as u64, Access::Write).then_some(Self { address, size })
    }

    /// Reads, lets others go on, and lets the driver go on with what was read.
    pub fn run(self, k: &Kernel, event: &mut Event) {
        let mut before = vec![0; self.size];
        Ptr::new(self.address).read_into(&mut before);
        k.sched.leave(k);
        k.exec.registers.run_on(k, event, self.address, &before);
    }
}

/// The memory operand of an instruction, if it is read and written and others may come in between.
pub fn operand(instruction: &Instruction) -> Option<u32> {
    let single = [Mnemonic::Xchg, Mnemonic::Bts, Mnemonic::Btr, Mnemonic::Btc];
    let candidate = instruction.flow_control() == FlowControl::Next
        && !instruction.has_lock_prefix()
        && !single.contains(&instruction.mnemonic());
    let position = instruction.op_kinds().position(|kind| kind == OpKind::Memory).filter(|_| candidate)?;
    let operand = u32::try_from(position).ok()?;
    let access = InstructionInfoFactory::new().info(instruction).op_access(operand);
    matches!(access, OpAccess::ReadWrite | OpAccess::ReadCondWrite).then_some(operand)
}
