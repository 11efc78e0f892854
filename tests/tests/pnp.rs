//! PnP requests beside start, stop and removal: files in the device's path, and requests that are none of the driver's business.

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, Traffic, each_seed, on_bench, run, small, status};
use ntlab::{
    config::Config,
    events::Kind,
    hot_add::NewProcessor,
    machine::Machine,
    pnp::{Rebalance, Usage},
    user,
};

const USAGES: [Usage; 3] = [Usage::Paging, Usage::Hibernation, Usage::Dump];

#[test]
fn a_device_with_a_paging_hibernation_or_dump_file_in_its_path_is_not_stopped() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            for usage in USAGES {
                assert_eq!(bench.edu.set_in_path(bench.system, usage, true), Ok(()));
                assert!(matches!(bench.edu.query_stop(bench.system), Err(status) if !status.is_success()));
                assert!(matches!(bench.edu.rebalance(bench.system), Rebalance::Refused(_)));
                traffic.run(10);
                assert_eq!(bench.edu.set_in_path(bench.system, usage, false), Ok(()));
                assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
                traffic.run(10);
            }
            traffic.stop_unharmed();
            assert_eq!(bench.edu_status().rebalances, 3);
        });
    });
}

#[test]
fn files_are_counted_so_that_the_last_one_counts() {
    each_seed(2, |seed| {
        on_bench(seed, |bench| {
            let set = |usage, in_path| assert_eq!(bench.edu.set_in_path(bench.system, usage, in_path), Ok(()));
            set(Usage::Paging, true);
            set(Usage::Dump, true);
            set(Usage::Paging, false);
            assert!(bench.edu.query_stop(bench.system).is_err());
            set(Usage::Dump, false);
            assert_eq!(bench.edu.query_stop(bench.system), Ok(()));
            let counts: Vec<_> = bench.events(EventKind::UsageChanged).iter().map(|event| event.count).collect();
            assert_eq!(counts, [1, 2, 1, 0]);
        });
    });
}

#[test]
fn another_device_with_such_a_file_does_not_keep_this_one_from_working() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            assert_eq!(bench.software.set_in_path(bench.system, Usage::Paging, true), Ok(()));
            let traffic = Traffic::start(bench, 8, seed);
            assert_eq!(bench.system.add_processor(NewProcessor::default()), Ok(2));
            assert!(bench.system.rebalance().iter().all(|outcome| matches!(outcome, Rebalance::Refused(_))));
            traffic.run(40);
            traffic.stop_unharmed();
            assert_eq!(bench.software.set_in_path(bench.system, Usage::Paging, false), Ok(()));
        });
    });
}

#[test]
fn a_request_that_no_driver_knows_comes_back_as_it_was_sent() {
    each_seed(2, |seed| {
        let config = Config { keep_trace: true, ..small() };
        let outcome = Machine::new(config.with_seed(seed)).expect("the machine makes sense").run(|system| {
            Bench::new(system).end();
        });
        // The lab judges it; here it is held that it was sent, to both devices.
        if let Err(report) = outcome.result {
            panic!("{report}");
        }
        let notes = outcome.events.iter().filter_map(|event| match &event.kind {
            Kind::Note(text) => Some(text.as_ref()),
            _ => None,
        });
        let unknown = notes.filter(|text| text.starts_with("PnP request") && text.ends_with("0xc00000bb")).count();
        assert!(unknown >= 2, "{unknown} requests came back as not supported");
    });
}

#[test]
fn surprise_removal_is_nothing_to_be_asked_about() {
    each_seed(2, |seed| {
        run(small().with_seed(seed), |system| {
            let bench = Bench::new(system);
            assert_eq!(bench.edu.set_in_path(system, Usage::Hibernation, true), Ok(()));
            let device = bench.open_edu();
            bench.edu.surprise_remove(system);
            let refused = workload::factorial(&device, 3).err();
            assert_eq!(refused, Some(status::DELETE_PENDING));
            assert_ne!(refused, Some(user::Status::SUCCESS));
            drop(device);
            bench.end();
        });
    });
}
