//! The addresses that a machine has after another: pages that it used have memory already, and all of them are protected by range.

use std::io;

use super::{
    Arena, Contents, GuardMethod, MIB, PAGE, PageKind, Ranges, Reservation, Space, bounds,
    host::{self, Neighbours, Protection},
};

/// So much of each arena is kept, from its start on.
const MOST: u64 = 4 * MIB;
/// A machine that used more of an arena leaves nothing behind.
const LARGE: u64 = 64 * MIB;
/// The same for host stacks, whose pages all stay: of most of them that is few.
const MANY_HOST_STACKS: u64 = 16 * MIB;
/// What is longer is given back to the host when it is opened, and not filled with zeros.
const LONG: u64 = 512 << 10;

impl Space {
    pub(super) const fn reservation(&self) -> &Reservation {
        self.reservation.as_ref().expect("a space has its reservation until it is dropped")
    }

    /// Lets the next machine of this OS thread have the addresses, once this one is gone.
    pub(crate) fn keep(&self) {
        self.keep.set(true);
    }

    /// Whether there was a machine at the addresses before.
    #[cfg(test)]
    pub const fn is_after_another(&self) -> bool {
        self.reservation().is_used()
    }

    /// Whether what is taken from an arena up to an address is protected by range.
    pub(super) fn may_be_kept(&self, arena: Arena, end: u64) -> bool {
        self.reservation().is_used() && arena != Arena::HostStacks && end <= self.base + bounds(arena).0 + MOST
    }

    /// Whether the address lies in what was taken so.
    pub(super) fn is_kept(&self, address: u64) -> bool {
        let holds = |ranges: &Ranges| (ranges.start..ranges.kept).contains(&address);
        self.reservation().is_used() && self.ranges.borrow().iter().any(holds)
    }

    /// Lets pages that are protected by range be read and written.
    pub(super) fn open_kept(&self, address: u64, length: u64) -> io::Result<Contents> {
        self.reservation().set_apart(address, length, Neighbours::Apart)?;
        // SAFETY: the range was taken from an arena; nothing refers to pages that fault.
        unsafe { host::protect(address, length, Protection::ReadWrite) }?;
        if length <= LONG {
            return Ok(Contents::Any);
        }
        // SAFETY: as above.
        unsafe { host::discard(address, length) }?;
        Ok(Contents::Zeros)
    }

    /// Makes the addresses what they are when a machine gets them. False where it is not worth it to keep them.
    ///
    /// # Errors
    /// The host's: what the addresses are then is not known.
    pub(super) fn clear(&self) -> io::Result<bool> {
        for (arena, ranges) in self.ranges.borrow().iter().enumerate() {
            let used = ranges.next - ranges.start;
            let is_host_stacks = arena == Arena::HostStacks as usize;
            if used > if is_host_stacks { MANY_HOST_STACKS } else { LARGE } {
                return Ok(false);
            }
            if is_host_stacks {
                self.reservation().host_stacks_grown.set(ranges.grown);
            } else {
                self.clear_arena(ranges)?;
            }
            self.write_kinds(ranges.start, used, PageKind::Free);
        }
        for page in self.code_pages.borrow().iter() {
            // SAFETY: the machine has ended: nothing refers to its pages.
            unsafe { host::protect(*page, PAGE, Protection::None) }?;
            // SAFETY: as above.
            unsafe { host::discard(*page, PAGE) }?;
            self.write_kinds(*page, PAGE, PageKind::Free);
        }
        Ok(true)
    }

    /// Takes away all that was opened, and memory where there is much of it.
    fn clear_arena(&self, ranges: &Ranges) -> io::Result<()> {
        let end = ranges.next.max(ranges.grown);
        let limit = end.min(ranges.start + MOST);
        if self.method == GuardMethod::Markers && ranges.kept < limit {
            // SAFETY: the machine has ended: nothing refers to its pages.
            unsafe { host::remove_guard(ranges.kept, limit - ranges.kept) }?;
        }
        if ranges.start < end {
            // SAFETY: as above.
            unsafe { host::protect(ranges.start, end - ranges.start, Protection::None) }?;
        }
        if limit < end {
            // SAFETY: as above.
            unsafe { host::discard(limit, end - limit) }?;
        }
        Ok(())
    }
}
