//! DMA adapters ("Adapter Objects and DMA"): common buffers, and scatter/gather lists ("Using Scatter/Gather DMA"). Adapter channels and
//! map registers are not modelled.

use std::{cell::RefCell, collections::BTreeMap, ops::Range};

use windows_sys::Wdk::{
    Foundation::DEVICE_OBJECT,
    System::SystemServices::{DEVICE_DESCRIPTION, DMA_ADAPTER, DMA_OPERATIONS},
};

use super::{lists::size_field, scatter_gather::Mapped};
use crate::{at, exports::dma::OPERATIONS, finding::Finding, kernel::Kernel, memory::Ptr, tracking::Tracked};

/// `DRIVER_VERIFIER_DMA_VIOLATION`.
const DMA_VIOLATION: u32 = 0xE6;
/// Its parameters: too many common buffers freed.
const FREED_TOO_MANY: u64 = 0x03;
/// An adapter released with common buffers, or with scatter/gather lists.
const BUFFERS_LEFT: u64 = 0x07;
const LISTS_LEFT: u64 = 0x0A;
/// An adapter that was released.
const NO_ADAPTER: u64 = 0x18;
/// What an IOMMU detects: a device that reaches memory which is not mapped for it.
const DETECTED_BY_IOMMU: u64 = 0x26;
/// `DEVICE_DESCRIPTION_VERSION3`: the first that can say how many address bits a device has.
const WITH_ADDRESS_WIDTH: u32 = 3;
/// The table of version 1 and 2 ends before `GetDmaAdapterInfo`.
const VERSION_1_FUNCTIONS: usize = 15;

/// A common buffer.
#[derive(Clone, Copy, Debug)]
struct CommonBuffer {
    logical: u64,
    length: u32,
}

/// An adapter object.
#[derive(Debug)]
struct Adapter {
    pdo: Ptr<DEVICE_OBJECT>,
    table: Ptr<DMA_OPERATIONS>,
    /// The highest address the device reaches.
    highest: u64,
    buffers: BTreeMap<u64, CommonBuffer>,
    lists: BTreeMap<u64, Mapped>,
}

/// Every adapter object.
#[derive(Debug, Default)]
pub struct Adapters {
    all: RefCell<BTreeMap<u64, Adapter>>,
}

impl Adapters {
    /// Makes an adapter for a bus-master device.
    pub fn make(&self, k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, description: Ptr<DEVICE_DESCRIPTION>) -> Ptr<DMA_ADAPTER> {
        let version = at!(description, Version).read();
        let bits = address_bits(version, description);
        let functions = if version >= WITH_ADDRESS_WIDTH { OPERATIONS.len() } else { VERSION_1_FUNCTIONS };
        let table = k.memory.allocate_object::<DMA_OPERATIONS>();
        let size = 8 + functions * 8;
        at!(table, Size).write(u32::try_from(size).unwrap_or(u32::MAX));
        let first = Ptr::<u64>::new(table.address() + 8);
        for (index, operation) in OPERATIONS.iter().take(functions).enumerate() {
            first.offset(index).write(k.exec.thunk(operation));
        }
        let adapter = k.memory.allocate_object::<DMA_ADAPTER>();
        at!(adapter, Version).write(if version >= WITH_ADDRESS_WIDTH { 3 } else { 1 });
        at!(adapter, Size).write(size_field::<DMA_ADAPTER>());
        at!(adapter, DmaOperations).cast::<u64>().write(table.address());
        let highest = u64::MAX >> (64 - bits.clamp(1, 64));
        let (buffers, lists) = (BTreeMap::new(), BTreeMap::new());
        self.all.borrow_mut().insert(adapter.address(), Adapter { pdo, table, highest, buffers, lists });
        k.tracking.made_for(k, Tracked::Adapter, adapter.address(), pdo, String::new);
        adapter
    }

    /// Frees an adapter; common buffers must have been freed before.
    pub fn put(&self, k: &Kernel, adapter: Ptr<DMA_ADAPTER>) {
        self.check(adapter, "PutDmaAdapter");
        let Some(known) = self.all.borrow_mut().remove(&adapter.address()) else { return };
        let left = known.buffers.len();
        if left != 0 {
            let sentence = format!("PutDmaAdapter with {left} common buffers that were not freed");
            misuse(BUFFERS_LEFT, [adapter.address(), left as u64], sentence).raise();
        }
        let left = known.lists.len();
        if left != 0 {
            let sentence = format!("PutDmaAdapter with {left} scatter/gather lists that were not freed");
            misuse(LISTS_LEFT, [adapter.address(), left as u64], sentence).raise();
        }
        k.tracking.gone(Tracked::Adapter, adapter.address());
        k.memory.free_object(known.table);
        k.memory.free_object(adapter);
    }

    /// Allocates a common buffer: its address, and its logical address, which the device uses. None if memory it reaches has run out.
    pub fn allocate(&self, k: &Kernel, adapter: Ptr<DMA_ADAPTER>, length: u32) -> Option<(Ptr<u8>, u64)> {
        self.check(adapter, "AllocateCommonBuffer");
        let (highest, pdo) = self.all.borrow().get(&adapter.address()).map(|adapter| (adapter.highest, adapter.pdo))?;
        let (buffer, logical) = k.memory.allocate_common_buffer(length as usize, highest)?;
        let mut all = self.all.borrow_mut();
        all.get_mut(&adapter.address())?.buffers.insert(buffer.address(), CommonBuffer { logical, length });
        drop(all);
        k.tracking.made_for(k, Tracked::CommonBuffer, buffer.address(), pdo, || format!("{length} bytes"));
        Some((buffer, logical))
    }

    /// Frees a common buffer.
    pub fn free(&self, k: &Kernel, adapter: Ptr<DMA_ADAPTER>, buffer: Ptr<u8>, logical: u64, length: u32) {
        self.check(adapter, "FreeCommonBuffer");
        let mut all = self.all.borrow_mut();
        let known = all.get_mut(&adapter.address()).and_then(|adapter| adapter.buffers.remove(&buffer.address()));
        drop(all);
        match known {
            None => {
                let sentence =
                    "FreeCommonBuffer of something that is no common buffer of this adapter, or not any more";
                misuse(FREED_TOO_MANY, [1, buffer.address()], sentence.into()).raise()
            }
            Some(known) if known.logical != logical || known.length != length => {
                let sentence =
                    "FreeCommonBuffer with another length or logical address than the buffer was allocated with";
                misuse(FREED_TOO_MANY, [0, buffer.address()], sentence.into()).raise()
            }
            Some(_) => {
                check_unused(k, &(logical..logical + u64::from(length)), "a common buffer is freed");
                k.tracking.gone(Tracked::CommonBuffer, buffer.address());
                k.memory.free_common_buffer(buffer);
            }
        }
    }

    /// The highest address that the device of an adapter reaches.
    pub fn highest(&self, adapter: Ptr<DMA_ADAPTER>, function: &str) -> u64 {
        self.check(adapter, function);
        self.all.borrow().get(&adapter.address()).map_or(0, |adapter| adapter.highest)
    }

    /// Memory is mapped for the device of an adapter from now on.
    pub fn add_list(&self, adapter: Ptr<DMA_ADAPTER>, list: u64, mapped: Mapped) {
        if let Some(adapter) = self.all.borrow_mut().get_mut(&adapter.address()) {
            adapter.lists.insert(list, mapped);
        }
    }

    /// It is not any more; none if it was not.
    pub fn remove_list(&self, adapter: Ptr<DMA_ADAPTER>, list: u64) -> Option<Mapped> {
        self.check(adapter, "PutScatterGatherList");
        self.all.borrow_mut().get_mut(&adapter.address())?.lists.remove(&list)
    }

    /// Whether a device may reach memory at these physical addresses: whether they lie in one common buffer, or in one element of a
    /// scatter/gather list.
    pub fn covers(&self, physical: u64, length: u64) -> bool {
        let holds = |buffer: &CommonBuffer| {
            physical
                .checked_sub(buffer.logical)
                .is_some_and(|offset| offset.saturating_add(length) <= buffer.length.into())
        };
        let wanted = physical..physical.saturating_add(length);
        let maps =
            |mapped: &Mapped| mapped.ranges().any(|range| range.start <= wanted.start && wanted.end <= range.end);
        let all = self.all.borrow();
        all.values().any(|adapter| adapter.buffers.values().any(holds) || adapter.lists.values().any(maps))
    }

    fn check(&self, adapter: Ptr<DMA_ADAPTER>, function: &str) {
        if !self.all.borrow().contains_key(&adapter.address()) {
            let sentence = format!("{function} was called for something that is no DMA adapter, or not any more");
            misuse(NO_ADAPTER, [adapter.address(), 0], sentence).raise();
        }
    }
}

/// How many address bits the device drives.
fn address_bits(version: u32, description: Ptr<DEVICE_DESCRIPTION>) -> u32 {
    let flag = |place: Ptr<bool>| place.cast::<u8>().read() != 0;
    let width = at!(description, DmaAddressWidth).read();
    if version >= WITH_ADDRESS_WIDTH && width != 0 {
        width
    } else if flag(at!(description, Dma64BitAddresses)) {
        64
    } else if flag(at!(description, Dma32BitAddresses)) {
        32
    } else {
        24
    }
}

/// What is found where a driver uses the functions of an adapter wrongly.
pub fn misuse(code: u64, [second, third]: [u64; 2], sentence: String) -> Finding {
    Finding::bug_check(DMA_VIOLATION, [code, second, third, 0], sentence)
}

/// What is found where a device reaches memory at an address that is not mapped for it.
pub fn violation(address: u64, sentence: &str) -> Finding {
    Finding::bug_check(DMA_VIOLATION, [DETECTED_BY_IOMMU, 0, address, 0], sentence)
}

/// Stops the run if a device still reads or writes memory that is no longer to be mapped for it.
pub fn check_unused(k: &Kernel, memory: &Range<u64>, what: &str) {
    let overlaps = |transfer: &Range<u64>| transfer.start < memory.end && memory.start < transfer.end;
    if let Some(transfer) = k.hardware.transfers().into_iter().find(overlaps) {
        violation(transfer.start, &format!("{what} while a DMA transfer to or from it is in flight")).raise();
    }
}
