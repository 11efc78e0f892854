//! The memory of the machine that runs on this OS thread: what a [`Ptr`](super::Ptr) is checked against.

use std::{cell::Cell, ptr};

use super::{Access, Memory, PAGE, fault, page, space};

/// Where the addresses of a machine are; its page map comes first.
#[derive(Clone, Copy)]
struct Addresses {
    base: u64,
    length: u64,
}

thread_local! {
    static CURRENT: Cell<*const Memory> = const { Cell::new(ptr::null()) };
    /// Those of `CURRENT`, at hand because every access looks at them; none where no machine runs.
    static ADDRESSES: Cell<Addresses> = const { Cell::new(Addresses { base: 0, length: 0 }) };
}

/// Makes a memory the one of this thread, and returns the one before.
pub fn set(memory: *const Memory) -> *const Memory {
    let before = CURRENT.replace(memory);
    let base = get().map(|memory| memory.space.base());
    ADDRESSES.set(Addresses { base: base.unwrap_or(0), length: base.map_or(0, |_| space::RESERVED) });
    before
}

/// The memory of the machine that runs on this thread, if one does.
#[inline]
pub fn get<'m>() -> Option<&'m Memory> {
    // SAFETY: `set` is given memories that outlive the guard which sets back what was before (`exec::Entered`); what runs between is
    // done with the reference before.
    unsafe { CURRENT.get().as_ref() }
}

/// Whether all of `length` bytes from `address` may be accessed so.
#[track_caller]
pub fn allows(address: u64, length: u64, access: Access) -> bool {
    get().expect("no machine runs on this thread").space.allows(address, length, access)
}

/// Stops the run unless all of `length` bytes from `address` may be accessed so.
#[inline(always)]
#[track_caller]
#[allow(
    clippy::inline_always,
    reason = "nearly all that the lab does for a driver is reading and writing its structures"
)]
pub fn check(address: u64, length: u64, access: Access) {
    let Addresses { base, length: reserved } = ADDRESSES.get();
    let offset = address.wrapping_sub(base);
    // Nearly every access is to one page that is not pageable.
    let is_simple = offset < reserved && length <= PAGE && offset % PAGE <= PAGE - length && {
        let entry = (base + offset / PAGE) as *const u8;
        // SAFETY: these are the addresses of a memory that lives, whose page map begins at `base`, has a byte for each page and stays mapped.
        page::allowed_always(unsafe { entry.read() }, access)
    };
    if !is_simple {
        check_pages(address, length, access);
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn check_pages(address: u64, length: u64, access: Access) {
    let memory = get().expect("no machine runs on this thread");
    if !memory.space.allows(address, length, access) {
        fault::refuse(memory, address, length, access);
    }
}
