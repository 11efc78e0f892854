//! Between any two kernel calls of the driver, the device can be pulled out, handles closed, threads ended, requests cancelled.

use std::{num::NonZero, thread};

use hotadd_tests::{each_seed, on_bench, small, status, sys};
use ntlab::{
    config::Config,
    user::{self, Completion, Pending, Request},
};
use workload::systematic::{Search, Shard};

/// The test pulls the device out at one kernel call in so many; the campaign does at each.
const EVERY: usize = 397;

#[test]
fn a_device_that_is_pulled_out_there_leaves_nothing_behind() {
    let search = Search {
        sys: sys(),
        machine: Config { processors: 1, ..small() },
        seeds: 1,
        shard: Shard::WHOLE,
        threads: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    let (runs, broken) = search.unplug(EVERY);
    assert!(runs > 20, "the life has many calls, not {runs}");
    let broken: Vec<String> = broken.iter().map(|broken| format!("{}\n{:?}", broken.what, broken.case)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Interference {
    Cancel,
    Close,
    EndThread,
}

fn cancel(pending: &Pending<'_>) {
    pending.cancel();
}

/// Sends requests, interferes after `step` more kernel calls, and sees each of them end.
fn interfere(seed: u64, how: Interference) {
    on_bench(seed, |bench| {
        let system = bench.system;
        let mut cancelled = 0;
        for step in (0..240).step_by(3) {
            for device in [bench.open_edu(), bench.open_software()] {
                let before = system.kernel_calls();
                let pending = [
                    Request::Write { offset: 0, data: vec![3; 64] },
                    Request::Read { offset: 0, length: 64 },
                    Request::Read { offset: 64, length: 64 },
                ]
                .map(|request| device.submit(request));
                let _reached = system.wait_for_call(before + step, 1_000_000);
                let ends: Vec<Completion> = match how {
                    Interference::Cancel => {
                        pending.iter().rev().for_each(cancel);
                        pending.into_iter().map(Pending::wait).collect()
                    }
                    Interference::Close => {
                        device.close();
                        pending.into_iter().map(Pending::wait).collect()
                    }
                    // The I/O manager cancels what the thread has sent and waits for it.
                    Interference::EndThread => pending.into_iter().inspect(cancel).map(Pending::wait).collect(),
                };
                for end in ends {
                    match end.status {
                        user::Status::SUCCESS => {}
                        status::CANCELLED => cancelled += 1,
                        other => panic!("a request ended with {other}"),
                    }
                }
            }
        }
        assert!(cancelled > 0, "some were cancelled");
        let handle = bench.open_edu();
        assert_eq!(workload::factorial(&handle, 4).map(|answer| answer.factorial), Ok(24));
        let statuses = bench.statuses();
        assert_eq!(statuses.iter().map(|status| status.cancelled).sum::<u64>(), cancelled, "each was counted once");
    });
}

#[test]
fn requests_that_are_cancelled_there_end_once() {
    each_seed(3, |seed| interfere(seed, Interference::Cancel));
}

#[test]
fn requests_of_a_handle_that_is_closed_there_end_once() {
    each_seed(3, |seed| interfere(seed, Interference::Close));
}

#[test]
fn requests_of_a_thread_that_ends_there_end_once() {
    each_seed(3, |seed| interfere(seed, Interference::EndThread));
}
