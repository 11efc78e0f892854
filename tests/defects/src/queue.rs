//! A cancel-safe queue ("Cancel-Safe IRP Queues") whose callbacks return at another IRQL than they were called at, or leave another one than
//! they found. It has room for one request.

use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{
    DRIVER_OBJECT, IO_CSQ, IRP, IRP_MJ_DEVICE_CONTROL, KIRQL, KSPIN_LOCK, NTSTATUS, PASSIVE_LEVEL, PIRP, PKIRQL, PVOID,
    STATUS_CANCELLED, STATUS_PENDING, STATUS_SUCCESS,
    ntddk::{
        IoCsqInitialize, IoCsqInitializeEx, IoCsqInsertIrp, IoCsqInsertIrpEx, IoCsqRemoveNextIrp,
        KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock,
    },
};

use crate::{
    callbacks::{lower, stay_raised},
    defect::{self, Defect, Hook},
    device::Device,
    irp,
    pool::raised,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("queue_insert_returns_raised", &[Hook::Load(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, through)]),
    Defect::new(
        "queue_insert_ex_returns_raised",
        &[Hook::Load(prepare_ex), Hook::Irp(IRP_MJ_DEVICE_CONTROL, through_ex)],
    ),
    Defect::new("queue_remove_returns_raised", &[Hook::Load(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, through)]),
    Defect::new("queue_peek_returns_raised", &[Hook::Load(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, through)]),
    Defect::new("queue_complete_returns_raised", &[Hook::Load(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, stay)]),
    Defect::new("queue_acquire_lowers", &[Hook::Load(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, through_raised)]),
    Defect::new("queue_release_stays_raised", &[Hook::Load(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, through)]),
];

/// Memory that several processors use as the kernel's functions have it.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: what is in it is only touched by kernel functions, which synchronize.
unsafe impl<T> Sync for Shared<T> {}

// SAFETY: all members are integers and pointers, for which zero is a value.
static QUEUE: Shared<IO_CSQ> = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));
static LOCK: Shared<KSPIN_LOCK> = Shared(UnsafeCell::new(0));
/// The request in the queue.
static HELD: AtomicPtr<IRP> = AtomicPtr::new(ptr::null_mut());

fn prepare(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let (queue, peek, complete) = (QUEUE.0.get(), Some(peek as _), Some(complete as _));
    // SAFETY: there is room for a queue.
    unsafe { IoCsqInitialize(queue, Some(insert), Some(remove), peek, Some(acquire), Some(release), complete) }
}

fn prepare_ex(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let (queue, peek, complete) = (QUEUE.0.get(), Some(peek as _), Some(complete as _));
    // SAFETY: there is room for a queue.
    unsafe { IoCsqInitializeEx(queue, Some(insert_ex), Some(remove), peek, Some(acquire), Some(release), complete) }
}

/// Completes what is in the queue.
fn take() {
    // SAFETY: `prepare` made the queue.
    let next = unsafe { IoCsqRemoveNextIrp(QUEUE.0.get(), ptr::null_mut()) };
    if !next.is_null() {
        // SAFETY: the queue has given it to us.
        unsafe { irp::complete(next, STATUS_SUCCESS, 0) };
    }
}

fn through(_: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's, and the queue's from now on.
    unsafe { IoCsqInsertIrp(QUEUE.0.get(), request, ptr::null_mut()) };
    take();
    STATUS_PENDING
}

fn through_ex(_: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's, and the queue's from now on.
    let _ = unsafe { IoCsqInsertIrpEx(QUEUE.0.get(), request, ptr::null_mut(), ptr::null_mut()) };
    take();
    STATUS_PENDING
}

/// At `DISPATCH_LEVEL`, as a DPC would.
fn through_raised(_: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    raised(|| {
        // SAFETY: the IRP is the driver's, and the queue's from now on.
        unsafe { IoCsqInsertIrp(QUEUE.0.get(), request, ptr::null_mut()) };
    });
    take();
    STATUS_PENDING
}

/// The test cancels it.
fn stay(_: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's, and the queue's from now on.
    unsafe { IoCsqInsertIrp(QUEUE.0.get(), request, ptr::null_mut()) };
    STATUS_PENDING
}

/// "`IO_CSQ_INSERT_IRP` callback function".
unsafe extern "C" fn insert(_: *mut IO_CSQ, request: PIRP) {
    HELD.store(request, Ordering::Relaxed);
    stay_raised("queue_insert_returns_raised"); // DEFECT queue_insert_returns_raised
}

/// "`IO_CSQ_INSERT_IRP_EX` callback function".
unsafe extern "C" fn insert_ex(_: *mut IO_CSQ, request: PIRP, _: PVOID) -> NTSTATUS {
    HELD.store(request, Ordering::Relaxed);
    stay_raised("queue_insert_ex_returns_raised"); // DEFECT queue_insert_ex_returns_raised
    STATUS_SUCCESS
}

/// "`IO_CSQ_REMOVE_IRP` callback function".
unsafe extern "C" fn remove(_: *mut IO_CSQ, _: PIRP) {
    HELD.store(ptr::null_mut(), Ordering::Relaxed);
    stay_raised("queue_remove_returns_raised"); // DEFECT queue_remove_returns_raised
}

/// "`IO_CSQ_PEEK_NEXT_IRP` callback function".
unsafe extern "C" fn peek(_: *mut IO_CSQ, after: PIRP, _: PVOID) -> PIRP {
    stay_raised("queue_peek_returns_raised"); // DEFECT queue_peek_returns_raised
    if after.is_null() { HELD.load(Ordering::Relaxed) } else { ptr::null_mut() }
}

/// "`IO_CSQ_ACQUIRE_LOCK` callback function".
#[rustfmt::skip]
unsafe extern "C" fn acquire(_: *mut IO_CSQ, irql: PKIRQL) { // DEFECT queue_acquire_lowers
    if defect::is_chosen("queue_acquire_lowers") && !defect::is_correct() {
        return lower(PASSIVE_LEVEL as KIRQL);
    }
    // SAFETY: the level is at most DISPATCH_LEVEL; the queue gives the lock back.
    let before = unsafe { KeAcquireSpinLockRaiseToDpc(LOCK.0.get()) };
    // SAFETY: the queue has room for the level.
    unsafe { *irql = before };
}

/// "`IO_CSQ_RELEASE_LOCK` callback function".
#[rustfmt::skip]
unsafe extern "C" fn release(_: *mut IO_CSQ, irql: KIRQL) { // DEFECT queue_release_stays_raised
    // SAFETY: acquired by `acquire`.
    unsafe { KeReleaseSpinLock(LOCK.0.get(), irql) };
    stay_raised("queue_release_stays_raised");
}

/// "`IO_CSQ_COMPLETE_CANCELED_IRP` callback function".
unsafe extern "C" fn complete(_: *mut IO_CSQ, request: PIRP) {
    // SAFETY: the queue has given it to us.
    unsafe { irp::complete(request, STATUS_CANCELLED, 0) };
    stay_raised("queue_complete_returns_raised"); // DEFECT queue_complete_returns_raised
}
