//! Device registers that drivers have mapped.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use super::{Arena, PAGE, PageKind, Ptr, Space};
use crate::finding::Finding;

/// `SYSTEM_PTE_MISUSE`.
const SYSTEM_PTE_MISUSE: u32 = 0xDA;
/// Its parameter for an unmapping that fits no mapping.
const NOT_MAPPED: u64 = 0x03;

/// Registers that a driver mapped.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The address the driver has.
    pub address: u64,
    /// How many bytes it asked for.
    pub length: u64,
    /// The physical address.
    pub physical: u64,
}

impl Mapping {
    const fn pages(&self) -> (u64, u64) {
        let start = self.address / PAGE * PAGE;
        (start, (self.address + self.length).next_multiple_of(PAGE) - start)
    }
}

/// All mappings of device registers.
#[derive(Debug)]
pub struct Mappings {
    space: Rc<Space>,
    live: RefCell<BTreeMap<u64, Mapping>>,
}

impl Mappings {
    pub(super) fn new(space: &Rc<Space>) -> Self {
        Self { space: Rc::clone(space), live: RefCell::default() }
    }

    /// Maps `length` bytes of registers.
    pub fn map(&self, physical: u64, length: u64) -> Ptr<u8> {
        let offset = physical % PAGE;
        let pages = (offset + length).next_multiple_of(PAGE);
        // The page behind stays free, so that what runs over the end of one mapping does not reach another.
        let start = self.space.take(Arena::Mmio, pages + PAGE);
        self.space.mark(start, pages, PageKind::Mmio);
        let mapping = Mapping { address: start + offset, length, physical };
        self.live.borrow_mut().insert(start + offset, mapping);
        Ptr::new(start + offset)
    }

    /// Unmaps what [`Mappings::map`] returned.
    pub fn unmap(&self, address: u64, length: u64) {
        let mapping = self.live.borrow_mut().remove(&address);
        let fits = mapping.as_ref().is_some_and(|mapping| mapping.length == length);
        let (Some(mapping), true) = (mapping, fits) else {
            let sentence = format!("MmUnmapIoSpace of {length} bytes that were not mapped so");
            Finding::bug_check(SYSTEM_PTE_MISUSE, [NOT_MAPPED, address, length, 0], sentence).raise()
        };
        let (start, pages) = mapping.pages();
        self.space.mark(start, pages, PageKind::MmioUnmapped);
    }

    /// The physical address behind an address in a mapping.
    pub fn physical(&self, address: u64) -> Option<u64> {
        let live = self.live.borrow();
        let page = address / PAGE * PAGE + PAGE - 1;
        let (_, mapping) = live.range(..=page).next_back()?;
        let (start, pages) = mapping.pages();
        (address.wrapping_sub(start) < pages).then(|| mapping.physical / PAGE * PAGE + (address - start))
    }

    /// The mappings there are, by address.
    #[must_use]
    pub fn live(&self) -> Vec<Mapping> {
        self.live.borrow().values().cloned().collect()
    }
}
