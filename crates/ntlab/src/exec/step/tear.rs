//! Instructions that read and write memory without a lock, in parts.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};

use super::Source;
use crate::{
    exec::event::{self, Event},
    kernel::Kernel,
    memory::{Access, Ptr},
};

/// Lets others go on in the middle of the instruction at which the driver is. False where it has none: it runs in one piece.
pub fn tear(k: &Kernel, event: &mut Event) -> bool {
    let Some((instruction, operand)) = k.exec.with_code(event.rip, operand).flatten() else { return false };
    let address = instruction.virtual_address(operand, 0, |register, _, _| event::value(event, register));
    let size = instruction.memory_size().size();
    // Elsewhere, and at device registers, it faults and is served as a whole.
    let Some(address) = address.filter(|address| k.memory.space.allows(*address, size as u64, Access::Write)) else {
        return false;
    };
    let mut before = vec![0; size];
    Ptr::new(address).read_into(&mut before);
    k.sched.leave(k);
    k.exec.registers.run_on(k, event, address, &before);
    true
}

/// The first instruction and its memory operand, if that is read and written and others may come in between.
fn operand(source: Source<'_>) -> Option<(Instruction, u32)> {
    let instruction = Decoder::with_ip(64, source.bytes, source.rip, DecoderOptions::NONE).decode();
    let single = [Mnemonic::Xchg, Mnemonic::Bts, Mnemonic::Btr, Mnemonic::Btc];
    let candidate = instruction.flow_control() == FlowControl::Next
        && !instruction.has_lock_prefix()
        && !single.contains(&instruction.mnemonic());
    let position = instruction.op_kinds().position(|kind| kind == OpKind::Memory).filter(|_| candidate)?;
    let operand = u32::try_from(position).ok()?;
    let access = InstructionInfoFactory::new().info(&instruction).op_access(operand);
    matches!(access, OpAccess::ReadWrite | OpAccess::ReadCondWrite).then_some((instruction, operand))
}
