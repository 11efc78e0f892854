//! The words of an IRP that are the driver's while it owns the IRP ("`IRP` structure"): three of its driver context, in which a queued
//! IRP keeps what goes with it, and its link.

use core::ptr::NonNull;

use wdk_sys::{LIST_ENTRY, PIRP};

use super::PendedIrp;

/// Where the context of a queued IRP is: three words.
///
/// # Safety
///
/// The IRP is live.
pub const unsafe fn context_of<C>(irp: PIRP) -> *mut C {
    // SAFETY: the address of a member of a live IRP.
    unsafe { &raw mut (*irp).Tail.Overlay.__bindgen_anon_1.__bindgen_anon_1.DriverContext }.cast()
}

/// Where the link of a queued IRP is.
///
/// # Safety
///
/// The IRP is live.
pub const unsafe fn link_of(irp: PIRP) -> *mut LIST_ENTRY {
    // SAFETY: the address of a member of a live IRP.
    unsafe { &raw mut (*irp).Tail.Overlay.__bindgen_anon_2.ListEntry }
}

/// Takes ownership of an IRP that is in no queue any more, and of its context.
///
/// # Safety
///
/// The IRP was a [`PendedIrp`] and holds a context, and the caller hands over the only claim to both.
pub const unsafe fn take<C>(irp: NonNull<wdk_sys::IRP>) -> (PendedIrp, C) {
    // SAFETY: as the caller promises.
    let place = unsafe { context_of::<C>(irp.as_ptr()) };
    // SAFETY: as above.
    let context = unsafe { place.read() };
    // SAFETY: as the caller promises.
    (unsafe { PendedIrp::from_raw(irp) }, context)
}
