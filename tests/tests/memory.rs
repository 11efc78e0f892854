//! Memory that arrives: the driver looks, its buffer pool grows, and nothing else happens, however it is told.

use hotadd_abi::{Event, EventKind};
use hotadd_tests::{Bench, POOL_SHARE, Traffic, each_seed, on_bench, quick_edu, run, small, sys};
use ntlab::{machine::System, registry::Value, user::Request};

const MIB: u64 = 1 << 20;
const BUFFER_BYTES: u64 = hotadd_abi::BUFFER_BYTES as u64;

/// Nanoseconds in which the thread that waits for the high memory condition has looked again.
const SOON: u64 = 30_000_000_000;

/// Lets notifications arrive, and the driver's work item do what they lead to.
fn settle(system: &System) {
    system.settle();
    system.sleep(100_000_000);
}

/// How much memory the driver thinks there is, and how large its pool is.
fn sizes(bench: Bench<'_>) -> (u64, u64) {
    let status = bench.edu_status();
    (status.memory_bytes, status.pool_bytes)
}

/// What the journal says of growth: each step begins where the one before it ended.
fn steps(events: &[Event]) -> Vec<(u64, u64)> {
    let steps: Vec<_> = events.iter().map(|event| (event.before, event.count)).collect();
    assert!(steps.windows(2).all(|pair| pair[0].1 == pair[1].0), "{steps:?}");
    assert!(steps.iter().all(|(before, after)| before < after), "{steps:?}");
    steps
}

#[test]
fn a_module_makes_the_pool_grow_by_its_share() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            settle(bench.system);
            let (memory, pool) = sizes(bench);
            assert_eq!(pool, memory / POOL_SHARE);
            assert_eq!(bench.system.add_memory(1024 * MIB, 0), Ok(()));
            settle(bench.system);
            assert_eq!(sizes(bench), (memory + 1024 * MIB, pool + 1024 * MIB / POOL_SHARE));
            let status = bench.edu_status();
            assert_eq!((status.memory_bytes_at_load, status.pool_bytes_at_load), (memory, pool));

            assert_eq!(bench.events(EventKind::MemoryArrival).len(), 1);
            assert_eq!(steps(&bench.events(EventKind::MemoryGrew)), [(memory, memory + 1024 * MIB)]);
            assert_eq!(steps(&bench.events(EventKind::PoolGrew)), [(pool, pool + 1024 * MIB / POOL_SHARE)]);
        });
    });
}

#[test]
fn modules_at_once_are_counted_once_each_however_their_notifications_fall() {
    each_seed(12, |seed| {
        on_bench(seed, |bench| {
            let (memory, pool) = sizes(bench);
            for module in 0..4 {
                assert_eq!(bench.system.add_memory(256 * MIB, 0), Ok(()));
                bench.system.sleep(seed * module * 10_000);
            }
            settle(bench.system);
            assert_eq!(sizes(bench), (memory + 1024 * MIB, pool + 1024 * MIB / POOL_SHARE));
            assert_eq!(bench.events(EventKind::MemoryArrival).len(), 4);
            // The first arrival may find all of them; the others then change nothing.
            let grew = steps(&bench.events(EventKind::MemoryGrew));
            assert_eq!((grew[0].0, grew[grew.len() - 1].1), (memory, memory + 1024 * MIB));
        });
    });
}

#[test]
fn the_pool_grows_while_its_buffers_are_in_use() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let (memory, pool) = sizes(bench);
            let traffic = Traffic::start(bench, 32, seed);
            for _ in 0..3 {
                traffic.run(40);
                assert_eq!(bench.system.add_memory(16_384 * MIB, 0), Ok(()));
            }
            traffic.run(40);
            settle(bench.system);
            traffic.stop_unharmed();
            assert_eq!(sizes(bench), (memory + 49_152 * MIB, pool + 49_152 * MIB / POOL_SHARE));
        });
    });
}

#[test]
fn the_pool_keeps_the_buffers_that_were_needed_at_a_time() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let (_, pool) = sizes(bench);
            let device = bench.open_edu();
            // All but the one at the device wait, each with its bytes in a buffer.
            let writes = (0..pool / BUFFER_BYTES + 8).map(|_| Request::Write { offset: 0, data: vec![7; 16] });
            let pending: Vec<_> = writes.map(|write| device.submit(write)).collect();
            let (_, needed) = sizes(bench);
            assert!(needed > pool, "more than the pool had: {needed}");
            assert!(pending.into_iter().all(|write| write.wait().status.is_success()));
            assert!(sizes(bench).1 >= needed, "none is given up when the requests have ended");
        });
    });
}

#[test]
fn a_pool_that_could_not_grow_says_so_and_grows_with_the_next_module() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            settle(bench.system);
            let (memory, pool) = sizes(bench);
            bench.system.fail_call(3);
            assert_eq!(bench.system.add_memory(1024 * MIB, 0), Ok(()));
            settle(bench.system);
            assert!(!bench.system.failed_calls().is_empty(), "growing takes memory");
            let failed = bench.events(EventKind::PoolGrowthFailed);
            assert_eq!(failed.len(), 1);
            assert_eq!((failed[0].before, failed[0].count), (pool, bench.edu_status().pool_bytes));
            assert_eq!(bench.system.add_memory(256 * MIB, 0), Ok(()));
            settle(bench.system);
            assert_eq!(sizes(bench), (memory + 1280 * MIB, pool + 1280 * MIB / POOL_SHARE));
        });
    });
}

#[test]
fn memory_that_no_device_announces_is_seen_with_the_next_one() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            settle(bench.system);
            let before = sizes(bench);
            assert_eq!(bench.system.add_memory_without_device(512 * MIB, 0), Ok(()));
            bench.system.set_high_memory_condition(true);
            bench.system.sleep(SOON);
            assert_eq!(sizes(bench), before, "nobody waits for the condition unless a parameter asks for it");
            assert_eq!(bench.system.add_memory(256 * MIB, 0), Ok(()));
            settle(bench.system);
            assert_eq!(sizes(bench), (before.0 + 768 * MIB, before.1 + 768 * MIB / POOL_SHARE));
            assert!(bench.events(EventKind::HighMemory).is_empty());
        });
    });
}

/// Runs `scenario` where the driver waits for the high memory condition.
fn with_high_memory(seeds: u64, scenario: impl Fn(Bench<'_>)) {
    each_seed(seeds, |seed| {
        run(small().with_seed(seed), |system| {
            let package = workload::package(sys()).with_parameter("HighMemoryNotification", Value::dword(1));
            let bench = Bench::with(system, package, quick_edu());
            settle(system);
            scenario(bench);
            bench.end();
        });
    });
}

#[test]
fn where_the_parameter_asks_for_it_the_high_memory_condition_makes_the_driver_look() {
    with_high_memory(6, |bench| {
        let (memory, pool) = sizes(bench);
        for round in 1..=2 {
            assert_eq!(bench.system.add_memory_without_device(256 * MIB, 0), Ok(()));
            bench.system.set_high_memory_condition(true);
            bench.system.sleep(SOON);
            assert_eq!(sizes(bench), (memory + round * 256 * MIB, pool + round * 256 * MIB / POOL_SHARE));
            assert_eq!(bench.events(EventKind::HighMemory).len() as u64, round);
            bench.system.set_high_memory_condition(false);
        }
    });
}

#[test]
fn a_high_memory_condition_without_more_memory_is_no_event() {
    with_high_memory(4, |bench| {
        let before = sizes(bench);
        for plentiful in [true, false, true] {
            bench.system.set_high_memory_condition(plentiful);
            bench.system.sleep(SOON);
        }
        assert_eq!(sizes(bench), before);
        assert!(bench.events(EventKind::HighMemory).is_empty());
    });
}

#[test]
fn condition_and_notification_together_count_a_module_once() {
    with_high_memory(8, |bench| {
        let (memory, pool) = sizes(bench);
        bench.system.set_high_memory_condition(true);
        assert_eq!(bench.system.add_memory(512 * MIB, 0), Ok(()));
        settle(bench.system);
        bench.system.sleep(SOON);
        assert_eq!(sizes(bench), (memory + 512 * MIB, pool + 512 * MIB / POOL_SHARE));
        assert_eq!(steps(&bench.events(EventKind::MemoryGrew)).len(), 1);
    });
}
