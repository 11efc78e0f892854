//! A processor can run our dispatch routines the instant AddStart returns.

use hotadd_abi::EventKind;
use hotadd_tests::{Traffic, each_seed, on_bench, requests_come_before_add_complete, sys};
use ntlab::hot_add::NewProcessor;

#[test]
fn it_serves_requests_before_add_complete() {
    requests_come_before_add_complete(sys());
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
