//! DMA adapters ("Adapter Objects and DMA"): common buffers. Packet DMA is not modelled.

use std::{cell::RefCell, collections::BTreeMap};

use windows_sys::Wdk::{
    Foundation::DEVICE_OBJECT,
    System::SystemServices::{DEVICE_DESCRIPTION, DMA_ADAPTER, DMA_OPERATIONS},
};

use super::lists::size_field;
use crate::{at, exports::dma::OPERATIONS, finding::Finding, kernel::Kernel, memory::Ptr, tracking::Tracked};

/// `DRIVER_VERIFIER_DMA_VIOLATION`.
pub const DMA_VIOLATION: u32 = 0xE6;
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
        self.all.borrow_mut().insert(adapter.address(), Adapter { pdo, table, highest, buffers: BTreeMap::new() });
        k.tracking.made_for(k, Tracked::Adapter, adapter.address(), pdo, String::new);
        adapter
    }

    /// Frees an adapter; common buffers must have been freed before.
    pub fn put(&self, k: &Kernel, adapter: Ptr<DMA_ADAPTER>) {
        self.check(adapter, "PutDmaAdapter");
        let Some(known) = self.all.borrow_mut().remove(&adapter.address()) else { return };
        let left = known.buffers.len();
        if left != 0 {
            violation(format!("PutDmaAdapter with {left} common buffers that were not freed"));
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
            None => violation("FreeCommonBuffer of something that is no common buffer of this adapter".into()),
            Some(known) if known.logical != logical || known.length != length => violation(
                "FreeCommonBuffer with another length or logical address than the buffer was allocated with".into(),
            ),
            Some(_) => {
                k.tracking.gone(Tracked::CommonBuffer, buffer.address());
                k.memory.free_common_buffer(buffer);
            }
        }
    }

    /// Whether a device may reach memory at these physical addresses: whether they lie in one common buffer.
    pub fn covers(&self, physical: u64, length: u64) -> bool {
        let holds = |buffer: &CommonBuffer| {
            physical
                .checked_sub(buffer.logical)
                .is_some_and(|offset| offset.saturating_add(length) <= buffer.length.into())
        };
        self.all.borrow().values().any(|adapter| adapter.buffers.values().any(holds))
    }

    fn check(&self, adapter: Ptr<DMA_ADAPTER>, function: &str) {
        if !self.all.borrow().contains_key(&adapter.address()) {
            violation(format!("{function} was called for something that is no DMA adapter, or not any more"));
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

fn violation(sentence: String) -> ! {
    Finding::bug_check(DMA_VIOLATION, [0; 4], sentence).raise()
}
