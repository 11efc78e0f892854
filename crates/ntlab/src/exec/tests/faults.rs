//! Bad accesses of driver code, told apart.

use super::guest::{Guest, Running};
use crate::{
    config::Checks,
    finding::{Cause, Finding},
    irql::{APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL},
    memory::{GuardMethod, Owner, PoolKind, Ptr, Request},
};

fn code(finding: &Finding) -> u32 {
    match finding.cause {
        Cause::BugCheck { code, .. } => code,
        Cause::NotModelled | Cause::BrokenPromise => panic!("not a verdict: {}", finding.sentence),
    }
}

fn allocate(guest: &Running<'_>, kind: PoolKind, bytes: u64) -> Ptr<u8> {
    let request = Request { kind, owner: Owner::Driver, ..Request::kernel(bytes, b"Test") };
    guest.k.memory.allocate(guest.k, request).expect("there is memory")
}

#[test]
fn a_write_beyond_the_end_of_a_block_faults() {
    Guest::new().run(|guest| {
        let block = allocate(guest, PoolKind::NonPaged, 32);
        let finding = guest.finding("write_to", block.address() + 32, 5);
        assert_eq!(code(&finding), 0xD6);
        assert_eq!(finding.sentence, "write to memory beyond the end of a pool block of 32 bytes, tag 'Test'");
    });
}

#[test]
fn a_freed_block_faults() {
    Guest::new().run(|guest| {
        let block = allocate(guest, PoolKind::NonPaged, 200);
        guest.k.memory.free_pool(guest.k, block, None);
        let finding = guest.finding("read_from", block.address(), 0);
        assert_eq!(code(&finding), 0xD5);
        assert_eq!(finding.sentence, "read of a pool block of 200 bytes, tag 'Test' that was freed");
    });
}

#[test]
fn a_write_into_the_slack_behind_a_block_is_found_when_it_is_freed() {
    Guest::new().run(|guest| {
        let block = allocate(guest, PoolKind::NonPaged, 33);
        guest.call("write_to", block.address() + 33, 5);
        let finding = guest.unwinds_in(|| guest.k.memory.free_pool(guest.k, block, None));
        assert_eq!(code(&finding), 0xC1);
    });
}

#[test]
fn a_write_before_a_block_is_found_when_it_is_freed() {
    Guest::new().run(|guest| {
        let block = allocate(guest, PoolKind::NonPaged, 32);
        guest.call("write_to", block.address() - 4, 5);
        let finding = guest.unwinds_in(|| guest.k.memory.free_pool(guest.k, block, None));
        assert_eq!(code(&finding), 0xC1);
    });
}

#[test]
fn a_second_free_a_wrong_tag_and_a_wrong_address_are_told_apart() {
    Guest::new().run(|guest| {
        let memory = &guest.k.memory;
        let block = allocate(guest, PoolKind::NonPaged, 32);
        let wrong_tag = guest.unwinds_in(|| memory.free_pool(guest.k, block, Some(u32::from_le_bytes(*b"Else"))));
        let block = allocate(guest, PoolKind::NonPaged, 32);
        let inside = guest.unwinds_in(|| memory.free_pool(guest.k, Ptr::new(block.address() + 8), None));
        memory.free_pool(guest.k, block, Some(u32::from_le_bytes(*b"Test")));
        let twice = guest.unwinds_in(|| memory.free_pool(guest.k, block, None));
        let never = guest.unwinds_in(|| memory.free_pool(guest.k, Ptr::new(0x1000), None));
        let first_parameters = [&wrong_tag, &inside, &twice, &never].map(|finding| match finding.cause {
            Cause::BugCheck { code, parameters } => (code, parameters[0]),
            Cause::NotModelled | Cause::BrokenPromise => panic!("a verdict"),
        });
        assert_eq!(first_parameters, [(0xC2, 0x0A), (0xC4, 0x13E), (0xC4, 0x13), (0xC4, 0x10)]);
    });
}

#[test]
fn a_stack_overflow_is_told_from_other_faults() {
    Guest::new().run(|guest| {
        let finding = guest.finding("overflow", 0, 1);
        assert_eq!(code(&finding), 0x7F);
        assert_eq!(finding.sentence, "write to the guard page of a kernel stack: the stack has overflowed");
    });
}

#[test]
fn a_call_into_the_driver_with_little_stack_left_is_found_before_it_overflows() {
    Guest::new().run(|guest| {
        let finding = guest.finding("nest", 1000, 0);
        assert_eq!(code(&finding), 0x7F);
        assert!(finding.sentence.contains("bytes of kernel stack left"), "{}", finding.sentence);
    });
}

#[test]
fn null_pointers_and_addresses_where_nothing_is_are_told_apart() {
    Guest::new().run(|guest| {
        assert_eq!(guest.finding("write_to", 0, 5).sentence, "write to a null pointer");
        assert_eq!(guest.finding("read_from", 0x18, 5).sentence, "read of a null pointer");
        assert_eq!(guest.finding("call_to", 0, 5).sentence, "execution of a null function pointer");
        assert_eq!(guest.finding("read_from", 0x10_0000, 5).sentence, "read of an address where nothing is");
        assert_eq!(guest.finding("read_from", 1 << 60, 5).sentence, "access to an address that cannot exist");
    });
}

#[test]
fn a_pointer_out_of_freed_or_uninitialized_memory_is_recognised() {
    Guest::new().run(|guest| {
        let object: Ptr<u64> = guest.k.memory.allocate_object();
        guest.k.memory.free_object(object);
        let finding = guest.finding("read_from", object.read(), 0);
        assert_eq!(finding.sentence, "access to a pointer from a kernel structure that was freed");
        let request = Request { zeroed: false, ..Request::kernel(8, b"Test") };
        let block = guest.k.memory.allocate(guest.k, request).expect("there is memory").cast::<u64>();
        let finding = guest.finding("read_from", block.read(), 0);
        assert_eq!(finding.sentence, "access to a pointer from pool that was not initialized");
    });
}

#[test]
fn code_and_constants_cannot_be_written() {
    Guest::new().run(|guest| {
        assert_eq!(code(&guest.finding("write_read_only", 0, 0)), 0xBE);
        assert_eq!(code(&guest.finding("write_to", guest.function("add"), 5)), 0xBE);
    });
}

#[test]
fn pool_cannot_be_executed_unless_it_was_asked_for() {
    Guest::new().run(|guest| {
        let block = allocate(guest, PoolKind::NonPaged, 64);
        assert_eq!(code(&guest.finding("call_to", block.address(), 0)), 0xFC);
    });
}

#[test]
fn init_code_is_gone_after_initialization() {
    Guest::new().run(|guest| {
        assert_eq!(guest.call("DriverEntry", 0, 0), 0x1234);
        guest.k.exec.discard_init(&guest.image);
        let finding = guest.finding("DriverEntry", 0, 0);
        assert_eq!(finding.sentence, "execution of an INIT section, which is discarded after DriverEntry");
    });
}

#[test]
fn an_unloaded_image_faults() {
    Guest::new().run(|guest| {
        guest.k.exec.unload(&guest.image);
        assert_eq!(code(&guest.finding("add", 1, 2)), 0xCE);
    });
}

#[test]
fn pageable_code_and_paged_pool_fault_at_dispatch_level_and_only_there() {
    Guest::new().run(|guest| {
        let space = &guest.k.memory.space;
        let block = allocate(guest, PoolKind::Paged, 64);
        for _ in 0..2 {
            space.set_irql(PASSIVE_LEVEL);
            assert_eq!(guest.call("pageable", 1, 2), 3);
            assert_eq!(guest.call("read_from", block.address(), 0), 0);
            assert_eq!(block.read(), 0);
            space.set_irql(DISPATCH_LEVEL);
            assert_eq!(guest.call("add", 1, 2), 3);
            assert_eq!(code(&guest.finding("pageable", 1, 2)), 0xD1);
            assert_eq!(code(&guest.finding("read_from", block.address(), 0)), 0xD1);
            assert_eq!(code(&guest.unwinds_in(|| _ = block.read())), 0x0A);
        }
    });
}

#[test]
fn pageable_code_that_calls_the_kernel_or_is_called_at_dispatch_level_is_found_at_every_raise() {
    Guest::new().run(|guest| {
        let space = &guest.k.memory.space;
        for _ in 0..1000 {
            space.set_irql(PASSIVE_LEVEL);
            assert_eq!(guest.call("pageable_call", 0, 0), 0);
            space.set_irql(DISPATCH_LEVEL);
            assert_eq!(code(&guest.finding("pageable_call", 0, 0)), 0xD1);
            space.set_irql(PASSIVE_LEVEL);
            assert_eq!(code(&guest.finding("pageable_call", 1, 0)), 0xD1);
        }
    });
}

#[test]
fn without_page_checks_paged_pool_stays_where_it_is() {
    Guest::new().run(|guest| {
        let space = &guest.k.memory.space;
        let block = allocate(guest, PoolKind::Paged, 64);
        space.set_checks(Checks::Traces);
        space.set_irql(DISPATCH_LEVEL);
        assert_eq!(guest.call("read_from", block.address(), 0), 0);
    });
}

#[test]
fn pageable_code_that_runs_on_its_own_at_dispatch_level_is_found_at_every_raise() {
    Guest::new().run(|guest| {
        let space = &guest.k.memory.space;
        let found = |_: &u32| {
            space.set_irql(PASSIVE_LEVEL);
            guest.call("pageable", 1, 2);
            space.set_irql(DISPATCH_LEVEL);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| guest.call("jump_to_pageable", 1, 2))).is_err()
        };
        assert_eq!((0..500).filter(found).count(), 500);
    });
}

#[test]
fn page_protection_guards_like_markers_do() {
    Guest::guarded_by(GuardMethod::Protection).run(|guest| {
        let blocks: Vec<_> = (0..200).map(|_| allocate(guest, PoolKind::NonPaged, 32)).collect();
        for block in blocks {
            assert_eq!(code(&guest.finding("write_to", block.address() + 32, 5)), 0xD6);
            guest.k.memory.free_pool(guest.k, block, None);
            assert_eq!(code(&guest.finding("read_from", block.address(), 0)), 0xD5);
        }
        assert_eq!(code(&guest.finding("overflow", 0, 1)), 0x7F);
        let paged = allocate(guest, PoolKind::Paged, 64);
        guest.k.memory.space.set_irql(DISPATCH_LEVEL);
        assert_eq!(code(&guest.finding("read_from", paged.address(), 0)), 0xD1);
        assert_eq!(code(&guest.finding("pageable", 1, 2)), 0xD1);
        guest.k.memory.space.set_irql(PASSIVE_LEVEL);
        assert_eq!(guest.call("read_from", paged.address(), 0), 0);
        guest.k.memory.free_pool(guest.k, paged, None);
        assert_eq!(guest.call("nest", 40, 0), 80);
    });
}

#[test]
fn processor_exceptions_are_told_apart() {
    Guest::new().run(|guest| {
        assert_eq!(guest.finding("divide", 1, 0).sentence, "integer division by zero in the driver");
        assert_eq!(guest.finding("breakpoint", 0, 0).sentence, "breakpoint in the driver");
        assert_eq!(guest.finding("undefined", 0, 0).sentence, "illegal instruction in the driver");
        assert_eq!(code(&guest.finding("fast_fail", 3, 0)), 0x139);
        assert_eq!(guest.call("divide", 42, 6), 7);
    });
}

#[test]
fn the_irql_is_where_inlined_functions_look_for_it() {
    Guest::new().run(|guest| {
        assert_eq!(guest.call("read_cr8", 0, 0), u64::from(PASSIVE_LEVEL.0));
        guest.call("write_cr8", APC_LEVEL.0.into(), 0);
        assert_eq!(guest.k.irql(), APC_LEVEL);
        assert_eq!(guest.call("read_cr8", 0, 0), u64::from(APC_LEVEL.0));
        guest.call("write_cr8", PASSIVE_LEVEL.0.into(), 0);
        assert_eq!(guest.k.irql(), PASSIVE_LEVEL);
    });
}

#[test]
fn what_is_behind_gs_is_refused_by_name() {
    Guest::new().run(|guest| {
        let finding = guest.finding("read_processor_control", 0, 0);
        assert_eq!(finding.sentence, "direct use of the processor control region, gs:[0x20]");
    });
}

#[test]
fn machines_on_several_threads_at_once_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    Guest::new().run(|guest| {
                        assert_eq!(guest.call("nest", 10, 0), 20);
                        assert_eq!(code(&guest.finding("overflow", 0, 1)), 0x7F);
                        assert_eq!(guest.call("sum_loop", 100, 0), (0..100).sum::<u64>() + 900);
                    });
                }
            });
        }
    });
}

#[test]
fn an_access_before_a_block_of_pages_faults_and_names_that_block() {
    Guest::new().run(|guest| {
        let _first = allocate(guest, PoolKind::NonPaged, 4096);
        let block = allocate(guest, PoolKind::NonPaged, 5000);
        let finding = guest.finding("read_from", block.address() - 8, 0);
        assert_eq!(code(&finding), 0xD6);
        assert_eq!(finding.sentence, "read of memory before the start of a pool block of 5000 bytes, tag 'Test'");
        let last_byte = block.address() + 2 * 4096;
        assert_eq!(code(&guest.finding("read_from", last_byte, 0)), 0xD6);
    });
}

#[test]
fn a_freed_block_of_pages_faults_and_so_do_its_guards() {
    Guest::new().run(|guest| {
        let block = allocate(guest, PoolKind::NonPaged, 4096);
        guest.k.memory.free_pool(guest.k, block, None);
        let accesses = [block.address() - 8, block.address(), block.address() + 4096];
        let codes = accesses.map(|address| code(&guest.finding("read_from", address, 0)));
        assert_eq!(codes, [0xD6, 0xD5, 0xD6]);
    });
}
