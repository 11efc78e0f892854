//! Scatter/gather lists ("`PGET_SCATTER_GATHER_LIST` callback function"): the pages of an MDL, each an element. A page that the device
//! cannot reach is stood in for by one that it can, as map registers do; its bytes are copied when the list is made or freed.
#![allow(clippy::cast_possible_truncation, reason = "parts lie in one page each, and a buffer has few of them")]

use std::ops::Range;

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, MDL},
        System::SystemServices::{DMA_ADAPTER, IO_TYPE_DEVICE},
    },
    Win32::Foundation::{NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS},
};

use super::dma::{self, misuse};
use crate::{
    at,
    io::layout::{self, MDL_PAGES_LOCKED},
    kernel::Kernel,
    memory::{PAGE, Ptr},
};

/// `MDL_SOURCE_IS_NONPAGED_POOL`.
const MDL_SOURCE_IS_NONPAGED_POOL: i16 = 0x4;
/// `DRIVER_VERIFIER_DMA_VIOLATION`: too many lists freed, a buffer that is not locked, an address outside the MDL.
const FREED_TOO_MANY: u64 = 0x06;
const NOT_LOCKED: u64 = 0x0E;
const OUTSIDE_MDL: u64 = 0x1B;
/// The sizes of a `SCATTER_GATHER_LIST` without elements, and of an element.
const HEADER: usize = 16;
const ELEMENT: usize = 24;

/// A part of a buffer that lies in one page.
#[derive(Clone, Copy, Debug)]
struct Part {
    physical: u64,
    length: u64,
    /// What stands in for it: its address, and its physical address.
    instead: Option<(Ptr<u8>, u64)>,
}

impl Part {
    fn logical(&self) -> u64 {
        self.instead.map_or(self.physical, |(_, logical)| logical)
    }
}

/// A buffer that is mapped for a device.
#[derive(Debug)]
pub struct Mapped {
    parts: Vec<Part>,
}

impl Mapped {
    /// The addresses that the device may reach.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.parts.iter().map(|part| part.logical()..part.logical() + part.length)
    }
}

/// What a driver wants to have mapped.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The adapter.
    pub adapter: Ptr<DMA_ADAPTER>,
    /// The device object that is passed on.
    pub device: Ptr<DEVICE_OBJECT>,
    /// The buffer.
    pub mdl: Ptr<MDL>,
    /// Where in it the transfer begins.
    pub address: u64,
    /// How many bytes it has.
    pub length: u32,
    /// From memory to the device.
    pub to_device: bool,
}

/// Maps a buffer and calls `routine`, an `AdapterListControl`, with the list. It is called at once: there are enough map registers.
pub fn get(k: &Kernel, wanted: Wanted, routine: u64, context: u64) -> NTSTATUS {
    let highest = k.pnp.adapters.highest(wanted.adapter, "GetScatterGatherList");
    check(wanted);
    let mut parts = parts_of(wanted);
    for part in &mut parts {
        if part.physical + part.length - 1 <= highest {
            continue;
        }
        part.instead = k.memory.allocate_common_buffer(part.length as usize, highest);
        if part.instead.is_none() {
            free(k, &parts);
            return STATUS_INSUFFICIENT_RESOURCES;
        }
    }
    if wanted.to_device {
        copy(k, &parts, true);
    }
    let list = write_list(k, &parts);
    k.pnp.adapters.add_list(wanted.adapter, list.address(), Mapped { parts });
    let device = wanted.device;
    let is_device = !device.is_null() && at!(device, Type).read() == IO_TYPE_DEVICE as i16;
    let irp = if is_device { at!(device, CurrentIrp).cast::<u64>().read() } else { 0 };
    k.call("AdapterListControl", routine, &[device.address(), irp, list.address(), context]);
    STATUS_SUCCESS
}

fn check(wanted: Wanted) {
    let Wanted { mdl, address, length, .. } = wanted;
    if at!(mdl, MdlFlags).read() & (MDL_PAGES_LOCKED | MDL_SOURCE_IS_NONPAGED_POOL) == 0 {
        let sentence = "GetScatterGatherList for a buffer whose pages are not locked";
        misuse(NOT_LOCKED, [mdl.address(), 0], sentence.into()).raise();
    }
    let offset = address.wrapping_sub(start_of(mdl));
    if length == 0 || offset.saturating_add(length.into()) > u64::from(at!(mdl, ByteCount).read()) {
        let sentence = "GetScatterGatherList for bytes that the MDL does not describe";
        misuse(OUTSIDE_MDL, [address, mdl.address()], sentence.into()).raise();
    }
}

fn start_of(mdl: Ptr<MDL>) -> u64 {
    layout::load(at!(mdl, StartVa)).address() + u64::from(at!(mdl, ByteOffset).read())
}

fn parts_of(wanted: Wanted) -> Vec<Part> {
    let Wanted { mdl, address, length, .. } = wanted;
    let frames = mdl.offset(1).cast::<u64>();
    let first = layout::load(at!(mdl, StartVa)).address();
    let end = address + u64::from(length);
    let pages = address / PAGE..end.div_ceil(PAGE);
    pages
        .map(|page| {
            let (from, to) = (address.max(page * PAGE), end.min((page + 1) * PAGE));
            let frame = frames.offset((page - first / PAGE) as usize).read();
            Part { physical: frame * PAGE + from % PAGE, length: to - from, instead: None }
        })
        .collect()
}

/// Copies the bytes of the parts that others stand in for: to those, or back.
fn copy(k: &Kernel, parts: &[Part], to_device: bool) {
    for part in parts {
        let Some((buffer, _)) = part.instead else { continue };
        if to_device {
            let mut bytes = vec![0; part.length as usize];
            k.memory.dma_read(part.physical, &mut bytes);
            buffer.write_bytes(&bytes);
        } else {
            k.memory.dma_write(part.physical, &buffer.read_bytes(part.length as usize));
        }
    }
}

fn write_list(k: &Kernel, parts: &[Part]) -> Ptr<u8> {
    let list = k.memory.allocate_object_bytes(HEADER + parts.len() * ELEMENT);
    list.cast::<u32>().write(parts.len() as u32);
    let elements = list.offset(HEADER).cast::<[u64; 3]>();
    for (index, part) in parts.iter().enumerate() {
        elements.offset(index).write([part.logical(), part.length, 0]);
    }
    list
}

/// Ends a mapping ("`PPUT_SCATTER_GATHER_LIST` callback function").
pub fn put(k: &Kernel, adapter: Ptr<DMA_ADAPTER>, list: Ptr<u8>, to_device: bool) {
    let Some(mapped) = k.pnp.adapters.remove_list(adapter, list.address()) else {
        let sentence = "PutScatterGatherList of something that is no list of this adapter, or not any more";
        misuse(FREED_TOO_MANY, [list.address(), 0], sentence.into()).raise()
    };
    for range in mapped.ranges() {
        dma::check_unused(k, &range, "a buffer is unmapped");
    }
    if !to_device {
        copy(k, &mapped.parts, false);
    }
    free(k, &mapped.parts);
    k.memory.free_object(list);
}

fn free(k: &Kernel, parts: &[Part]) {
    for (buffer, _) in parts.iter().filter_map(|part| part.instead) {
        k.memory.free_common_buffer(buffer);
    }
}
