//! What happens to driver code between its kernel calls: faults, device registers, breakpoints.

use std::panic::{self, AssertUnwindSafe};

use super::border;
use crate::{
    finding::Finding,
    kernel::Kernel,
    memory::{Access, PageKind, fault},
};

/// Numbers of the general registers, as in the machine's encoding.
pub const RSP: usize = 4;

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
    /// The processor's error code of a page fault: bit 1 write, bit 4 execute.
    pub error: u64,
    /// The processor's exception number.
    pub exception: u64,
    /// The signal; 0 for a re-encoded instruction that has finished.
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

/// A general protection fault.
const EXCEPTION_GENERAL_PROTECTION: u64 = 13;
const EXCEPTION_PAGE_FAULT: u64 = 14;

/// Serves an event on the host stack.
///
/// # Safety
/// Called by `event_entry` only.
pub unsafe extern "sysv64" fn event(event: &mut Event) {
    let k = border::running();
    k.exec.border().guest_sp.set(event.rsp);
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| serve(k, event))) {
        border::stop(k, payload);
    }
}

fn serve(k: &Kernel, event: &mut Event) {
    if event.exception == EXCEPTION_PAGE_FAULT {
        page_fault(k, event);
    } else {
        exception(event);
    }
}

fn page_fault(k: &Kernel, event: &Event) {
    let access = match event.error {
        error if error & 16 != 0 => Access::Execute,
        error if error & 2 != 0 => Access::Write,
        _ => Access::Read,
    };
    let kind = k.exec.space.kind(event.address);
    if kind == PageKind::ProcessorControl {
        let offset = event.address % crate::memory::PAGE;
        Finding::not_modelled(format!("direct use of the processor control region, gs:[{offset:#x}]")).raise();
    }
    fault::finding(&k.exec.space, event.address, access, event.rip).raise()
}

/// Bug check parameters take the status codes of exceptions.
fn exception(event: &Event) -> ! {
    let (code, what) = match event.exception {
        0 => (0xC000_0094, "integer division by zero"),
        1 => (0x8000_0004, "single step"),
        3 => (0x8000_0003, "breakpoint"),
        6 => (0xC000_001D, "illegal instruction"),
        EXCEPTION_GENERAL_PROTECTION => (fault::ACCESS_VIOLATION, "general protection fault"),
        16 | 19 => (0xC000_0090, "floating-point exception"),
        17 => (0x8000_0002, "misaligned access"),
        _ => (0xC000_001D, "processor exception"),
    };
    let parameters = [code, event.rip, 0, 0];
    Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, parameters, format!("{what} in the driver")).raise()
}
