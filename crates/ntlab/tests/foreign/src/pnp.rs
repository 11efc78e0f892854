//! PnP of a device without hardware resources.

use wdk_sys::{
    DEVICE_OBJECT, IRP, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_CANCEL_STOP_DEVICE, IRP_MN_QUERY_REMOVE_DEVICE,
    IRP_MN_QUERY_STOP_DEVICE, IRP_MN_REMOVE_DEVICE, IRP_MN_START_DEVICE, IRP_MN_STOP_DEVICE, IRP_MN_SURPRISE_REMOVAL,
    NTSTATUS, STATUS_SUCCESS, UNICODE_STRING,
    ntddk::{IoReleaseRemoveLockAndWaitEx, IoSetDeviceInterfaceState, RtlFreeUnicodeString},
};

use crate::{Mailbox, REMOVE_LOCK_SIZE, irp};

/// "`IRP_MJ_PNP`".
pub unsafe extern "C" fn dispatch(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: the device is ours, and is deleted in `remove` only.
    let mailbox = unsafe { Mailbox::of(device) };
    // SAFETY: the I/O manager gave us the IRP.
    let stack = unsafe { irp::stack_location(irp) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &*stack };
    match u32::from(stack.MinorFunction) {
        // SAFETY: as above.
        IRP_MN_START_DEVICE => return unsafe { start(mailbox, irp) },
        // SAFETY: as above.
        IRP_MN_REMOVE_DEVICE => return unsafe { remove(mailbox, device, irp) },
        IRP_MN_SURPRISE_REMOVAL => {
            set_interface(mailbox, false);
            // SAFETY: as above.
            unsafe { irp::set_status(irp, STATUS_SUCCESS) };
        }
        IRP_MN_QUERY_STOP_DEVICE
        | IRP_MN_CANCEL_STOP_DEVICE
        | IRP_MN_STOP_DEVICE
        | IRP_MN_QUERY_REMOVE_DEVICE
        | IRP_MN_CANCEL_REMOVE_DEVICE => {
            // SAFETY: as above.
            unsafe { irp::set_status(irp, STATUS_SUCCESS) };
        }
        _ => {}
    }
    // SAFETY: as above.
    unsafe { irp::skip_to(mailbox.lower, irp) }
}

/// Lower drivers first, then the interface.
///
/// # Safety
/// The IRP is the driver's.
unsafe fn start(mailbox: &Mailbox, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: PnP IRPs come at PASSIVE_LEVEL.
    let mut status = unsafe { irp::forward_and_wait(mailbox.lower, irp) };
    if irp::succeeded(status) {
        status = set_interface(mailbox, true);
    }
    // SAFETY: the lower drivers have given the IRP back.
    unsafe { irp::complete_with(irp, status) }
}

/// # Safety
/// The IRP is the driver's; the device is gone after.
unsafe fn remove(mailbox: &Mailbox, device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    let tag = irp.cast();
    if mailbox.begin(tag) {
        // SAFETY: taken by `begin` with this tag; IRQL is PASSIVE_LEVEL.
        unsafe { IoReleaseRemoveLockAndWaitEx(mailbox.removal.get().cast(), tag, REMOVE_LOCK_SIZE) };
    }
    set_interface(mailbox, false);
    let mut name = mailbox.interface;
    free_name(&mut name);
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(irp, STATUS_SUCCESS) };
    // SAFETY: the IRP is the driver's, and the lower device is still attached to.
    let status = unsafe { irp::skip_to(mailbox.lower, irp) };
    // SAFETY: the remove lock has let the last user go.
    unsafe { mailbox.delete(device) };
    status
}

fn set_interface(mailbox: &Mailbox, enabled: bool) -> NTSTATUS {
    let mut name = mailbox.interface;
    // SAFETY: the name is the one that registering the interface returned.
    unsafe { IoSetDeviceInterfaceState(&raw mut name, enabled.into()) }
}

/// Frees the name of the interface.
pub fn free_name(name: &mut UNICODE_STRING) {
    // SAFETY: registering the interface allocated it; it is freed once.
    unsafe { RtlFreeUnicodeString(name) };
}
