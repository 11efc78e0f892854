//! Between any two kernel calls of the driver handles can be closed, threads ended, requests cancelled.

use hotadd_tests::{each_seed, on_bench, status};
use ntlab::user::{self, Completion, Pending, Request};

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
