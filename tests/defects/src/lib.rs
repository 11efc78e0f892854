//! `defects.sys`: a small driver that breaks one rule, the one its parameter `Defect` names; with `Correct` set to 1 it does the same
//! thing as the rules want it. Without `Defect` it is a driver that works.
//!
//! It is the function driver of the device `ROOT\DEFECTS`, or of QEMU's `edu`.
#![no_std]
#![allow(clippy::cast_possible_truncation, reason = "sizes of small structures, and addresses of 64 bits")]

extern crate wdk_panic;

// The other test driver's.
#[allow(dead_code, reason = "each driver needs some of it")]
#[path = "../../../crates/ntlab/tests/foreign/src/irp.rs"]
mod irp;

mod attach;
mod callbacks;
mod completion;
mod defect;
mod device;
mod dma;
mod hardware;
mod hot_add;
mod interrupts;
mod io;
mod irql;
mod locks;
mod mutexes;
mod paging;
mod parameters;
mod pnp;
mod pool;
mod queue;
mod removal;
mod security;
mod stack;
mod system_irps;
mod tracking;

use defect::Hook;
use device::Device;
use wdk_sys::{
    DEVICE_OBJECT, DRIVER_OBJECT, IRP, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, IRP_MJ_PNP,
    IRP_MJ_POWER, IRP_MJ_SYSTEM_CONTROL, IRP_MN_REMOVE_DEVICE, NTSTATUS, PCUNICODE_STRING, STATUS_DELETE_PENDING,
    STATUS_INVALID_DEVICE_REQUEST, STATUS_SUCCESS,
};

/// The tag of the driver's pool blocks and of its remove lock.
const TAG: u32 = u32::from_le_bytes(*b"Dfct");
/// The requests that the driver has a dispatch routine for.
const MAJORS: [u32; 7] = [
    IRP_MJ_CREATE,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_PNP,
    IRP_MJ_POWER,
    IRP_MJ_SYSTEM_CONTROL,
];

/// "`DRIVER_INITIALIZE` callback function".
///
/// # Safety
/// Called by the I/O manager only.
#[unsafe(export_name = "DriverEntry")]
#[unsafe(link_section = "INIT")]
pub unsafe extern "system" fn driver_entry(driver: &mut DRIVER_OBJECT, path: PCUNICODE_STRING) -> NTSTATUS {
    // SAFETY: the I/O manager passes the path of the service key.
    let status = unsafe { parameters::choose(path) };
    if status < STATUS_SUCCESS {
        return status;
    }
    driver.DriverUnload = Some(unload);
    for major in MAJORS {
        driver.MajorFunction[major as usize] = Some(dispatch);
    }
    // SAFETY: the I/O manager makes a driver object with its extension.
    let extension = unsafe { &mut *driver.DriverExtension };
    extension.AddDevice = Some(device::add);
    defect::at(|hook, correct| match hook {
        Hook::Load(act) => Some(act(driver, correct)),
        _ => None,
    })
    .unwrap_or(STATUS_SUCCESS)
}

unsafe extern "C" fn unload(driver: *mut DRIVER_OBJECT) {
    // SAFETY: the I/O manager passes our driver object.
    let driver = unsafe { &mut *driver };
    defect::at(|hook, correct| match hook {
        Hook::Unload(act) => Some(act(driver, correct)),
        _ => None,
    });
}

/// Every dispatch routine: the device stays while it runs.
unsafe extern "C" fn dispatch(object: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: the device is ours, and is deleted in `pnp::remove` only.
    let device = unsafe { Device::of(object) };
    // SAFETY: the I/O manager gave us the IRP.
    let stack = unsafe { irp::stack_location(irp) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &*stack };
    if !device.begin(irp.cast()) {
        // SAFETY: the I/O manager gave us the IRP.
        return unsafe { irp::complete(irp, STATUS_DELETE_PENDING, 0) };
    }
    let (major, minor) = (u32::from(stack.MajorFunction), u32::from(stack.MinorFunction));
    if major == IRP_MJ_PNP && minor == IRP_MN_REMOVE_DEVICE {
        // SAFETY: as above; the remove lock was acquired with this tag.
        return unsafe { pnp::remove(device, irp) };
    }
    // SAFETY: as above.
    let status = unsafe { handle(device, irp, major, minor) };
    device.done(irp.cast());
    status
}

/// # Safety
/// The IRP is the driver's, and is not after.
unsafe fn handle(device: &Device, irp: *mut IRP, major: u32, minor: u32) -> NTSTATUS {
    let handled = defect::at(|hook, correct| match hook {
        Hook::Irp(own, act) if *own == major => Some(act(device, irp, correct)),
        Hook::Pnp(own, act) if major == IRP_MJ_PNP && *own == minor => Some(act(device, irp, correct)),
        _ => None,
    });
    if let Some(status) = handled {
        return status;
    }
    match major {
        // SAFETY: as the caller promises.
        IRP_MJ_PNP => unsafe { pnp::handle(device, irp, minor) },
        // SAFETY: as the caller promises.
        IRP_MJ_POWER | IRP_MJ_SYSTEM_CONTROL => unsafe { irp::skip_to(device.lower, irp) },
        // SAFETY: as the caller promises.
        IRP_MJ_DEVICE_CONTROL => unsafe { irp::complete(irp, request(device), 0) },
        // SAFETY: as the caller promises.
        IRP_MJ_CREATE | IRP_MJ_CLEANUP | IRP_MJ_CLOSE => unsafe { irp::complete(irp, STATUS_SUCCESS, 0) },
        // SAFETY: as the caller promises.
        _ => unsafe { irp::complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0) },
    }
}

fn request(device: &Device) -> NTSTATUS {
    let status = defect::at(|hook, correct| match hook {
        Hook::Request(act) => Some(act(device, correct)),
        _ => None,
    });
    status.unwrap_or(STATUS_SUCCESS)
}
