//! Hardware that is slow, answers when nobody waits any more, interrupts without cause, or is gone before anybody is told.

use hotadd_tests::{Bench, Traffic, each_seed, on_bench, quick_edu, run, small, status, sys};
use ntlab::{
    pnp::{DeviceSpec, DeviceState},
    user::{Pending, Request},
};

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_slow_device_serves_every_request() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            bench.edu.set_latency(bench.system, 2 * SECOND);
            let traffic = Traffic::start_sparse(bench, 6, seed, &[]);
            traffic.run(30);
            bench.edu.rebalance(bench.system);
            traffic.run(30);
            traffic.stop_unharmed();
        });
    });
}

#[test]
fn a_device_that_answers_when_nobody_waits_any_more_is_used_again() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let handle = bench.open_edu();
            for _ in 0..2 {
                bench.edu.set_latency(bench.system, 15 * SECOND);
                let requests = [0, 64].map(|offset| Request::Write { offset, data: vec![7; 64] });
                for done in requests.map(|request| handle.submit(request)).map(Pending::wait) {
                    assert_eq!(done.status, status::IO_TIMEOUT);
                }
                bench.edu.set_latency(bench.system, 100_000);
                // The answers come now.
                bench.system.sleep(20 * SECOND);
                assert_eq!(handle.write(0, b"again"), Ok(5));
                assert_eq!(handle.read(0, 5).as_deref(), Ok(&b"again"[..]));
            }
        });
    });
}

fn serves_though_interrupted_without_cause(edu: &DeviceSpec) {
    each_seed(4, |seed| {
        run(small().with_seed(seed), |system| {
            let bench = Bench::with(system, workload::package(sys()), edu.clone());
            let traffic = Traffic::start(bench, 8, seed);
            let before: u64 = bench.edu.interrupt_counts(system).values().sum();
            for _ in 0..50 {
                traffic.run(2);
                bench.edu.interrupt_without_cause(system);
            }
            // While it is stopped and started, too.
            system.spawn("noise", move |system| {
                for _ in 0..200 {
                    bench.edu.interrupt_without_cause(system);
                    system.sleep(50_000);
                }
            });
            for _ in 0..3 {
                bench.edu.rebalance(system);
            }
            let counts = traffic.stop_unharmed();
            let after: u64 = bench.edu.interrupt_counts(system).values().sum();
            assert!(counts.completed >= 50 && after >= before + 50, "it was interrupted: {before} to {after}");
            bench.end();
        });
    });
}

#[test]
fn a_message_that_nobody_sent_harms_nothing() {
    serves_though_interrupted_without_cause(&quick_edu());
}

#[test]
fn another_device_on_the_line_harms_nothing() {
    serves_though_interrupted_without_cause(&quick_edu().with_line_interrupts_only());
}

#[test]
fn requests_end_on_a_device_that_is_gone_before_anybody_is_told() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let expected = &[status::IO_TIMEOUT, status::DELETE_PENDING, status::NO_SUCH_DEVICE];
            // A device that is gone still tells what it has counted.
            let keeper = bench.open_edu();
            let traffic = Traffic::start_sparse(bench, 8, seed, expected);
            traffic.run(20 + seed);
            bench.edu.vanish(bench.system);
            bench.system.sleep(seed * 5 * SECOND);
            bench.edu.surprise_remove(bench.system);
            traffic.run(20);
            let software = bench.open_software();
            traffic
                .stop(|| [&keeper, &software].into_iter().filter_map(|device| workload::status(device).ok()).collect());
            drop((keeper, software));
            bench.system.settle();
            assert_eq!(bench.edu.state(bench.system), DeviceState::Removed);
        });
    });
}

#[test]
fn a_device_that_is_pulled_out_when_it_was_done_gives_no_result() {
    /// The register that a factorial is read from, which is read for nothing else.
    const FACTORIAL: u64 = 0x08;
    on_bench(1, |bench| {
        let handle = bench.open_edu();
        bench.edu.vanish_before_read(bench.system, FACTORIAL);
        assert_eq!(workload::factorial(&handle, 5), Err(status::DELETE_PENDING));
        bench.edu.surprise_remove(bench.system);
        drop(handle);
    });
}
