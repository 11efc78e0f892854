//! IRQL.

use wdk_sys::{
    _EVENT_TYPE, _KWAIT_REASON, DISPATCH_LEVEL, DRIVER_OBJECT, IRP, IRP_MN_QUERY_STOP_DEVICE, KEVENT, KIRQL,
    LARGE_INTEGER, NTSTATUS, PASSIVE_LEVEL, STATUS_SUCCESS,
    ntddk::{KeInitializeEvent, KeSetEvent, KeWaitForSingleObject},
};

use crate::{
    defect::{Defect, Hook},
    device::Device,
    hardware::{self, RAISE},
    irp,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("irql_raised_to_a_lower_level", &[Hook::Request(raised_to_a_lower_level)]),
    Defect::new("irql_lowered_to_a_higher_level", &[Hook::Start(lowered_to_a_higher_level)]),
    Defect::new("irql_load_returns_raised", &[Hook::Load(driver_returns_raised)]),
    Defect::new("irql_unload_returns_raised", &[Hook::Unload(driver_returns_raised)]),
    Defect::new("irql_pnp_returns_raised", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, pnp_returns_raised)]),
    Defect::new("irql_dpc_waits", &[Hook::Request(raise_interrupt), Hook::Dpc(dpc_waits)]),
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
