//! Machines without a driver: what the scheduler promises to the other parts of the lab.

use std::{cell::Cell, cell::RefCell, rc::Rc};

use super::Interrupt;
use crate::{
    config::Config,
    finding::Cause,
    irql::{DISPATCH_LEVEL, Irql, PASSIVE_LEVEL},
    kernel::Kernel,
    machine::{Machine, Outcome, System},
};

const MICROSECOND: u64 = 1000;

fn run<T>(config: Config, scenario: impl for<'k> FnOnce(&'k System) -> T) -> Outcome<T> {
    Machine::new(config).expect("valid").run(scenario)
}

fn two_of_eight(seed: u64) -> Config {
    Config { keep_trace: true, ..Config::default() }.with_seed(seed)
}

/// A device that interrupts every processor in turn, and threads that compute, sleep and wait for each other.
fn busy(system: &System) -> u64 {
    let served = Rc::new(Cell::new(0));
    let k = &system.kernel;
    for number in 0..20 {
        let served = Rc::clone(&served);
        let count = move |k: &Kernel| {
            assert_eq!(k.irql(), Irql(5));
            served.set(served.get() + 1);
        };
        let interrupt = Interrupt { vector: 0x50 + number, irql: Irql(5), handler: Rc::new(count) };
        k.after(u64::from(number) * 3 * MICROSECOND, move |k| k.interrupt(number % 2, interrupt));
        k.spawn("worker", move |k| {
            for _ in 0..50 {
                k.preempt();
            }
            k.sleep(u64::from(number) * MICROSECOND);
        });
    }
    k.block_until("all interrupts", |_| served.get() == 20, None);
    served.get()
}

#[test]
fn the_trace_depends_on_the_seed_alone() {
    let trace = |seed| {
        let outcome = run(two_of_eight(seed), busy);
        assert_eq!(outcome.result.expect("no finding"), 20);
        outcome.events.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let traces: Vec<String> = (0..8).map(trace).collect();
    for (seed, first) in (0..).zip(&traces) {
        assert_eq!(*first, trace(seed), "seed {seed}");
    }
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "seeds change nothing");
}

#[test]
fn time_of_busy_processors_runs_in_parallel() {
    let elapsed = |processors| {
        let config = Config { processors, ..Config::default() };
        let outcome = run(config, |system| {
            let left = Rc::new(Cell::new(8));
            for _ in 0..8 {
                let left = Rc::clone(&left);
                system.kernel.spawn("load", move |k| {
                    (0..10_000).for_each(|_| k.preempt());
                    left.set(left.get() - 1);
                });
            }
            system.kernel.block_until("load", |_| left.get() == 0, None);
        });
        outcome.result.expect("no finding");
        outcome.elapsed
    };
    let (one, eight) = (elapsed(1), elapsed(8));
    assert!(one > 6 * eight, "8 processors are not much faster than one: {one} ns, {eight} ns");
}

#[test]
fn a_higher_interrupt_interrupts_a_lower_one_and_a_lower_one_waits() {
    let outcome = run(Config { processors: 1, ..Config::default() }, |system| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let note = |text: &'static str| {
            let order = Rc::clone(&order);
            move |_: &Kernel| order.borrow_mut().push(text)
        };
        let (high, low) = (note("high"), note("low"));
        let (begin, end) = (note("begin"), note("end"));
        let high = Interrupt { vector: 1, irql: Irql(8), handler: Rc::new(high) };
        let low = Interrupt { vector: 2, irql: Irql(4), handler: Rc::new(low) };
        let middle = move |k: &Kernel| {
            begin(k);
            k.interrupt(0, low.clone());
            k.interrupt(0, high.clone());
            k.preempt();
            end(k);
        };
        let k = &system.kernel;
        k.interrupt(0, Interrupt { vector: 3, irql: Irql(6), handler: Rc::new(middle) });
        k.preempt();
        order.borrow().clone()
    });
    assert_eq!(outcome.result.expect("no finding"), ["begin", "high", "end", "low"]);
}

#[test]
fn a_raised_irql_holds_interrupts_off_until_it_falls() {
    let outcome = run(Config { processors: 1, ..Config::default() }, |system| {
        let k = &system.kernel;
        let served = Rc::new(Cell::new(false));
        let handler = Rc::clone(&served);
        let before = k.raise_irql(Irql(7));
        k.interrupt(0, Interrupt { vector: 1, irql: Irql(7), handler: Rc::new(move |_| handler.set(true)) });
        (0..100).for_each(|_| k.preempt());
        let held_off = !served.get();
        k.lower_irql(before);
        (held_off, served.get())
    });
    assert_eq!(outcome.result.expect("no finding"), (true, true));
}

#[test]
fn a_wait_at_dispatch_level_is_a_finding_that_names_it() {
    let outcome = run(Config::default(), |system| {
        system.kernel.raise_irql(DISPATCH_LEVEL);
        system.sleep(1);
    });
    let finding = outcome.result.expect_err("a finding").finding;
    assert!(matches!(finding.cause, Cause::BugCheck { code: 0xC4, parameters: [0x3B, 2, 0, 0] }));
    assert_eq!(finding.sentence, "delay: a wait at DISPATCH_LEVEL; threads may wait below DISPATCH_LEVEL only");
}

#[test]
fn a_machine_in_which_nothing_can_ever_happen_says_who_waits_for_what() {
    let outcome = run(Config::default(), |system| {
        system.kernel.spawn("reader", |k| {
            k.park("data", None);
        });
        system.kernel.block_until("a miracle", |_| false, None);
    });
    let sentence = outcome.result.expect_err("a finding").finding.sentence;
    let waits = "scenario (thread 1) waits: a miracle; reader (thread 2) waits: data";
    assert_eq!(sentence, format!("nothing can run and nothing is due: {waits}"));
}

#[test]
fn a_scenario_beyond_its_time_limit_is_stopped() {
    let config = Config { time_limit_ns: 1000 * MICROSECOND, ..Config::default() };
    for wait in [|k: &Kernel| k.preempt(), |k: &Kernel| k.sleep(MICROSECOND)] {
        let outcome = run(config.clone(), move |system| {
            loop {
                wait(&system.kernel);
            }
        });
        let result: Result<(), _> = outcome.result;
        let sentence = result.expect_err("a finding").finding.sentence;
        assert!(sentence.starts_with("the scenario takes longer than its time limit"), "{sentence}");
    }
}

#[test]
#[should_panic(expected = "the seed of this run is 77")]
fn a_failed_assertion_of_the_scenario_comes_out_with_the_seed() {
    let _ = run(two_of_eight(77), |system| {
        system.sleep(5);
        assert_eq!(system.now(), 3);
    });
}

#[test]
fn a_machine_with_suspended_threads_can_be_dropped() {
    let outcome = run(Config::default(), |system| {
        for number in 0..100 {
            let (name, text) = (format!("thread {number}"), String::from("on its stack"));
            system.spawn(&name, move |system| {
                system.kernel.park("the end", None);
                drop(text);
            });
        }
        system.sleep(100 * MICROSECOND);
    });
    assert!(outcome.result.is_ok());
}

#[test]
fn a_wake_is_not_missed_when_it_comes_first() {
    let outcome = run(Config::default(), |system| {
        let k = &system.kernel;
        k.wake(k.thread_id());
        let woken = k.park("wake", None);
        let timed_out = !k.park("nothing", Some(k.now() + 10 * MICROSECOND));
        (woken, timed_out, k.now() >= 10 * MICROSECOND)
    });
    assert_eq!(outcome.result.expect("no finding"), (true, true, true));
}

#[test]
fn a_stall_takes_its_time_and_lets_interrupts_through() {
    let outcome = run(Config { processors: 1, ..Config::default() }, |system| {
        let k = &system.kernel;
        let at = Rc::new(Cell::new(0));
        let seen = Rc::clone(&at);
        let interrupt = Interrupt { vector: 9, irql: Irql(5), handler: Rc::new(move |k: &Kernel| seen.set(k.now())) };
        k.after(20 * MICROSECOND, move |k| k.interrupt(0, interrupt));
        k.stall(50 * MICROSECOND);
        (at.get(), k.now(), k.irql())
    });
    assert_eq!(outcome.result.expect("no finding"), (20 * MICROSECOND, 50 * MICROSECOND, PASSIVE_LEVEL));
}

#[test]
fn threads_stay_where_their_affinity_says_and_use_processors_that_are_added() {
    let outcome = run(two_of_eight(3), |system| {
        let k = &system.kernel;
        k.sched.add_processor(k, 5);
        let seen: Rc<RefCell<Vec<u32>>> = Rc::default();
        let pinned = Rc::clone(&seen);
        k.spawn("pinned", move |k| {
            k.sched.set_affinity(k, Some(super::Affinity { group: 0, mask: 1 << 5 }));
            for _ in 0..100 {
                k.preempt();
                pinned.borrow_mut().push(k.processor_index());
            }
        });
        k.block_until("pinned", |_| seen.borrow().len() == 100, None);
        seen.borrow().iter().all(|&processor| processor == 5)
    });
    assert!(outcome.result.expect("no finding"));
}

#[test]
fn a_machine_of_2048_processors_uses_them_all() {
    let mut config = Config::new(2, 2048).expect("valid");
    config.seed = 1;
    let outcome = run(config, |system| {
        let k = &system.kernel;
        for index in 2..2048 {
            k.sched.add_processor(k, index);
        }
        let served = Rc::new(Cell::new(0));
        for index in 0..2048 {
            let served = Rc::clone(&served);
            let handler = Rc::new(move |_: &Kernel| served.set(served.get() + 1));
            k.interrupt(index, Interrupt { vector: 0x30, irql: Irql(3), handler });
        }
        k.block_until("interrupts", |_| served.get() == 2048, None);
        k.sched.topology.active_count(super::ALL_GROUPS)
    });
    assert_eq!(outcome.result.expect("no finding"), 2048);
}
