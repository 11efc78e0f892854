//! What happens to driver code between its kernel calls: faults, device registers, privileged instructions.

use std::panic::{self, AssertUnwindSafe};

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::{
    border, detour,
    exception::{self, Exception},
    registers, shared_data,
    step::Stepper,
    watchdog,
};
use crate::{
    finding::Finding,
    irql::Irql,
    kernel::Kernel,
    memory::{Access, PAGE, PageKind, fault},
};

/// The driver's registers at an event, on the host stack just below `host_sp`.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Event {
    /// xmm0 to xmm15.
    pub xmm: [u128; 16],
    /// rax rcx rdx rbx rsp rbp rsi rdi r8 to r15.
    pub registers: [u64; 16],
    /// Where the driver was, and goes on.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub flags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
    /// The address that was accessed.
    pub address: u64,
    /// The processor's error code; of a page fault: bit 1 write, bit 4 execute.
    pub error: u64,
    /// The processor's exception number.
    pub exception: u64,
    /// The signal; 0 for a detour, and for a re-encoded instruction that has finished.
    pub signal: u64,
    /// Nothing: the marker lies just below `host_sp`.
    pub unused: [u64; 6],
    /// [`MARKER`], where a kernel call has a stack pointer.
    pub marker: u64,
}

/// Distance of an event from `host_sp`.
pub const EVENT_SIZE: usize = 512;
/// Odd, as no stack pointer is.
pub const MARKER: u64 = 1;
const _: () = assert!(size_of::<Event>() == EVENT_SIZE);

const DIVIDE: u64 = 0;
const DEBUG: u64 = 1;
const BREAKPOINT: u64 = 3;
const INVALID_OPCODE: u64 = 6;
const STACK_FAULT: u64 = 12;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const ERROR_WRITE: u64 = 1 << 1;
const ERROR_EXECUTE: u64 = 1 << 4;
/// The error code of a software interrupt that user mode may not use: its number is in the bits above.
const ERROR_INTERRUPT: u64 = 1 << 1;

/// A driver that causes so many events without a kernel call, as by polling a register, is taken to do so for ever.
const MOST_EVENTS: u64 = 1_000_000;

const FAST_FAIL: u64 = 0x29;
/// `KERNEL_SECURITY_CHECK_FAILURE`.
const KERNEL_SECURITY_CHECK_FAILURE: u32 = 0x139;
const RCX: usize = 1;

/// Serves an event on the host stack.
///
/// # Safety
/// Called by `event_entry` only.
pub unsafe extern "sysv64" fn event(event: &mut Event) {
    let k = border::running();
    k.exec.border().guest_sp.set(event.rsp);
    k.exec.border().ticks.set(0);
    let events = k.exec.border().events.get() + 1;
    k.exec.border().events.set(events);
    let served = panic::catch_unwind(AssertUnwindSafe(|| match &k.exec.stepper {
        _ if events > MOST_EVENTS => k.sched.spun(k).raise(),
        Some(stepper) => serve_stepped(k, stepper, event),
        None => serve(k, event),
    }));
    served
        .or_else(|payload| exception::after_event(k, payload, event))
        .unwrap_or_else(|payload| border::stop(k, payload));
}

fn serve_stepped(k: &Kernel, stepper: &Stepper, event: &mut Event) {
    if event.signal == 0 && stepper.serve(k, event) {
        return;
    }
    stepper.charge(k);
    serve(k, event);
    stepper.resume(k, event);
}

fn serve(k: &Kernel, event: &mut Event) {
    match event.exception {
        _ if event.signal == 0 => resumed(k, event),
        _ if event.signal == u64::from(watchdog::signal().unsigned_abs()) => k.sched.spun(k).raise(),
        PAGE_FAULT => page_fault(k, event),
        GENERAL_PROTECTION if event.error & 7 == ERROR_INTERRUPT => interrupt(event),
        GENERAL_PROTECTION | STACK_FAULT => protection(k, event),
        #[cfg(test)]
        DEBUG if super::tests::note_trap(event.rip) => {}
        BREAKPOINT => breakpoint(k, event),
        other => exception(other, k.exec.original(event.rip)),
    }
}

fn resumed(k: &Kernel, event: &mut Event) {
    match k.exec.detour_taken() {
        Some(detour) => k.exec.serve_detour(k, event, &detour),
        None => k.exec.registers.finish(k, event),
    }
}

fn breakpoint(k: &Kernel, event: &mut Event) {
    let at = event.rip - 1;
    if k.exec.reach(at) {
        event.rip = at;
    } else if let Some(copy) = k.exec.copy(at) {
        event.rip = copy;
    } else {
        exception(BREAKPOINT, k.exec.original(event.rip));
    }
}

fn page_fault(k: &Kernel, event: &mut Event) {
    let access = match event.error {
        error if error & ERROR_EXECUTE != 0 => Access::Execute,
        error if error & ERROR_WRITE != 0 => Access::Write,
        _ if k.exec.is_fetch(event) => Access::Execute,
        _ => Access::Read,
    };
    let kind = k.exec.space.kind(event.address);
    match kind {
        PageKind::Mmio if access != Access::Execute => k.exec.registers.access(k, event),
        _ if shared_data::contains(event.address) && access == Access::Read => {
            k.exec.registers.access_at(k, event, event.address);
        }
        PageKind::ProcessorControl
            if access == Access::Read && event.address % PAGE == shared_data::CURRENT_THREAD_IN_REGION =>
        {
            k.exec.registers.access_at(k, event, shared_data::CURRENT_THREAD);
        }
        PageKind::ProcessorControl => {
            let offset = event.address % PAGE;
            Finding::not_modelled(format!("direct use of the processor control region, gs:[{offset:#x}]")).raise()
        }
        _ if kind.pageable() && kind.allows(access) && k.exec.space.page_in(event.address) => {}
        _ => fault::end(&k.memory, event.address, access, k.exec.original(event.rip)),
    }
}

/// `int n`.
fn interrupt(event: &Event) -> ! {
    let number = event.error >> 3;
    if number != FAST_FAIL {
        Finding::not_modelled(format!("int {number:#x} in the driver")).raise();
    }
    let code = event.registers[RCX];
    Finding::bug_check(KERNEL_SECURITY_CHECK_FAILURE, [code, 0, 0, 0], format!("fast fail {code} in the driver"))
        .raise()
}

/// What the processor refuses in user mode, where the driver really runs, or everywhere.
fn protection(k: &Kernel, event: &mut Event) {
    let rip = k.exec.original(event.rip);
    let instruction = k.exec.instruction(rip).unwrap_or_else(|| registers::decode(rip));
    if let Some((register, reads)) = task_priority(&instruction) {
        if reads {
            event.registers[register] = k.irql().0.into();
        } else {
            set_irql(k, event.registers[register]);
        }
        // Where it was encoded again, its length may be another.
        event.rip = registers::decode(event.rip).next_ip();
        return;
    }
    let memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
    if !memory && instruction.mnemonic() != Mnemonic::Ret {
        Finding::not_modelled(format!("the privileged instruction `{instruction}`")).raise();
    }
    let address = detour::operand(&instruction, event).unwrap_or(event.rsp);
    let parameters = [fault::ACCESS_VIOLATION, rip, 0, address];
    let what = fault::pattern(address).unwrap_or("an address that cannot exist");
    let finding = Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, parameters, format!("access to {what}"));
    Exception::access_violation(u64::MAX, Access::Read, finding).raise()
}

/// The register that an instruction reads the task priority to, true, or writes it from, false. cr8 is the IRQL.
fn task_priority(instruction: &Instruction) -> Option<(usize, bool)> {
    match instruction.code() {
        Code::Mov_r64_cr if instruction.op1_register() == Register::CR8 => {
            Some((instruction.op0_register().number(), true))
        }
        Code::Mov_cr_r64 if instruction.op0_register() == Register::CR8 => {
            Some((instruction.op1_register().number(), false))
        }
        _ => None,
    }
}

/// What `KeRaiseIrql` and `KeLowerIrql` do where the headers inline them.
fn set_irql(k: &Kernel, level: u64) {
    let to = Irql(u8::try_from(level).unwrap_or(u8::MAX));
    if to > k.irql() {
        k.raise_irql(to);
    } else {
        k.lower_irql(to);
    }
}

/// The value of a register that is part of an address.
pub(super) fn value(event: &Event, register: Register) -> Option<u64> {
    match register {
        Register::None | Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
        register if register.is_gpr64() => Some(event.registers[register.number()]),
        _ => None,
    }
}

/// Exceptions without a meaning of their own; bug check parameters take their status codes.
fn exception(exception: u64, rip: u64) -> ! {
    let (code, what): (u32, &str) = match exception {
        DIVIDE => (0xC000_0094, "integer division by zero"),
        DEBUG => (0x8000_0004, "single step"),
        BREAKPOINT => (0x8000_0003, "breakpoint"),
        INVALID_OPCODE => (0xC000_001D, "illegal instruction"),
        _ => Finding::not_modelled(format!("exception {exception} of the processor")).raise(),
    };
    let parameters = [u64::from(code), rip, 0, 0];
    let sentence = format!("{what} in the driver");
    let finding = Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, parameters, sentence);
    Exception::of_processor(code, finding).raise()
}
