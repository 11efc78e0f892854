//! What the headers have as inline functions.

use core::ptr;

use wdk_sys::{
    _EVENT_TYPE, _KWAIT_REASON, IO_NO_INCREMENT, IO_STACK_LOCATION, IRP, KEVENT, NTSTATUS, PDEVICE_OBJECT, PVOID,
    SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING,
    STATUS_SUCCESS,
    ntddk::{IofCallDriver, IofCompleteRequest, KeInitializeEvent, KeSetEvent, KeWaitForSingleObject},
};

#[expect(clippy::cast_possible_truncation, reason = "the flags have 8 bits")]
const INVOKE_ALWAYS: u8 = (SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL) as u8;

/// "`IoGetCurrentIrpStackLocation` function".
///
/// # Safety
/// The IRP is the driver's.
pub unsafe fn stack_location(irp: *mut IRP) -> *mut IO_STACK_LOCATION {
    // SAFETY: as the caller promises; only the address of the member is taken.
    let place = unsafe { &raw const (*irp).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation };
    // SAFETY: the I/O manager keeps the member.
    unsafe { place.read() }
}

/// The system buffer of a read or write, and its length.
///
/// # Safety
/// The IRP is a read or write of a device with `DO_BUFFERED_IO`.
pub unsafe fn system_buffer(irp: *mut IRP) -> (*mut u8, usize) {
    // SAFETY: as the caller promises.
    let stack = unsafe { stack_location(irp) };
    // SAFETY: the IRP has a location for us.
    let stack = unsafe { &*stack };
    // SAFETY: reads and writes have their length at the same place.
    let length = unsafe { stack.Parameters.Read.Length };
    // SAFETY: as the caller promises.
    let irp = unsafe { &*irp };
    // SAFETY: buffered I/O uses this member of the union.
    let buffer = unsafe { irp.AssociatedIrp.SystemBuffer };
    (buffer.cast(), length as usize)
}

/// The byte offset of a read or write.
///
/// # Safety
/// The IRP is a read or write.
pub unsafe fn byte_offset(irp: *mut IRP) -> i64 {
    // SAFETY: as the caller promises.
    let stack = unsafe { stack_location(irp) };
    // SAFETY: the IRP has a location for us.
    let stack = unsafe { &*stack };
    // SAFETY: reads and writes have their offset at the same place.
    let offset = unsafe { stack.Parameters.Read.ByteOffset };
    // SAFETY: every view of the union is 64 bits of the number.
    unsafe { offset.QuadPart }
}

/// Completes the IRP and returns its status.
///
/// # Safety
/// The IRP is the driver's, and is not after.
pub unsafe fn complete(irp: *mut IRP, status: NTSTATUS, information: usize) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let request = unsafe { &mut *irp };
    request.IoStatus.__bindgen_anon_1.Status = status;
    request.IoStatus.Information = information as u64;
    #[expect(clippy::cast_possible_truncation, reason = "0")]
    let boost = IO_NO_INCREMENT as i8;
    // SAFETY: as the caller promises.
    unsafe { IofCompleteRequest(irp, boost) };
    status
}

/// Completes the IRP with the status it has.
///
/// # Safety
/// As for [`complete`].
pub unsafe fn complete_with(irp: *mut IRP, status: NTSTATUS) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let information = unsafe { (*irp).IoStatus.Information };
    // SAFETY: as the caller promises.
    unsafe { complete(irp, status, usize::try_from(information).unwrap_or_default()) }
}

/// Sets the status that lower drivers find.
///
/// # Safety
/// The IRP is the driver's.
pub unsafe fn set_status(irp: *mut IRP, status: NTSTATUS) {
    // SAFETY: as the caller promises.
    let request = unsafe { &mut *irp };
    request.IoStatus.__bindgen_anon_1.Status = status;
}

/// Passes the IRP to the lower driver in this driver's stack location.
///
/// # Safety
/// The IRP is the driver's, and is not after; `lower` is the next device.
pub unsafe fn skip_to(lower: PDEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let next = unsafe { stack_location(irp) }.wrapping_add(1);
    // SAFETY: as the caller promises.
    let request = unsafe { &mut *irp };
    request.CurrentLocation += 1;
    request.Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation = next;
    // SAFETY: as the caller promises.
    unsafe { IofCallDriver(lower, irp) }
}

/// Passes the IRP to the lower drivers, waits until they have completed it, and returns their status. The IRP stays the driver's.
///
/// # Safety
/// The IRP is the driver's; IRQL is `PASSIVE_LEVEL`; `lower` is the next device.
pub unsafe fn forward_and_wait(lower: PDEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    let mut event = KEVENT::default();
    // SAFETY: the event outlives the wait below.
    unsafe { KeInitializeEvent(&raw mut event, _EVENT_TYPE::NotificationEvent, 0) };
    // SAFETY: as the caller promises.
    let current = unsafe { stack_location(irp) };
    let next = current.wrapping_sub(1);
    // SAFETY: an IRP has a location for each driver of the stack.
    unsafe { next.copy_from_nonoverlapping(current, 1) };
    // SAFETY: as above.
    let location = unsafe { &mut *next };
    location.CompletionRoutine = Some(completed);
    location.Context = (&raw mut event).cast();
    location.Control = INVOKE_ALWAYS;
    // SAFETY: as the caller promises.
    let status = unsafe { IofCallDriver(lower, irp) };
    if status != STATUS_PENDING {
        return status;
    }
    let reason = _KWAIT_REASON::Executive;
    // A wait without time-out, alerts and user mode ends in one way only.
    // SAFETY: the event was initialized above, and IRQL allows to wait.
    let _ = unsafe { KeWaitForSingleObject((&raw mut event).cast(), reason, 0, 0, ptr::null_mut()) };
    // SAFETY: the completion routine gave the IRP back.
    let request = unsafe { &*irp };
    // SAFETY: the lower driver set this member.
    unsafe { request.IoStatus.__bindgen_anon_1.Status }
}

/// "`IO_COMPLETION_ROUTINE` callback function": takes the IRP back.
unsafe extern "C" fn completed(_device: PDEVICE_OBJECT, irp: *mut IRP, event: PVOID) -> NTSTATUS {
    // SAFETY: the I/O manager passes the IRP.
    if unsafe { (*irp).PendingReturned } != 0 {
        // SAFETY: the context is the event of `forward_and_wait`, which waits for it.
        unsafe { KeSetEvent(event.cast(), 0, 0) };
    }
    STATUS_MORE_PROCESSING_REQUIRED
}

/// Whether a status is a success.
pub const fn succeeded(status: NTSTATUS) -> bool {
    status >= STATUS_SUCCESS
}
