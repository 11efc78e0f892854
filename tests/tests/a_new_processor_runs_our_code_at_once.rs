//! A processor can run our dispatch routines the instant AddStart returns.

use std::cell::Cell;

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, Traffic, each_seed, on_bench, quick_edu, run, small, sys, with_all_seeds};
use ntlab::hot_add::NewProcessor;

/// Requests that arrived on processors before AddComplete was delivered for them.
fn early(bench: Bench<'_>) -> u64 {
    let statistics = workload::processors(&bench.open_software()).expect("statistics can be read");
    statistics.iter().map(|processor| u64::from(processor.early_requests)).sum()
}

#[test]
fn it_serves_requests_before_add_complete() {
    let served = Cell::new(0);
    each_seed(4, |seed| {
        run(small().with_seed(seed), |system| {
            // Without a rebalance, for which the software device's requests would not wait.
            let bench = Bench::with(system, workload::package(sys()), quick_edu().with_rebalance_policy(1));
            let traffic = Traffic::start_dense(bench, 48, seed);
            traffic.run(100);
            for _ in 2..8 {
                system.add_processor(NewProcessor::default()).expect("there is room");
            }
            traffic.run(200);
            served.update(|served| served + early(bench));
            traffic.stop_unharmed();
            bench.end();
        });
    });
    assert!(served.get() > 0 || !with_all_seeds(), "the scenario never came to what it is for");
}

#[test]
fn once_it_has_joined_work_is_steered_to_it() {
    each_seed(8, |seed| {
        on_bench(seed, |bench| {
            let traffic = Traffic::start(bench, 32, seed);
            for _ in 2..8 {
                bench.system.add_processor(NewProcessor::default()).expect("there is room");
            }
            traffic.run(300);
            bench.system.settle();
            traffic.stop_unharmed();
            let statistics = workload::processors(&bench.open_software()).expect("statistics can be read");
            assert!(statistics.iter().all(|processor| processor.steered == 1 && processor.dpcs > 0), "{statistics:?}");
            let joined = bench.events(EventKind::ProcessorAddComplete);
            assert_eq!(joined.len(), 8);
        });
    });
}

#[test]
fn a_processor_that_never_comes_is_never_steered_to() {
    each_seed(8, |seed| {
        on_bench(seed, |bench| {
            let traffic = Traffic::start(bench, 16, seed);
            for _ in 0..3 {
                let fails = Some(hotadd_tests::status::UNSUCCESSFUL);
                let failed = bench.system.add_processor(NewProcessor { fails, ..NewProcessor::default() });
                assert_eq!(failed, Err(hotadd_tests::status::UNSUCCESSFUL));
                traffic.run(30);
            }
            let status = bench.edu_status();
            assert_eq!((status.processors_known, status.processors_steered, status.processors_active), (2, 2, 2));
            traffic.stop_unharmed();
        });
    });
}
