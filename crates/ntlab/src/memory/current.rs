//! The memory of the machine that runs on this OS thread: what a [`Ptr`](super::Ptr) is checked against.

use std::{cell::Cell, ptr};

use super::{Access, Memory, fault};

thread_local! {
    static CURRENT: Cell<*const Memory> = const { Cell::new(ptr::null()) };
}

/// Makes a memory the one of this thread, and returns the one before.
pub fn set(memory: *const Memory) -> *const Memory {
    CURRENT.replace(memory)
}

/// The memory of the machine that runs on this thread, if one does.
#[inline]
pub fn get<'m>() -> Option<&'m Memory> {
    // SAFETY: `set` is given memories that outlive the guard which sets back what was before (`exec::Entered`); what runs between is
    // done with the reference before.
    unsafe { CURRENT.get().as_ref() }
}

/// Whether all of `length` bytes from `address` may be accessed so.
#[inline]
#[track_caller]
pub fn allows(address: u64, length: u64, access: Access) -> bool {
    get().expect("no machine runs on this thread").space.allows(address, length, access)
}

/// Stops the run unless all of `length` bytes from `address` may be accessed so.
#[inline]
#[track_caller]
pub fn check(address: u64, length: u64, access: Access) {
    let memory = get().expect("no machine runs on this thread");
    if !memory.space.allows(address, length, access) {
        fault::refuse(memory, address, length, access);
    }
}
