//! Physical memory, device registers, memory descriptor lists.

use windows_sys::{
    Wdk::{
        Foundation::MDL,
        System::SystemServices::{
            MdlMappingNoWrite, MdlMappingWithGuardPtes, PAGE_NOCACHE, PAGE_READWRITE, PAGE_WRITECOMBINE,
            PHYSICAL_MEMORY_RANGE,
        },
    },
    Win32::Foundation::UNICODE_STRING,
};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    hw::DEVICE_MEMORY,
    irql::{APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::{Access, Memory, PAGE, PageKind, PoolKind, Ptr, host},
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("MmBuildMdlForNonPagedPool", at_most(DISPATCH_LEVEL), mm_build_mdl_for_non_paged_pool),
    export!("MmGetPhysicalAddress", any_level(), mm_get_physical_address),
    export!("MmGetPhysicalMemoryRanges", at_most(APC_LEVEL), mm_get_physical_memory_ranges),
    export!("MmGetSystemRoutineAddress", exactly(PASSIVE_LEVEL), mm_get_system_routine_address),
    export!("MmIsAddressValid", at_most(DISPATCH_LEVEL), mm_is_address_valid),
    export!("MmMapIoSpace", at_most(DISPATCH_LEVEL), mm_map_io_space),
    export!("MmMapIoSpaceEx", at_most(DISPATCH_LEVEL), mm_map_io_space_ex),
    export!("MmMapLockedPagesSpecifyCache", at_most(DISPATCH_LEVEL), mm_map_locked_pages_specify_cache),
    export!("MmUnmapIoSpace", at_most(DISPATCH_LEVEL), mm_unmap_io_space),
    export!("MmUnmapLockedPages", at_most(DISPATCH_LEVEL), mm_unmap_locked_pages),
];

/// Flags of `MDL`, which windows-sys lacks.
const MDL_MAPPED_TO_SYSTEM_VA: u32 = 0x1;
const MDL_PAGES_LOCKED: u32 = 0x2;
const MDL_SOURCE_IS_NONPAGED_POOL: u32 = 0x4;
/// `MmPh`: the tag of what `MmGetPhysicalMemoryRanges` returns.
const RANGES: u32 = u32::from_le_bytes(*b"MmPh");
const KERNEL_MODE: u8 = 0;
/// `MmNonCached` of `MEMORY_CACHING_TYPE`.
const NON_CACHED: i32 = 0;
const HIGHEST_CACHE_TYPE: i32 = 2;
/// `SYSTEM_PTE_MISUSE` and its parameters.
const SYSTEM_PTE_MISUSE: u32 = 0xDA;
const DUPLICATE: u64 = 0x01;
const WRONG_ADDRESS: u64 = 0x03;
const NOT_MAPPED: u64 = 0x06;
/// `MEMORY_MANAGEMENT`.
const MEMORY_MANAGEMENT: u32 = 0x1A;

/// "`MmGetPhysicalAddress` function".
fn mm_get_physical_address(k: &Kernel, address: u64) -> u64 {
    k.memory.physical_address(address)
}

/// "`MmIsAddressValid` function".
fn mm_is_address_valid(k: &Kernel, address: u64) -> bool {
    k.memory.space.kind(address) == PageKind::Mmio || k.memory.space.allows(address, 1, Access::Read)
}

/// `MmGetPhysicalMemoryRanges`, of which only the later `MmGetPhysicalMemoryRangesEx2` has a page: an array that ends with a range of 0
/// bytes, in nonpaged pool that the caller frees.
fn mm_get_physical_memory_ranges(k: &Kernel) -> Ptr<PHYSICAL_MEMORY_RANGE> {
    let ranges = k.memory.physical.ranges();
    let bytes = (ranges.len() + 1) * size_of::<PHYSICAL_MEMORY_RANGE>();
    let Some(block) = k.memory.allocate_pool(k, PoolKind::NonPaged, bytes, RANGES) else { return Ptr::null() };
    let list = block.cast::<PHYSICAL_MEMORY_RANGE>();
    for (index, range) in ranges.iter().enumerate() {
        let entry = list.offset(index);
        at!(entry, BaseAddress).write(range.start.cast_signed());
        at!(entry, NumberOfBytes).write(range.length.cast_signed());
    }
    list
}

/// "`MmGetSystemRoutineAddress` function". A name that the lab does not have is not taken for one that Windows does not have.
fn mm_get_system_routine_address(k: &Kernel, name: Ptr<UNICODE_STRING>) -> u64 {
    let bytes = at!(name, Length).read();
    let text = Ptr::<u16>::new(at!(name, Buffer).cast::<u64>().read());
    let units: Vec<u16> = (0..usize::from(bytes) / 2).map(|index| text.offset(index).read()).collect();
    let name = String::from_utf16_lossy(&units);
    k.exec.bind(&name).unwrap_or_else(|| Finding::not_modelled(format!("MmGetSystemRoutineAddress of {name}")).raise())
}

/// "`MmMapIoSpaceEx` function".
fn mm_map_io_space_ex(k: &Kernel, physical: u64, bytes: u64, protect: u32) -> Ptr<u8> {
    let access = protect & !(PAGE_NOCACHE | PAGE_WRITECOMBINE);
    let both = protect & PAGE_NOCACHE != 0 && protect & PAGE_WRITECOMBINE != 0;
    if both || !access.is_power_of_two() {
        return Ptr::null();
    }
    if access != PAGE_READWRITE {
        Finding::not_modelled(format!("MmMapIoSpaceEx with protection {protect:#x}")).raise();
    }
    map(k, physical, bytes)
}

/// "`MmMapIoSpace` function".
fn mm_map_io_space(k: &Kernel, physical: u64, bytes: u64, cache_type: i32) -> Ptr<u8> {
    if cache_type != NON_CACHED {
        Finding::not_modelled(format!("MmMapIoSpace with cache type {cache_type}")).raise();
    }
    map(k, physical, bytes)
}

fn map(k: &Kernel, physical: u64, bytes: u64) -> Ptr<u8> {
    let end = physical.checked_add(bytes);
    let in_device_memory = physical >= DEVICE_MEMORY.start && end.is_some_and(|end| end <= DEVICE_MEMORY.end);
    if bytes == 0 || !in_device_memory {
        Finding::not_modelled(format!("mapping {bytes} bytes at physical address {physical:#x}, no device memory"))
            .raise();
    }
    let mapped = k.memory.mappings.map(physical, bytes);
    let device = k.pnp.devnodes.with_memory(physical).map_or(Ptr::null(), |devnode| devnode.pdo);
    let about = || format!("{bytes} bytes at physical {physical:#x}");
    k.tracking.made_for(k, Tracked::Mapping, mapped.address(), device, about);
    mapped
}

/// "`MmUnmapIoSpace` function".
fn mm_unmap_io_space(k: &Kernel, address: u64, bytes: u64) {
    k.memory.mappings.unmap(address, bytes);
    k.tracking.gone(Tracked::Mapping, address);
}

/// "`MmBuildMdlForNonPagedPool` function".
fn mm_build_mdl_for_non_paged_pool(k: &Kernel, mdl: Ptr<MDL>) {
    let start = at!(mdl, StartVa).cast::<u64>().read();
    let offset = u64::from(at!(mdl, ByteOffset).read());
    let bytes = u64::from(at!(mdl, ByteCount).read());
    for page in 0..(offset + bytes).div_ceil(PAGE) {
        let address = start + page * PAGE;
        let kind = k.memory.space.kind(address);
        if !matches!(kind, PageKind::NonPagedPool | PageKind::ExecutablePool | PageKind::Object | PageKind::ImageData) {
            let sentence = format!("MmBuildMdlForNonPagedPool of memory that is no nonpaged pool ({kind:?})");
            Finding::bug_check(MEMORY_MANAGEMENT, [0, address, 0, 0], sentence).raise();
        }
        frames(mdl).offset(host::to_usize(page)).write(k.memory.physical_address(address) / PAGE);
    }
    at!(mdl, MappedSystemVa).cast::<u64>().write(start + offset);
    set_flags(mdl, MDL_SOURCE_IS_NONPAGED_POOL, 0);
}

/// "`MmMapLockedPagesSpecifyCache` function". RAM keeps the cache type it has, whatever type is asked for.
fn mm_map_locked_pages_specify_cache(
    k: &Kernel,
    mdl: Ptr<MDL>,
    mode: u8,
    cache_type: i32,
    _requested: u64,
    _bug_check_on_failure: u32,
    priority: u32,
) -> Ptr<u8> {
    let refused = if mode != KERNEL_MODE {
        "mapping pages for user mode"
    } else if priority & (MdlMappingNoWrite | MdlMappingWithGuardPtes) != 0 {
        "mapping pages with MdlMappingNoWrite or MdlMappingWithGuardPtes"
    } else if !(0..=HIGHEST_CACHE_TYPE).contains(&cache_type) {
        "mapping pages with this cache type"
    } else {
        return map_mdl(k, mdl);
    };
    Finding::not_modelled(refused).raise()
}

fn map_mdl(k: &Kernel, mdl: Ptr<MDL>) -> Ptr<u8> {
    let flags = flags(mdl);
    if flags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
        let parameters = [DUPLICATE, 0, mdl.address(), 0];
        Finding::bug_check(SYSTEM_PTE_MISUSE, parameters, "a second system mapping of a memory descriptor list")
            .raise();
    }
    if flags & MDL_PAGES_LOCKED == 0 {
        let parameters = [0, mdl.address(), flags.into(), 0];
        Finding::bug_check(MEMORY_MANAGEMENT, parameters, "mapping of pages that are not locked").raise();
    }
    let address = place(&k.memory, mdl);
    at!(mdl, MappedSystemVa).cast::<u64>().write(address.address());
    set_flags(mdl, MDL_MAPPED_TO_SYSTEM_VA, 0);
    address
}

/// Where the pages of a list are. The system's mapping of them is the address they have: one that is not in a row cannot be made.
fn place(memory: &Memory, mdl: Ptr<MDL>) -> Ptr<u8> {
    let [bytes, offset] = at!(mdl, ByteCount).cast::<[u32; 2]>().read().map(u64::from);
    let mut start = None;
    for page in 0..(offset + bytes).div_ceil(PAGE) {
        let frame = frames(mdl).offset(host::to_usize(page)).read();
        let address = memory.physical.find(frame * PAGE).map(|address| address.wrapping_sub(page * PAGE));
        let Some(address) = address.filter(|address| *start.get_or_insert(*address) == *address) else {
            Finding::not_modelled("mapping pages that are not one buffer of the machine").raise()
        };
        start = Some(address);
    }
    start.map_or(Ptr::null(), |start| Ptr::new(start + offset))
}

/// "`MmUnmapLockedPages` function".
fn mm_unmap_locked_pages(k: &Kernel, address: u64, mdl: Ptr<MDL>) {
    let mapped = at!(mdl, MappedSystemVa).cast::<u64>().read();
    let violation = if flags(mdl) & MDL_MAPPED_TO_SYSTEM_VA == 0 {
        Some((NOT_MAPPED, "unmapping of pages that are not mapped"))
    } else {
        (mapped != address).then_some((WRONG_ADDRESS, "unmapping of pages that are mapped elsewhere"))
    };
    if let Some((violation, sentence)) = violation {
        Finding::bug_check(SYSTEM_PTE_MISUSE, [violation, mdl.address(), address, 0], sentence).raise();
    }
    k.memory.unmap_mdl(mdl);
}

impl Memory {
    /// Takes away the system mapping of a memory descriptor list.
    #[allow(clippy::unused_self, reason = "the memory of which it is a mapping")]
    pub fn unmap_mdl(&self, mdl: Ptr<MDL>) {
        at!(mdl, MappedSystemVa).cast::<u64>().write(0);
        set_flags(mdl, 0, MDL_MAPPED_TO_SYSTEM_VA);
    }
}

const fn frames(mdl: Ptr<MDL>) -> Ptr<u64> {
    mdl.offset(1).cast()
}

fn flags(mdl: Ptr<MDL>) -> u32 {
    at!(mdl, MdlFlags).cast::<u16>().read().into()
}

#[allow(clippy::cast_possible_truncation, reason = "the flags have 16 bits")]
fn set_flags(mdl: Ptr<MDL>, set: u32, clear: u32) {
    at!(mdl, MdlFlags).cast::<u16>().write((flags(mdl) & !clear | set) as u16);
}
