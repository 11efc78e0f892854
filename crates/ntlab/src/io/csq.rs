//! Cancel-safe IRP queues ("Cancel-Safe IRP Queues").

use windows_sys::{
    Wdk::{
        Foundation::IRP,
        System::SystemServices::{IO_CSQ, IO_CSQ_IRP_CONTEXT, IO_TYPE_CSQ, IO_TYPE_CSQ_EX, IO_TYPE_CSQ_IRP_CONTEXT},
    },
    Win32::Foundation::{NTSTATUS, STATUS_SUCCESS},
};

use super::{cancel, driver, irp, layout};
use crate::{at, events::Kind, exec, exports::callbacks, finding::Finding, irql::Irql, kernel::Kernel, memory::Ptr};

/// Makes a queue of a driver's six callbacks: insert, remove, peek next, acquire lock, release lock, complete cancelled
/// (`IoCsqInitialize`, and with `extended` `IoCsqInitializeEx`).
pub fn initialize(csq: Ptr<IO_CSQ>, callbacks: [u64; 6], extended: bool) {
    at!(csq, Type).write(if extended { IO_TYPE_CSQ_EX } else { IO_TYPE_CSQ });
    at!(csq, CsqInsertIrp).cast::<[u64; 6]>().write(callbacks);
    at!(csq, ReservePointer).cast::<u64>().write(0);
}

fn check(csq: Ptr<IO_CSQ>) {
    let kind = at!(csq, Type).read();
    if kind != IO_TYPE_CSQ && kind != IO_TYPE_CSQ_EX {
        Finding::bug_check(
            irp::IO_MANAGER_VIOLATION,
            [0x200, 0, csq.address(), 0],
            "a cancel-safe queue is used that IoCsqInitialize has not made, or that was overwritten",
        )
        .raise();
    }
}

/// A queue's lock that was taken.
struct Locked {
    /// What the driver's routine stored as the old IRQL, if it needs that.
    stored: u64,
    /// The IRQL at which it was called.
    level: Irql,
}

/// Takes the queue's lock. The IRQL may rise with that.
fn acquire(k: &Kernel, csq: Ptr<IO_CSQ>) -> Locked {
    let level = k.irql();
    let routine = at!(csq, CsqAcquireLock).cast::<u64>().read();
    let kept = k.io.csq_levels.borrow_mut().pop();
    let irql = kept.unwrap_or_else(|| k.memory.allocate_object::<u64>());
    call_across_levels(k, "CsqAcquireLock", routine, &[csq.address(), irql.address()]);
    if k.irql() < level {
        callbacks::wrong_level("CsqAcquireLock", routine, level, k.irql()).raise();
    }
    let stored = irql.cast::<u8>().read().into();
    k.io.csq_levels.borrow_mut().push(irql);
    Locked { stored, level }
}

/// Calls a routine that takes or gives back a lock: it returns at another IRQL than it was called at.
fn call_across_levels(k: &Kernel, what: &'static str, routine: u64, arguments: &[u64]) {
    k.record(|| Kind::CallDriver(what));
    exec::call(k, what, routine, arguments);
    k.record(|| Kind::DriverReturned(what));
}

/// Gives the lock back, and with it the IRQL from before.
fn release(k: &Kernel, csq: Ptr<IO_CSQ>, locked: &Locked) {
    let routine = at!(csq, CsqReleaseLock).cast::<u64>().read();
    call_across_levels(k, "CsqReleaseLock", routine, &[csq.address(), locked.stored]);
    if k.irql() != locked.level {
        callbacks::wrong_level("CsqReleaseLock", routine, locked.level, k.irql()).raise();
    }
}

fn remove(k: &Kernel, csq: Ptr<IO_CSQ>, packet: Ptr<IRP>) {
    let routine = at!(csq, CsqRemoveIrp).cast::<u64>().read();
    k.call("CsqRemoveIrp", routine, &[csq.address(), packet.address()]);
}

fn complete_cancelled(k: &Kernel, csq: Ptr<IO_CSQ>, packet: Ptr<IRP>) {
    let routine = at!(csq, CsqCompleteCanceledIrp).cast::<u64>().read();
    k.call("CsqCompleteCanceledIrp", routine, &[csq.address(), packet.address()]);
}

/// Where a queued packet keeps its queue, or the context that leads to it: `DriverContext[3]`.
fn link(packet: Ptr<IRP>) -> Ptr<u64> {
    at!(packet, Tail.Overlay.Anonymous1.Anonymous.DriverContext).cast::<u64>().offset(3)
}

/// Ends what ties a packet to a queue.
fn unlink(packet: Ptr<IRP>) {
    let linked = Ptr::<IO_CSQ_IRP_CONTEXT>::new(link(packet).replace(0));
    if !linked.is_null() && at!(linked, Type).read() == IO_TYPE_CSQ_IRP_CONTEXT {
        layout::store(at!(linked, Irp), Ptr::null());
    }
}

fn is_cancelled(packet: Ptr<IRP>) -> bool {
    at!(packet, Cancel).cast::<u8>().read() != 0
}

/// Queues a packet (`IoCsqInsertIrp`, `IoCsqInsertIrpEx`). A packet that is cancelled already is not queued but completed by
/// `CsqCompleteCanceledIrp`.
pub fn insert(
    k: &Kernel,
    csq: Ptr<IO_CSQ>,
    packet: Ptr<IRP>,
    context: Ptr<IO_CSQ_IRP_CONTEXT>,
    insert_context: u64,
) -> NTSTATUS {
    check(csq);
    if context.is_null() {
        link(packet).write(csq.address());
    } else {
        at!(context, Type).write(IO_TYPE_CSQ_IRP_CONTEXT);
        layout::store(at!(context, Irp), packet);
        layout::store(at!(context, Csq), csq);
        link(packet).write(context.address());
    }
    let locked = acquire(k, csq);
    if is_cancelled(packet) {
        irp::mark_pending(packet);
        unlink(packet);
        release(k, csq, &locked);
        complete_cancelled(k, csq, packet);
        return STATUS_SUCCESS;
    }
    let status = call_insert(k, csq, packet, insert_context);
    if status < 0 {
        unlink(packet);
        release(k, csq, &locked);
        return status;
    }
    irp::mark_pending(packet);
    let routine = at!(packet, CancelRoutine).cast::<u64>();
    routine.write(driver::CSQ_CANCEL_ROUTINE);
    // Cancelled meanwhile, by someone who found no routine: then it falls to us, if nobody came in between.
    if is_cancelled(packet) && routine.replace(0) != 0 {
        remove(k, csq, packet);
        unlink(packet);
        release(k, csq, &locked);
        complete_cancelled(k, csq, packet);
    } else {
        release(k, csq, &locked);
    }
    status
}

fn call_insert(k: &Kernel, csq: Ptr<IO_CSQ>, packet: Ptr<IRP>, insert_context: u64) -> NTSTATUS {
    let routine = at!(csq, CsqInsertIrp).cast::<u64>().read();
    if at!(csq, Type).read() == IO_TYPE_CSQ_EX {
        return k.call("CsqInsertIrpEx", routine, &[csq.address(), packet.address(), insert_context]) as NTSTATUS;
    }
    k.call("CsqInsertIrp", routine, &[csq.address(), packet.address()]);
    STATUS_SUCCESS
}

/// Takes the next packet that matches out of the queue (`IoCsqRemoveNextIrp`).
pub fn remove_next(k: &Kernel, csq: Ptr<IO_CSQ>, peek_context: u64) -> Ptr<IRP> {
    check(csq);
    let peek = at!(csq, CsqPeekNextIrp).cast::<u64>().read();
    let locked = acquire(k, csq);
    let mut packet = Ptr::<IRP>::null();
    loop {
        packet = Ptr::new(k.call("CsqPeekNextIrp", peek, &[csq.address(), packet.address(), peek_context]));
        if packet.is_null() {
            break;
        }
        // One whose cancel routine is gone is being cancelled: it is that one's to remove.
        if at!(packet, CancelRoutine).cast::<u64>().replace(0) != 0 {
            remove(k, csq, packet);
            unlink(packet);
            break;
        }
    }
    release(k, csq, &locked);
    packet
}

/// Takes the packet that a context stands for out of the queue; null if it was cancelled (`IoCsqRemoveIrp`).
pub fn remove_one(k: &Kernel, csq: Ptr<IO_CSQ>, context: Ptr<IO_CSQ_IRP_CONTEXT>) -> Ptr<IRP> {
    check(csq);
    let locked = acquire(k, csq);
    let mut packet = layout::load(at!(context, Irp));
    if !packet.is_null() {
        if at!(packet, CancelRoutine).cast::<u64>().replace(0) == 0 {
            packet = Ptr::null();
        } else {
            remove(k, csq, packet);
            unlink(packet);
        }
    }
    release(k, csq, &locked);
    packet
}

/// The cancel routine of every queued packet; the cancel spin lock is held.
pub(crate) fn cancelled(k: &Kernel, packet: Ptr<IRP>) {
    cancel::release_lock(k, Irql(at!(packet, CancelIrql).read()));
    let linked = link(packet).read();
    let context = Ptr::<IO_CSQ_IRP_CONTEXT>::new(linked);
    let csq = if at!(context, Type).read() == IO_TYPE_CSQ_IRP_CONTEXT {
        layout::load(at!(context, Csq))
    } else {
        Ptr::new(linked)
    };
    check(csq);
    let locked = acquire(k, csq);
    remove(k, csq, packet);
    unlink(packet);
    release(k, csq, &locked);
    complete_cancelled(k, csq, packet);
}
