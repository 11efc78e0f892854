//! The address space of the machine that runs on this OS thread: what a [`Ptr`](super::Ptr) is checked against.

use std::{cell::Cell, ptr};

use super::{Access, Space, fault};

thread_local! {
    static CURRENT: Cell<*const Space> = const { Cell::new(ptr::null()) };
}

/// Makes a space the one of this thread, and returns the one before.
pub fn set(space: *const Space) -> *const Space {
    CURRENT.replace(space)
}

/// The space of the machine that runs on this thread, if one does.
#[inline]
pub fn get() -> *const Space {
    CURRENT.get()
}

/// Stops the run unless all of `length` bytes from `address` may be accessed so.
#[inline]
#[track_caller]
pub fn check(address: u64, length: u64, access: Access) {
    let space = get();
    assert!(!space.is_null(), "no machine runs on this thread");
    // SAFETY: `set` is given spaces that outlive the guard which sets back what was before (`exec::Entered`).
    let space = unsafe { &*space };
    if !space.allows(address, length, access) {
        fault::refuse(space, address, length, access);
    }
}
