//! Memory, and the kernel functions over it.

use std::panic::{self, AssertUnwindSafe};

use windows_sys::Wdk::{Foundation::MDL, System::SystemServices::PHYSICAL_MEMORY_RANGE};

use super::{Arena, PAGE, PageKind, PoolKind, Ptr, Request, Space, host, space::RESERVED};
use crate::{
    at,
    config::{Config, SpecialPool},
    exec,
    exports::{self, Arguments},
    finding::{Cause, Finding},
    kernel::Kernel,
};

const NON_PAGED: u64 = 0x40;
const TAG: u64 = 0x7473_6554;
const REGISTERS: u64 = 0xD000_0000;
const PAGE_READWRITE: u64 = 4;

fn run(test: impl FnOnce(&Kernel)) {
    let kernel = Kernel::new(Config::default());
    let _entered = exec::enter(&kernel).expect("signals can be handled");
    test(&kernel);
}

/// Calls a kernel function as a driver does.
fn call(k: &Kernel, name: &str, arguments: &[u64]) -> u64 {
    let array = k.memory.allocate_io_buffer(64).cast::<u64>();
    for (index, argument) in arguments.iter().enumerate() {
        array.offset(index).write(*argument);
    }
    (exports::find(name).expect("the lab has it").call)(k, Arguments::new(array))
}

fn finding(act: impl FnOnce()) -> Finding {
    let payload = panic::catch_unwind(AssertUnwindSafe(act)).expect_err("it does not return");
    *payload.downcast::<Finding>().expect("it is a finding")
}

fn code(finding: &Finding) -> (u32, u64) {
    match finding.cause {
        Cause::BugCheck { code, parameters } => (code, parameters[0]),
        Cause::NotModelled | Cause::BrokenPromise => panic!("not a verdict: {}", finding.sentence),
    }
}

/// Arenas in which memory is opened and closed.
const OPENED: [Arena; 7] =
    [Arena::Kernel, Arena::Stacks, Arena::Objects, Arena::Packets, Arena::User, Arena::Pool, Arena::PagedPool];

/// Takes, opens and fills a block of each of some sizes in each arena, and closes every other one: what was taken.
fn use_much(space: &Space) -> Vec<(Arena, u64, u64)> {
    let lengths = [PAGE, PAGE, 3 * PAGE, 64 << 10, 288 << 10, 5 << 20, PAGE];
    let blocks = OPENED.into_iter().flat_map(|arena| lengths.map(|length| (arena, length)));
    let taken = blocks.enumerate().map(|(number, (arena, length))| {
        let address = space.take(arena, length + PAGE);
        space.open(address, length, if arena == Arena::PagedPool { PageKind::PagedPool } else { PageKind::Object });
        assert_eq!(space.first_other(address, length, 0), None, "fresh memory reads zero: {arena:?}, {length} bytes");
        space.fill(address, length, 0xAB);
        assert!(!host::is_readable(address + length), "what was not opened faults: {arena:?}, {length} bytes");
        if number % 2 == 0 {
            space.close(address, length, PageKind::PoolFreed);
            assert!(!host::is_readable(address), "what was closed faults: {arena:?}, {length} bytes");
        }
        (arena, address, length)
    });
    taken.collect()
}

#[test]
fn a_machine_after_another_has_its_addresses_and_finds_nothing_of_it() {
    let mut space = Space::new().expect("the host has address space");
    for _ in 0..3 {
        let (base, taken) = (space.base(), use_much(&space));
        let code = space.user_end() + (200 << 20);
        space.take_code_page(code);
        assert!(host::is_readable(code));
        space.keep();
        drop(space);
        space = Space::new().expect("the host has address space");
        assert_eq!((space.base(), space.is_after_another()), (base, true));
        assert!((0..RESERVED / PAGE).all(|page| space.kind(base + page * PAGE) == PageKind::Free));
        for (arena, address, length) in taken {
            let is_open = |page| host::is_readable(address + page * PAGE);
            assert!(!(0..length / PAGE).any(is_open), "{arena:?}, {length} bytes");
        }
        assert!(!host::is_readable(code));
    }
}

#[test]
fn a_machine_leaves_nothing_behind_unless_it_ended_well_and_was_small() {
    let space = Space::new().expect("the host has address space");
    use_much(&space);
    drop(space);
    let space = Space::new().expect("the host has address space");
    assert!(!space.is_after_another(), "nobody said that it ended well");
    space.take(Arena::Pool, 65 << 20);
    space.keep();
    drop(space);
    let space = Space::new().expect("the host has address space");
    assert!(!space.is_after_another(), "it was large");
}

#[test]
fn pool_is_zeroed_unless_asked_otherwise_and_aligned_as_documented() {
    run(|k| {
        for bytes in [1, 8, 24, 100, 4095] {
            let block = Ptr::<u8>::new(call(k, "ExAllocatePool2", &[NON_PAGED, bytes, TAG]));
            assert_eq!(block.address() % 16, 0, "{bytes} bytes");
            assert_eq!(block.address() / PAGE, (block.address() + bytes - 1) / PAGE, "{bytes} bytes in one page");
            assert!(block.read_bytes(usize::try_from(bytes).expect("small")).iter().all(|byte| *byte == 0));
        }
        for bytes in [4096, 4097, 10_000] {
            assert_eq!(call(k, "ExAllocatePool2", &[NON_PAGED, bytes, TAG]) % PAGE, 0, "{bytes} bytes");
        }
        let cache_aligned = call(k, "ExAllocatePool2", &[NON_PAGED | 8, 100, TAG]);
        assert_eq!(cache_aligned % 64, 0);
        let uninitialized = Ptr::<u8>::new(call(k, "ExAllocatePool2", &[NON_PAGED | 2, 100, TAG]));
        assert!(uninitialized.read_bytes(100).iter().all(|byte| *byte != 0));
    });
}

#[test]
fn small_blocks_lie_at_both_ends_of_pages_and_what_is_beside_them_is_guarded() {
    let at_start = |special_pool| {
        let kernel = Kernel::new(Config { special_pool, ..Config::default() });
        let _entered = exec::enter(&kernel).expect("signals can be handled");
        let block = |_| Ptr::<u8>::new(call(&kernel, "ExAllocatePool2", &[NON_PAGED, 64, TAG]));
        let blocks: Vec<_> = (0..400).map(block).collect();
        let is_at_start = |block: &&Ptr<u8>| block.address().is_multiple_of(PAGE);
        for block in blocks.iter().filter(is_at_start) {
            let before = finding(|| _ = Ptr::<u8>::new(block.address() - 1).read());
            assert!(before.sentence.contains("before the start of a pool block of 64 bytes"), "{}", before.sentence);
            assert_eq!(code(&before), (0xCD, block.address() - 1));
        }
        for block in blocks.iter().filter(|block| !is_at_start(block)) {
            let behind = finding(|| _ = block.offset(64).read());
            assert!(behind.sentence.contains("beyond the end of a pool block of 64 bytes"), "{}", behind.sentence);
            assert_eq!(code(&behind), (0xCD, block.address() + 64));
        }
        blocks.iter().filter(is_at_start).count()
    };
    assert_eq!(at_start(SpecialPool::VerifyEnd), 0);
    assert_eq!(at_start(SpecialPool::VerifyStart), 400);
    assert!((60..140).contains(&at_start(SpecialPool::Either)), "{}", at_start(SpecialPool::Either));
}

#[test]
fn impossible_requests_for_pool_return_null() {
    run(|k| {
        let requests = [
            [NON_PAGED, 8, 0],
            [0, 8, TAG],
            [NON_PAGED | 0x100, 8, TAG],
            [NON_PAGED | 0x400, 8, TAG],
            [NON_PAGED, 1 << 40, TAG],
        ];
        for request in requests {
            assert_eq!(call(k, "ExAllocatePool2", &request), 0, "{request:x?}");
        }
        assert_ne!(call(k, "ExAllocatePool2", &[NON_PAGED | 1 << 32, 8, TAG]), 0, "unknown optional flags are ignored");
        assert_eq!(code(&finding(|| _ = call(k, "ExAllocatePool2", &[NON_PAGED, 0, TAG]))), (0xC4, 0));
    });
}

#[test]
fn a_preferred_node_that_does_not_exist_fails_unless_any_other_will_do() {
    run(|k| {
        let parameter = k.memory.allocate_io_buffer(16).cast::<u64>();
        let allocate = |node: u64| {
            parameter.write(3);
            parameter.offset(1).write(node);
            call(k, "ExAllocatePool3", &[NON_PAGED, 64, TAG, parameter.address(), 1])
        };
        assert_ne!(allocate(0), 0);
        assert_eq!(allocate(9), 0);
        assert_ne!(allocate(0x9 | 1 << 31), 0);
        parameter.write(0x63);
        assert_eq!(call(k, "ExAllocatePool3", &[NON_PAGED, 64, TAG, parameter.address(), 1]), 0);
        parameter.write(0x63 | 1 << 8);
        assert_ne!(call(k, "ExAllocatePool3", &[NON_PAGED, 64, TAG, parameter.address(), 1]), 0);
    });
}

#[test]
fn what_the_kernel_allocated_is_not_the_drivers_to_free() {
    run(|k| {
        let buffer = k.memory.allocate_io_buffer(64);
        assert_eq!(code(&finding(|| _ = call(k, "ExFreePoolWithTag", &[buffer.address(), 0]))), (0xC4, 0x10));
    });
}

#[test]
fn blocks_of_the_driver_are_listed_until_they_are_freed() {
    run(|k| {
        let blocks: Vec<u64> = (1..4).map(|size| call(k, "ExAllocatePool2", &[NON_PAGED, size * 8, TAG])).collect();
        call(k, "ExFreePool", &[blocks[1]]);
        let left: Vec<u64> = k.memory.pool.driver_blocks().iter().map(|block| block.request.bytes).collect();
        assert_eq!(left, [8, 24]);
        let uses: Vec<_> = k.memory.pool.tags().into_iter().filter(|(tag, _)| u64::from(tag.0) == TAG).collect();
        assert_eq!((uses[0].1.blocks, uses[0].1.bytes, uses[0].1.allocations), (2, 32, 3));
    });
}

#[test]
fn kernel_structures_are_zeroed_reused_late_and_watched_while_free() {
    run(|k| {
        let memory = &k.memory;
        let object = memory.allocate_object_bytes(300);
        object.fill(300, 7);
        memory.free_object(object);
        assert!(!memory.is_object(object));
        let next: Vec<_> = (0..20).map(|_| memory.allocate_object_bytes(300)).collect();
        assert!(next.iter().all(|other| *other != object && other.read_bytes(300) == [0; 300]));
        assert_eq!(code(&finding(|| memory.free_object(object))).0, 0xC2);
        object.cast::<u64>().write(5);
        let mut reused = |_| _ = memory.allocate_object_bytes(300);
        assert_eq!(code(&finding(|| (0..1000).for_each(&mut reused))).0, 0xCC);
    });
}

#[test]
fn ram_has_the_size_of_the_machine_and_grows_behind_itself() {
    run(|k| {
        let total = |ranges: &[super::RamRange]| ranges.iter().map(|range| range.length).sum::<u64>();
        let before = k.memory.physical.ranges();
        assert_eq!(total(&before), k.config.memory);
        let added = k.memory.physical.add(2 << 30, 0).expect("there are addresses");
        assert!(before.iter().all(|range| range.start + range.length <= added.start));
        assert_eq!(k.memory.physical.add(5, 0), None);
        let list = Ptr::<PHYSICAL_MEMORY_RANGE>::new(call(k, "MmGetPhysicalMemoryRanges", &[]));
        let read: Vec<_> = (0..100)
            .map(|index| (at!(list.offset(index), BaseAddress).read(), at!(list.offset(index), NumberOfBytes).read()))
            .take_while(|range| range.1 != 0)
            .collect();
        let now = k.memory.physical.ranges();
        assert_eq!(read.len(), now.len());
        assert!(read.iter().zip(&now).all(|(read, now)| *read == (now.start.cast_signed(), now.length.cast_signed())));
        call(k, "ExFreePool", &[list.address()]);
    });
}

#[test]
fn a_device_reaches_the_bytes_behind_a_physical_address() {
    run(|k| {
        let block = k.memory.allocate(k, Request::kernel(10_000, b"Test")).expect("there is memory");
        let physical: Vec<u64> = (0..3).map(|page| k.memory.physical_address(block.address() + page * PAGE)).collect();
        k.memory.dma_write(physical[2], b"from the device");
        assert_eq!(Ptr::<u8>::new(block.address() + 2 * PAGE).read_bytes(15), b"from the device");
        let mut bytes = [0; 4];
        k.memory.dma_read(physical[2] + 5, &mut bytes);
        assert_eq!(&bytes, b"the ");
        let mut beyond = [1; 4];
        k.memory.dma_read(1 << 50, &mut beyond);
        k.memory.dma_write(1 << 50, &beyond);
        assert_eq!(beyond, [0; 4]);
    });
}

#[test]
fn a_transfer_to_memory_that_was_freed_is_found() {
    run(|k| {
        let block = k.memory.allocate_pool(k, PoolKind::NonPaged, 64, 1).expect("there is memory");
        let physical = k.memory.physical_address(block.address());
        k.memory.free_pool(k, block, None);
        let finding = finding(|| k.memory.dma_write(physical, &[1]));
        assert_eq!(code(&finding).0, 0xE6);
        assert!(finding.sentence.contains("that was freed by a device"), "{}", finding.sentence);
    });
}

#[test]
fn ordinary_memory_is_beyond_28_address_bits_and_common_buffers_are_not() {
    run(|k| {
        let highest = (1 << 28) - 1;
        let block = k.memory.allocate_pool(k, PoolKind::NonPaged, 64, 1).expect("there is memory");
        assert!(k.memory.physical_address(block.address()) > highest);
        let (buffer, physical) = k.memory.allocate_common_buffer(10_000, highest).expect("there is memory");
        assert!(physical + 10_000 <= highest);
        for page in 0..3 {
            assert_eq!(k.memory.physical_address(buffer.address() + page * PAGE), physical + page * PAGE);
        }
        assert_eq!(k.memory.allocate_common_buffer(10_000, 1 << 20), None);
        k.memory.free_common_buffer(buffer);
        for _ in 0..100_000 {
            let (buffer, _) = k.memory.allocate_common_buffer(4096, highest).expect("freed frames come back");
            k.memory.free_common_buffer(buffer);
        }
    });
}

#[test]
fn only_device_memory_is_mapped_and_only_what_was_mapped_is_unmapped() {
    run(|k| {
        let registers = call(k, "MmMapIoSpaceEx", &[REGISTERS, 0x1000, PAGE_READWRITE | 0x200]);
        assert_eq!(k.memory.space.kind(registers), PageKind::Mmio);
        assert_eq!(call(k, "MmMapIoSpaceEx", &[REGISTERS, 0x1000, 0x600 | PAGE_READWRITE]), 0, "both cache types");
        assert_eq!(
            finding(|| _ = call(k, "MmMapIoSpaceEx", &[0x10_0000, 8, PAGE_READWRITE])).cause,
            Cause::NotModelled
        );
        assert_eq!(code(&finding(|| _ = call(k, "MmUnmapIoSpace", &[registers, 0x2000]))).0, 0xDA);
        assert_eq!(code(&finding(|| _ = call(k, "MmUnmapIoSpace", &[registers + 4, 0x1000]))).0, 0xDA);
    });
}

#[test]
fn pages_are_mapped_once_and_at_the_address_of_their_bytes() {
    run(|k| {
        let buffer = k.memory.allocate_io_buffer(100);
        let mdl = k.memory.allocate_object_bytes(64).cast::<MDL>();
        at!(mdl, StartVa).cast::<u64>().write(buffer.address() / PAGE * PAGE);
        at!(mdl, ByteOffset).write(u32::try_from(buffer.address() % PAGE).expect("in a page"));
        at!(mdl, ByteCount).write(100);
        mdl.offset(1).cast::<u64>().write(k.memory.physical_address(buffer.address()) / PAGE);
        let map = || call(k, "MmMapLockedPagesSpecifyCache", &[mdl.address(), 0, 1, 0, 0, 0]);
        assert_eq!(code(&finding(|| _ = map())).0, 0x1A, "not locked");
        at!(mdl, MdlFlags).write(2);
        assert_eq!(map(), buffer.address());
        assert_eq!(code(&finding(|| _ = map())).0, 0xDA, "mapped already");
        assert_eq!(code(&finding(|| _ = call(k, "MmUnmapLockedPages", &[8, mdl.address()]))).0, 0xDA);
        call(k, "MmUnmapLockedPages", &[buffer.address(), mdl.address()]);
        assert_eq!(map(), buffer.address());
    });
}

#[test]
fn routines_are_found_by_name_and_unknown_names_are_not_guessed() {
    run(|k| {
        let text: Vec<u16> = "ExAllocatePool3".encode_utf16().collect();
        let units = k.memory.allocate_io_buffer(64).cast::<u16>();
        for (index, unit) in text.iter().enumerate() {
            units.offset(index).write(*unit);
        }
        let name = k.memory.allocate_io_buffer(16);
        name.cast::<u16>().write(30);
        name.cast::<u64>().offset(1).write(units.address());
        let found = call(k, "MmGetSystemRoutineAddress", &[name.address()]);
        assert_eq!(k.memory.space.kind(found), PageKind::KernelCode);
        units.write(u16::from(b'X'));
        let unknown = finding(|| _ = call(k, "MmGetSystemRoutineAddress", &[name.address()]));
        assert_eq!(unknown.sentence, "MmGetSystemRoutineAddress of XxAllocatePool3");
    });
}
