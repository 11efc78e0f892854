//! Cancelling packets ("Canceling IRPs").

use std::cell::{Cell, OnceCell};

use windows_sys::Wdk::Foundation::IRP;

use super::{
    csq, driver,
    irp::{self, IO_MANAGER_VIOLATION},
};
use crate::{
    at,
    events::Kind,
    exec,
    finding::Finding,
    irql::{DISPATCH_LEVEL, Irql},
    kernel::Kernel,
    memory::Ptr,
    sched::LockKind,
};

/// The system's cancel spin lock.
#[derive(Debug, Default)]
pub struct CancelLock {
    word: OnceCell<Ptr<usize>>,
    /// The IRQL its holder goes back to.
    held: Cell<bool>,
}

fn word(k: &Kernel) -> Ptr<usize> {
    *k.io.cancel.word.get_or_init(|| {
        let word = k.memory.allocate_object_bytes(16).cast::<usize>();
        word.write(0);
        word
    })
}

/// Takes the cancel spin lock (`IoAcquireCancelSpinLock`); returns the IRQL before.
pub fn acquire_lock(k: &Kernel) -> Irql {
    let before = k.raise_irql(DISPATCH_LEVEL);
    k.sched.acquire(k, word(k), LockKind::SpinLock);
    k.io.cancel.held.set(true);
    before
}

/// Gives the cancel spin lock back (`IoReleaseCancelSpinLock`).
pub fn release_lock(k: &Kernel, to: Irql) {
    if !k.io.cancel.held.replace(false) {
        Finding::bug_check(0x0F, [0; 4], "IoReleaseCancelSpinLock was called while nobody holds the cancel spin lock")
            .raise();
    }
    k.sched.release(word(k));
    k.lower_irql(to);
}

/// Cancels a packet (`IoCancelIrp`): true if it had a cancel routine, which was called.
pub fn cancel(k: &Kernel, packet: Ptr<IRP>) -> bool {
    cancel_current(k, || Some(packet))
}

/// Cancels the packet that `find` returns once the cancel spin lock is held: it may have completed while that was waited for.
pub(crate) fn cancel_current(k: &Kernel, find: impl Fn() -> Option<Ptr<IRP>>) -> bool {
    let before = acquire_lock(k);
    let Some(packet) = find() else {
        release_lock(k, before);
        return false;
    };
    at!(packet, Cancel).cast::<u8>().write(1);
    let routine = at!(packet, CancelRoutine).cast::<u64>().replace(0);
    if routine == 0 {
        release_lock(k, before);
        return false;
    }
    if at!(packet, CurrentLocation).read() > at!(packet, StackCount).read() {
        Finding::bug_check(
            0x48,
            [packet.address(), routine, 0, 0],
            "a cancel routine is set in an IRP that is complete",
        )
        .raise();
    }
    at!(packet, CancelIrql).write(before.0);
    if routine == driver::CSQ_CANCEL_ROUTINE {
        csq::cancelled(k, packet);
        return true;
    }
    let device = at!(irp::current_location(packet), DeviceObject).cast::<u64>().read();
    call_routine(k, routine, &[device, packet.address()], before);
    true
}

/// Calls a driver's cancel routine, which gives the cancel spin lock back and so returns at the IRQL before.
fn call_routine(k: &Kernel, routine: u64, arguments: &[u64], before: Irql) {
    const WHAT: &str = "cancel routine";
    k.record(|| Kind::CallDriver(WHAT));
    exec::call(k, WHAT, routine, arguments);
    k.record(|| Kind::DriverReturned(WHAT));
    if k.irql() != before {
        let sentence =
            format!("a cancel routine returned at {}, not at the IRQL before IoCancelIrp, {before}", k.irql());
        Finding::bug_check(IO_MANAGER_VIOLATION, [0x05, routine, before.0.into(), k.irql().0.into()], sentence).raise();
    }
}
