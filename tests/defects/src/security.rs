//! What user mode may do and see.

use core::{ffi::c_void, ptr};

use wdk_sys::{
    _LOCK_OPERATION, IRP, IRP_MJ_DEVICE_CONTROL, LARGE_INTEGER, MDL, NTSTATUS, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_SUCCESS,
    ntddk::{
        ExAllocatePool2, ExFreePoolWithTag, IoAllocateMdl, IoFreeMdl, KeQuerySystemTimePrecise,
        MmMapLockedPagesSpecifyCache, MmProbeAndLockPages, MmUnlockPages, ProbeForRead, ProbeForWrite,
    },
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::Device,
    irp,
    pool::raised,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("security_user_input_not_probed", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, read_unprobed)]),
    Defect::new("security_user_output_probed_for_reading", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, write_unprobed)]),
    Defect::new("security_user_address_of_a_buffered_request", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, use_user_buffer)]),
    Defect::new("security_user_address_given_to_the_kernel", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, give_to_kernel)]),
    Defect::new("security_user_input_read_at_dispatch_level", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, read_raised)]),
    Defect::new(
        "security_input_written_that_is_locked_for_reading",
        &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, write_locked_input)],
    ),
    Defect::new("security_locked_for_reading_and_written", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, lock_and_write)]),
    Defect::new("security_output_longer_than_the_buffer", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, too_long)]),
    Defect::new("security_system_buffer_returned_unwritten", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, unwritten)]),
    Defect::new("security_unwritten_pool_returned", &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, unwritten_pool)]),
    Defect::new(
        "security_unwritten_pool_copied_to_the_user",
        &[Hook::Irp(IRP_MJ_DEVICE_CONTROL, unwritten_pool_to_user)],
    ),
];

const POOL_FLAG_NON_PAGED: u64 = 0x40;
const POOL_FLAG_UNINITIALIZED: u64 = 0x2;
/// What the scenarios send and have room for.
const LENGTH: usize = 64;

/// The user's input and output of a `METHOD_NEITHER` request.
fn users(request: *mut IRP) -> (*mut u8, *mut u8) {
    // SAFETY: the IRP is the driver's.
    let stack = unsafe { irp::stack_location(request) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &*stack };
    // SAFETY: it is a device-control request.
    let control = unsafe { stack.Parameters.DeviceIoControl };
    // SAFETY: as above.
    let request = unsafe { &*request };
    (control.Type3InputBuffer.cast(), request.UserBuffer.cast())
}

/// The system buffer of a `METHOD_BUFFERED` request.
fn system_buffer(request: *mut IRP) -> *mut u8 {
    // SAFETY: the IRP is the driver's.
    let request = unsafe { &*request };
    // SAFETY: buffered I/O uses this member of the union.
    unsafe { request.AssociatedIrp.SystemBuffer }.cast()
}

fn complete(request: *mut IRP, information: usize) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { irp::complete(request, STATUS_SUCCESS, information) }
}

fn read_unprobed(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let (input, _) = users(request);
    if correct {
        // SAFETY: the requester's context, at PASSIVE_LEVEL; the scenario's addresses are good.
        unsafe { ProbeForRead(input.cast(), LENGTH as u64, 1) };
    }
    // SAFETY: that it was probed is what the defect gets wrong.
    let _ = unsafe { input.read_volatile() }; // DEFECT security_user_input_not_probed
    complete(request, 0)
}

fn write_unprobed(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let (_, output) = users(request);
    if correct {
        // SAFETY: the requester's context, at PASSIVE_LEVEL; the scenario's addresses are good.
        unsafe { ProbeForWrite(output.cast(), LENGTH as u64, 1) };
    } else {
        // SAFETY: as above.
        unsafe { ProbeForRead(output.cast(), LENGTH as u64, 1) };
    }
    // SAFETY: that it was probed for that is what the defect gets wrong.
    unsafe { output.write_volatile(1) }; // DEFECT security_user_output_probed_for_reading
    complete(request, 1)
}

fn use_user_buffer(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let (_, user) = users(request);
    let place = if correct { system_buffer(request) } else { user };
    // SAFETY: that it is the driver's to write to is what the defect gets wrong.
    unsafe { place.write_volatile(1) }; // DEFECT security_user_address_of_a_buffered_request
    complete(request, 1)
}

fn give_to_kernel(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let (_, output) = users(request);
    let mut own = LARGE_INTEGER::default();
    let place: *mut LARGE_INTEGER = if correct { &raw mut own } else { output.cast::<c_void>().cast() };
    // SAFETY: that the place is the system's is what the defect gets wrong.
    unsafe { KeQuerySystemTimePrecise(place) }; // DEFECT security_user_address_given_to_the_kernel
    complete(request, 0)
}

fn read_raised(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let (input, _) = users(request);
    // SAFETY: the requester's context, at PASSIVE_LEVEL; the scenario's addresses are good.
    unsafe { ProbeForRead(input.cast(), LENGTH as u64, 1) };
    let read = || {
        // SAFETY: that it is not paged out is what the defect gets wrong.
        let _ = unsafe { input.read_volatile() }; // DEFECT security_user_input_read_at_dispatch_level
    };
    if correct {
        read();
    } else {
        raised(read);
    }
    complete(request, 0)
}

fn too_long(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let length = if correct { LENGTH } else { LENGTH + 1 };
    complete(request, length) // DEFECT security_output_longer_than_the_buffer
}

/// The input is shorter than the output.
fn unwritten(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the buffer has room for that.
        unsafe { system_buffer(request).write_bytes(1, LENGTH) };
    }
    complete(request, LENGTH) // DEFECT security_system_buffer_returned_unwritten
}

/// Where the pages of a list are mapped.
fn mapped(mdl: *mut MDL) -> *mut u8 {
    /// `MmCached`, and `NormalPagePriority`.
    const CACHED: i32 = 1;
    const NORMAL: u32 = 16;
    // SAFETY: the pages are locked; the mapping goes with the lock.
    unsafe { MmMapLockedPagesSpecifyCache(mdl, 0, CACHED, ptr::null_mut(), 0, NORMAL) }.cast()
}

/// The I/O manager locks the buffer of `METHOD_IN_DIRECT` for reading, that of `METHOD_OUT_DIRECT` for writing.
fn write_locked_input(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's, and has a buffer of a direct method.
    let buffer = mapped(unsafe { (*request).MdlAddress });
    if correct {
        // SAFETY: the buffer has at least a byte.
        let _ = unsafe { buffer.read_volatile() };
    } else {
        // SAFETY: that the user lets it be written is what the defect gets wrong.
        unsafe { buffer.write_volatile(1) }; // DEFECT security_input_written_that_is_locked_for_reading
    }
    complete(request, 0)
}

fn lock_and_write(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    const USER_MODE: i8 = 1;
    let (_, output) = users(request);
    // SAFETY: IRQL is PASSIVE_LEVEL; the list belongs to no IRP.
    let mdl = unsafe { IoAllocateMdl(output.cast(), LENGTH as u32, 0, 0, ptr::null_mut()) };
    if mdl.is_null() {
        // SAFETY: the IRP is the driver's.
        return unsafe { irp::complete(request, STATUS_INSUFFICIENT_RESOURCES, 0) };
    }
    let access = if correct { _LOCK_OPERATION::IoWriteAccess } else { _LOCK_OPERATION::IoReadAccess };
    // SAFETY: the requester's context, at PASSIVE_LEVEL; the scenario's addresses are good.
    unsafe { MmProbeAndLockPages(mdl, USER_MODE, access) };
    // SAFETY: that the pages are locked for that is what the defect gets wrong.
    unsafe { mapped(mdl).write_volatile(1) }; // DEFECT security_locked_for_reading_and_written
    // SAFETY: locked above; the mapping goes too.
    unsafe { MmUnlockPages(mdl) };
    // SAFETY: allocated above, and not used again.
    unsafe { IoFreeMdl(mdl) };
    complete(request, 1)
}

/// Does `act` with a block of pool that nobody has written, or with zeros.
#[expect(clippy::inline_always, reason = "the line with the mark is the caller's")]
#[inline(always)]
fn with_block(request: *mut IRP, correct: bool, act: impl FnOnce(*const u8)) -> NTSTATUS {
    let flags = if correct { POOL_FLAG_NON_PAGED } else { POOL_FLAG_NON_PAGED | POOL_FLAG_UNINITIALIZED };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(flags, LENGTH as u64, TAG) };
    if block.is_null() {
        // SAFETY: the IRP is the driver's.
        return unsafe { irp::complete(request, STATUS_INSUFFICIENT_RESOURCES, 0) };
    }
    act(block.cast());
    // SAFETY: the block is not used again.
    unsafe { ExFreePoolWithTag(block, TAG) };
    complete(request, LENGTH)
}

#[rustfmt::skip]
fn unwritten_pool(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    with_block(request, correct, |block| { // DEFECT security_unwritten_pool_returned
        // SAFETY: both have that length.
        unsafe { system_buffer(request).copy_from_nonoverlapping(block, LENGTH) };
    })
}

#[rustfmt::skip]
fn unwritten_pool_to_user(_: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let (_, output) = users(request);
    // SAFETY: the requester's context, at PASSIVE_LEVEL; the scenario's addresses are good.
    unsafe { ProbeForWrite(output.cast(), LENGTH as u64, 1) };
    with_block(request, correct, |block| { // DEFECT security_unwritten_pool_copied_to_the_user
        // SAFETY: the output was probed, and both have that length.
        unsafe { output.copy_from_nonoverlapping(block, LENGTH) };
    })
}
