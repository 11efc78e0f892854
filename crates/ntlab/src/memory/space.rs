//! One reserved range of addresses for all memory of a machine, divided into arenas, with a byte for each page that says what it is.

mod kept;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io, slice,
};

use super::{
    Access, PAGE, PageKind, fault,
    host::{self, Neighbours, Protection},
    page,
    reservation::{GuardMethod, Reservation},
};
use crate::{
    config::Checks,
    finding::Finding,
    irql::{DISPATCH_LEVEL, Irql, PASSIVE_LEVEL},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// All addresses of a machine.
pub(super) const RESERVED: u64 = 64 * GIB;
/// How much an arena grows at a time.
const GROWTH: u64 = MIB;
/// Freed ranges wait behind so many others of their size before they are used again, so that late accesses still fault.
const QUARANTINE: usize = 64;

/// The parts of the reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arena {
    /// Driver images.
    Images,
    /// Kernel code that drivers jump to, and what gs points at.
    Kernel,
    /// Kernel stacks.
    Stacks,
    /// The stacks that kernel functions run on.
    HostStacks,
    /// Structures made by the kernel.
    Objects,
    /// IRPs with pages of their own.
    Packets,
    /// Device registers.
    Mmio,
    /// User processes.
    User,
    /// Nonpaged pool.
    Pool,
    /// Paged pool.
    PagedPool,
    /// What runs in place of driver code, below the images and within reach of a jump from there.
    Detours,
}

/// Start and end of each arena in the reservation, by `Arena`. The page map comes first: a byte a page is 16 MiB.
const ARENAS: [(u64, u64); 11] = [
    (USER_END + 128 * MIB + GIB, 6 * GIB),
    (USER_END, USER_END + 128 * MIB),
    (6 * GIB, 8 * GIB),
    (8 * GIB, 16 * GIB),
    (16 * GIB, 19 * GIB),
    (19 * GIB, 20 * GIB),
    (20 * GIB, 24 * GIB),
    (32 * MIB, USER_END),
    (24 * GIB, 56 * GIB),
    (56 * GIB, RESERVED),
    (USER_END + 128 * MIB, USER_END + 128 * MIB + GIB),
];
/// Addresses below are user processes': as in Windows, all of them lie below the system's.
const USER_END: u64 = 4 * GIB;
const PAGE_MAP_LENGTH: u64 = RESERVED / PAGE;

/// What pages read that have just been opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contents {
    Zeros,
    /// What a machine before left in them.
    Any,
}

/// A range of pageable memory.
#[derive(Clone, Copy, Debug)]
struct Pageable {
    length: u64,
    kind: PageKind,
    is_in: bool,
}

#[derive(Debug, Default)]
struct Ranges {
    /// Where the arena starts.
    start: u64,
    /// End of what is protected by range, after a machine that was here before.
    kept: u64,
    /// End of what was ever handed out.
    next: u64,
    /// End of what the host has been asked for.
    grown: u64,
    /// Ranges to use again, by length; the oldest first.
    free: BTreeMap<u64, VecDeque<u64>>,
}

/// The address space of one machine.
#[derive(Debug)]
pub struct Space {
    base: u64,
    method: GuardMethod,
    /// There until the drop.
    reservation: Option<Reservation>,
    /// The next machine shall have the reservation.
    keep: Cell<bool>,
    /// Pages for code where the caller wanted them.
    code_pages: RefCell<Vec<u64>>,
    ranges: RefCell<[Ranges; ARENAS.len()]>,
    /// The IRQL of the processor that runs: from `DISPATCH_LEVEL` on pageable memory may not be touched.
    irql: Cell<Irql>,
    /// Some pageable memory is there. What was taken away stays so when the IRQL has fallen, until it is touched.
    paged_in: Cell<bool>,
    /// What is checked of this memory.
    checks: Cell<Checks>,
    /// Pageable ranges by address. Where guard markers keep blocks apart, paged pool comes and goes as it has grown.
    pageable: RefCell<BTreeMap<u64, Pageable>>,
}

impl Space {
    /// Reserves the addresses of a machine, or takes those of the machine that this OS thread had before.
    ///
    /// # Errors
    /// The host's, where it has no address space left.
    pub fn new() -> io::Result<Self> {
        if let Some(reservation) = Reservation::kept() {
            return Ok(Self::at(reservation));
        }
        Ok(Self::at(Reservation::new(RESERVED, PAGE_MAP_LENGTH)?))
    }

    /// Reserves them, with a method that the host is known to have.
    ///
    /// # Errors
    /// The host's, where it has no address space left.
    #[cfg(test)]
    pub(crate) fn guarded_by(method: GuardMethod) -> io::Result<Self> {
        let mut reservation = Reservation::new(RESERVED, PAGE_MAP_LENGTH)?;
        reservation.method = method;
        Ok(Self::at(reservation))
    }

    fn at(reservation: Reservation) -> Self {
        let (base, method) = (reservation.base, reservation.method);
        let mut ranges = ARENAS.map(|(offset, _)| {
            let start = base + offset;
            Ranges { start, kept: start, next: start, grown: start, free: BTreeMap::new() }
        });
        let host_stacks = &mut ranges[Arena::HostStacks as usize];
        host_stacks.grown = host_stacks.grown.max(reservation.host_stacks_grown.get());
        Self {
            base,
            method,
            reservation: Some(reservation),
            keep: Cell::new(false),
            code_pages: RefCell::default(),
            ranges: RefCell::new(ranges),
            irql: Cell::new(PASSIVE_LEVEL),
            paged_in: Cell::new(true),
            checks: Cell::new(Checks::All),
            pageable: RefCell::default(),
        }
    }

    /// The first address, where the page map begins.
    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    /// How blocks are guarded on this host.
    pub const fn guard_method(&self) -> GuardMethod {
        self.method
    }

    /// The arena and offset in it of an address: what a trace may say about an address.
    pub fn locate(&self, address: u64) -> Option<(Arena, u64)> {
        use Arena::{Detours, HostStacks, Images, Kernel, Mmio, Objects, Packets, PagedPool, Pool, Stacks, User};
        let offset = address.checked_sub(self.base)?;
        let all = [Images, Kernel, Stacks, HostStacks, Objects, Packets, Mmio, User, Pool, PagedPool, Detours];
        let arena = all.into_iter().find(|arena| (bounds(*arena).0..bounds(*arena).1).contains(&offset))?;
        Some((arena, offset - bounds(arena).0))
    }

    /// Whether the address lies in the arena.
    #[inline]
    pub const fn contains(&self, arena: Arena, address: u64) -> bool {
        let (start, end) = bounds(arena);
        let offset = address.wrapping_sub(self.base);
        start <= offset && offset < end
    }

    /// What the page of an address is.
    #[inline]
    pub const fn kind(&self, address: u64) -> PageKind {
        let offset = address.wrapping_sub(self.base);
        if offset >= RESERVED {
            return PageKind::Free;
        }
        PageKind::from_byte(self.page_byte(offset))
    }

    /// Whether the page of an address is one of that kind.
    #[inline]
    pub const fn is(&self, address: u64, kind: PageKind) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset < RESERVED && self.page_byte(offset) == kind as u8
    }

    /// Whether all of `length` bytes from `address` may be accessed so.
    #[inline]
    pub fn allows(&self, address: u64, length: u64, access: Access) -> bool {
        let offset = address.wrapping_sub(self.base);
        // Nearly every access is to one page that is not pageable.
        let in_one_page = offset < RESERVED && length <= PAGE && offset % PAGE <= PAGE - length;
        in_one_page && page::allowed_always(self.page_byte(offset), access)
            || self.allows_pages(address, length, access)
    }

    fn allows_pages(&self, address: u64, length: u64, access: Access) -> bool {
        let Some(last) = address.checked_add(length.max(1) - 1) else { return false };
        let pages = address / PAGE..=last / PAGE;
        pages.into_iter().all(|page| {
            let kind = self.kind(page * PAGE);
            kind.allows(access) && (!kind.pageable() || self.page_in(page * PAGE))
        })
    }

    /// The page map's byte for an offset in the reservation.
    #[inline]
    const fn page_byte(&self, offset: u64) -> u8 {
        let entry = (self.base + offset / PAGE) as *const u8;
        // SAFETY: the page map has a byte for each page of the reservation, mapped since `new`, and only this thread touches it.
        unsafe { entry.read() }
    }

    /// The first address above those of user processes.
    pub const fn user_end(&self) -> u64 {
        self.base + USER_END
    }

    /// Whether the address is one of a user process, whether something is there or not.
    pub const fn is_user(&self, address: u64) -> bool {
        address < self.user_end()
    }

    /// Whether pageable memory may not be touched now.
    pub const fn paging_forbidden(&self) -> bool {
        self.irql.get().0 >= DISPATCH_LEVEL.0
    }

    /// The IRQL of the processor that runs.
    pub const fn irql(&self) -> Irql {
        self.irql.get()
    }

    /// Says at which IRQL the machine goes on: the scheduler, when that changes. What was brought in since pageable memory was taken away
    /// the last time is taken away again where it may not be touched.
    #[inline]
    pub fn set_irql(&self, irql: Irql) {
        let before = self.irql.replace(irql);
        let rises = irql >= DISPATCH_LEVEL && before < DISPATCH_LEVEL;
        if rises && self.paged_in.get() && self.checks.get() == Checks::All {
            self.page_out();
        }
    }

    #[cold]
    #[inline(never)]
    fn page_out(&self) {
        self.paged_in.set(false);
        for (start, range) in self.pageable.borrow_mut().iter_mut().filter(|(_, range)| range.is_in) {
            range.is_in = false;
            // SAFETY: the pages are the machine's; the lab holds no Rust reference into guest memory.
            host_result(unsafe { host::protect(*start, range.length, Protection::None) });
        }
    }

    /// Says what to check of this memory.
    pub(crate) fn set_checks(&self, checks: Checks) {
        self.checks.set(checks);
    }

    /// What is checked of this memory.
    pub(crate) const fn checks(&self) -> Checks {
        self.checks.get()
    }

    /// Stops the run if the driver runs at `address`, pageable code, where it may not.
    #[inline]
    pub(crate) fn check_code(&self, address: u64) {
        if self.is_pageable(address) && !self.page_in(address) {
            self.refuse_code(address);
        }
    }

    #[cold]
    fn refuse_code(&self, address: u64) -> ! {
        // Stacks are return addresses: the instruction before each is the one that is told.
        let finding = fault::pageable(self, address, Access::Execute, address);
        finding.with_stack("the code is", &[address + 1]).raise()
    }

    /// The driver goes on at `address`: where that is pageable code that it may touch, it comes in without a fault.
    #[inline]
    pub(crate) fn go_on_at(&self, address: u64) {
        if self.is_pageable(address) {
            self.page_in(address);
        }
    }

    #[inline]
    const fn is_pageable(&self, address: u64) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset < RESERVED && page::pageable(self.page_byte(offset))
    }

    /// Lets pageable memory at an address be touched, if that is allowed now.
    pub fn page_in(&self, address: u64) -> bool {
        if self.paging_forbidden() {
            return false;
        }
        self.bring_in(address, 1);
        true
    }

    /// Brings in the pageable ranges that these bytes lie in. The others stay away: most are touched by nobody before they go again.
    fn bring_in(&self, address: u64, length: u64) {
        let mut pageable = self.pageable.borrow_mut();
        let before = pageable.range_mut(..address + length).rev();
        for (start, range) in before.take_while(|(start, range)| **start + range.length > address) {
            self.paged_in.set(true);
            if !range.is_in {
                range.is_in = true;
                // SAFETY: the pages are the machine's; the lab holds no Rust reference into guest memory.
                host_result(unsafe { host::protect(*start, range.length, range.kind.protection()) });
            }
        }
    }

    /// Keeps the list of pageable ranges.
    fn note_pageable(&self, address: u64, length: u64, kind: PageKind) {
        if self.method == GuardMethod::Markers && self.contains(Arena::PagedPool, address) && !self.is_kept(address) {
            return;
        }
        let mut pageable = self.pageable.borrow_mut();
        let old: Vec<u64> = pageable.range(address..address + length).map(|(start, _)| *start).collect();
        for start in old {
            pageable.remove(&start);
        }
        drop(pageable);
        if kind.pageable() {
            self.add_pageable(address, length, kind);
        }
    }

    /// Adds a range that is there.
    fn add_pageable(&self, address: u64, length: u64, kind: PageKind) {
        host_result(self.reservation().set_apart(address, length, Neighbours::Common));
        self.pageable.borrow_mut().insert(address, Pageable { length, kind, is_in: true });
        self.paged_in.set(true);
    }

    /// Marks pages.
    pub fn mark(&self, address: u64, length: u64, kind: PageKind) {
        self.assert_inside(address, length);
        if kind.pageable() {
            self.bring_in(address, length);
        }
        self.write_kinds(address, length, kind);
    }

    /// Writes to the page map.
    const fn write_kinds(&self, address: u64, length: u64, kind: PageKind) {
        let entry = (self.base + (address - self.base) / PAGE) as *mut u8;
        // SAFETY: the page map has a byte for each page of the reservation, in which the callers' ranges lie.
        unsafe { entry.write_bytes(kind as u8, host::to_usize(length.div_ceil(PAGE))) };
    }

    /// Takes `length` bytes, whole pages, from an arena. They fault until they are [opened](Self::open).
    pub fn take(&self, arena: Arena, length: u64) -> u64 {
        let mut all = self.ranges.borrow_mut();
        let ranges = &mut all[arena as usize];
        if let Some(queue) = ranges.free.get_mut(&length)
            && queue.len() > QUARANTINE
            && let Some(address) = queue.pop_front()
        {
            return address;
        }
        let address = ranges.next;
        let end = address + length;
        if end > self.base + bounds(arena).1 {
            Finding::not_modelled(format!("more memory than the lab reserves for {arena:?}")).raise();
        }
        ranges.next = end;
        if self.may_be_kept(arena, end) {
            ranges.kept = end;
            ranges.grown = end;
        } else if self.method == GuardMethod::Markers && end > ranges.grown {
            let grown = end.next_multiple_of(GROWTH).min(self.base + bounds(arena).1);
            Self::grow(arena, ranges.grown, grown - ranges.grown);
            if arena == Arena::PagedPool {
                self.add_pageable(ranges.grown, grown - ranges.grown, PageKind::PagedPool);
            }
            ranges.grown = grown;
        }
        address
    }

    /// Whether the next range of an arena begins there.
    pub fn is_next(&self, arena: Arena, address: u64) -> bool {
        self.ranges.borrow()[arena as usize].next == address
    }

    /// Gives a range back to its arena; it was [closed](Self::close) before.
    pub fn give_back(&self, arena: Arena, address: u64, length: u64) {
        self.ranges.borrow_mut()[arena as usize].free.entry(length).or_default().push_back(address);
    }

    fn grow(arena: Arena, address: u64, length: u64) {
        // SAFETY: the range is a part of the reservation that was never handed out.
        host_result(unsafe { host::protect(address, length, Protection::ReadWrite) });
        // Host stacks are never closed, and drivers know nothing of them: the pages between them are enough.
        if arena != Arena::HostStacks {
            // SAFETY: as above.
            host_result(unsafe { host::install_guard(address, length) });
        }
    }

    /// Opens a range that was taken for a host stack; its lowest page faults.
    pub fn open_host_stack(&self, address: u64, length: u64) {
        let (start, rest) = (address + PAGE, length - PAGE);
        let made = &self.reservation().host_stacks;
        if address + length > made.get() {
            made.set(address + length);
            match self.method {
                // SAFETY: `address` was taken from an arena, and nothing refers to the page.
                GuardMethod::Markers => host_result(unsafe { host::install_guard(address, PAGE) }),
                // SAFETY: as above.
                GuardMethod::Protection => host_result(unsafe { host::protect(start, rest, Protection::ReadWrite) }),
            }
        }
        self.mark(start, rest, PageKind::Host);
    }

    /// Lets pages that were taken be read and written, from now on of that kind. They read zero.
    pub fn open(&self, address: u64, length: u64, kind: PageKind) {
        if self.open_as_they_are(address, length, kind) == Contents::Any {
            self.fill(address, length, 0);
        }
    }

    /// The same for a caller that writes to all of them first, or zeros where they may read anything.
    pub(super) fn open_as_they_are(&self, address: u64, length: u64, kind: PageKind) -> Contents {
        self.note_pageable(address, length, kind);
        let mut contents = Contents::Zeros;
        match self.method {
            _ if self.is_kept(address) => contents = host_result(self.open_kept(address, length)),
            // SAFETY: `address` was taken from an arena; nothing refers to pages that fault.
            GuardMethod::Markers => host_result(unsafe { host::remove_guard(address, length) }),
            // SAFETY: as above.
            GuardMethod::Protection => host_result(unsafe { host::protect(address, length, Protection::ReadWrite) }),
        }
        self.mark(address, length, kind);
        contents
    }

    /// Has the host give all of these open pages memory at once, and not one by one when they are first touched.
    pub(super) fn bring_to_memory(&self, address: u64, length: u64) {
        self.assert_inside(address, length);
        if self.is_kept(address) {
            return;
        }
        // SAFETY: the pages are the machine's, and open.
        unsafe { host::populate(address, length) };
    }

    /// Makes pages fault again, from now on of that kind; their contents are lost.
    pub fn close(&self, address: u64, length: u64, kind: PageKind) {
        self.note_pageable(address, length, kind);
        match self.method {
            // SAFETY: the pages are the machine's; the lab holds no Rust reference into guest memory.
            _ if self.is_kept(address) => host_result(unsafe { host::protect(address, length, Protection::None) }),
            // SAFETY: as above.
            GuardMethod::Markers => host_result(unsafe { host::install_guard(address, length) }),
            GuardMethod::Protection => {
                // SAFETY: as above.
                host_result(unsafe { host::discard(address, length) });
                // SAFETY: as above.
                host_result(unsafe { host::protect(address, length, Protection::None) });
            }
        }
        self.mark(address, length, kind);
    }

    fn assert_inside(&self, address: u64, length: u64) {
        let offset = address.wrapping_sub(self.base);
        assert!(offset < RESERVED && length <= RESERVED - offset, "bytes outside the machine");
        if self.is_pageable(address) || self.contains(Arena::PagedPool, address) {
            self.bring_in(address, length);
        }
    }

    /// Fills pages that the caller opened.
    pub(super) fn fill(&self, address: u64, length: u64, value: u8) {
        self.assert_inside(address, length);
        // SAFETY: the range lies in the reservation; it is the caller's who took and opened it, and no reference points into it.
        unsafe { (address as *mut u8).write_bytes(value, host::to_usize(length)) };
    }

    /// Fills pages that the caller opened with a pattern: each byte is the one at its address modulo 16.
    pub(super) fn fill_pattern(&self, address: u64, length: u64, pattern: [u8; 16]) {
        self.assert_inside(address, length);
        // SAFETY: the range lies in the reservation; it is the caller's who took and opened it, and no other reference points into it.
        let bytes = unsafe { slice::from_raw_parts_mut(address as *mut u8, host::to_usize(length)) };
        let at = host::to_usize(address % 16);
        let (first, rest) = bytes.split_at_mut(((16 - at) % 16).min(bytes.len()));
        let (whole, last) = rest.as_chunks_mut::<16>();
        first.copy_from_slice(&pattern[at..][..first.len()]);
        whole.fill(pattern);
        last.copy_from_slice(&pattern[..last.len()]);
    }

    /// The offset of the first byte of pages that the caller opened that is not `value`.
    pub(crate) fn first_other(&self, address: u64, length: u64, value: u8) -> Option<u64> {
        if length == 0 {
            return None;
        }
        self.assert_inside(address, length);
        // SAFETY: the range lies in the reservation, the caller took and opened it; nothing writes to it while this function runs.
        let bytes = unsafe { slice::from_raw_parts(address as *const u8, host::to_usize(length)) };
        // Without an early exit this takes 64 bytes at a time.
        let differ = bytes.iter().fold(0, |differ, byte| differ | (byte ^ value));
        if differ == 0 { None } else { bytes.iter().position(|byte| *byte != value).map(|offset| offset as u64) }
    }

    /// Writes to pages that the caller opened, whatever their kind: for the loader.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.assert_inside(address, bytes.len() as u64);
        // SAFETY: the range lies in the reservation; it is the caller's who took and opened it, and no reference points into it.
        unsafe { (address as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Changes code; all of it has pages of one kind.
    pub(crate) fn patch(&self, address: u64, code: &[u8]) {
        self.assert_inside(address, code.len() as u64);
        // SAFETY: the pages are the machine's; the lab holds no Rust reference into guest memory, and no code runs in them meanwhile: this
        // thread is the only one that runs the driver.
        if unsafe { host::write_protected(address, code) } {
            return;
        }
        let page = address / PAGE * PAGE;
        let length = (address + code.len() as u64).next_multiple_of(PAGE) - page;
        // SAFETY: the pages are those of an image; the lab holds no Rust reference into guest memory.
        host_result(unsafe { host::protect(page, length, Protection::ReadWrite) });
        // SAFETY: the pages can be written, and no code runs in them meanwhile: this thread is the only one that runs the driver.
        unsafe { (address as *mut u8).copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        // SAFETY: as above.
        host_result(unsafe { host::protect(page, length, self.kind(address).protection()) });
    }

    /// Takes a page for code that is near other code, where no arena hands out any.
    pub fn take_code_page(&self, page: u64) {
        self.code_pages.borrow_mut().push(page);
        self.protect(page, PAGE, PageKind::KernelCode);
    }

    /// Makes open pages pages of that kind: images and kernel code.
    pub fn protect(&self, address: u64, length: u64, kind: PageKind) {
        self.note_pageable(address, length, kind);
        // SAFETY: the pages are the machine's; the lab holds no Rust reference into guest memory.
        host_result(unsafe { host::protect(address, length, kind.protection()) });
        self.mark(address, length, kind);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let keep = self.keep.get() && self.clear().unwrap_or(false);
        if let Some(reservation) = self.reservation.take().filter(|_| keep) {
            reservation.keep();
        }
    }
}

const fn bounds(arena: Arena) -> (u64, u64) {
    ARENAS[arena as usize]
}

/// The host refuses when it has no memory or no mappings left: the run cannot go on, and says why.
fn host_result<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        Finding::not_modelled(format!("more memory than the host has (vm.max_map_count, memory): {error}")).raise()
    })
}
