//! Locks, waits that nothing ends, and loops that nothing ends.
#![expect(
    clippy::inline_always,
    reason = "of an earlier call the report has the innermost frame only, with what is inlined there"
)]

use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use wdk_sys::{
    _EVENT_TYPE, _KWAIT_REASON, CCHAR, HANDLE, KDPC, KEVENT, KIRQL, KLOCK_QUEUE_HANDLE, KMUTEX, KSPIN_LOCK, NTSTATUS,
    PVOID, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, THREAD_ALL_ACCESS,
    ntddk::{
        ExAllocatePool2, ExFreePoolWithTag, KeAcquireInStackQueuedSpinLock, KeAcquireInStackQueuedSpinLockAtDpcLevel,
        KeAcquireSpinLockAtDpcLevel, KeAcquireSpinLockRaiseToDpc, KeEnterCriticalRegion, KeFlushQueuedDpcs,
        KeGetCurrentProcessorNumberEx, KeInitializeDpc, KeInitializeEvent, KeInitializeMutex, KeInsertQueueDpc,
        KeLeaveCriticalRegion, KeReleaseInStackQueuedSpinLock, KeReleaseInStackQueuedSpinLockFromDpcLevel,
        KeReleaseMutex, KeReleaseSpinLock, KeReleaseSpinLockFromDpcLevel, KeSetEvent, KeSetTargetProcessorDpc,
        KeStallExecutionProcessor, KeWaitForSingleObject, ObReferenceObjectByHandle, ObfDereferenceObject,
        PsCreateSystemThread, PsTerminateSystemThread, ZwClose,
    },
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::Device,
    hardware::{INTERRUPT_STATUS, RAISE},
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("locks_spin_lock_acquired_twice", &[Hook::Request(acquired_twice)]),
    Defect::new("locks_released_without_being_held", &[Hook::Request(released_without_being_held)]),
    Defect::new("locks_released_on_another_processor", &[Hook::Request(released_on_another_processor)]),
    Defect::new("locks_mutex_released_by_another_thread", &[Hook::Request(mutex_released_by_another_thread)]),
    Defect::new("locks_acquired_in_both_orders", &[Hook::Request(acquired_in_both_orders)]),
    Defect::new("locks_acquired_in_a_circle", &[Hook::Request(acquired_in_a_circle)]),
    Defect::new("locks_mutexes_acquired_in_both_orders", &[Hook::Request(mutexes_in_both_orders)]),
    Defect::new("locks_held_when_a_dpc_returns", &[Hook::Request(raise_interrupt), Hook::Dpc(held_by_dpc)]),
    Defect::new(
        "locks_queued_held_when_a_dpc_returns",
        &[Hook::Request(raise_interrupt), Hook::Dpc(queued_held_by_dpc)],
    ),
    Defect::new("locks_held_at_a_lower_level", &[Hook::Request(held_at_a_lower_level)]),
    Defect::new("locks_critical_region_left_open", &[Hook::Request(critical_region_left_open)]),
    Defect::new("locks_mutex_held_across_return", &[Hook::Request(mutex_held_across_return)]),
    Defect::new("locks_held_too_long", &[Hook::Request(held_too_long)]),
    Defect::new("locks_queued_acquired_twice", &[Hook::Request(queued_acquired_twice)]),
    Defect::new("locks_queued_held_too_long", &[Hook::Request(queued_held_too_long)]),
    Defect::new("locks_queued_and_plain_mixed", &[Hook::Request(queued_and_plain_mixed)]),
    Defect::new("locks_initialised_while_held", &[Hook::Request(initialised_while_held)]),
    Defect::new("locks_freed_while_held", &[Hook::Request(freed_while_held)]),
    Defect::new("locks_thread_ends_with_mutex", &[Hook::Request(thread_ends_with_mutex)]),
    Defect::new("locks_all_wait", &[Hook::Request(all_wait)]),
    Defect::new("locks_processor_spins", &[Hook::Request(processor_spins)]),
    Defect::new("locks_processor_polls_a_register", &[Hook::Request(processor_polls)]),
];

/// Memory that several processors use as the kernel's functions have it.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: what is in it is only touched by kernel functions, which synchronize.
unsafe impl<T> Sync for Shared<T> {}

type SpinLock = Shared<KSPIN_LOCK>;

static FIRST: SpinLock = Shared(UnsafeCell::new(0));
static SECOND: SpinLock = Shared(UnsafeCell::new(0));
static THIRD: SpinLock = Shared(UnsafeCell::new(0));

unsafe extern "C" {
    // Functions behind macros of the headers.
    fn KeLowerIrql(to: KIRQL);
    fn KfRaiseIrql(to: KIRQL) -> KIRQL;
}

impl SpinLock {
    #[inline(always)]
    fn acquire(&self) -> KIRQL {
        // SAFETY: zero is a spin lock that is free; the level is at most DISPATCH_LEVEL.
        unsafe { KeAcquireSpinLockRaiseToDpc(self.0.get()) }
    }

    #[inline(always)]
    fn release(&self, to: KIRQL) {
        // SAFETY: that it is held is what some defects get wrong.
        unsafe { KeReleaseSpinLock(self.0.get(), to) };
    }

    #[inline(always)]
    fn acquire_raised(&self) {
        // SAFETY: the level is DISPATCH_LEVEL.
        unsafe { KeAcquireSpinLockAtDpcLevel(self.0.get()) };
    }

    #[inline(always)]
    fn release_raised(&self) {
        // SAFETY: that it is held is what some defects get wrong.
        unsafe { KeReleaseSpinLockFromDpcLevel(self.0.get()) };
    }

    /// Acquires `self` and then `next`, and releases both.
    #[inline(always)]
    fn before(&self, next: &Self) {
        let level = self.acquire();
        next.acquire_raised();
        next.release_raised();
        self.release(level);
    }
}

impl Shared<KMUTEX> {
    #[inline(always)]
    fn initialize(&self) {
        // SAFETY: there is room for a mutex.
        unsafe { KeInitializeMutex(self.0.get(), 0) };
    }

    #[inline(always)]
    fn acquire(&self) {
        let reason = _KWAIT_REASON::Executive;
        // SAFETY: the mutex was initialized; the level allows to wait.
        let _ = unsafe { KeWaitForSingleObject(self.0.get().cast(), reason, 0, 0, ptr::null_mut()) };
    }

    #[inline(always)]
    fn release(&self) {
        // SAFETY: that the thread owns it is what some defects get wrong.
        unsafe { KeReleaseMutex(self.0.get(), 0) };
    }

    #[inline(always)]
    fn before(&self, next: &Self) {
        self.acquire();
        next.acquire();
        next.release();
        self.release();
    }
}

// SAFETY: all members are integers and pointers, for which zero is a value.
static MUTEX: Shared<KMUTEX> = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));
// SAFETY: as above.
static OTHER_MUTEX: Shared<KMUTEX> = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));
// SAFETY: as above.
static DPC: Shared<KDPC> = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));

fn acquired_twice(_: &Device, correct: bool) -> NTSTATUS {
    let level = FIRST.acquire();
    if !correct {
        FIRST.acquire_raised(); // DEFECT locks_spin_lock_acquired_twice
        FIRST.release_raised();
    }
    FIRST.release(level);
    STATUS_SUCCESS
}

fn released_without_being_held(_: &Device, correct: bool) -> NTSTATUS {
    let level = FIRST.acquire();
    if !correct {
        SECOND.release_raised(); // DEFECT locks_released_without_being_held
    }
    FIRST.release(level);
    STATUS_SUCCESS
}

/// A DPC on another processor, while this one holds the lock.
fn released_on_another_processor(_: &Device, correct: bool) -> NTSTATUS {
    static WRONG: AtomicBool = AtomicBool::new(false);

    unsafe extern "C" fn deferred(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) {
        if !WRONG.load(Ordering::Relaxed) {
            FIRST.acquire_raised();
        }
        FIRST.release_raised(); // DEFECT locks_released_on_another_processor
    }

    WRONG.store(!correct, Ordering::Relaxed);
    // SAFETY: the DPC is flushed below.
    unsafe { KeInitializeDpc(DPC.0.get(), Some(deferred), ptr::null_mut()) };
    let level = FIRST.acquire();
    // SAFETY: no processor number is wanted.
    let current = unsafe { KeGetCurrentProcessorNumberEx(ptr::null_mut()) };
    let other = CCHAR::from(current == 0);
    // SAFETY: the machine has two processors, and the DPC is not queued.
    unsafe { KeSetTargetProcessorDpc(DPC.0.get(), other) };
    // SAFETY: the DPC was initialized.
    unsafe { KeInsertQueueDpc(DPC.0.get(), ptr::null_mut(), ptr::null_mut()) };
    stall(20);
    FIRST.release(level);
    // SAFETY: IRQL is PASSIVE_LEVEL.
    unsafe { KeFlushQueuedDpcs() };
    STATUS_SUCCESS
}

fn mutex_released_by_another_thread(_: &Device, correct: bool) -> NTSTATUS {
    MUTEX.initialize();
    if correct {
        MUTEX.acquire();
    }
    MUTEX.release(); // DEFECT locks_mutex_released_by_another_thread
    STATUS_SUCCESS
}

fn acquired_in_both_orders(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.before(&SECOND);
    if correct {
        FIRST.before(&SECOND);
    } else {
        SECOND.before(&FIRST); // DEFECT locks_acquired_in_both_orders
    }
    STATUS_SUCCESS
}

fn acquired_in_a_circle(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.before(&SECOND);
    SECOND.before(&THIRD);
    if correct {
        FIRST.before(&THIRD);
    } else {
        THIRD.before(&FIRST); // DEFECT locks_acquired_in_a_circle
    }
    STATUS_SUCCESS
}

fn mutexes_in_both_orders(_: &Device, correct: bool) -> NTSTATUS {
    MUTEX.initialize();
    OTHER_MUTEX.initialize();
    MUTEX.before(&OTHER_MUTEX);
    if correct {
        MUTEX.before(&OTHER_MUTEX);
    } else {
        OTHER_MUTEX.before(&MUTEX); // DEFECT locks_mutexes_acquired_in_both_orders
    }
    STATUS_SUCCESS
}

/// Has the device interrupt.
fn raise_interrupt(device: &Device, _: bool) -> NTSTATUS {
    device.hardware.write(RAISE, 1);
    STATUS_SUCCESS
}

fn held_by_dpc(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.acquire_raised(); // DEFECT locks_held_when_a_dpc_returns
    if correct {
        FIRST.release_raised();
    }
    STATUS_SUCCESS
}

fn queued_held_by_dpc(_: &Device, correct: bool) -> NTSTATUS {
    let mut handle = KLOCK_QUEUE_HANDLE::default();
    // SAFETY: the level is DISPATCH_LEVEL.
    unsafe { KeAcquireInStackQueuedSpinLockAtDpcLevel(FIRST.0.get(), &raw mut handle) }; // DEFECT locks_queued_held_when_a_dpc_returns
    if correct {
        // SAFETY: acquired with this handle.
        unsafe { KeReleaseInStackQueuedSpinLockFromDpcLevel(&raw mut handle) };
    }
    STATUS_SUCCESS
}

fn held_at_a_lower_level(_: &Device, correct: bool) -> NTSTATUS {
    let level = FIRST.acquire();
    if !correct {
        // SAFETY: the level is lower; that a spin lock is held is the defect.
        unsafe { KeLowerIrql(level) }; // DEFECT locks_held_at_a_lower_level
        // SAFETY: the level is higher.
        unsafe { KfRaiseIrql(2) };
    }
    FIRST.release(level);
    STATUS_SUCCESS
}

fn critical_region_left_open(_: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    unsafe { KeEnterCriticalRegion() }; // DEFECT locks_critical_region_left_open
    if correct {
        // SAFETY: entered above.
        unsafe { KeLeaveCriticalRegion() };
    }
    STATUS_SUCCESS
}

fn mutex_held_across_return(_: &Device, correct: bool) -> NTSTATUS {
    MUTEX.initialize();
    MUTEX.acquire(); // DEFECT locks_mutex_held_across_return
    if correct {
        MUTEX.release();
    }
    STATUS_SUCCESS
}

fn stall(microseconds: u32) {
    // SAFETY: the function can be called at any level.
    unsafe { KeStallExecutionProcessor(microseconds) };
}

fn held_too_long(_: &Device, correct: bool) -> NTSTATUS {
    let level = FIRST.acquire(); // DEFECT locks_held_too_long
    let times = if correct { 1 } else { 30 };
    for _ in 0..times {
        stall(50);
    }
    FIRST.release(level);
    STATUS_SUCCESS
}

fn queued_acquired_twice(_: &Device, correct: bool) -> NTSTATUS {
    let (mut first, mut second) = (KLOCK_QUEUE_HANDLE::default(), KLOCK_QUEUE_HANDLE::default());
    let other = if correct { &SECOND } else { &FIRST };
    // SAFETY: the lock is free.
    unsafe { KeAcquireInStackQueuedSpinLock(FIRST.0.get(), &raw mut first) };
    // SAFETY: the level is DISPATCH_LEVEL; that it is another lock is what the defect gets wrong.
    unsafe { KeAcquireInStackQueuedSpinLockAtDpcLevel(other.0.get(), &raw mut second) }; // DEFECT locks_queued_acquired_twice
    // SAFETY: acquired with this handle.
    unsafe { KeReleaseInStackQueuedSpinLockFromDpcLevel(&raw mut second) };
    // SAFETY: acquired with this handle.
    unsafe { KeReleaseInStackQueuedSpinLock(&raw mut first) };
    STATUS_SUCCESS
}

fn queued_held_too_long(_: &Device, correct: bool) -> NTSTATUS {
    let mut handle = KLOCK_QUEUE_HANDLE::default();
    // SAFETY: the lock is free.
    unsafe { KeAcquireInStackQueuedSpinLock(FIRST.0.get(), &raw mut handle) }; // DEFECT locks_queued_held_too_long
    let times = if correct { 1 } else { 40 };
    for _ in 0..times {
        stall(50);
    }
    // SAFETY: acquired with this handle.
    unsafe { KeReleaseInStackQueuedSpinLock(&raw mut handle) };
    STATUS_SUCCESS
}

fn queued_and_plain_mixed(_: &Device, correct: bool) -> NTSTATUS {
    let level = FIRST.acquire();
    FIRST.release(level);
    let lock = if correct { &SECOND } else { &FIRST };
    let mut handle = KLOCK_QUEUE_HANDLE::default();
    // SAFETY: the lock is free; that it was acquired in another way is the defect.
    unsafe { KeAcquireInStackQueuedSpinLock(lock.0.get(), &raw mut handle) }; // DEFECT locks_queued_and_plain_mixed
    // SAFETY: acquired with this handle.
    unsafe { KeReleaseInStackQueuedSpinLock(&raw mut handle) };
    STATUS_SUCCESS
}

fn initialised_while_held(_: &Device, correct: bool) -> NTSTATUS {
    MUTEX.initialize();
    MUTEX.acquire();
    if !correct {
        MUTEX.initialize(); // DEFECT locks_initialised_while_held
    }
    MUTEX.release();
    STATUS_SUCCESS
}

fn freed_while_held(_: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL; 0x40 is nonpaged pool.
    let block = unsafe { ExAllocatePool2(0x40, 64, TAG) };
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the block has room for a spin lock, and its zeros are one that is free.
    let lock = unsafe { &*block.cast::<SpinLock>() };
    let level = lock.acquire();
    if correct {
        lock.release(level);
    }
    // SAFETY: the block is not used again; that the lock in it is held is the defect.
    unsafe { ExFreePoolWithTag(block, TAG) }; // DEFECT locks_freed_while_held
    STATUS_SUCCESS
}

fn thread_ends_with_mutex(_: &Device, correct: bool) -> NTSTATUS {
    unsafe extern "C" fn routine(correct: PVOID) {
        MUTEX.acquire(); // DEFECT locks_thread_ends_with_mutex
        if !correct.is_null() {
            MUTEX.release();
        }
        // SAFETY: this is a system thread.
        let _ = unsafe { PsTerminateSystemThread(STATUS_SUCCESS) };
    }

    MUTEX.initialize();
    run_thread(routine, ptr::without_provenance_mut(usize::from(correct)))
}

/// Runs a system thread and waits for its end.
pub fn run_thread(routine: unsafe extern "C" fn(PVOID), context: PVOID) -> NTSTATUS {
    let mut handle: HANDLE = ptr::null_mut();
    let (access, null) = (THREAD_ALL_ACCESS, ptr::null_mut());
    // SAFETY: IRQL is PASSIVE_LEVEL; the thread is waited for below.
    let status = unsafe {
        PsCreateSystemThread(&raw mut handle, access, null, null.cast(), null.cast(), Some(routine), context)
    };
    if status < STATUS_SUCCESS {
        return status;
    }
    let mut thread: PVOID = ptr::null_mut();
    // SAFETY: the handle is the thread's.
    let status = unsafe { ObReferenceObjectByHandle(handle, access, null.cast(), 0, &raw mut thread, null.cast()) };
    // SAFETY: the handle is ours and not used again.
    let _ = unsafe { ZwClose(handle) };
    if status < STATUS_SUCCESS {
        return status;
    }
    let reason = _KWAIT_REASON::Executive;
    // SAFETY: the thread object is referenced.
    let _ = unsafe { KeWaitForSingleObject(thread, reason, 0, 0, ptr::null_mut()) };
    // SAFETY: referenced above.
    unsafe { ObfDereferenceObject(thread) };
    STATUS_SUCCESS
}

fn all_wait(_: &Device, correct: bool) -> NTSTATUS {
    let mut event = KEVENT::default();
    // SAFETY: there is room for an event.
    unsafe { KeInitializeEvent(&raw mut event, _EVENT_TYPE::NotificationEvent, 0) };
    if correct {
        // SAFETY: the event was initialized.
        unsafe { KeSetEvent(&raw mut event, 0, 0) };
    }
    let reason = _KWAIT_REASON::Executive;
    // SAFETY: the event was initialized; that nobody sets it is the defect.
    let _ = unsafe { KeWaitForSingleObject((&raw mut event).cast(), reason, 0, 0, ptr::null_mut()) }; // DEFECT locks_all_wait
    STATUS_SUCCESS
}

fn processor_spins(_: &Device, correct: bool) -> NTSTATUS {
    static DONE: AtomicBool = AtomicBool::new(false);
    DONE.store(correct, Ordering::Relaxed);
    // SAFETY: the flag is a static.
    while !unsafe { DONE.as_ptr().read_volatile() } {} // DEFECT locks_processor_spins
    STATUS_SUCCESS
}

/// Polls for something that the device never does.
fn processor_polls(device: &Device, correct: bool) -> NTSTATUS {
    let expected = if correct { 0 } else { 0x100 };
    while device.hardware.read(INTERRUPT_STATUS) != expected {} // DEFECT locks_processor_polls_a_register
    STATUS_SUCCESS
}
