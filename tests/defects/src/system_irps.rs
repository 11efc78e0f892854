//! PnP and power IRPs, which the system sends to every driver of a stack.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{
    DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DRIVER_OBJECT, FILE_DEVICE_UNKNOWN, IO_RESOURCE_REQUIREMENTS_LIST, IRP,
    IRP_MJ_PNP, IRP_MJ_POWER, IRP_MN_FILTER_RESOURCE_REQUIREMENTS, IRP_MN_POWER_SEQUENCE,
    IRP_MN_QUERY_PNP_DEVICE_STATE, IRP_MN_QUERY_POWER, IRP_MN_REMOVE_DEVICE, IRP_MN_SET_POWER, IRP_MN_STOP_DEVICE,
    NTSTATUS, PVOID, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_MORE_PROCESSING_REQUIRED, STATUS_NOT_SUPPORTED, STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
    ntddk::{
        ExAllocatePool2, ExFreePool, IoAllocateIrp, IoAttachDeviceToDeviceStack, IoCreateDevice, IoDeleteDevice,
        IoDetachDevice, IoFreeIrp, IofCallDriver,
    },
};

use crate::{
    TAG,
    defect::{self, Defect, Hook},
    device::Device,
    dispatch, irp,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("system_irps_sent_with_another_status", &[Hook::Request(send_pnp)]),
    Defect::new("system_irps_power_sent_with_another_status", &[Hook::Request(send_power)]),
    Defect::new("system_irps_unknown_information", &[Hook::Pnp(UNKNOWN_MINOR, change_information)]),
    Defect::new("system_irps_unknown_status_on_the_way_up", &[Hook::Pnp(UNKNOWN_MINOR, change_status_later)]),
    Defect::new(
        "system_irps_reserved_status",
        &[Hook::Load(take_requests), Hook::Request(ask_pnp_from_above), Hook::Pnp(STATE, set_reserved_status)],
    ),
    Defect::new(
        "system_irps_power_reserved_status",
        &[Hook::Load(take_requests), Hook::Request(ask_power_from_above), Hook::Irp(IRP_MJ_POWER, set_reserved_status)],
    ),
    Defect::new("system_irps_failed_power_passed_down", &[Hook::Irp(IRP_MJ_POWER, failed_power_passed_down)]),
    Defect::new("system_irps_completed_untouched", &[Hook::Pnp(STATE, completed_untouched)]),
    Defect::new("system_irps_power_completed_untouched", &[Hook::Irp(IRP_MJ_POWER, power_completed_untouched)]),
    Defect::new("system_irps_power_not_passed_down", &[Hook::Irp(IRP_MJ_POWER, power_not_passed_down)]),
    Defect::new("system_irps_stop_failed", &[Hook::Pnp(IRP_MN_STOP_DEVICE, stop_failed)]),
    Defect::new("system_irps_removal_failed", &[Hook::Load(take_removal)]),
    Defect::new("system_irps_set_power_failed", &[Hook::Irp(IRP_MJ_POWER, set_power_failed)]),
    Defect::new("system_irps_set_power_failed_later", &[Hook::Irp(IRP_MJ_POWER, set_power_failed_later)]),
    Defect::new("system_irps_device_skipped", &[Hook::Load(take_requests), Hook::Request(ask_pnp_from_above)]),
    Defect::new("system_irps_requirements_not_freed", &[Hook::Pnp(FILTER, replace_requirements)]),
];

/// A minor function that no driver knows, which the lab sends.
const UNKNOWN_MINOR: u32 = 0xFF;
/// One that a driver need not know.
pub const STATE: u32 = IRP_MN_QUERY_PNP_DEVICE_STATE;
/// One that lets a driver replace the list of its resource requirements.
const FILTER: u32 = IRP_MN_FILTER_RESOURCE_REQUIREMENTS;
const POOL_FLAG_PAGED: u64 = 0x100;
/// When a completion routine is to be called.
pub const INVOKE_ALWAYS: u8 = (SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL) as u8;

/// "`IO_COMPLETION_ROUTINE` callback function" of who allocated the IRP.
pub const unsafe extern "C" fn take_back(_: *mut DEVICE_OBJECT, _: *mut IRP, _: PVOID) -> NTSTATUS {
    STATUS_MORE_PROCESSING_REQUIRED
}

/// The status of an IRP.
///
/// # Safety
/// The IRP is the driver's.
unsafe fn status_of(request: *mut IRP) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let request = unsafe { &*request };
    // SAFETY: every bit pattern is a status.
    unsafe { request.IoStatus.__bindgen_anon_1.Status }
}

/// The minor function of an IRP.
///
/// # Safety
/// The IRP is the driver's.
pub unsafe fn minor_of(request: *mut IRP) -> u32 {
    // SAFETY: as the caller promises.
    let stack = unsafe { irp::stack_location(request) };
    // SAFETY: it has a location for us.
    u32::from(unsafe { (*stack).MinorFunction })
}

/// Sends an IRP of the driver's own and frees it.
fn ask(target: *mut DEVICE_OBJECT, major: u32, minor: u32, status: NTSTATUS) -> NTSTATUS {
    // SAFETY: the caller's device exists.
    let size = unsafe { (*target).StackSize };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let own = unsafe { IoAllocateIrp(size, 0) };
    if own.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the IRP is ours.
    unsafe { irp::set_status(own, status) };
    // SAFETY: as above.
    let next = unsafe { irp::stack_location(own) }.wrapping_sub(1);
    // SAFETY: it has a location for the target.
    let next = unsafe { &mut *next };
    (next.MajorFunction, next.MinorFunction) = (major as u8, minor as u8);
    next.CompletionRoutine = Some(take_back);
    next.Control = INVOKE_ALWAYS;
    // SAFETY: the IRP is ours; nobody below keeps one of these.
    let _ = unsafe { IofCallDriver(target, own) }; // DEFECT system_irps_sent_with_another_status system_irps_power_sent_with_another_status
    // SAFETY: its completion routine has kept it.
    unsafe { IoFreeIrp(own) };
    STATUS_SUCCESS
}

const fn initial_status(correct: bool) -> NTSTATUS {
    if correct { STATUS_NOT_SUPPORTED } else { STATUS_SUCCESS }
}

fn send_pnp(device: &Device, correct: bool) -> NTSTATUS {
    ask(device.lower, IRP_MJ_PNP, STATE, initial_status(correct))
}

fn send_power(device: &Device, correct: bool) -> NTSTATUS {
    ask(device.lower, IRP_MJ_POWER, IRP_MN_POWER_SEQUENCE, initial_status(correct))
}

fn change_information(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if !correct {
        // SAFETY: the IRP is the driver's.
        let request = unsafe { &mut *request };
        request.IoStatus.Information = 1;
    }
    // SAFETY: the IRP is the driver's; that it is changed though nobody knows what it asks is the defect.
    unsafe { irp::skip_to(device.lower, request) } // DEFECT system_irps_unknown_information
}

fn change_status_later(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's; IRQL is PASSIVE_LEVEL.
    let status = unsafe { irp::forward_and_wait(device.lower, request) };
    let status = if correct { status } else { STATUS_SUCCESS };
    // SAFETY: the lower drivers have given the IRP back; that its status is another one is the defect.
    unsafe { irp::complete_with(request, status) } // DEFECT system_irps_unknown_status_on_the_way_up
}

/// A device that is attached over ours; null while there is none.
static UPPER: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());

/// Replaces the dispatch routines for PnP and power by one that knows the device over ours.
pub fn take_requests(driver: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    for major in [IRP_MJ_PNP, IRP_MJ_POWER] {
        driver.MajorFunction[major as usize] = Some(from_above);
    }
    STATUS_SUCCESS
}

unsafe extern "C" fn from_above(object: *mut DEVICE_OBJECT, request: *mut IRP) -> NTSTATUS {
    if object != UPPER.load(Ordering::Relaxed) {
        // SAFETY: as the I/O manager calls it.
        return unsafe { dispatch(object, request) };
    }
    // SAFETY: the upper device is attached to ours.
    let ours = unsafe { Device::of(ATTACHED.load(Ordering::Relaxed)) };
    if defect::is_chosen("completion_routine_copied") {
        // SAFETY: the I/O manager gave us the IRP; IRQL is PASSIVE_LEVEL.
        let status = unsafe { irp::forward_and_wait(ours.object, request) };
        // SAFETY: the lower drivers have given the IRP back.
        return unsafe { irp::complete_with(request, status) };
    }
    // SAFETY: the I/O manager gave us the IRP.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    let skips = defect::is_chosen("system_irps_device_skipped") && !defect::is_correct();
    let next = if skips { ours.physical } else { ours.object };
    // SAFETY: as above; that our device does not see it is the defect.
    unsafe { irp::skip_to(next, request) } // DEFECT system_irps_device_skipped
}

/// The device that the upper one is attached to.
static ATTACHED: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());

/// Attaches a device over ours, sends it an IRP of the driver's own, and takes it away again.
pub fn ask_from_above(device: &Device, major: u32, minor: u32) -> NTSTATUS {
    let mut upper = ptr::null_mut();
    // SAFETY: the device is ours.
    let driver = unsafe { (*device.object).DriverObject };
    // SAFETY: the driver object is ours; there is room for the result.
    let status = unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), FILE_DEVICE_UNKNOWN, 0, 0, &raw mut upper) };
    if !irp::succeeded(status) {
        return status;
    }
    ATTACHED.store(device.object, Ordering::Relaxed);
    UPPER.store(upper, Ordering::Relaxed);
    // SAFETY: the device was just made, and ours exists.
    unsafe { IoAttachDeviceToDeviceStack(upper, device.object) };
    // SAFETY: the device was just made.
    let made = unsafe { &mut *upper };
    made.Flags &= !DO_DEVICE_INITIALIZING;
    let status = ask(upper, major, minor, STATUS_NOT_SUPPORTED);
    // SAFETY: attached above.
    unsafe { IoDetachDevice(device.object) };
    UPPER.store(ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: nobody knows it any more.
    unsafe { IoDeleteDevice(upper) };
    status
}

fn ask_pnp_from_above(device: &Device, _: bool) -> NTSTATUS {
    ask_from_above(device, IRP_MJ_PNP, STATE)
}

fn ask_power_from_above(device: &Device, _: bool) -> NTSTATUS {
    ask_from_above(device, IRP_MJ_POWER, IRP_MN_POWER_SEQUENCE)
}

fn set_reserved_status(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    if !correct && unsafe { status_of(request) } == STATUS_SUCCESS {
        // SAFETY: as above.
        unsafe { irp::set_status(request, STATUS_NOT_SUPPORTED) };
    }
    // SAFETY: as above; that its status says again that nobody has handled it is the defect.
    unsafe { irp::skip_to(device.lower, request) } // DEFECT system_irps_reserved_status system_irps_power_reserved_status
}

/// Whether to act on an IRP: wrongly, and it has this minor function. All others are passed down.
///
/// # Safety
/// The IRP is the driver's.
unsafe fn is_to_act(request: *mut IRP, minor: u32, correct: bool) -> bool {
    // SAFETY: as the caller promises.
    !correct && unsafe { minor_of(request) } == minor
}

fn failed_power_passed_down(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    if unsafe { is_to_act(request, IRP_MN_QUERY_POWER, correct) } {
        // SAFETY: as above.
        unsafe { irp::set_status(request, STATUS_UNSUCCESSFUL) };
    }
    // SAFETY: as above; that lower drivers get a request which has failed is the defect.
    unsafe { irp::skip_to(device.lower, request) } // DEFECT system_irps_failed_power_passed_down
}

fn completed_untouched(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the IRP is the driver's.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    // SAFETY: the IRP is the driver's; that it ends here is the defect.
    unsafe { irp::complete_with(request, STATUS_NOT_SUPPORTED) } // DEFECT system_irps_completed_untouched
}

fn power_completed_untouched(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    if !unsafe { is_to_act(request, IRP_MN_SET_POWER, correct) } {
        // SAFETY: as above.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    // SAFETY: as above; that it ends here is the defect.
    unsafe { irp::complete_with(request, STATUS_NOT_SUPPORTED) } // DEFECT system_irps_power_completed_untouched
}

fn power_not_passed_down(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    if !unsafe { is_to_act(request, IRP_MN_QUERY_POWER, correct) } {
        // SAFETY: as above.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    // SAFETY: as above; that lower drivers do not hear of it is the defect.
    unsafe { irp::complete_with(request, STATUS_SUCCESS) } // DEFECT system_irps_power_not_passed_down
}

fn stop_failed(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    device.hardware.disconnect();
    if correct {
        // SAFETY: the IRP is the driver's.
        unsafe { irp::set_status(request, STATUS_SUCCESS) };
        // SAFETY: as above.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    // SAFETY: the IRP is the driver's; that a stop fails is the defect.
    unsafe { irp::complete(request, STATUS_UNSUCCESSFUL, 0) } // DEFECT system_irps_stop_failed
}

fn take_removal(driver: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if !correct {
        driver.MajorFunction[IRP_MJ_PNP as usize] = Some(fail_removal);
    }
    STATUS_SUCCESS
}

unsafe extern "C" fn fail_removal(object: *mut DEVICE_OBJECT, request: *mut IRP) -> NTSTATUS {
    // SAFETY: the I/O manager gave us the IRP.
    if unsafe { minor_of(request) } != IRP_MN_REMOVE_DEVICE {
        // SAFETY: as the I/O manager calls it.
        return unsafe { dispatch(object, request) };
    }
    // SAFETY: as above; that a removal fails is the defect.
    unsafe { irp::complete(request, STATUS_UNSUCCESSFUL, 0) } // DEFECT system_irps_removal_failed
}

fn set_power_failed(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    if !unsafe { is_to_act(request, IRP_MN_SET_POWER, correct) } {
        // SAFETY: as above.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    // SAFETY: as above; that a driver above the bus driver fails it is the defect.
    unsafe { irp::complete(request, STATUS_UNSUCCESSFUL, 0) } // DEFECT system_irps_set_power_failed
}

fn set_power_failed_later(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's; IRQL is PASSIVE_LEVEL.
    let status = unsafe { irp::forward_and_wait(device.lower, request) };
    // SAFETY: the lower drivers have given the IRP back.
    let fails = unsafe { is_to_act(request, IRP_MN_SET_POWER, correct) };
    let status = if fails { STATUS_UNSUCCESSFUL } else { status };
    // SAFETY: as above; that it fails though the bus driver has done it is the defect.
    unsafe { irp::complete_with(request, status) } // DEFECT system_irps_set_power_failed_later
}

/// Puts a copy in the place of the list of resource requirements.
fn replace_requirements(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's; IRQL is PASSIVE_LEVEL.
    let status = unsafe { irp::forward_and_wait(device.lower, request) };
    // SAFETY: the lower drivers have given the IRP back.
    let answer = unsafe { &mut *request };
    let previous =
        ptr::with_exposed_provenance_mut::<IO_RESOURCE_REQUIREMENTS_LIST>(answer.IoStatus.Information as usize);
    if previous.is_null() {
        // SAFETY: as above.
        return unsafe { irp::complete_with(request, status) };
    }
    // SAFETY: the PnP manager made the list.
    let length = unsafe { (*previous).ListSize };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let list = unsafe { ExAllocatePool2(POOL_FLAG_PAGED, length.into(), TAG) }; // DEFECT system_irps_requirements_not_freed
    if list.is_null() {
        // SAFETY: as above.
        return unsafe { irp::complete_with(request, STATUS_INSUFFICIENT_RESOURCES) };
    }
    // SAFETY: both have so many bytes, and the new one is nobody else's.
    unsafe { list.cast::<u8>().copy_from_nonoverlapping(previous.cast(), length as usize) };
    answer.IoStatus.Information = list.expose_provenance() as u64;
    if correct {
        // SAFETY: it is in paged pool, and ours to free now that another one is returned.
        unsafe { ExFreePool(previous.cast()) };
    }
    // SAFETY: the lower drivers have given the IRP back.
    unsafe { irp::complete_with(request, STATUS_SUCCESS) }
}
