//! Memory descriptor lists of drivers ("Using MDLs").
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the fields of MDL are narrow")]

use windows_sys::Wdk::Foundation::{IRP, MDL};

use super::Export;
use crate::{
    at,
    exec::Exception,
    export,
    finding::Finding,
    io::layout::{self, MDL_PAGES_LOCKED, MDL_WRITE_OPERATION},
    irql::{DISPATCH_LEVEL, any_level, at_most},
    kernel::Kernel,
    memory::{Access, PAGE, PageKind, PoolKind, Ptr, fault, host},
    sched::VERIFIER,
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("IoAllocateMdl", at_most(DISPATCH_LEVEL), io_allocate_mdl),
    export!("IoFreeMdl", at_most(DISPATCH_LEVEL), io_free_mdl),
    export!("IoBuildPartialMdl", at_most(DISPATCH_LEVEL), io_build_partial_mdl),
    export!("MmAllocatePagesForMdl", at_most(DISPATCH_LEVEL), mm_allocate_pages_for_mdl),
    export!("MmAllocatePagesForMdlEx", at_most(DISPATCH_LEVEL), mm_allocate_pages_for_mdl_ex),
    export!("MmFreePagesFromMdl", at_most(DISPATCH_LEVEL), mm_free_pages_from_mdl),
    export!("MmProbeAndLockPages", at_most(DISPATCH_LEVEL), mm_probe_and_lock_pages),
    export!("MmSizeOfMdl", any_level(), mm_size_of_mdl),
    export!("MmUnlockPages", at_most(DISPATCH_LEVEL), mm_unlock_pages),
];

const MDL_MAPPED_TO_SYSTEM_VA: i16 = 0x1;
const MDL_SOURCE_IS_NONPAGED_POOL: i16 = 0x4;
const MDL_PARTIAL: i16 = 0x10;
/// Of `MmAllocatePagesForMdlEx`: `MM_DONT_ZERO_ALLOCATION`, `MM_ALLOCATE_FULLY_REQUIRED`, `MM_ALLOCATE_NO_WAIT`,
/// `MM_ALLOCATE_PREFER_CONTIGUOUS`.
const DONT_ZERO: u32 = 0x1;
const FULLY_REQUIRED: u32 = 0x4;
const NO_WAIT: u32 = 0x8;
const PREFER_CONTIGUOUS: u32 = 0x10;
/// The tag of lists of pages.
const LIST: u32 = u32::from_le_bytes(*b"Mmdl");
const USER_MODE: i8 = 1;
const READ_ACCESS: i32 = 0;
/// Of `DRIVER_VERIFIER_DETECTED_VIOLATION`: "the driver attempted to unlock memory that was not locked".
const NOT_LOCKED: u64 = 0x7C;
/// `MEMORY_MANAGEMENT`-like misuse of a list that is none.
const NO_LIST: u64 = 0x0;

const fn pages(address: u64, length: u64) -> u64 {
    (address % PAGE + length).div_ceil(PAGE)
}

const fn size(address: u64, length: u64) -> usize {
    size_of::<MDL>() + host::to_usize(pages(address, length)) * size_of::<u64>()
}

/// "`MmSizeOfMdl` function".
const fn mm_size_of_mdl(_: &Kernel, address: u64, length: u64) -> u64 {
    size(address, length) as u64
}

/// "`IoAllocateMdl` function".
fn io_allocate_mdl(
    k: &Kernel,
    address: u64,
    length: u32,
    secondary: bool,
    _charge_quota: bool,
    packet: Ptr<IRP>,
) -> Ptr<MDL> {
    let size = size(address, length.into());
    let Ok(stored) = i16::try_from(size) else {
        Finding::not_modelled(format!("IoAllocateMdl: {length} bytes in one list")).raise()
    };
    let mdl = k.memory.allocate_object_bytes(size).cast::<MDL>();
    mdl.cast::<u8>().fill(size, 0);
    at!(mdl, Size).write(stored);
    at!(mdl, StartVa).cast::<u64>().write(address / PAGE * PAGE);
    at!(mdl, ByteOffset).write((address % PAGE) as u32);
    at!(mdl, ByteCount).write(length);
    k.io.mdls.borrow_mut().insert(mdl.address());
    k.tracking.made_often(k, Tracked::Mdl, mdl.address());
    if !packet.is_null() {
        let mut place = at!(packet, MdlAddress);
        while secondary && !layout::load(place).is_null() {
            place = at!(layout::load(place), Next);
        }
        layout::store(place, mdl);
    }
    mdl
}

/// Gives a packet a list of a driver's buffer, locked for a lower driver (`IoBuildDeviceIoControlRequest` and its relatives).
pub fn lock(k: &Kernel, address: u64, length: u32, packet: Ptr<IRP>, operation: i32) {
    let mdl = io_allocate_mdl(k, address, length, false, false, packet);
    mm_probe_and_lock_pages(k, mdl, 0, operation);
}

/// Takes such a list back.
pub fn unlock_and_free(k: &Kernel, mdl: Ptr<MDL>) {
    mm_unlock_pages(k, mdl);
    io_free_mdl(k, mdl);
}

/// "`IoBuildPartialMdl` function": a length of 0 is all that follows `address`.
fn io_build_partial_mdl(_: &Kernel, source: Ptr<MDL>, target: Ptr<MDL>, address: u64, length: u32) {
    let start = at!(source, StartVa).cast::<u64>().read();
    let first = start + u64::from(at!(source, ByteOffset).read());
    let bytes = u64::from(at!(source, ByteCount).read());
    let offset = address.wrapping_sub(first);
    let length = if length == 0 { bytes.saturating_sub(offset) } else { length.into() };
    let room = u64::try_from(at!(target, Size).read()).unwrap_or(0);
    if offset.checked_add(length).is_none_or(|end| end > bytes) || size(address, length) as u64 > room {
        let sentence =
            "IoBuildPartialMdl of bytes that its source does not describe, or that its target has no room for";
        Finding::bug_check(VERIFIER, [NO_LIST, target.address(), address, length], sentence).raise();
    }
    let flags = at!(source, MdlFlags).read();
    let mapped = at!(source, MappedSystemVa).cast::<u64>().read();
    at!(target, StartVa).cast::<u64>().write(address / PAGE * PAGE);
    at!(target, ByteOffset).write((address % PAGE) as u32);
    at!(target, ByteCount).write(length as u32);
    let skipped = host::to_usize((address / PAGE * PAGE - start) / PAGE);
    for page in 0..host::to_usize(pages(address, length)) {
        let frame = source.offset(1).cast::<u64>().offset(skipped + page).read();
        target.offset(1).cast::<u64>().offset(page).write(frame);
    }
    let kept = flags & (MDL_PAGES_LOCKED | MDL_WRITE_OPERATION | MDL_SOURCE_IS_NONPAGED_POOL);
    if flags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
        // What is mapped already is mapped for the part, too.
        at!(target, MappedSystemVa).cast::<u64>().write(mapped + offset);
        at!(target, MdlFlags).write(kept | MDL_PARTIAL | MDL_MAPPED_TO_SYSTEM_VA);
    } else {
        at!(target, MdlFlags).write(kept | MDL_PARTIAL);
    }
}

/// "`MmAllocatePagesForMdl` function".
fn mm_allocate_pages_for_mdl(k: &Kernel, lowest: u64, highest: u64, skip: u64, bytes: u64) -> Ptr<MDL> {
    allocate_pages(k, "MmAllocatePagesForMdl", (lowest, highest, skip), bytes)
}

/// "`MmAllocatePagesForMdlEx` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn mm_allocate_pages_for_mdl_ex(
    k: &Kernel,
    lowest: u64,
    highest: u64,
    skip: u64,
    bytes: u64,
    _cache_type: i32,
    flags: u32,
) -> Ptr<MDL> {
    if flags & !(DONT_ZERO | FULLY_REQUIRED | NO_WAIT | PREFER_CONTIGUOUS) != 0 {
        Finding::not_modelled(format!("MmAllocatePagesForMdlEx: flags {flags:#x}")).raise();
    }
    allocate_pages(k, "MmAllocatePagesForMdlEx", (lowest, highest, skip), bytes)
}

/// Pages that are not mapped, zeroed, and a list of them in pool, which `ExFreePool` frees.
fn allocate_pages(k: &Kernel, function: &str, (lowest, highest, skip): (u64, u64, u64), bytes: u64) -> Ptr<MDL> {
    if lowest != 0 || skip != 0 {
        Finding::not_modelled(format!("{function}: a lowest address or skipped bytes")).raise();
    }
    let length = bytes.next_multiple_of(PAGE);
    let size = size(0, length);
    let (Ok(stored), Ok(count)) = (i16::try_from(size), u32::try_from(length)) else {
        Finding::not_modelled(format!("{function}: {bytes} bytes in one list")).raise()
    };
    let Some((start, _)) = k.memory.allocate_common_buffer(host::to_usize(length), highest) else { return Ptr::null() };
    let Some(list) = k.memory.allocate_pool(k, PoolKind::NonPaged, size, LIST) else {
        k.memory.free_common_buffer(start);
        return Ptr::null();
    };
    start.fill(host::to_usize(length), 0);
    list.fill(size, 0);
    let mdl = list.cast::<MDL>();
    at!(mdl, Size).write(stored);
    at!(mdl, ByteCount).write(count);
    at!(mdl, MdlFlags).write(MDL_PAGES_LOCKED);
    for page in 0..length / PAGE {
        let frame = k.memory.physical_address(start.address() + page * PAGE) / PAGE;
        mdl.offset(1).cast::<u64>().offset(host::to_usize(page)).write(frame);
    }
    mdl
}

/// "`MmFreePagesFromMdl` function": the list itself stays.
fn mm_free_pages_from_mdl(k: &Kernel, mdl: Ptr<MDL>) {
    let flags = at!(mdl, MdlFlags);
    let first = k.memory.physical.find(mdl.offset(1).cast::<u64>().read() * PAGE);
    let (Some(first), 0) = (first, flags.read() & MDL_MAPPED_TO_SYSTEM_VA) else {
        let sentence = "MmFreePagesFromMdl of pages that are mapped, or that it did not allocate";
        Finding::bug_check(VERIFIER, [NO_LIST, mdl.address(), 0, 0], sentence).raise()
    };
    flags.write(flags.read() & !MDL_PAGES_LOCKED);
    k.memory.free_common_buffer(Ptr::new(first));
}

/// "`IoFreeMdl` function".
fn io_free_mdl(k: &Kernel, mdl: Ptr<MDL>) {
    if !k.io.mdls.borrow_mut().remove(&mdl.address()) {
        let sentence = "IoFreeMdl of something that IoAllocateMdl did not return, or of a list that was freed";
        Finding::bug_check(VERIFIER, [NO_LIST, mdl.address(), 0, 0], sentence).raise();
    }
    k.tracking.gone(Tracked::Mdl, mdl.address());
    k.memory.free_object(mdl);
}

/// "`MmProbeAndLockPages` function": raises an exception where the pages are not there for that.
fn mm_probe_and_lock_pages(k: &Kernel, mdl: Ptr<MDL>, mode: i8, operation: i32) {
    let start = at!(mdl, StartVa).cast::<u64>().read();
    let first = start + u64::from(at!(mdl, ByteOffset).read());
    let length = u64::from(at!(mdl, ByteCount).read());
    let access = if operation == READ_ACCESS { Access::Read } else { Access::Write };
    let outside = mode == USER_MODE && first.checked_add(length).is_none_or(|end| end > k.memory.space.user_end());
    let space = &k.memory.space;
    let all = (0..pages(first, length)).map(|page| start + page * PAGE);
    let is_there = |page: u64| is_users(space.kind(page)) || space.allows(page.max(first), 1, access);
    if outside || !all.clone().all(is_there) {
        let sentence =
            "MmProbeAndLockPages of pages that are not there, and no handler of the driver takes its exception";
        let parameters = [fault::ACCESS_VIOLATION, 0, access.parameter(), first];
        let finding = Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, parameters, sentence);
        Exception::access_violation(first, access, finding).raise();
    }
    let frames = mdl.offset(1).cast::<u64>();
    for (index, page) in all.enumerate() {
        if is_users(space.kind(page)) {
            let keeps_writable = access == Access::Write || space.kind(page) == PageKind::UserWritable;
            space.protect(page, PAGE, if keeps_writable { PageKind::User } else { PageKind::LockedReadOnly });
        }
        frames.offset(index).write(k.memory.physical_address(page) / PAGE);
    }
    let flags = at!(mdl, MdlFlags);
    let write = if access == Access::Write { MDL_WRITE_OPERATION } else { 0 };
    flags.write(flags.read() & !MDL_WRITE_OPERATION | MDL_PAGES_LOCKED | write);
}

/// Whether a page is of a user's buffer that could be paged out, as a locked one cannot, or that another list has locked for reading.
const fn is_users(kind: PageKind) -> bool {
    use PageKind::{LockedReadOnly, UserReadable, UserUnprobed, UserWritable};
    matches!(kind, UserUnprobed | UserReadable | UserWritable | LockedReadOnly)
}

/// "`MmUnlockPages` function": a mapping to system addresses goes with it.
fn mm_unlock_pages(k: &Kernel, mdl: Ptr<MDL>) {
    let flags = at!(mdl, MdlFlags);
    if flags.read() & MDL_PAGES_LOCKED == 0 {
        let sentence = "MmUnlockPages of pages that are not locked";
        Finding::bug_check(VERIFIER, [NOT_LOCKED, mdl.address(), 0, 0], sentence).raise();
    }
    if flags.read() & MDL_MAPPED_TO_SYSTEM_VA != 0 {
        k.memory.unmap_mdl(mdl);
    }
    flags.write(flags.read() & !(MDL_PAGES_LOCKED | MDL_WRITE_OPERATION));
}
