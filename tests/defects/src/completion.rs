//! Completion routines, and what must not be done with an IRP that lower drivers have.

use core::ptr;

use wdk_sys::{
    DEVICE_OBJECT, DRIVER_OBJECT, IRP, IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_PNP, IRP_MJ_POWER,
    IRP_MN_QUERY_STOP_DEVICE, IRP_MN_SET_POWER, NTSTATUS, PIO_COMPLETION_ROUTINE, PVOID, SL_PENDING_RETURNED,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_MORE_PROCESSING_REQUIRED, STATUS_NOT_SUPPORTED, STATUS_PENDING,
    STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
    ntddk::{IoAllocateIrp, IoFreeIrp, IoReuseIrp, IofCallDriver, IofCompleteRequest},
};

use crate::{
    defect::{self, Defect, Hook},
    device::Device,
    dispatch, irp,
    system_irps::{self, INVOKE_ALWAYS, STATE, take_back},
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new(
        "completion_routine_copied",
        &[Hook::Load(system_irps::take_requests), Hook::Request(ask_from_above), Hook::Pnp(STATE, copy_location)],
    ),
    Defect::new("completion_routine_missing", &[Hook::Request(ask_without_routine)]),
    Defect::new("completion_taken_back_and_forgotten", &[Hook::Load(take_pnp_requests)]),
    Defect::new("completion_not_taken_back", &[Hook::Pnp(STATE, complete_again)]),
    Defect::new("completion_own_irp_not_kept", &[Hook::Request(own_irp_not_kept)]),
    Defect::new("completion_own_irp_freed_and_not_kept", &[Hook::Request(freed_and_not_kept)]),
    Defect::new("completion_routine_fails", &[Hook::Irp(IRP_MJ_POWER, fail_later)]),
    Defect::new("completion_cancel_routine_passed_down", &[Hook::Pnp(STATE, cancel_routine_passed_down)]),
    Defect::new(
        "completion_cancel_routine_set_below",
        &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, cancel_routine_set_below)],
    ),
    Defect::new("completion_passed_down_twice", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, passed_down_twice)]),
    Defect::new("completion_while_below", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, completed_below)]),
    Defect::new("completion_freed_while_kept", &[Hook::Load(keep_internal_requests), Hook::Request(freed_while_kept)]),
    Defect::new(
        "completion_reused_while_kept",
        &[Hook::Load(keep_internal_requests), Hook::Request(reused_while_kept)],
    ),
    Defect::new(
        "completion_without_locations",
        &[Hook::Request(ask_with_one_location), Hook::Pnp(STATE, pass_down_without_location)],
    ),
    Defect::new("completion_without_a_device", &[Hook::Request(without_a_device)]),
];

fn ask_from_above(device: &Device, _: bool) -> NTSTATUS {
    system_irps::ask_from_above(device, IRP_MJ_PNP, STATE)
}

/// Copies the stack location as "`IoCopyCurrentIrpStackLocationToNext` function" does, or all of it.
fn copy_location(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    let current = unsafe { irp::stack_location(request) };
    let next = current.wrapping_sub(1);
    // SAFETY: an IRP has a location for each driver of the stack.
    unsafe { next.copy_from_nonoverlapping(current, 1) };
    // SAFETY: as above.
    let next = unsafe { &mut *next };
    if correct {
        (next.CompletionRoutine, next.Control) = (None, 0);
    }
    // SAFETY: the IRP is the driver's; that the upper driver's routine would be called twice is the defect.
    unsafe { IofCallDriver(device.lower, request) } // DEFECT completion_routine_copied
}

/// An IRP of the driver's own for `target`.
fn own_irp(target: *mut DEVICE_OBJECT, major: u32, routine: PIO_COMPLETION_ROUTINE) -> *mut IRP {
    // SAFETY: the caller's device exists.
    let size = unsafe { (*target).StackSize };
    // SAFETY: IRQL is at most DISPATCH_LEVEL.
    let own = unsafe { IoAllocateIrp(size, 0) };
    if !own.is_null() {
        // SAFETY: the IRP is ours.
        unsafe { set_up(own, major, routine) };
    }
    own
}

/// Sets up the next stack location.
///
/// # Safety
/// The IRP is the driver's.
unsafe fn set_up(own: *mut IRP, major: u32, routine: PIO_COMPLETION_ROUTINE) {
    // SAFETY: as the caller promises.
    unsafe { irp::set_status(own, STATUS_NOT_SUPPORTED) };
    // SAFETY: as above.
    let next = unsafe { irp::stack_location(own) }.wrapping_sub(1);
    // SAFETY: it has a location for the target.
    let next = unsafe { &mut *next };
    (next.MajorFunction, next.MinorFunction) = (major as u8, if major == IRP_MJ_PNP { STATE as u8 } else { 0 });
    next.CompletionRoutine = routine;
    next.Control = INVOKE_ALWAYS;
}

fn ask_without_routine(device: &Device, correct: bool) -> NTSTATUS {
    let own = own_irp(device.lower, IRP_MJ_PNP, if correct { Some(take_back) } else { None });
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the IRP is ours; that a routine is to be called and none is set is the defect.
    let _ = unsafe { IofCallDriver(device.lower, own) }; // DEFECT completion_routine_missing
    // SAFETY: its completion routine has kept it.
    unsafe { IoFreeIrp(own) };
    STATUS_SUCCESS
}

fn take_pnp_requests(driver: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    driver.MajorFunction[IRP_MJ_PNP as usize] = Some(take_back_and_forget);
    STATUS_SUCCESS
}

#[rustfmt::skip]
unsafe extern "C" fn take_back_and_forget(object: *mut DEVICE_OBJECT, request: *mut IRP) -> NTSTATUS { // DEFECT completion_taken_back_and_forgotten
    // SAFETY: the I/O manager gave us the IRP.
    if unsafe { system_irps::minor_of(request) } != STATE {
        // SAFETY: as the I/O manager calls it.
        return unsafe { dispatch(object, request) };
    }
    // SAFETY: the device is ours.
    let device = unsafe { Device::of(object) };
    // SAFETY: the I/O manager gave us the IRP; IRQL is PASSIVE_LEVEL.
    let status = unsafe { irp::forward_and_wait(device.lower, request) };
    if defect::is_correct() {
        // SAFETY: the lower drivers have given the IRP back.
        unsafe { irp::complete_with(request, status) };
    }
    status
}

/// "`IO_COMPLETION_ROUTINE` callback function": lets completion go on, as if nothing were to be done after it.
const unsafe extern "C" fn let_go(_: *mut DEVICE_OBJECT, _: *mut IRP, _: PVOID) -> NTSTATUS {
    STATUS_SUCCESS
}

fn complete_again(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    let current = unsafe { irp::stack_location(request) };
    let next = current.wrapping_sub(1);
    // SAFETY: an IRP has a location for each driver of the stack.
    unsafe { next.copy_from_nonoverlapping(current, 1) };
    // SAFETY: as above.
    let next = unsafe { &mut *next };
    next.CompletionRoutine = Some(if correct { take_back } else { let_go });
    next.Control = INVOKE_ALWAYS;
    // SAFETY: the IRP is the driver's.
    let status = unsafe { IofCallDriver(device.lower, request) };
    // SAFETY: that the completion routine has let the IRP go is the defect.
    unsafe { IofCompleteRequest(request, 0) }; // DEFECT completion_not_taken_back
    status
}

fn own_irp_not_kept(device: &Device, correct: bool) -> NTSTATUS {
    let own = own_irp(device.lower, IRP_MJ_PNP, Some(if correct { take_back } else { let_go }));
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the IRP is ours; that its completion goes on beyond its end is the defect.
    let _ = unsafe { IofCallDriver(device.lower, own) }; // DEFECT completion_own_irp_not_kept
    // SAFETY: its completion routine has kept it.
    unsafe { IoFreeIrp(own) };
    STATUS_SUCCESS
}

/// "`IO_COMPLETION_ROUTINE` callback function": frees the IRP, which it must then keep.
unsafe extern "C" fn free_it(_: *mut DEVICE_OBJECT, own: *mut IRP, _: PVOID) -> NTSTATUS {
    // SAFETY: the IRP is ours.
    unsafe { IoFreeIrp(own) };
    if defect::is_correct() { STATUS_MORE_PROCESSING_REQUIRED } else { STATUS_SUCCESS }
}

fn freed_and_not_kept(device: &Device, _: bool) -> NTSTATUS {
    let own = own_irp(device.lower, IRP_MJ_PNP, Some(free_it));
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the IRP is ours until its completion routine has freed it.
    let _ = unsafe { IofCallDriver(device.lower, own) }; // DEFECT completion_own_irp_freed_and_not_kept
    STATUS_SUCCESS
}

/// "`IO_COMPLETION_ROUTINE` callback function".
#[rustfmt::skip]
unsafe extern "C" fn fail_set_power(_: *mut DEVICE_OBJECT, request: *mut IRP, context: PVOID) -> NTSTATUS { // DEFECT completion_routine_fails
    // SAFETY: the I/O manager passes the IRP.
    let irp = unsafe { &mut *request };
    if irp.PendingReturned != 0 {
        // SAFETY: the I/O manager passes the IRP.
        let stack = unsafe { irp::stack_location(request) };
        // SAFETY: it has a location for us.
        let stack = unsafe { &mut *stack };
        stack.Control |= SL_PENDING_RETURNED as u8;
    }
    if !context.is_null() {
        irp.IoStatus.__bindgen_anon_1.Status = STATUS_UNSUCCESSFUL;
    }
    STATUS_SUCCESS
}

fn fail_later(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    let fails = !correct && unsafe { system_irps::minor_of(request) } == IRP_MN_SET_POWER;
    // SAFETY: as above.
    let current = unsafe { irp::stack_location(request) };
    let next = current.wrapping_sub(1);
    // SAFETY: an IRP has a location for each driver of the stack.
    unsafe { next.copy_from_nonoverlapping(current, 1) };
    // SAFETY: as above.
    let next = unsafe { &mut *next };
    next.CompletionRoutine = Some(fail_set_power);
    next.Context = if fails { request.cast() } else { ptr::null_mut() };
    next.Control = INVOKE_ALWAYS;
    // SAFETY: the IRP is the driver's.
    unsafe { IofCallDriver(device.lower, request) }
}

/// "`DRIVER_CANCEL` callback function".
const unsafe extern "C" fn cancel(_: *mut DEVICE_OBJECT, _: *mut IRP) {}

fn cancel_routine_passed_down(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    let irp = unsafe { &mut *request };
    irp.CancelRoutine = if correct { None } else { Some(cancel) };
    // SAFETY: the IRP is the driver's; that its cancel routine is set is the defect.
    unsafe { irp::skip_to(device.lower, request) } // DEFECT completion_cancel_routine_passed_down
}

fn keep_internal_requests(driver: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    driver.MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL as usize] = Some(keep);
    STATUS_SUCCESS
}

unsafe extern "C" fn keep(_: *mut DEVICE_OBJECT, request: *mut IRP) -> NTSTATUS {
    // SAFETY: the I/O manager gave us the IRP.
    let stack = unsafe { irp::stack_location(request) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &mut *stack };
    stack.Control |= SL_PENDING_RETURNED as u8;
    STATUS_PENDING
}

/// Sends an IRP of the driver's own to our device, which keeps it; has `act` done with it; ends and frees it.
fn while_kept(device: &Device, act: impl FnOnce(*mut IRP)) -> NTSTATUS {
    let own = own_irp(device.object, IRP_MJ_INTERNAL_DEVICE_CONTROL, Some(take_back));
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the IRP is ours.
    let _ = unsafe { IofCallDriver(device.object, own) };
    act(own);
    // SAFETY: the device that keeps the IRP is ours.
    unsafe { irp::complete(own, STATUS_SUCCESS, 0) };
    // SAFETY: its completion routine has kept it.
    unsafe { IoFreeIrp(own) };
    STATUS_SUCCESS
}

fn freed_while_kept(device: &Device, correct: bool) -> NTSTATUS {
    while_kept(device, |own| {
        if !correct {
            // SAFETY: that the device still has the IRP is the defect.
            unsafe { IoFreeIrp(own) }; // DEFECT completion_freed_while_kept
        }
    })
}

fn reused_while_kept(device: &Device, correct: bool) -> NTSTATUS {
    while_kept(device, |own| {
        if !correct {
            // SAFETY: that the device still has the IRP is the defect.
            unsafe { IoReuseIrp(own, STATUS_SUCCESS) }; // DEFECT completion_reused_while_kept
        }
    })
}

/// Copies the stack location for the lower driver, which the scenario has take its time, and sends the IRP.
///
/// # Safety
/// The IRP is the driver's.
unsafe fn send_down(device: &Device, request: *mut IRP) {
    // SAFETY: as the caller promises.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as the caller promises.
    let current = unsafe { irp::stack_location(request) };
    let next = current.wrapping_sub(1);
    // SAFETY: an IRP has a location for each driver of the stack.
    unsafe { next.copy_from_nonoverlapping(current, 1) };
    // SAFETY: as above.
    let next = unsafe { &mut *next };
    next.CompletionRoutine = Some(take_back);
    next.Control = INVOKE_ALWAYS;
    // SAFETY: the IRP is the driver's.
    let _ = unsafe { IofCallDriver(device.lower, request) };
}

/// Sends an IRP down, waits until it is back and completes it.
///
/// # Safety
/// The IRP is the driver's, and is not after; IRQL is `PASSIVE_LEVEL`.
unsafe fn send_down_and_wait(device: &Device, request: *mut IRP) -> NTSTATUS {
    // SAFETY: as the caller promises.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as the caller promises.
    let status = unsafe { irp::forward_and_wait(device.lower, request) };
    // SAFETY: the lower drivers have given the IRP back.
    unsafe { irp::complete_with(request, status) }
}

fn passed_down_twice(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { send_down_and_wait(device, request) };
    }
    // SAFETY: the IRP is the driver's.
    unsafe { send_down(device, request) };
    // SAFETY: that the lower driver has the IRP is the defect.
    unsafe { irp::skip_to(device.lower, request) } // DEFECT completion_passed_down_twice
}

fn completed_below(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { send_down_and_wait(device, request) };
    }
    // SAFETY: the IRP is the driver's.
    unsafe { send_down(device, request) };
    // SAFETY: that the lower driver has the IRP is the defect.
    unsafe { irp::complete_with(request, STATUS_SUCCESS) } // DEFECT completion_while_below
}

fn cancel_routine_set_below(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { send_down_and_wait(device, request) };
    }
    // SAFETY: the IRP is the driver's.
    let stack = unsafe { irp::stack_location(request) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &mut *stack };
    stack.Control |= SL_PENDING_RETURNED as u8;
    // SAFETY: the IRP is the driver's.
    unsafe { send_down(device, request) };
    // SAFETY: the lower driver has not completed it; that it has it is the defect.
    let packet = unsafe { &mut *request };
    packet.CancelRoutine = Some(cancel_from_above);
    STATUS_PENDING
}

#[rustfmt::skip]
unsafe extern "C" fn cancel_from_above(_: *mut DEVICE_OBJECT, request: *mut IRP) { // DEFECT completion_cancel_routine_set_below
    // SAFETY: never called.
    unsafe { irp::set_status(request, STATUS_UNSUCCESSFUL) };
}

/// Sends our device an IRP with one stack location.
fn ask_with_one_location(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let own = unsafe { IoAllocateIrp(1, 0) };
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the IRP is ours.
    unsafe { set_up(own, IRP_MJ_PNP, Some(take_back)) };
    // SAFETY: as above.
    let _ = unsafe { IofCallDriver(device.object, own) };
    // SAFETY: its completion routine has kept it.
    unsafe { IoFreeIrp(own) };
    STATUS_SUCCESS
}

fn pass_down_without_location(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    if correct || unsafe { (*request).StackCount } != 1 {
        // SAFETY: as above.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    // SAFETY: that the IRP has no location for the lower driver is the defect.
    unsafe { IofCallDriver(device.lower, request) } // DEFECT completion_without_locations
}

fn without_a_device(device: &Device, correct: bool) -> NTSTATUS {
    let own = own_irp(device.lower, IRP_MJ_PNP, Some(take_back));
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let target = if correct { device.lower } else { ptr::null_mut() };
    // SAFETY: that there is no device is the defect.
    let _ = unsafe { IofCallDriver(target, own) }; // DEFECT completion_without_a_device
    // SAFETY: its completion routine has kept it.
    unsafe { IoFreeIrp(own) };
    STATUS_SUCCESS
}
