//! What AddDevice makes of a device in a stack, and what surprise removal must leave of it.
//!
//! AddDevice puts a second device over the one it has made, as a filter driver would: everything that comes to it goes on to the other.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{
    DEVICE_OBJECT, DO_BUFFERED_IO, DO_DEVICE_INITIALIZING, DO_DIRECT_IO, DO_POWER_PAGABLE, DRIVER_OBJECT,
    FILE_DEVICE_UNKNOWN, IRP, IRP_MJ_PNP, IRP_MN_REMOVE_DEVICE, IRP_MN_SURPRISE_REMOVAL, NTSTATUS, STATUS_SUCCESS,
    ntddk::{IoAttachDeviceToDeviceStack, IoCreateDevice, IoDeleteDevice, IoDetachDevice},
};

use crate::{
    MAJORS,
    defect::{self, Defect, Hook},
    device::Device,
    dispatch, irp,
    system_irps::minor_of,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("attach_still_initializing", &[Hook::Load(take_all), Hook::Add(add_over)]),
    Defect::new("attach_both_kinds_of_buffers", &[Hook::Load(take_all), Hook::Add(add_over)]),
    Defect::new("attach_buffers_not_copied", &[Hook::Load(take_all), Hook::Add(add_over)]),
    Defect::new("attach_type_not_copied", &[Hook::Load(take_all), Hook::Add(add_over)]),
    Defect::new("attach_power_flag_not_copied", &[Hook::Load(take_all), Hook::Add(add_over)]),
    Defect::new("attach_detached_at_surprise_removal", &[Hook::Load(take_all), Hook::Add(add_over)]),
    Defect::new("attach_deleted_at_surprise_removal", &[Hook::Load(take_all), Hook::Add(add_over)]),
];

/// A type that is not the lower device's.
const ANOTHER_TYPE: u32 = FILE_DEVICE_UNKNOWN + 1;

/// The device over ours, and ours.
static OVER: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());
static UNDER: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());

/// Whether this is the chosen defect, and is to be one.
fn is_wrong(name: &str) -> bool {
    defect::is_chosen(name) && !defect::is_correct()
}

fn take_all(driver: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    for major in MAJORS {
        driver.MajorFunction[major as usize] = Some(for_both);
    }
    STATUS_SUCCESS
}

/// "Initializing a Device Object": flags and type are those of the device below.
#[rustfmt::skip]
fn add_over(device: &Device, _: bool) -> NTSTATUS {
    let mut over = ptr::null_mut();
    // SAFETY: the device is ours.
    let under = unsafe { &mut *device.object };
    under.Flags |= DO_POWER_PAGABLE;
    let kind = if is_wrong("attach_type_not_copied") { ANOTHER_TYPE } else { under.DeviceType };
    // SAFETY: the driver object is ours; there is room for the result.
    let status = unsafe { IoCreateDevice(under.DriverObject, 0, ptr::null_mut(), kind, 0, 0, &raw mut over) };
    if !irp::succeeded(status) {
        return status;
    }
    UNDER.store(device.object, Ordering::Relaxed);
    OVER.store(over, Ordering::Relaxed);
    // SAFETY: the device was just made, and ours exists.
    unsafe { IoAttachDeviceToDeviceStack(over, device.object) }; // DEFECT attach_still_initializing attach_both_kinds_of_buffers attach_buffers_not_copied attach_type_not_copied attach_power_flag_not_copied
    // SAFETY: the device was just made.
    let made = unsafe { &mut *over };
    if !is_wrong("attach_power_flag_not_copied") {
        made.Flags |= DO_POWER_PAGABLE;
    }
    if !is_wrong("attach_buffers_not_copied") {
        made.Flags |= DO_BUFFERED_IO;
    }
    if is_wrong("attach_both_kinds_of_buffers") {
        made.Flags |= DO_DIRECT_IO;
    }
    if !is_wrong("attach_still_initializing") {
        made.Flags &= !DO_DEVICE_INITIALIZING;
    }
    STATUS_SUCCESS
}

unsafe extern "C" fn for_both(object: *mut DEVICE_OBJECT, request: *mut IRP) -> NTSTATUS {
    if object != OVER.load(Ordering::Relaxed) {
        // SAFETY: as the I/O manager calls it.
        return unsafe { dispatch(object, request) };
    }
    // SAFETY: the I/O manager gave us the IRP.
    let stack = unsafe { irp::stack_location(request) };
    // SAFETY: it has a location for us.
    let is_pnp = u32::from(unsafe { (*stack).MajorFunction }) == IRP_MJ_PNP;
    // SAFETY: the I/O manager gave us the IRP.
    let minor = if is_pnp { unsafe { minor_of(request) } } else { 0 };
    // SAFETY: as above, and ours is attached to.
    let status = unsafe { irp::skip_to(UNDER.load(Ordering::Relaxed), request) };
    let deletes = is_wrong("attach_deleted_at_surprise_removal");
    let leaves =
        is_pnp && minor == IRP_MN_SURPRISE_REMOVAL && (deletes || is_wrong("attach_detached_at_surprise_removal"));
    if leaves || is_pnp && minor == IRP_MN_REMOVE_DEVICE {
        leave();
    }
    if leaves && deletes || is_pnp && minor == IRP_MN_REMOVE_DEVICE {
        // SAFETY: it is in no stack.
        unsafe { IoDeleteDevice(object) };
    }
    status
}

/// Takes the device out of the stack, once.
fn leave() {
    let under = UNDER.swap(ptr::null_mut(), Ordering::Relaxed);
    if !under.is_null() {
        // SAFETY: it is attached to ours.
        unsafe { IoDetachDevice(under) }; // DEFECT attach_detached_at_surprise_removal attach_deleted_at_surprise_removal
    }
}
