//! Physical memory: where RAM is, and which page of the machine has which frame. Only pages that someone asks about have one.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use super::{Access, PAGE, Ptr, Space, host};
use crate::finding::Finding;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Conventional memory.
const LOW: (u64, u64) = (PAGE, 0xA_0000 - PAGE);
/// Where extended memory begins, and where device memory interrupts it.
const EXTENDED: u64 = MIB;
const HOLE: (u64, u64) = (3 * GIB, 4 * GIB);
/// Added memory is aligned to memory modules.
const MODULE: u64 = 128 * MIB;
/// Frames below this are kept for buffers that must have low addresses: an ordinary page is out of reach of a device with 28 address
/// bits, so that a driver that ignores the limit is noticed.
const KEPT: (u64, u64) = (16 * MIB, 256 * MIB);
/// Freed frames wait behind so many others before they are used again.
const QUARANTINE: usize = 64;
/// `DRIVER_VERIFIER_DMA_VIOLATION`.
const DMA_VIOLATION: u32 = 0xE6;
/// Its parameters for a device that reaches outside the driver's buffers.
const OUTSIDE_BUFFERS: u64 = 0x0F;
const FREE_REGISTER: u64 = 0x03;

/// A part of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// NUMA node.
    pub node: u16,
}

impl RamRange {
    const fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.length
    }
}

/// What has a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frame {
    /// The page at this address.
    Page(u64),
    /// A page that was freed.
    Freed,
}

/// Physical memory of a machine.
#[derive(Debug)]
pub struct Physical {
    space: Rc<Space>,
    ranges: RefCell<Vec<RamRange>>,
    frames: RefCell<BTreeMap<u64, Frame>>,
    addresses: RefCell<BTreeMap<u64, u64>>,
    /// The next frame for ordinary pages, and for buffers with low addresses.
    next: Cell<u64>,
    next_low: Cell<u64>,
    /// Frames of freed pages, the oldest first, and ranges of them with low addresses by length.
    free: RefCell<VecDeque<u64>>,
    free_low: RefCell<BTreeMap<u64, VecDeque<u64>>>,
}

impl Physical {
    pub(super) fn new(space: &Rc<Space>, bytes: u64) -> Self {
        Self {
            space: Rc::clone(space),
            ranges: RefCell::new(layout(bytes)),
            frames: RefCell::default(),
            addresses: RefCell::default(),
            next: Cell::new(if bytes > 2 * KEPT.1 { KEPT.1 } else { EXTENDED + bytes / 2 / PAGE * PAGE }),
            next_low: Cell::new(KEPT.0),
            free: RefCell::default(),
            free_low: RefCell::default(),
        }
    }

    /// The RAM, by address.
    #[must_use]
    pub fn ranges(&self) -> Vec<RamRange> {
        self.ranges.borrow().clone()
    }

    /// How many bytes of RAM there are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.borrow().iter().map(|range| range.length).sum()
    }

    /// Adds a memory module behind all other RAM. None unless it is whole pages, or if there are no addresses left.
    pub fn add(&self, bytes: u64, node: u16) -> Option<RamRange> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE) {
            return None;
        }
        let mut ranges = self.ranges.borrow_mut();
        let end = ranges.last().map_or(0, |range| range.start + range.length).max(HOLE.1);
        let range = RamRange { start: end.checked_next_multiple_of(MODULE)?, length: bytes, node };
        range.start.checked_add(bytes)?;
        ranges.push(range);
        Some(range)
    }

    /// The physical address of an address of the machine; None where nothing is.
    pub fn address(&self, address: u64) -> Option<u64> {
        let (page, offset) = (address / PAGE * PAGE, address % PAGE);
        if let Some(frame) = self.addresses.borrow().get(&page) {
            return Some(frame + offset);
        }
        if !self.space.kind(page).allows(Access::Read) {
            return None;
        }
        let frame = again(&mut self.free.borrow_mut()).or_else(|| self.take(&self.next, PAGE, u64::MAX));
        let frame = frame.unwrap_or_else(|| {
            Finding::not_modelled("more pages with physical addresses than the machine has RAM").raise()
        });
        self.bind(page, frame);
        Some(frame + offset)
    }

    /// Gives consecutive frames below `highest` to the pages of a range; None if there are not as many.
    pub(super) fn bind_low(&self, start: u64, length: u64, highest: u64) -> Option<u64> {
        let again = self.free_low.borrow_mut().get_mut(&length).and_then(again);
        let again = again.filter(|first| first + length - 1 <= highest);
        let first = again.or_else(|| self.take(&self.next_low, length, highest.min(KEPT.1 - 1)))?;
        for offset in (0..length).step_by(host::to_usize(PAGE)) {
            self.bind(start + offset, first + offset);
        }
        Some(first)
    }

    fn take(&self, next: &Cell<u64>, length: u64, highest: u64) -> Option<u64> {
        let ranges = self.ranges.borrow();
        let fits = ranges.iter().find_map(|range| {
            let start = next.get().max(range.start);
            let end = start.checked_add(length)?;
            (range.contains(start) && end <= range.start + range.length && end - 1 <= highest).then_some(start)
        })?;
        next.set(fits + length);
        Some(fits)
    }

    fn bind(&self, page: u64, frame: u64) {
        self.addresses.borrow_mut().insert(page, frame);
        self.frames.borrow_mut().insert(frame, Frame::Page(page));
    }

    /// The pages of a range are gone: what a device does to their frames from now on is a finding.
    pub(crate) fn forget(&self, start: u64, length: u64) {
        let mut addresses = self.addresses.borrow_mut();
        let gone: Vec<(u64, u64)> =
            addresses.range(start..start + length).map(|(page, frame)| (*page, *frame)).collect();
        for (page, frame) in &gone {
            addresses.remove(page);
            self.frames.borrow_mut().insert(*frame, Frame::Freed);
        }
        match gone.first() {
            Some((_, first)) if (KEPT.0..self.next_low.get()).contains(first) => {
                self.free_low.borrow_mut().entry(length).or_default().push_back(*first);
            }
            _ => self.free.borrow_mut().extend(gone.into_iter().map(|(_, frame)| frame)),
        }
    }

    /// The address of the machine that has a physical address; None for RAM that no page has, or no RAM.
    #[must_use]
    pub fn find(&self, physical: u64) -> Option<u64> {
        match self.frames.borrow().get(&(physical / PAGE * PAGE)) {
            Some(Frame::Page(page)) => Some(page + physical % PAGE),
            Some(Frame::Freed) | None => None,
        }
    }

    /// What a device reads: zeros where no RAM is.
    pub(super) fn dma_read(&self, physical: u64, bytes: &mut [u8]) {
        for (at, part) in pages(physical, bytes.len()) {
            match self.reach(at, Access::Read) {
                Some(address) => Ptr::new(address).read_into(&mut bytes[part]),
                None => bytes[part].fill(0),
            }
        }
    }

    /// What a device writes: dropped where no RAM is.
    pub(super) fn dma_write(&self, physical: u64, bytes: &[u8]) {
        for (at, part) in pages(physical, bytes.len()) {
            if let Some(address) = self.reach(at, Access::Write) {
                Ptr::new(address).write_bytes(&bytes[part]);
            }
        }
    }

    /// Where a device's access to a physical address goes.
    fn reach(&self, physical: u64, access: Access) -> Option<u64> {
        if !self.ranges.borrow().iter().any(|range| range.contains(physical)) {
            return None;
        }
        let frame = self.frames.borrow().get(&(physical / PAGE * PAGE)).copied();
        if let Some(Frame::Page(page)) = frame {
            return Some(page + physical % PAGE);
        }
        let what = if frame.is_some() { "memory that was freed" } else { "memory that the driver did not hand out" };
        let sentence = format!("{} {what} by a device, at physical address {physical:#x}", access.words());
        Finding::bug_check(DMA_VIOLATION, [OUTSIDE_BUFFERS, FREE_REGISTER, physical, 0], sentence).raise()
    }
}

/// A frame, or the first of a range of frames, to use again: it waited behind others, so that late transfers are noticed.
fn again(free: &mut VecDeque<u64>) -> Option<u64> {
    if free.len() > QUARANTINE { free.pop_front() } else { None }
}

/// RAM of a machine with so many bytes: conventional memory, extended memory to the device memory below 4 GiB, the rest above.
fn layout(bytes: u64) -> Vec<RamRange> {
    let range = |start, length| RamRange { start, length, node: 0 };
    let below = (bytes - LOW.1).min(HOLE.0 - EXTENDED);
    let above = bytes - LOW.1 - below;
    let mut ranges = vec![range(LOW.0, LOW.1), range(EXTENDED, below)];
    if above > 0 {
        ranges.push(range(HOLE.1, above));
    }
    ranges
}

/// The parts of a range that lie in one page each: their address, and where they are in the buffer.
fn pages(physical: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = physical.wrapping_add(done as u64);
        let part = (length - done).min(host::to_usize(PAGE - at % PAGE));
        let range = done..done + part;
        done += part;
        (part > 0).then_some((at, range))
    })
}
