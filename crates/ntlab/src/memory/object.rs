//! Structures that the kernel makes: IRPs, threads, file objects. Made and freed without a system call, poisoned once they were freed.

use std::{cell::RefCell, collections::VecDeque, mem, rc::Rc};

use super::{Arena, PageKind, Ptr, Space, fault, host};
use crate::{config::Checks, finding::Finding};

/// What fills an object that was freed: as a pointer, one that faults.
pub const POISON: u8 = 0xDD;
/// Objects start at multiples of this, a cache line.
const GRANULE: u64 = 64;
/// A chunk holds objects of one size.
const CHUNK: u64 = 64 << 10;
/// Free objects wait behind so many others of their size before they are used again.
const QUARANTINE: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No object begins here.
    None,
    /// No object was here yet: zeros.
    Fresh,
    Live,
    /// There was one: poison.
    Freed,
}

#[derive(Debug, Default)]
struct Objects {
    /// First address of the arena's used part, once there is one.
    base: u64,
    /// Size of the objects of each chunk.
    sizes: Vec<u64>,
    /// State of each granule at which an object may begin.
    states: Vec<State>,
    /// Free objects by size in granules, the oldest first.
    free: Vec<VecDeque<u64>>,
    live: usize,
}

/// All objects of a machine.
#[derive(Debug)]
pub struct ObjectStore {
    space: Rc<Space>,
    objects: RefCell<Objects>,
}

impl ObjectStore {
    pub(super) fn new(space: &Rc<Space>) -> Self {
        Self { space: Rc::clone(space), objects: RefCell::default() }
    }

    /// Makes a zeroed object of at most 64 KiB.
    pub fn allocate(&self, bytes: u64) -> u64 {
        assert!(0 < bytes && bytes <= CHUNK, "an object has 1 byte to 64 KiB");
        let size = bytes.next_multiple_of(GRANULE);
        let (address, before) = self.take(size);
        let content = if before == State::Fresh { 0 } else { POISON };
        if self.space.checks() >= Checks::Traces
            && let Some(offset) = self.space.first_other(address, size, content)
        {
            let parameters = [address + offset, 1, 0, 0];
            let when = if before == State::Fresh { "before it was made" } else { "after it was freed" };
            let sentence = format!("write to offset {offset:#x} of a kernel structure of {size} bytes {when}");
            Finding::bug_check(fault::PAGE_FAULT_IN_FREED_SPECIAL_POOL, parameters, sentence).raise();
        }
        if before != State::Fresh {
            self.space.fill(address, size, 0);
        }
        address
    }

    /// A free object, and what it was.
    fn take(&self, size: u64) -> (u64, State) {
        let mut objects = self.objects.borrow_mut();
        let class = host::to_usize(size / GRANULE);
        if objects.free.len() <= class {
            objects.free.resize_with(class + 1, VecDeque::new);
        }
        if objects.free[class].len() <= QUARANTINE {
            self.grow(&mut objects, size);
        }
        let address = objects.free[class].pop_front().expect("a chunk has at least one object");
        // The next one lay idle for long, and is looked at as a whole when it is taken.
        if let Some(next) = objects.free[class].front() {
            host::prefetch(*next, size);
        }
        let granule = host::to_usize((address - objects.base) / GRANULE);
        let before = mem::replace(&mut objects.states[granule], State::Live);
        objects.live += 1;
        (address, before)
    }

    fn grow(&self, objects: &mut Objects, size: u64) {
        let class = host::to_usize(size / GRANULE);
        while objects.free[class].len() <= QUARANTINE {
            let chunk = self.space.take(Arena::Objects, CHUNK);
            self.space.open(chunk, CHUNK, PageKind::Object);
            self.space.bring_to_memory(chunk, CHUNK);
            if objects.sizes.is_empty() {
                objects.base = chunk;
            }
            objects.sizes.push(size);
            objects.states.resize(objects.states.len() + host::to_usize(CHUNK / GRANULE), State::None);
            for index in 0..CHUNK / size {
                let address = chunk + index * size;
                let granule = host::to_usize((address - objects.base) / GRANULE);
                objects.states[granule] = State::Fresh;
                objects.free[class].push_back(address);
            }
        }
    }

    /// Frees an object; false if there is none at that address.
    pub fn free(&self, address: u64) -> bool {
        if self.state(address) != State::Live {
            return false;
        }
        let mut objects = self.objects.borrow_mut();
        let offset = address - objects.base;
        let size = objects.sizes[host::to_usize(offset / CHUNK)];
        objects.states[host::to_usize(offset / GRANULE)] = State::Freed;
        objects.free[host::to_usize(size / GRANULE)].push_back(address);
        objects.live -= 1;
        if self.space.checks() >= Checks::Traces {
            self.space.fill(address, size, POISON);
        }
        true
    }

    fn state(&self, address: u64) -> State {
        let objects = self.objects.borrow();
        let offset = address.wrapping_sub(objects.base);
        if objects.sizes.is_empty() || !offset.is_multiple_of(GRANULE) {
            return State::None;
        }
        objects.states.get(host::to_usize(offset / GRANULE)).copied().unwrap_or(State::None)
    }

    /// The object that has the address, live or not: its start and size.
    pub fn around(&self, address: u64) -> Option<(u64, u64)> {
        let objects = self.objects.borrow();
        let offset = address.checked_sub(objects.base)?;
        let size = *objects.sizes.get(host::to_usize(offset / CHUNK))?;
        let within = offset % CHUNK / size * size;
        Some((objects.base + offset / CHUNK * CHUNK + within, size))
    }

    /// Whether a live object begins at the address.
    pub fn is_live<T>(&self, object: Ptr<T>) -> bool {
        self.state(object.address()) == State::Live
    }

    /// How many there are.
    pub fn live(&self) -> usize {
        self.objects.borrow().live
    }
}
