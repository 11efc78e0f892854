//! Between any two kernel calls of the driver its device can be pulled out, handles closed, threads ended, requests cancelled.

use std::{cell::Cell, rc::Rc};

use hotadd_tests::{each_seed, on_bench, run, small, status, sys};
use ntlab::{
    config::Config,
    machine::Machine,
    user::{self, Completion, Pending, Request},
};
use workload::{
    interference::{Interference, What},
    life,
};

/// The tests interfere with the driver's life at one kernel call in so many; the campaign does at each.
const ONE_IN: usize = 499;

fn calls_of_a_life() -> u64 {
    let outcome = Machine::new(small()).expect("the machine makes sense").run(|system| life::live(system, sys()));
    outcome.kernel_calls
}

fn lives_though_something_happens(what: What) {
    let calls = calls_of_a_life();
    let mut under_way = 0;
    for call in (1..calls).step_by(ONE_IN) {
        let interference = Interference { what, call };
        let repeat = format!("cargo xtask campaign --only interference --unit {}", interference.number());
        let config = Config { repeat: Some(repeat.clone()), ..interference.machine(small()) };
        let tally = run(config, |system| interference.play(system, sys()));
        let tally = tally.unwrap_or_else(|broken| panic!("{broken}; to repeat this: {repeat}"));
        under_way += tally.into_values().sum::<u64>();
    }
    assert!(what == What::Unplug || under_way > 0, "no request was under way");
}

#[test]
fn a_device_that_is_pulled_out_there_leaves_nothing_behind() {
    lives_though_something_happens(What::Unplug);
}

#[test]
fn a_handle_that_is_closed_there_leaves_nothing_behind() {
    lives_though_something_happens(What::Close);
}

#[test]
fn requests_that_are_cancelled_there_leave_nothing_behind() {
    lives_though_something_happens(What::Cancel);
}

#[test]
fn a_thread_that_ends_there_leaves_nothing_behind() {
    lives_though_something_happens(What::EndThread);
}

fn cancel(pending: &Pending<'_>) {
    pending.cancel();
}

/// Sends requests, interferes after `step` more kernel calls, and sees each of them end.
fn interfere(seed: u64, how: What) {
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
                    What::Cancel => {
                        pending.iter().rev().for_each(cancel);
                        pending.into_iter().map(Pending::wait).collect()
                    }
                    What::Close => {
                        device.close();
                        pending.into_iter().map(Pending::wait).collect()
                    }
                    // The I/O manager cancels what the thread has sent and waits for it.
                    What::Unplug | What::EndThread => {
                        pending.iter().for_each(cancel);
                        pending.into_iter().map(Pending::wait).collect()
                    }
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
    each_seed(3, |seed| interfere(seed, What::Cancel));
}

#[test]
fn requests_of_a_handle_that_is_closed_there_end_once() {
    each_seed(3, |seed| interfere(seed, What::Close));
}

#[test]
fn requests_of_a_thread_that_ends_there_end_once() {
    each_seed(3, |seed| interfere(seed, What::EndThread));
}

#[test]
fn a_wait_that_is_sent_while_another_thread_closes_its_handle_ends() {
    each_seed(3, |seed| {
        on_bench(seed, |bench| {
            let system = bench.system;
            let mut cancelled = 0;
            // Until the request waits takes fewer calls of the kernel.
            for step in 0..40 {
                let device = Rc::new(bench.open_software());
                let cursor = workload::status(&device).expect("anybody may ask").journal_next;
                let call = system.kernel_calls() + step;
                let closed = Rc::new(Cell::new(false));
                let (others, is_closed) = (Rc::clone(&device), Rc::clone(&closed));
                system.spawn("other thread", move |system| {
                    let _reached = system.wait_for_call(call, 1_000_000);
                    others.close_for_all();
                    is_closed.set(true);
                });
                match device.submit(workload::journal(cursor).0).wait().status {
                    status::CANCELLED => cancelled += 1,
                    other => assert_eq!(other, status::INVALID_PARAMETER, "that of a handle that is closed already"),
                }
                system.wait_until("the handle to be closed", || closed.get());
            }
            assert!(cancelled > 0, "some were sent before");
        });
    });
}
