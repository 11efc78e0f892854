//! PnP requests.

use wdk_sys::{
    IRP, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_CANCEL_STOP_DEVICE, IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_QUERY_STOP_DEVICE,
    IRP_MN_START_DEVICE, IRP_MN_STOP_DEVICE, IRP_MN_SURPRISE_REMOVAL, NTSTATUS, STATUS_SUCCESS,
    ntddk::IoReleaseRemoveLockAndWaitEx,
};

use crate::{
    defect::{self, Hook},
    device::{Device, REMOVE_LOCK_SIZE},
    irp,
};

/// "`IRP_MJ_PNP`", but for `IRP_MN_REMOVE_DEVICE`.
///
/// # Safety
/// The IRP is the driver's, and is not after.
pub unsafe fn handle(device: &Device, irp: *mut IRP, minor: u32) -> NTSTATUS {
    match minor {
        // SAFETY: as the caller promises.
        IRP_MN_START_DEVICE => return unsafe { start(device, irp) },
        IRP_MN_STOP_DEVICE => device.hardware.disconnect(),
        IRP_MN_SURPRISE_REMOVAL => {
            device.set_interface(false);
            device.hardware.disconnect();
        }
        IRP_MN_QUERY_STOP_DEVICE
        | IRP_MN_CANCEL_STOP_DEVICE
        | IRP_MN_QUERY_REMOVE_DEVICE
        | IRP_MN_CANCEL_REMOVE_DEVICE => {}
        // SAFETY: as the caller promises.
        _ => return unsafe { irp::skip_to(device.lower, irp) },
    }
    // SAFETY: as the caller promises.
    unsafe { irp::set_status(irp, STATUS_SUCCESS) };
    // SAFETY: as the caller promises.
    unsafe { irp::skip_to(device.lower, irp) }
}

/// Lower drivers first, then the hardware, then the interface.
///
/// # Safety
/// The IRP is the driver's.
unsafe fn start(device: &Device, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: PnP IRPs come at PASSIVE_LEVEL.
    let mut status = unsafe { irp::forward_and_wait(device.lower, irp) };
    if irp::succeeded(status) {
        // SAFETY: the IRP is a start.
        status = unsafe { device.hardware.connect(device, irp) };
    }
    if irp::succeeded(status) {
        let acted = defect::at(|hook, correct| match hook {
            Hook::Start(act) => Some(act(device, correct)),
            _ => None,
        });
        status = acted.unwrap_or(STATUS_SUCCESS);
    }
    if irp::succeeded(status) {
        // A device that starts again has its interface enabled already, which is no error.
        device.set_interface(true);
    } else {
        device.hardware.disconnect();
    }
    // SAFETY: the lower drivers have given the IRP back.
    unsafe { irp::complete_with(irp, status) }
}

/// "`IRP_MN_REMOVE_DEVICE`".
///
/// # Safety
/// The IRP is the driver's, and the remove lock was acquired with it as the tag; the device is gone after.
pub unsafe fn remove(device: &Device, irp: *mut IRP) -> NTSTATUS {
    device.set_interface(false);
    // SAFETY: acquired with this tag; IRQL is PASSIVE_LEVEL.
    unsafe { IoReleaseRemoveLockAndWaitEx(device.removal.get().cast(), irp.cast(), REMOVE_LOCK_SIZE) };
    device.hardware.disconnect();
    defect::at(|hook, correct| match hook {
        Hook::Remove(act) => Some(act(device, correct)),
        _ => None,
    });
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(irp, STATUS_SUCCESS) };
    // SAFETY: the IRP is the driver's, and the lower device is still attached to.
    let status = unsafe { irp::skip_to(device.lower, irp) };
    let deleted = defect::at(|hook, correct| match hook {
        Hook::Delete(act) => Some(act(device, correct)),
        _ => None,
    });
    if deleted.is_none() {
        // SAFETY: the remove lock has let the last user go.
        unsafe { device.detach() };
        // SAFETY: as above, and it is in no stack.
        unsafe { device.delete_detached() };
    }
    status
}
