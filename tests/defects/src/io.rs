//! IRPs.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{
    DEVICE_OBJECT, DRIVER_OBJECT, FILE_DEVICE_UNKNOWN, IRP, IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_PNP, IRP_MJ_POWER, IRP_MN_QUERY_STOP_DEVICE, IRP_MN_SET_POWER, MDL, NTSTATUS, PDEVICE_OBJECT, PVOID,
    SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED, STATUS_DELETE_PENDING,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING, STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
    ntddk::{
        IoAllocateIrp, IoAttachDeviceToDeviceStack, IoCreateDevice, IoDeleteDevice, IoDetachDevice, IoFreeIrp,
        IofCallDriver, IofCompleteRequest, MmMapLockedPagesSpecifyCache,
    },
};

use crate::{
    defect::{self, Defect, Hook},
    device::Device,
    dispatch,
    hardware::{self, RAISE},
    irp,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("io_completed_twice", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, completed_twice)]),
    Defect::new("io_completed_with_cancel_routine", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, completed_with_cancel_routine)]),
    Defect::new("io_completed_with_pending", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, completed_with_pending)]),
    Defect::new("io_pending_not_marked", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, pending_not_marked)]),
    Defect::new("io_mark_without_pending", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, mark_without_pending)]),
    Defect::new("io_other_status_returned", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, other_status_returned)]),
    Defect::new("io_neither_completed_nor_pending", &[Hook::Load(take_control_requests)]),
    Defect::new("io_location_not_set_up", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, location_not_set_up)]),
    Defect::new("io_marked_and_skipped", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, marked_and_skipped)]),
    Defect::new("io_forwarded_after_completion", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, forwarded_after_completion)]),
    Defect::new("io_lost", &[Hook::Load(take_control_requests)]),
    Defect::new("io_left_after_cleanup", &[Hook::Load(take_control_requests)]),
    Defect::new(
        "io_lost_at_removal",
        &[Hook::Load(take_internal_requests), Hook::Start(send_own), Hook::Remove(end_own)],
    ),
    Defect::new("io_touched_after_completion", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, touched_after_completion)]),
    Defect::new("io_buffer_touched_after_error", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, buffer_touched_after_error)]),
    Defect::new("io_unknown_pnp_status", &[Hook::Pnp(UNKNOWN_MINOR, unknown_pnp_status)]),
    Defect::new("io_unknown_pnp_completed", &[Hook::Pnp(UNKNOWN_MINOR, unknown_pnp_completed)]),
    Defect::new("io_failed_pnp_passed_down", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, failed_pnp_passed_down)]),
    Defect::new("io_pnp_not_passed_down", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, pnp_not_passed_down)]),
    Defect::new("io_pnp_held", &[Hook::Load(take_pnp_requests)]),
    Defect::new("io_power_held", &[Hook::Load(take_power_requests)]),
    Defect::new(
        "io_completed_above_dispatch",
        &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, keep_and_interrupt), Hook::Isr(complete_in_isr), Hook::Dpc(complete_in_dpc)],
    ),
    Defect::new("io_completion_drops_the_mark", &[Hook::Load(take_internal_requests), Hook::Request(ask_a_stack)]),
];

/// A minor function that no driver knows, which the lab sends.
const UNKNOWN_MINOR: u32 = 0xFF;
const INVOKE_ALWAYS: u8 = (SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL) as u8;

/// "`IoMarkIrpPending` function".
///
/// # Safety
/// The IRP is the driver's.
pub unsafe fn mark_pending(irp: *mut IRP) {
    // SAFETY: as the caller promises.
    let stack = unsafe { irp::stack_location(irp) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &mut *stack };
    stack.Control |= SL_PENDING_RETURNED as u8;
}

/// "`IoSetCancelRoutine` function".
///
/// # Safety
/// The IRP is the driver's.
unsafe fn set_cancel_routine(irp: *mut IRP, routine: *mut ()) {
    // SAFETY: as the caller promises; only the address of the member is taken.
    let place = unsafe { &raw mut (*irp).CancelRoutine };
    // SAFETY: the member is a pointer, which is exchanged atomically.
    let place = unsafe { AtomicPtr::from_ptr(place.cast::<*mut ()>()) };
    place.swap(routine, Ordering::SeqCst);
}

const unsafe extern "C" fn cancel(_: *mut DEVICE_OBJECT, _: *mut IRP) {}

fn completed_twice(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) };
    if !correct {
        // SAFETY: that the IRP is not the driver's any more is the defect.
        unsafe { IofCompleteRequest(request, 0) }; // DEFECT io_completed_twice
    }
    STATUS_SUCCESS
}

fn completed_with_cancel_routine(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { set_cancel_routine(request, cancel as *mut ()) };
    if correct {
        // SAFETY: as above.
        unsafe { set_cancel_routine(request, ptr::null_mut()) };
    }
    // SAFETY: as above; that the cancel routine is still set is the defect.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) } // DEFECT io_completed_with_cancel_routine
}

fn completed_with_pending(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let status = if correct { STATUS_SUCCESS } else { STATUS_PENDING };
    // SAFETY: the IRP is the driver's; that the status is not final is the defect.
    unsafe { irp::complete(request, status, 0) } // DEFECT io_completed_with_pending
}

fn pending_not_marked(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        unsafe { mark_pending(request) };
    }
    // SAFETY: as above.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as above.
    unsafe { IofCompleteRequest(request, 0) }; // DEFECT io_pending_not_marked
    STATUS_PENDING
}

fn mark_without_pending(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { mark_pending(request) };
    // SAFETY: as above.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as above.
    unsafe { IofCompleteRequest(request, 0) }; // DEFECT io_mark_without_pending
    if correct { STATUS_PENDING } else { STATUS_SUCCESS }
}

fn other_status_returned(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as above.
    unsafe { IofCompleteRequest(request, 0) }; // DEFECT io_other_status_returned
    if correct { STATUS_SUCCESS } else { STATUS_UNSUCCESSFUL }
}

/// Replaces the dispatch routine for device control.
fn take_control_requests(driver: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    let routine = if defect::is_chosen("io_neither_completed_nor_pending") { forget } else { keep };
    if !correct {
        driver.MajorFunction[IRP_MJ_DEVICE_CONTROL as usize] = Some(routine);
    }
    STATUS_SUCCESS
}

/// The last request that was neither completed nor passed down.
static FORGOTTEN: AtomicPtr<IRP> = AtomicPtr::new(ptr::null_mut());

#[rustfmt::skip]
unsafe extern "C" fn forget(_: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS { // DEFECT io_neither_completed_nor_pending
    FORGOTTEN.store(irp, Ordering::Relaxed);
    STATUS_SUCCESS
}

#[rustfmt::skip]
unsafe extern "C" fn keep(_: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS { // DEFECT io_lost io_left_after_cleanup
    // SAFETY: the I/O manager gave us the IRP.
    unsafe { mark_pending(irp) };
    STATUS_PENDING
}

/// Passes a PnP request down with success.
///
/// # Safety
/// The IRP is the driver's, and is not after.
unsafe fn agree(device: &Device, request: *mut IRP) -> NTSTATUS {
    // SAFETY: as the caller promises.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as the caller promises.
    unsafe { irp::skip_to(device.lower, request) }
}

fn location_not_set_up(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { agree(device, request) };
    }
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as above; that the lower driver's stack location is not set up is the defect.
    unsafe { IofCallDriver(device.lower, request) } // DEFECT io_location_not_set_up
}

fn marked_and_skipped(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if !correct {
        // SAFETY: the IRP is the driver's; the mark is the defect.
        unsafe { mark_pending(request) };
    }
    // SAFETY: the IRP is the driver's.
    unsafe { agree(device, request) } // DEFECT io_marked_and_skipped
}

fn forwarded_after_completion(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    let status = unsafe { irp::complete(request, STATUS_SUCCESS, 0) };
    if correct {
        return status;
    }
    // SAFETY: that the IRP is not the driver's any more is the defect.
    unsafe { IofCallDriver(device.lower, request) } // DEFECT io_forwarded_after_completion
}

fn touched_after_completion(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    let status = unsafe { irp::complete(request, STATUS_SUCCESS, 0) };
    if correct {
        return status;
    }
    // SAFETY: only the address of the member is taken.
    let place = unsafe { &raw const (*request).IoStatus.Information };
    // SAFETY: that the IRP is not the driver's any more is the defect.
    let information = unsafe { place.read_volatile() }; // DEFECT io_touched_after_completion
    if information == 0 { STATUS_SUCCESS } else { STATUS_UNSUCCESSFUL }
}

/// Where the buffer of a direct request is mapped.
///
/// # Safety
/// The IRP is a request with `METHOD_OUT_DIRECT`.
unsafe fn direct_buffer(request: *mut IRP) -> *mut u8 {
    /// `MmCached`, and `NormalPagePriority`.
    const CACHED: i32 = 1;
    const NORMAL: u32 = 16;
    // SAFETY: as the caller promises.
    let mdl: *mut MDL = unsafe { (*request).MdlAddress };
    // SAFETY: the I/O manager locked the pages.
    unsafe { MmMapLockedPagesSpecifyCache(mdl, 0, CACHED, ptr::null_mut(), 0, NORMAL) }.cast()
}

fn buffer_touched_after_error(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the test sends a request with METHOD_OUT_DIRECT.
    let buffer = unsafe { direct_buffer(request) };
    if correct {
        // SAFETY: the buffer has at least a byte.
        unsafe { buffer.write_volatile(1) };
    }
    // SAFETY: the IRP is the driver's.
    let status = unsafe { irp::complete(request, STATUS_UNSUCCESSFUL, 0) };
    if !correct {
        // SAFETY: that the buffer is not the driver's any more is the defect.
        unsafe { buffer.write_volatile(1) }; // DEFECT io_buffer_touched_after_error
    }
    status
}

fn unknown_pnp_status(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if !correct {
        // SAFETY: the IRP is the driver's; that it changes the status of what it does not know is the defect.
        unsafe { irp::set_status(request, STATUS_SUCCESS) };
    }
    // SAFETY: the IRP is the driver's.
    unsafe { irp::skip_to(device.lower, request) } // DEFECT io_unknown_pnp_status
}

fn unknown_pnp_completed(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    // SAFETY: the IRP is the driver's.
    let request_ = unsafe { &*request };
    // SAFETY: the I/O manager set this member.
    let status = unsafe { request_.IoStatus.__bindgen_anon_1.Status };
    // SAFETY: the IRP is the driver's; that it ends here is the defect.
    unsafe { irp::complete_with(request, status) } // DEFECT io_unknown_pnp_completed
}

fn failed_pnp_passed_down(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { irp::complete(request, STATUS_UNSUCCESSFUL, 0) };
    }
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(request, STATUS_UNSUCCESSFUL) };
    // SAFETY: as above; that lower drivers get a request which has failed is the defect.
    unsafe { irp::skip_to(device.lower, request) } // DEFECT io_failed_pnp_passed_down
}

fn pnp_not_passed_down(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { agree(device, request) };
    }
    // SAFETY: the IRP is the driver's; that lower drivers do not hear of it is the defect.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) } // DEFECT io_pnp_not_passed_down
}

fn take_pnp_requests(driver: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if !correct {
        driver.MajorFunction[IRP_MJ_PNP as usize] = Some(hold_query_stop);
    }
    STATUS_SUCCESS
}

fn take_power_requests(driver: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if !correct {
        driver.MajorFunction[IRP_MJ_POWER as usize] = Some(hold_set_power);
    }
    STATUS_SUCCESS
}

#[rustfmt::skip]
unsafe extern "C" fn hold_query_stop(object: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS { // DEFECT io_pnp_held
    // SAFETY: as the I/O manager calls it.
    unsafe { hold(object, irp, IRP_MN_QUERY_STOP_DEVICE) }
}

#[rustfmt::skip]
unsafe extern "C" fn hold_set_power(object: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS { // DEFECT io_power_held
    // SAFETY: as the I/O manager calls it.
    unsafe { hold(object, irp, IRP_MN_SET_POWER) }
}

/// Keeps requests with a minor function.
///
/// # Safety
/// As for a dispatch routine.
unsafe fn hold(object: *mut DEVICE_OBJECT, irp: *mut IRP, minor: u32) -> NTSTATUS {
    // SAFETY: the I/O manager gave us the IRP.
    let stack = unsafe { irp::stack_location(irp) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &*stack };
    if u32::from(stack.MinorFunction) != minor {
        // SAFETY: as the caller promises.
        return unsafe { dispatch(object, irp) };
    }
    // SAFETY: the I/O manager gave us the IRP.
    unsafe { mark_pending(irp) };
    STATUS_PENDING
}

fn keep_and_interrupt(device: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { mark_pending(request) };
    device.kept[0].store(request as u64, Ordering::SeqCst);
    device.hardware.write(RAISE, 1);
    STATUS_PENDING
}

fn complete_kept(device: &Device) {
    let request = device.kept[0].swap(0, Ordering::SeqCst) as *mut IRP;
    if !request.is_null() {
        // SAFETY: `keep_and_interrupt` kept the IRP, for whoever takes it first.
        unsafe { irp::complete(request, STATUS_SUCCESS, 0) }; // DEFECT io_completed_above_dispatch
    }
}

fn complete_in_isr(device: &Device, correct: bool) -> bool {
    let raised = hardware::acknowledge(device);
    if !correct {
        complete_kept(device);
    }
    raised
}

fn complete_in_dpc(device: &Device, _: bool) -> NTSTATUS {
    complete_kept(device);
    STATUS_SUCCESS
}

/// The two devices of a stack of the driver's own; null where there is none.
static LOWER: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());
static UPPER: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());

fn take_internal_requests(driver: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    driver.MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL as usize] = Some(internal);
    STATUS_SUCCESS
}

/// The lower device of the stack pends; the upper one passes down; other devices keep the request.
#[rustfmt::skip]
unsafe extern "C" fn internal(object: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS { // DEFECT io_lost_at_removal
    if object == UPPER.load(Ordering::Relaxed) {
        // SAFETY: the IRP has a location for each device of the stack.
        return unsafe { forward(LOWER.load(Ordering::Relaxed), irp, mark_or_not) };
    }
    // SAFETY: the IRP is ours.
    unsafe { mark_pending(irp) };
    if object == LOWER.load(Ordering::Relaxed) {
        // SAFETY: the IRP is ours.
        unsafe { irp::complete(irp, STATUS_SUCCESS, 0) }; // DEFECT io_completion_drops_the_mark
    }
    STATUS_PENDING
}

type Completion = unsafe extern "C" fn(*mut DEVICE_OBJECT, *mut IRP, PVOID) -> NTSTATUS;

/// Sets up the next stack location for an `IRP_MJ_INTERNAL_DEVICE_CONTROL` and sends it.
///
/// # Safety
/// The IRP is the driver's and has a location for `device`.
unsafe fn forward(device: PDEVICE_OBJECT, irp: *mut IRP, routine: Completion) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let next = unsafe { irp::stack_location(irp) }.wrapping_sub(1);
    // SAFETY: as the caller promises.
    let next = unsafe { &mut *next };
    next.MajorFunction = IRP_MJ_INTERNAL_DEVICE_CONTROL as u8;
    next.CompletionRoutine = Some(routine);
    next.Control = INVOKE_ALWAYS;
    // SAFETY: as the caller promises.
    unsafe { IofCallDriver(device, irp) }
}

/// "`IO_COMPLETION_ROUTINE` callback function": the mark that a lower driver made must go up.
unsafe extern "C" fn mark_or_not(_: *mut DEVICE_OBJECT, irp: *mut IRP, _: PVOID) -> NTSTATUS {
    // SAFETY: the I/O manager passes the IRP.
    let pending = unsafe { (*irp).PendingReturned } != 0;
    if pending && defect::is_correct() {
        // SAFETY: the IRP is the driver's while the routine runs.
        unsafe { mark_pending(irp) };
    }
    STATUS_SUCCESS
}

/// The same, of who allocated the IRP.
const unsafe extern "C" fn take_back(_: *mut DEVICE_OBJECT, _: *mut IRP, _: PVOID) -> NTSTATUS {
    STATUS_MORE_PROCESSING_REQUIRED
}

/// Sends the device a request of the driver's own, which it keeps.
fn send_own(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the device is ours.
    let size = unsafe { (*device.object).StackSize };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let own = unsafe { IoAllocateIrp(size, 0) };
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    device.kept[0].store(own as u64, Ordering::Relaxed);
    // SAFETY: the IRP is ours.
    unsafe { forward(device.object, own, take_back) };
    STATUS_SUCCESS
}

/// Completes it and frees it.
fn end_own(device: &Device, correct: bool) -> NTSTATUS {
    let own = device.kept[0].load(Ordering::Relaxed) as *mut IRP;
    if correct {
        // SAFETY: the device has kept it.
        unsafe { irp::complete(own, STATUS_DELETE_PENDING, 0) };
        // SAFETY: its completion routine has kept it.
        unsafe { IoFreeIrp(own) };
    }
    STATUS_SUCCESS
}

fn create(driver: *mut DRIVER_OBJECT, place: &AtomicPtr<DEVICE_OBJECT>) -> NTSTATUS {
    let mut made = ptr::null_mut();
    // SAFETY: the driver object is ours; there is room for the result.
    let status = unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), FILE_DEVICE_UNKNOWN, 0, 0, &raw mut made) };
    if irp::succeeded(status) {
        // SAFETY: the device was just made.
        let object = unsafe { &mut *made };
        object.Flags &= !wdk_sys::DO_DEVICE_INITIALIZING;
        place.store(made, Ordering::Relaxed);
    }
    status
}

/// Makes a stack of two devices, sends it a request and takes it down.
fn ask_a_stack(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the device is ours.
    let driver = unsafe { (*device.object).DriverObject };
    if !irp::succeeded(create(driver, &LOWER)) || !irp::succeeded(create(driver, &UPPER)) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let (upper, lower) = (UPPER.load(Ordering::Relaxed), LOWER.load(Ordering::Relaxed));
    // SAFETY: both were just made.
    unsafe { IoAttachDeviceToDeviceStack(upper, lower) };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let own = unsafe { IoAllocateIrp(2, 0) };
    // SAFETY: the IRP has a location for each of the two.
    unsafe { forward(upper, own, take_back) };
    // SAFETY: its completion routine has kept it.
    unsafe { IoFreeIrp(own) };
    // SAFETY: attached above.
    unsafe { IoDetachDevice(lower) };
    for device in [upper, lower] {
        // SAFETY: nobody else knows it.
        unsafe { IoDeleteDevice(device) };
    }
    STATUS_SUCCESS
}
