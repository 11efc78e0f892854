//! Fast mutexes and `ERESOURCE`s, which threads own.
#![expect(
    clippy::inline_always,
    reason = "of an earlier call the report has the innermost frame only, with what is inlined there"
)]

use core::{cell::UnsafeCell, ptr};

use wdk_sys::{
    _EVENT_TYPE, _FAST_MUTEX, ERESOURCE, KIRQL, NTSTATUS, PVOID, STATUS_SUCCESS,
    ntddk::{
        ExAcquireFastMutex, ExAcquireFastMutexUnsafe, ExAcquireResourceExclusiveLite, ExAcquireResourceSharedLite,
        ExDeleteResourceLite, ExInitializeResourceLite, ExReleaseFastMutex, ExReleaseFastMutexUnsafe,
        ExReleaseResourceLite, KeEnterCriticalRegion, KeInitializeEvent, KeLeaveCriticalRegion,
    },
};

use crate::{
    defect::{Defect, Hook},
    device::Device,
    locks::run_thread,
    pool::raised,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("mutexes_fast_acquired_twice", &[Hook::Request(fast_acquired_twice)]),
    Defect::new("mutexes_fast_released_by_another_thread", &[Hook::Request(fast_released_by_another)]),
    Defect::new("mutexes_fast_released_without_being_owned", &[Hook::Request(fast_released_without)]),
    Defect::new("mutexes_fast_acquired_in_both_orders", &[Hook::Request(fast_in_both_orders)]),
    Defect::new("mutexes_fast_held_across_return", &[Hook::Request(fast_held_across_return)]),
    Defect::new("mutexes_fast_acquired_at_dispatch_level", &[Hook::Request(fast_at_dispatch_level)]),
    Defect::new("mutexes_fast_released_below_apc_level", &[Hook::Request(fast_released_below)]),
    Defect::new("mutexes_resource_acquired_with_apcs", &[Hook::Request(resource_with_apcs)]),
    Defect::new("mutexes_resource_released_by_another_thread", &[Hook::Request(resource_released_by_another)]),
    Defect::new("mutexes_resources_acquired_in_both_orders", &[Hook::Request(resources_in_both_orders)]),
    Defect::new("mutexes_resource_held_across_return", &[Hook::Request(resource_held_across_return)]),
    Defect::new("mutexes_resource_shared_and_then_exclusive", &[Hook::Request(resource_shared_and_exclusive)]),
    Defect::new("mutexes_fast_and_resource_in_both_orders", &[Hook::Request(fast_and_resource)]),
];

/// Memory that several processors use as the kernel's functions have it.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: what is in it is only touched by kernel functions, which synchronize.
unsafe impl<T> Sync for Shared<T> {}

type FastMutex = Shared<_FAST_MUTEX>;
type Resource = Shared<ERESOURCE>;

// SAFETY: all members are integers and pointers, for which zero is a value.
static FIRST: FastMutex = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));
// SAFETY: as above.
static SECOND: FastMutex = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));
// SAFETY: as above.
static RESOURCE: Resource = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));
// SAFETY: as above.
static OTHER: Resource = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));

impl FastMutex {
    /// "`ExInitializeFastMutex` function", which the headers have inline.
    fn initialize(&self) {
        // SAFETY: nobody uses the mutex yet.
        let mutex = unsafe { &mut *self.0.get() };
        mutex.Count = 1;
        mutex.Owner = ptr::null_mut();
        mutex.Contention = 0;
        // SAFETY: there is room for an event.
        unsafe { KeInitializeEvent(&raw mut mutex.Event, _EVENT_TYPE::SynchronizationEvent, 0) };
    }

    #[inline(always)]
    fn acquire(&self) {
        // SAFETY: initialized; that the level allows it is what a defect gets wrong.
        unsafe { ExAcquireFastMutex(self.0.get()) };
    }

    #[inline(always)]
    fn release(&self) {
        // SAFETY: that the thread owns it, at its level, is what some defects get wrong.
        unsafe { ExReleaseFastMutex(self.0.get()) };
    }

    /// In a critical region.
    #[inline(always)]
    fn acquire_unsafe(&self) {
        // SAFETY: initialized; the caller is in a critical region.
        unsafe { ExAcquireFastMutexUnsafe(self.0.get()) };
    }

    #[inline(always)]
    fn release_unsafe(&self) {
        // SAFETY: that the thread owns it is what a defect gets wrong.
        unsafe { ExReleaseFastMutexUnsafe(self.0.get()) };
    }

    #[inline(always)]
    fn before(&self, next: &Self) {
        self.acquire();
        next.acquire();
        next.release();
        self.release();
    }
}

impl Resource {
    #[inline(always)]
    fn acquire(&self) {
        // SAFETY: initialized; that the thread is in a critical region is what a defect gets wrong.
        let _ = unsafe { ExAcquireResourceExclusiveLite(self.0.get(), 1) };
    }

    #[inline(always)]
    fn acquire_shared(&self) {
        // SAFETY: initialized; the caller is in a critical region.
        let _ = unsafe { ExAcquireResourceSharedLite(self.0.get(), 1) };
    }

    #[inline(always)]
    fn release(&self) {
        // SAFETY: that the thread has it is what a defect gets wrong.
        unsafe { ExReleaseResourceLite(self.0.get()) };
    }

    #[inline(always)]
    fn before(&self, next: &Self) {
        self.acquire();
        next.acquire();
        next.release();
        self.release();
    }
}

unsafe extern "C" {
    // Functions behind macros of the headers.
    fn KeLowerIrql(to: KIRQL);
}

fn enter() {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    unsafe { KeEnterCriticalRegion() };
}

fn leave() {
    // SAFETY: every call follows an `enter`.
    unsafe { KeLeaveCriticalRegion() };
}

/// Does `act` in a critical region with the two resources.
fn with_resources(act: impl FnOnce()) -> NTSTATUS {
    for resource in [&RESOURCE, &OTHER] {
        // SAFETY: there is room for a resource, which is deleted below.
        let _ = unsafe { ExInitializeResourceLite(resource.0.get()) };
    }
    enter();
    act();
    leave();
    for resource in [&RESOURCE, &OTHER] {
        // SAFETY: initialized above; nobody has it.
        let _ = unsafe { ExDeleteResourceLite(resource.0.get()) };
    }
    STATUS_SUCCESS
}

fn fast_acquired_twice(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.initialize();
    SECOND.initialize();
    let other = if correct { &SECOND } else { &FIRST };
    FIRST.acquire();
    other.acquire(); // DEFECT mutexes_fast_acquired_twice
    other.release();
    FIRST.release();
    STATUS_SUCCESS
}

fn fast_released_by_another(_: &Device, correct: bool) -> NTSTATUS {
    unsafe extern "C" fn routine(correct: PVOID) {
        enter();
        if correct.is_null() {
            FIRST.release_unsafe(); // DEFECT mutexes_fast_released_by_another_thread
        }
        leave();
    }

    FIRST.initialize();
    enter();
    FIRST.acquire_unsafe();
    let status = run_thread(routine, ptr::without_provenance_mut(usize::from(correct)));
    FIRST.release_unsafe();
    leave();
    status
}

fn fast_released_without(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.initialize();
    enter();
    if correct {
        FIRST.acquire_unsafe();
    }
    FIRST.release_unsafe(); // DEFECT mutexes_fast_released_without_being_owned
    leave();
    STATUS_SUCCESS
}

fn fast_in_both_orders(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.initialize();
    SECOND.initialize();
    FIRST.before(&SECOND);
    if correct {
        FIRST.before(&SECOND);
    } else {
        SECOND.before(&FIRST); // DEFECT mutexes_fast_acquired_in_both_orders
    }
    STATUS_SUCCESS
}

fn fast_held_across_return(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.initialize();
    enter();
    FIRST.acquire_unsafe(); // DEFECT mutexes_fast_held_across_return
    if correct {
        FIRST.release_unsafe();
    }
    leave();
    STATUS_SUCCESS
}

fn fast_at_dispatch_level(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.initialize();
    let take = || {
        FIRST.acquire(); // DEFECT mutexes_fast_acquired_at_dispatch_level
        FIRST.release();
    };
    if correct {
        take();
    } else {
        raised(take);
    }
    STATUS_SUCCESS
}

fn fast_released_below(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.initialize();
    FIRST.acquire();
    if !correct {
        // SAFETY: the mutex has raised the level to APC_LEVEL; that it is lowered is the defect.
        unsafe { KeLowerIrql(0) };
    }
    FIRST.release(); // DEFECT mutexes_fast_released_below_apc_level
    STATUS_SUCCESS
}

fn resource_with_apcs(_: &Device, correct: bool) -> NTSTATUS {
    with_resources(|| {
        if !correct {
            leave();
        }
        RESOURCE.acquire(); // DEFECT mutexes_resource_acquired_with_apcs
        RESOURCE.release();
    })
}

fn resource_released_by_another(_: &Device, correct: bool) -> NTSTATUS {
    unsafe extern "C" fn routine(correct: PVOID) {
        enter();
        if correct.is_null() {
            RESOURCE.release(); // DEFECT mutexes_resource_released_by_another_thread
        }
        leave();
    }

    with_resources(|| {
        RESOURCE.acquire();
        run_thread(routine, ptr::without_provenance_mut(usize::from(correct)));
        RESOURCE.release();
    })
}

fn resources_in_both_orders(_: &Device, correct: bool) -> NTSTATUS {
    with_resources(|| {
        RESOURCE.before(&OTHER);
        if correct {
            RESOURCE.before(&OTHER);
        } else {
            OTHER.before(&RESOURCE); // DEFECT mutexes_resources_acquired_in_both_orders
        }
    })
}

fn resource_held_across_return(_: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: there is room for a resource.
    let _ = unsafe { ExInitializeResourceLite(RESOURCE.0.get()) };
    enter();
    RESOURCE.acquire(); // DEFECT mutexes_resource_held_across_return
    if correct {
        RESOURCE.release();
        // SAFETY: initialized above; nobody has it.
        let _ = unsafe { ExDeleteResourceLite(RESOURCE.0.get()) };
    }
    leave();
    STATUS_SUCCESS
}

/// A reader that wants to write waits for itself.
fn resource_shared_and_exclusive(_: &Device, correct: bool) -> NTSTATUS {
    with_resources(|| {
        RESOURCE.acquire_shared();
        if correct {
            RESOURCE.release();
        }
        RESOURCE.acquire(); // DEFECT mutexes_resource_shared_and_then_exclusive
        RESOURCE.release();
    })
}

fn fast_and_resource(_: &Device, correct: bool) -> NTSTATUS {
    FIRST.initialize();
    with_resources(|| {
        FIRST.acquire_unsafe();
        RESOURCE.acquire();
        RESOURCE.release();
        FIRST.release_unsafe();
        if !correct {
            RESOURCE.acquire();
            FIRST.acquire_unsafe(); // DEFECT mutexes_fast_and_resource_in_both_orders
            FIRST.release_unsafe();
            RESOURCE.release();
        }
    })
}
