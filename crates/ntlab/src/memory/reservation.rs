//! Where a machine's memory lies. The next machine of an OS thread gets the addresses of one that ended well, with the pages that it used: to
//! get pages from the host and to give them back takes longer than all that a driver does in a short run.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde::Serialize;

use super::{
    PAGE,
    host::{self, Protection},
};

/// In so many reservations of a process there are machines after others: what is protected by range costs mappings, of which the host allows
/// some 65,000.
const MOST_USED: usize = 8;
/// How many there are.
static USED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The reservation of a machine that has ended.
    static FREE: Cell<Option<Reservation>> = const { Cell::new(None) };
}

/// How pages are made to fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum GuardMethod {
    /// Guard markers (Linux 6.13 and later): the mapping stays whole, so there is no limit on the number of blocks.
    Markers,
    /// Protection by range: every block costs mappings, of which the host allows some 65,000.
    Protection,
}

/// Addresses for one machine after the other. No page can be accessed in those that nobody has, but for the page map and host stacks.
#[derive(Debug)]
pub(super) struct Reservation {
    pub base: u64,
    pub length: u64,
    /// What the host has.
    pub method: GuardMethod,
    /// End of the host stacks that have been made. They stay as they are.
    pub host_stacks: Cell<u64>,
    /// End of what the host has been asked for, for more of them.
    pub host_stacks_grown: Cell<u64>,
    /// There was a machine in it before.
    used: bool,
    /// Start and length of what is set apart.
    apart: RefCell<BTreeSet<(u64, u64)>>,
}

impl Reservation {
    /// A fresh one. It starts with so many bytes of a page map, which say that all of it is free.
    ///
    /// # Errors
    /// The host's, where it has no address space left.
    pub fn new(length: u64, page_map: u64) -> io::Result<Self> {
        let base = host::reserve(length)?;
        // SAFETY: the range is the start of the fresh reservation.
        unsafe { host::protect(base, page_map, Protection::ReadWrite) }?;
        Ok(Self {
            base,
            length,
            method: probe(base + page_map),
            host_stacks: Cell::default(),
            host_stacks_grown: Cell::default(),
            used: false,
            apart: RefCell::default(),
        })
    }

    /// That of the machine that this OS thread had before.
    pub fn kept() -> Option<Self> {
        FREE.take()
    }

    /// Whether there was a machine in it before.
    pub const fn is_used(&self) -> bool {
        self.used
    }

    /// Keeps it for the next machine, unless there are enough.
    pub fn keep(mut self) {
        if !self.used {
            let another = |used| (used < MOST_USED).then_some(used + 1);
            self.used = USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_ok();
        }
        if self.used {
            // A thread that ends keeps nothing.
            _ = FREE.try_with(|free| free.set(Some(self)));
        }
    }

    /// Has the host keep a range a mapping of its own from now on.
    pub fn set_apart(&self, address: u64, length: u64, from: host::Neighbours) -> io::Result<()> {
        if !self.apart.borrow_mut().insert((address, length)) {
            return Ok(());
        }
        // SAFETY: the callers' ranges lie in the reservation.
        unsafe { host::set_apart(address, length, from) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.used {
            USED.fetch_sub(1, Ordering::Relaxed);
        }
        // SAFETY: the range is the one reserved in `new`; the machine in it, if there was one, is gone.
        unsafe { host::release(self.base, self.length) };
    }
}

/// Whether the host has guard markers.
fn probe(page: u64) -> GuardMethod {
    // SAFETY: the page lies in the fresh reservation and is used by nothing.
    if unsafe { host::install_guard(page, PAGE) }.is_err() {
        return GuardMethod::Protection;
    }
    // SAFETY: as above.
    match unsafe { host::remove_guard(page, PAGE) } {
        Ok(()) => GuardMethod::Markers,
        Err(_) => GuardMethod::Protection,
    }
}
