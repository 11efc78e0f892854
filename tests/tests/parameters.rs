//! Parameters take effect; bad values fall back to their defaults, and the journal says so.

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, each_seed, quick_edu, run, small, status, sys};
use ntlab::{config::Config, registry::Value, user::Request};

/// Runs `scenario` where the driver has these parameters.
fn with(parameters: &[(&str, Value)], scenario: impl Fn(Bench<'_>)) {
    each_seed(1, |seed| {
        let config = Config { memory: 16 << 30, ..small() };
        run(config.with_seed(seed), |system| {
            let package = workload::package(sys());
            let package =
                parameters.iter().fold(package, |package, (name, value)| package.with_parameter(name, value.clone()));
            let bench = Bench::with(system, package, quick_edu());
            scenario(bench);
            bench.end();
        });
    });
}

/// The numbers of the parameters that were ignored.
fn ignored(bench: Bench<'_>) -> Vec<u64> {
    bench.events(EventKind::ParameterIgnored).iter().map(|event| event.count).collect()
}

#[test]
fn without_any_the_defaults_hold_and_nothing_is_ignored() {
    with(&[], |bench| {
        assert!(ignored(bench).is_empty());
        assert_eq!(bench.edu_status().pool_bytes, 256 << 10);
    });
}

#[test]
fn the_pool_has_its_maximum() {
    with(&[("BufferPoolMaximum", Value::dword(128 << 10))], |bench| {
        assert!(ignored(bench).is_empty());
        assert_eq!(bench.edu_status().pool_bytes, 128 << 10);
        assert_eq!(bench.system.add_memory(64 << 30, 0), Ok(()));
        bench.system.settle();
        assert_eq!(bench.edu_status().pool_bytes, 128 << 10);
    });
}

#[test]
fn the_journal_has_its_length_rounded_up_to_a_power_of_two() {
    for (asked, kept) in [(64, 64), (65, 128)] {
        with(&[("JournalEvents", Value::dword(asked))], |bench| {
            for _ in 0..24 {
                bench.edu.rebalance(bench.system);
            }
            let journal = workload::journal_from(&bench.open_edu(), 0).expect("it can be read");
            assert_eq!(journal.events.len(), kept);
            assert!(journal.missed > 0);
        });
    }
}

#[test]
fn as_many_may_wait_for_the_journal_as_it_says() {
    with(&[("JournalWaiters", Value::dword(2))], |bench| {
        let device = bench.open_edu();
        let next = workload::status(&device).expect("the driver answers").journal_next;
        let waiting = [(); 2].map(|()| device.submit(workload::journal(next).0));
        assert_eq!(device.submit(workload::journal(next).0).wait().status, status::INSUFFICIENT_RESOURCES);
        assert!(waiting.iter().all(|waiting| !waiting.is_done()));
        waiting[0].cancel();
        let another = device.submit(workload::journal(next).0);
        assert!(!another.is_done(), "there is room again");
    });
}

#[test]
fn a_request_takes_as_long_as_it_says() {
    for (milliseconds, seconds) in [(1_000, 1..3), (60_000, 60..62)] {
        with(&[("RequestTimeout", Value::dword(milliseconds))], |bench| {
            bench.edu.set_stuck(bench.system, true);
            let before = bench.system.now();
            let done = bench.open_edu().submit(Request::Read { offset: 0, length: 4 }).wait();
            assert_eq!(done.status, status::IO_TIMEOUT);
            let took = (bench.system.now() - before) / 1_000_000_000;
            assert!(seconds.contains(&took), "{took} s");
            bench.edu.set_stuck(bench.system, false);
            bench.system.sleep(10_000_000);
        });
    }
}

#[test]
fn bad_values_are_ignored_one_by_one() {
    let bad = [
        ("BufferPoolMaximum", Value::dword(65_535)),
        ("JournalEvents", Value::dword(65_537)),
        ("JournalWaiters", Value::dword(0)),
        ("RequestTimeout", Value::dword(999)),
        ("HighMemoryNotification", Value::dword(2)),
    ];
    for (number, parameter) in (1..).zip(&bad) {
        with(std::slice::from_ref(parameter), |bench| assert_eq!(ignored(bench), [number]));
    }
    with(&bad, |bench| {
        assert_eq!(ignored(bench), [1, 2, 3, 4, 5]);
        assert_eq!(bench.edu_status().pool_bytes, 256 << 10, "the default holds");
    });
}

#[test]
fn values_of_another_type_are_ignored() {
    for value in
        [Value::qword(100), Value { kind: 1, data: vec![b'6', 0, b'4', 0, 0, 0] }, Value { kind: 4, data: vec![] }]
    {
        with(&[("JournalEvents", value)], |bench| assert_eq!(ignored(bench), [2]));
    }
}

#[test]
fn the_limits_themselves_are_good_values() {
    for (name, least, most) in
        [("JournalEvents", 64, 65_536), ("JournalWaiters", 1, 1024), ("RequestTimeout", 1000, 600_000)]
    {
        for value in [least, most] {
            with(&[(name, Value::dword(value))], |bench| assert!(ignored(bench).is_empty()));
        }
    }
}
