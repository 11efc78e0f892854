//! IRPs.

use wdk_sys::{IRP, IRP_MJ_DEVICE_CONTROL, NTSTATUS, STATUS_SUCCESS};

use crate::{
    defect::{Defect, Hook},
    device::Device,
    irp,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] =
    &[Defect::new("io_completed_twice", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, completed_twice)])];

fn completed_twice(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) };
    if !correct {
        // SAFETY: that the IRP is not the driver's any more is the defect.
        unsafe { irp::complete(request, STATUS_SUCCESS, 0) }; // DEFECT io_completed_twice
    }
    STATUS_SUCCESS
}
