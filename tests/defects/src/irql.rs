//! IRQL.

use core::ptr;

use wdk_sys::{
    _EVENT_TYPE, _KWAIT_REASON, _WAIT_TYPE, DISPATCH_LEVEL, DRIVER_OBJECT, HANDLE, IRP, IRP_MN_QUERY_STOP_DEVICE,
    KEVENT, KIRQL, KSPIN_LOCK, LARGE_INTEGER, NTSTATUS, PASSIVE_LEVEL, PVOID, STATUS_SUCCESS, THREAD_ALL_ACCESS,
    ntddk::{
        IoStartNextPacket, KeAcquireSpinLockAtDpcLevel, KeAcquireSpinLockRaiseToDpc, KeDelayExecutionThread,
        KeInitializeEvent, KeReleaseSpinLock, KeReleaseSpinLockFromDpcLevel, KeSetEvent, KeWaitForMultipleObjects,
        KeWaitForSingleObject, PsCreateSystemThread, ZwClose,
    },
};

use crate::{
    defect::{Defect, Hook},
    device::Device,
    hardware::{self, RAISE},
    irp,
    pool::raised,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("irql_raised_to_a_lower_level", &[Hook::Request(raised_to_a_lower_level)]),
    Defect::new("irql_lowered_to_a_higher_level", &[Hook::Start(lowered_to_a_higher_level)]),
    Defect::new("irql_load_returns_raised", &[Hook::Load(driver_returns_raised)]),
    Defect::new("irql_unload_returns_raised", &[Hook::Unload(driver_returns_raised)]),
    Defect::new("irql_pnp_returns_raised", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, pnp_returns_raised)]),
    Defect::new("irql_dpc_waits", &[Hook::Request(raise_interrupt), Hook::Dpc(dpc_waits)]),
    Defect::new("irql_wait_without_end_at_dispatch_level", &[Hook::Request(waits_without_end)]),
    Defect::new("irql_wait_for_several_at_dispatch_level", &[Hook::Request(waits_for_several)]),
    Defect::new("irql_delay_at_dispatch_level", &[Hook::Request(delays)]),
    Defect::new("irql_zw_function_at_dispatch_level", &[Hook::Request(closes)]),
    Defect::new("irql_spin_lock_acquired_at_dpc_level_below_it", &[Hook::Request(acquires_below)]),
    Defect::new("irql_spin_lock_released_from_dpc_level_below_it", &[Hook::Request(releases_below)]),
    Defect::new("irql_spin_lock_released_at_another_level", &[Hook::Request(releases_above)]),
    Defect::new("irql_isr_acquires_a_spin_lock", &[Hook::Request(raise_interrupt), Hook::Isr(isr_acquires)]),
    Defect::new("irql_next_packet_started_below_dispatch_level", &[Hook::Request(starts_next_packet)]),
    Defect::new("irql_isr_sets_an_event", &[Hook::Request(raise_interrupt), Hook::Isr(isr_sets_an_event)]),
];

const PASSIVE: KIRQL = PASSIVE_LEVEL as KIRQL;
const DISPATCH: KIRQL = DISPATCH_LEVEL as KIRQL;

unsafe extern "C" {
    // Functions behind macros of the headers.
    fn KfRaiseIrql(to: KIRQL) -> KIRQL;
    fn KeLowerIrql(to: KIRQL);
}

#[expect(
    clippy::inline_always,
    reason = "of an earlier call the report has the innermost frame only, with what is inlined there"
)]
#[inline(always)]
fn raise(to: KIRQL) -> KIRQL {
    // SAFETY: that the level is not too low is what the defects get wrong.
    unsafe { KfRaiseIrql(to) }
}

fn lower(to: KIRQL) {
    // SAFETY: that the level is not too high is what the defects get wrong.
    unsafe { KeLowerIrql(to) };
}

fn raised_to_a_lower_level(_: &Device, correct: bool) -> NTSTATUS {
    let before = raise(DISPATCH);
    if !correct {
        raise(PASSIVE); // DEFECT irql_raised_to_a_lower_level
    }
    lower(before);
    STATUS_SUCCESS
}

fn lowered_to_a_higher_level(_: &Device, correct: bool) -> NTSTATUS {
    if correct {
        let before = raise(DISPATCH);
        lower(before);
    } else {
        lower(DISPATCH); // DEFECT irql_lowered_to_a_higher_level
    }
    STATUS_SUCCESS
}

fn driver_returns_raised(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    let before = raise(DISPATCH); // DEFECT irql_load_returns_raised irql_unload_returns_raised
    if correct {
        lower(before);
    }
    STATUS_SUCCESS
}

fn pnp_returns_raised(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as above.
    let status = unsafe { irp::skip_to(device.lower, request) };
    let before = raise(DISPATCH); // DEFECT irql_pnp_returns_raised
    if correct {
        lower(before);
    }
    status
}

/// Has the device interrupt.
fn raise_interrupt(device: &Device, _: bool) -> NTSTATUS {
    device.hardware.write(RAISE, 1);
    STATUS_SUCCESS
}

/// An event that nobody sets.
fn event() -> KEVENT {
    let mut event = KEVENT::default();
    // SAFETY: there is room for an event.
    unsafe { KeInitializeEvent(&raw mut event, _EVENT_TYPE::NotificationEvent, 0) };
    event
}

/// Waiting with a time-out of 0 is allowed at `DISPATCH_LEVEL`, any other is not.
fn dpc_waits(_: &Device, correct: bool) -> NTSTATUS {
    let (mut event, reason) = (event(), _KWAIT_REASON::Executive);
    let mut time = LARGE_INTEGER { QuadPart: if correct { 0 } else { -10 } };
    // SAFETY: the event was initialized; that the level does not allow to wait is the defect.
    let _ = unsafe { KeWaitForSingleObject((&raw mut event).cast(), reason, 0, 0, &raw mut time) }; // DEFECT irql_dpc_waits
    STATUS_SUCCESS
}

fn isr_sets_an_event(device: &Device, correct: bool) -> bool {
    if !correct {
        let mut event = event();
        // SAFETY: the event was initialized; that the level is too high is the defect.
        let _ = unsafe { KeSetEvent(&raw mut event, 0, 0) }; // DEFECT irql_isr_sets_an_event
    }
    hardware::acknowledge(device)
}

/// Waits for an event that is set.
fn wait(limit: *mut LARGE_INTEGER) {
    let (mut event, reason) = (event(), _KWAIT_REASON::Executive);
    // SAFETY: the event was initialized; the level allows to set it.
    let _ = unsafe { KeSetEvent(&raw mut event, 0, 0) };
    // SAFETY: as above; that the level allows to wait is what the defect gets wrong.
    let _ = unsafe { KeWaitForSingleObject((&raw mut event).cast(), reason, 0, 0, limit) }; // DEFECT irql_wait_without_end_at_dispatch_level
}

/// At `DISPATCH_LEVEL` one may look whether an event is set, but not wait for it.
fn waits_without_end(_: &Device, correct: bool) -> NTSTATUS {
    let mut none = LARGE_INTEGER::default();
    raised(|| wait(if correct { &raw mut none } else { ptr::null_mut() }));
    STATUS_SUCCESS
}

fn waits_for_several(_: &Device, correct: bool) -> NTSTATUS {
    let (mut event, mut time) = (event(), LARGE_INTEGER { QuadPart: -10_000 });
    let mut objects: [PVOID; 1] = [(&raw mut event).cast()];
    let (reason, any, limit) = (_KWAIT_REASON::Executive, _WAIT_TYPE::WaitAny, &raw mut time);
    let mut wait = || {
        // SAFETY: the event was initialized; that the level allows to wait is what the defect gets wrong.
        let _ = unsafe {
            KeWaitForMultipleObjects(1, objects.as_mut_ptr(), any, reason, 0, 0, limit, ptr::null_mut()) // DEFECT irql_wait_for_several_at_dispatch_level
        };
    };
    if correct {
        wait();
    } else {
        raised(wait);
    }
    STATUS_SUCCESS
}

fn delays(_: &Device, correct: bool) -> NTSTATUS {
    let mut interval = LARGE_INTEGER { QuadPart: -10_000 };
    let mut delay = || {
        // SAFETY: that the level allows to wait is what the defect gets wrong.
        let _ = unsafe { KeDelayExecutionThread(0, 0, &raw mut interval) }; // DEFECT irql_delay_at_dispatch_level
    };
    if correct {
        delay();
    } else {
        raised(delay);
    }
    STATUS_SUCCESS
}

/// The end of a thread's handle.
fn closes(_: &Device, correct: bool) -> NTSTATUS {
    const unsafe extern "C" fn nothing(_: PVOID) {}

    let mut handle: HANDLE = ptr::null_mut();
    let (access, null) = (THREAD_ALL_ACCESS, ptr::null_mut());
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let status = unsafe {
        PsCreateSystemThread(&raw mut handle, access, null, null.cast(), null.cast(), Some(nothing), null.cast())
    };
    if status < STATUS_SUCCESS {
        return status;
    }
    let close = || {
        // SAFETY: the handle is ours; that the level allows to close it is what the defect gets wrong.
        let _ = unsafe { ZwClose(handle) }; // DEFECT irql_zw_function_at_dispatch_level
    };
    if correct {
        close();
    } else {
        raised(close);
    }
    STATUS_SUCCESS
}

/// A spin lock on the stack: what is wrong is the level, not the lock.
fn acquires_below(_: &Device, correct: bool) -> NTSTATUS {
    let mut lock: KSPIN_LOCK = 0;
    let lock = &raw mut lock;
    let take = || {
        // SAFETY: the lock is free; that the level is high enough is what the defect gets wrong.
        unsafe { KeAcquireSpinLockAtDpcLevel(lock) }; // DEFECT irql_spin_lock_acquired_at_dpc_level_below_it
        // SAFETY: acquired above.
        unsafe { KeReleaseSpinLockFromDpcLevel(lock) };
    };
    if correct {
        raised(take);
    } else {
        take();
    }
    STATUS_SUCCESS
}

fn releases_below(_: &Device, correct: bool) -> NTSTATUS {
    let mut lock: KSPIN_LOCK = 0;
    let lock = &raw mut lock;
    // SAFETY: the lock is free; IRQL is PASSIVE_LEVEL.
    let before = unsafe { KeAcquireSpinLockRaiseToDpc(lock) };
    // SAFETY: acquired above.
    unsafe { KeReleaseSpinLock(lock, before) };
    if !correct {
        // SAFETY: that the level is high enough is what the defect gets wrong.
        unsafe { KeReleaseSpinLockFromDpcLevel(lock) }; // DEFECT irql_spin_lock_released_from_dpc_level_below_it
    }
    STATUS_SUCCESS
}

fn releases_above(_: &Device, correct: bool) -> NTSTATUS {
    let mut lock: KSPIN_LOCK = 0;
    let lock = &raw mut lock;
    // SAFETY: the lock is free; IRQL is PASSIVE_LEVEL.
    let before = unsafe { KeAcquireSpinLockRaiseToDpc(lock) };
    if !correct {
        raise(DISPATCH + 1);
    }
    // SAFETY: acquired above; that the level is the lock's is what the defect gets wrong.
    unsafe { KeReleaseSpinLock(lock, before) }; // DEFECT irql_spin_lock_released_at_another_level
    STATUS_SUCCESS
}

fn isr_acquires(device: &Device, correct: bool) -> bool {
    if !correct {
        let mut lock: KSPIN_LOCK = 0;
        // SAFETY: the lock is free; that the level is too high is the defect.
        let _ = unsafe { KeAcquireSpinLockRaiseToDpc(&raw mut lock) }; // DEFECT irql_isr_acquires_a_spin_lock
    }
    hardware::acknowledge(device)
}

fn starts_next_packet(device: &Device, correct: bool) -> NTSTATUS {
    let start = || {
        // SAFETY: no packet is queued; that the level is high enough is what the defect gets wrong.
        unsafe { IoStartNextPacket(device.object, 0) }; // DEFECT irql_next_packet_started_below_dispatch_level
    };
    if correct {
        raised(start);
    } else {
        start();
    }
    STATUS_SUCCESS
}
