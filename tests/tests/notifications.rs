//! The asynchronous notifications: they do not keep the driver loaded, and it does not matter when they come.

use std::{cell::Cell, collections::BTreeSet};

use hotadd_abi::{EventKind, ProcessorStatistics};
use hotadd_tests::{
    Bench, POOL_SHARE, SERVICE, Traffic, each_seed, end, on_bench, quick_edu, run, small, sys, with_all_seeds,
};
use ntlab::{faults::Plan, hot_add::NewProcessor, pnp::DeviceState};

fn add(bench: Bench<'_>) -> u32 {
    let added = bench.system.add_processor(NewProcessor::default()).expect("there is room");
    bench.system.settle();
    added
}

fn statistics(bench: Bench<'_>) -> Vec<ProcessorStatistics> {
    workload::processors(&bench.open_software()).expect("statistics can be read")
}

/// How often they were registered and let go, as far as the journal of the driver that is loaded knows.
fn registered_and_released(bench: Bench<'_>) -> [usize; 2] {
    [EventKind::NotificationsRegistered, EventKind::NotificationsReleased].map(|kind| bench.events(kind).len())
}

fn disable_both(bench: Bench<'_>) {
    for device in [bench.edu, bench.software] {
        assert_eq!(device.disable(bench.system), Ok(()));
    }
}

fn enable_both(bench: Bench<'_>) {
    for device in [bench.edu, bench.software] {
        assert_eq!(device.enable(bench.system), Ok(()));
    }
    bench.system.settle();
}

/// The lab unloads a driver without devices now and then, which fails while it has registrations; else it is used again as it is.
#[test]
fn with_the_last_device_they_are_let_go_so_that_the_driver_is_unloaded_and_with_the_next_they_are_made_again() {
    let ends = Cell::new([0; 2]);
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let mut expected = [1, 0];
            for _ in 0..4 {
                disable_both(bench);
                let stayed = bench.system.is_loaded(SERVICE);
                let mut seen = ends.get();
                seen[usize::from(stayed)] += 1;
                ends.set(seen);
                enable_both(bench);
                expected = if stayed { [expected[0] + 1, expected[1] + 1] } else { [1, 0] };
                assert_eq!(registered_and_released(bench), expected);
            }
        });
    });
    if with_all_seeds() {
        assert!(ends.get().iter().all(|count| *count > 0), "unloaded and not: {:?}", ends.get());
    }
}

#[test]
fn a_driver_that_was_without_devices_is_told_again() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            disable_both(bench);
            enable_both(bench);
            assert!(bench.events(EventKind::ProcessorArrival).is_empty());
            add(bench);
            assert_eq!(bench.system.add_memory(256 << 20, 0), Ok(()));
            bench.system.settle();
            let counts = [EventKind::ProcessorArrival, EventKind::MemoryArrival].map(|kind| bench.events(kind).len());
            assert_eq!(counts, [1, 1]);
        });
    });
}

#[test]
fn what_came_while_there_was_no_device_is_found_with_the_next() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let before = bench.edu_status();
            disable_both(bench);
            add(bench);
            assert_eq!(bench.system.add_memory(256 << 20, 0), Ok(()));
            bench.system.settle();
            enable_both(bench);
            // A work item looks.
            bench.system.sleep(100_000_000);
            let after = bench.edu_status();
            assert_eq!(after.processors_steered, before.processors_steered + 1);
            assert_eq!(after.memory_bytes, before.memory_bytes + (256 << 20));
            assert_eq!(after.pool_bytes, before.pool_bytes + (256 << 20) / POOL_SHARE);
            assert!(bench.events(EventKind::MemoryArrival).is_empty(), "nobody told the driver");
        });
    });
}

#[test]
fn one_device_that_goes_does_not_end_them_for_the_other() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            assert_eq!(bench.edu.disable(bench.system), Ok(()));
            add(bench);
            assert_eq!(bench.events(EventKind::ProcessorArrival).len(), 1);
            assert!(bench.events(EventKind::NotificationsReleased).is_empty());
            assert_eq!(bench.edu.enable(bench.system), Ok(()));
            assert_eq!(bench.events(EventKind::NotificationsRegistered).len(), 1, "they were never let go");
        });
    });
}

#[test]
fn a_driver_none_of_whose_devices_could_be_added_is_unloaded() {
    let unloaded = Cell::new(0);
    // Each seed fails another call; some of them are made by AddDevice.
    each_seed(60, |seed| {
        run(small().with_seed(seed), |system| {
            system.install(workload::package(sys()));
            system.fail_call(seed + 1);
            let device = system.plug(workload::software());
            system.fail_call(0);
            system.settle();
            if let DeviceState::Failed(_) = device.state(system) {
                assert!(!system.is_loaded(SERVICE), "the registrations do not keep it");
                unloaded.update(|unloaded| unloaded + 1);
            } else {
                assert_eq!(system.unload(SERVICE), Ok(()));
            }
        });
    });
    assert!(unloaded.get() > 0 || !with_all_seeds(), "the scenario never came to what it is for");
}

#[test]
fn before_or_after_add_complete_an_arrival_leads_to_the_same_plan() {
    let orders = Cell::new([0; 2]);
    let plans = Cell::new(BTreeSet::new());
    each_seed(24, |seed| {
        on_bench(seed, |bench| {
            let system = bench.system;
            for _ in 0..3 {
                system.add_processor(NewProcessor::default()).expect("there is room");
            }
            system.settle();
            let journal = bench.journal();
            let place = |kind: EventKind, after: usize| {
                let kinds = journal.iter().map(|event| event.kind);
                kinds.enumerate().filter(|(_, of)| *of == kind.code()).nth(after).map(|(place, _)| place)
            };
            // Two processors were there from the start; their AddComplete comes first.
            let is_late = place(EventKind::ProcessorArrival, 0) > place(EventKind::ProcessorAddComplete, 2);
            let mut seen = orders.get();
            seen[usize::from(is_late)] += 1;
            orders.set(seen);

            let traffic = Traffic::start(bench, 8, seed);
            traffic.run(200);
            traffic.stop_unharmed();
            let served = statistics(bench);
            let plan: Vec<_> = served.iter().map(|own| (own.index, own.node, own.steered, own.requests > 0)).collect();
            let mut all = plans.take();
            all.insert(plan);
            plans.set(all);
        });
    });
    let plan = (0..5).map(|index| (index, 0, 1, true)).collect::<Vec<_>>();
    assert_eq!(plans.take(), BTreeSet::from([plan]), "all five, on every run");
    if with_all_seeds() {
        assert!(orders.get().iter().all(|count| *count > 0), "both orders: {:?}", orders.get());
    }
}

/// Else the lab cannot unload the driver.
#[test]
fn a_device_that_cannot_be_made_or_attached_lets_them_go() {
    for function in ["IoCreateDevice", "IoAttachDeviceToDeviceStackSafe"] {
        each_seed(4, |seed| {
            run(small().with_seed(seed), |system| {
                system.install(workload::package(sys()));
                system.set_faults(Plan::of_function(function, 1));
                let edu = system.plug(quick_edu());
                assert!(matches!(edu.state(system), DeviceState::Failed(_)), "{function} fails");
                system.end_faults();
                end(system);
            });
        });
    }
}
