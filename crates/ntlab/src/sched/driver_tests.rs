//! What a driver sees of the scheduler, tried with an image made for it.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    sync::OnceLock,
};

use crate::{
    config::{Config, Group},
    events::Kind,
    exec::{Image, tests::build},
    finding::{Cause, Finding},
    irql::PASSIVE_LEVEL,
    kernel::Kernel,
    machine::{Machine, Outcome, System},
};

/// The driver, loaded and entered.
struct Driver<'k> {
    k: &'k Kernel,
    image: Rc<Image>,
}

impl Driver<'_> {
    fn call(&self, name: &'static str, a: u64, b: u64) -> u64 {
        self.k.call(name, self.image.exports[name], &[a, b])
    }

    /// Calls in threads of their own, one after the start of the other; all returned at the end.
    fn call_in_threads(&self, calls: &[(&'static str, u64, u64)]) -> Vec<u64> {
        let returned: Rc<RefCell<Vec<Option<u64>>>> = Rc::new(RefCell::new(vec![None; calls.len()]));
        for (position, &(name, a, b)) in calls.iter().enumerate() {
            let (returned, image) = (Rc::clone(&returned), Rc::clone(&self.image));
            self.k.spawn(name, move |k| {
                let value = k.call(name, image.exports[name], &[a, b]);
                returned.borrow_mut()[position] = Some(value);
            });
        }
        self.k.block_until("the calls", |_| returned.borrow().iter().all(Option::is_some), None);
        returned.take().into_iter().flatten().collect()
    }
}

fn run<T>(config: Config, scenario: impl FnOnce(&Driver<'_>) -> T) -> Outcome<T> {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let path = IMAGE.get_or_init(|| build("scheduler"));
    Machine::new(config).expect("valid").run(|system: &System| {
        let k = &system.kernel;
        let image = k.exec.load(path).expect("the image loads");
        assert_eq!(k.call("DriverEntry", image.entry, &[0, 0]), 0);
        scenario(&Driver { k, image })
    })
}

fn result<T>(scenario: impl FnOnce(&Driver<'_>) -> T) -> T {
    run(Config::default(), scenario).result.unwrap_or_else(|report| panic!("{report}"))
}

/// What stops the run of a call.
fn finding(name: &'static str, a: u64) -> Finding {
    let outcome = run(Config::default(), |driver| driver.call(name, a, 0));
    outcome.result.expect_err("a finding").finding
}

fn code(finding: &Finding) -> u32 {
    match finding.cause {
        Cause::BugCheck { code, .. } => code,
        Cause::NotModelled | Cause::BrokenPromise => panic!("{}", finding.sentence),
    }
}

#[test]
fn a_spin_lock_excludes_processors_and_without_it_updates_are_lost() {
    let count = |name, seed| {
        let config = Config { switch_every: 2, processors: 4, ..Config::default() }.with_seed(seed);
        let outcome = run(config, |driver| {
            driver.call_in_threads(&[(name, 200, 0); 4]);
            driver.call("counter", 0, 0)
        });
        outcome.result.unwrap_or_else(|report| panic!("{report}"))
    };
    for seed in 0..5 {
        assert_eq!(count("count_locked", seed), 800);
        assert!(count("count_unlocked", seed) < 800);
    }
}

#[test]
fn the_trace_of_a_driver_depends_on_the_seed_alone() {
    let trace = |seed| {
        let config = Config { keep_trace: true, processors: 4, ..Config::default() }.with_seed(seed);
        let outcome = run(config, |driver| {
            driver.call("set_timer", 100, 1);
            driver.call_in_threads(&[("count_locked", 50, 0), ("queue_on", 1, 1), ("delay", 30, 0), ("print", 1, 0)]);
            driver.call("cancel_timer", 0, 0);
        });
        outcome.result.unwrap_or_else(|report| panic!("{report}"));
        outcome.events.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for seed in 0..4 {
        assert_eq!(trace(seed), trace(seed));
    }
    assert_ne!(trace(0), trace(1));
}

#[test]
fn a_dpc_runs_once_on_its_target_at_dispatch_level() {
    result(|driver| {
        assert_eq!(driver.call("queue_on", 0, 1), 1 << 32, "queued once, the second time it was queued already");
        assert_eq!(driver.call("flush", 0, 0), 1 + 100 + 20000);
        assert_eq!(driver.call("ran_on", 0, 0), 1 << 1);
    });
}

#[test]
fn a_dpc_cannot_be_targeted_to_a_processor_that_is_not_active() {
    let outcome = run(Config::default(), |driver| driver.call("queue_on", 0, 5));
    let found = outcome.result.expect_err("a finding").finding;
    assert!(found.sentence.contains("processor 5 of group 0, which was never active"), "{}", found.sentence);
    result(|driver| {
        let status = |value: u64| value & 0xFFFF_FFFF;
        driver.k.sched.add_processor(driver.k, 5);
        driver.call("flush", 0, 0);
        assert_eq!(status(driver.call("queue_on", 0, 5)), 0);
        driver.call("flush", 0, 0);
        assert!(driver.call("ran_on", 0, 0) & 1 << 5 != 0);
    });
}

#[test]
fn a_timer_goes_off_when_it_is_due_and_not_after_it_was_cancelled() {
    result(|driver| {
        let start = driver.k.now();
        assert_eq!(driver.call("set_timer", 5000, 0), 0);
        driver.call("wait_for_timer", 0, 0);
        assert!((500_000..600_000).contains(&(driver.k.now() - start)), "{}", driver.k.now() - start);
        driver.call("flush", 0, 0);
        assert_eq!(driver.call("counter", 0, 0), 1);
        assert_eq!(driver.call("set_timer", 5000, 0), 0);
        assert_eq!((driver.call("cancel_timer", 0, 0), driver.call("cancel_timer", 0, 0)), (1, 0));
        driver.k.sleep(1_000_000);
        assert_eq!(driver.call("counter", 0, 0), 1);
    });
}

#[test]
fn a_periodic_timer_goes_off_again_and_again() {
    result(|driver| {
        driver.call("set_timer", 10, 2);
        driver.k.sleep(9_000_000);
        assert_eq!(driver.call("cancel_timer", 0, 0), 1);
        driver.call("flush", 0, 0);
        assert_eq!(driver.call("counter", 0, 0), 5);
    });
}

#[test]
fn a_synchronization_event_lets_one_thread_go_and_a_notification_event_all() {
    result(|driver| {
        let gone = Rc::new(Cell::new(0));
        let wait = |event: u64| {
            for _ in 0..5 {
                let (gone, image) = (Rc::clone(&gone), Rc::clone(&driver.image));
                driver.k.spawn("waiter", move |k| {
                    k.call("wait", image.exports["wait_for_event"], &[event, 0]);
                    gone.set(gone.get() + 1);
                });
            }
            driver.k.sleep(100_000);
        };
        wait(1);
        assert_eq!(driver.call("set_event", 1, 0), 0);
        driver.k.sleep(100_000);
        assert_eq!((gone.get(), driver.call("test_event", 1, 0)), (1, 0x102));
        wait(0);
        driver.call("set_event", 0, 0);
        driver.k.sleep(100_000);
        assert_eq!((gone.get(), driver.call("test_event", 0, 0)), (6, 0));
    });
}

#[test]
fn what_a_call_sets_off_may_happen_before_the_driver_goes_on() {
    let seen = |seed| {
        let outcome = run(Config::default().with_seed(seed), |driver| {
            driver.call_in_threads(&[("announce", 0, 0), ("wait_then_count", 0, 0)])[0]
        });
        outcome.result.unwrap_or_else(|report| panic!("{report}"))
    };
    let seen: Vec<u64> = (0..40).map(seen).collect();
    assert!(seen.contains(&0) && seen.contains(&7), "{seen:?}");
}

#[test]
fn a_system_thread_ends_where_it_returns_or_terminates_and_its_handle_can_be_waited_for() {
    result(|driver| {
        let objects = driver.k.memory.objects();
        assert_eq!(driver.call("run_system_thread", 0, 0), 1);
        assert_eq!(driver.call("run_system_thread", 1, 0), 2);
        driver.k.sleep(100_000);
        assert_eq!(driver.k.memory.objects(), objects, "the thread objects are gone");
    });
    let sentence = finding("terminate", 0).sentence;
    assert_eq!(sentence, "PsTerminateSystemThread called by a thread that PsCreateSystemThread did not make");
}

#[test]
fn a_wait_times_out_when_it_should() {
    result(|driver| {
        let start = driver.k.now();
        assert_eq!(driver.call("wait_for_event", 0, 1000), 0x102);
        assert!(driver.k.now() - start >= 100_000);
    });
}

#[test]
fn a_wait_for_all_takes_nothing_until_it_can_take_everything() {
    result(|driver| {
        driver.call("set_event", 1, 0);
        let image = Rc::clone(&driver.image);
        let over = Rc::new(Cell::new(false));
        let ended = Rc::clone(&over);
        driver.k.spawn("all", move |k| {
            assert_eq!(k.call("wait", image.exports["wait_for_two"], &[0, 0]), 0);
            ended.set(true);
        });
        driver.k.sleep(100_000);
        assert!(!over.get());
        assert_eq!(driver.call("test_event", 1, 0), 0, "the waiting thread has not taken it");
        driver.call("set_event", 2, 0);
        driver.k.sleep(100_000);
        assert!(!over.get());
        driver.call("set_event", 1, 0);
        driver.k.block_until("the wait", |_| over.get(), None);
        assert_eq!(driver.call("test_event", 2, 0), 0x102);
        driver.call("set_event", 2, 0);
        assert_eq!(driver.call("wait_for_two", 1, 0), 1, "the second of the objects ended the wait");
    });
}

#[test]
fn a_mutex_is_owned_by_one_thread_as_often_as_it_likes() {
    result(|driver| {
        driver.call_in_threads(&[("count_with_mutex", 50, 0); 4]);
        assert_eq!(driver.call("counter", 0, 0), 200);
    });
    let finding = finding("release_mutex", 0);
    assert_eq!((code(&finding), &*finding.sentence), (0x1E, "scenario releases a mutex that it does not own"));
}

#[test]
fn a_semaphore_lets_as_many_go_as_it_was_released_by() {
    result(|driver| {
        assert_eq!(driver.call("release_semaphore", 2, 0), 0);
        assert_eq!(driver.call_in_threads(&[("take_semaphore", 0, 0); 2]), [0, 0]);
        assert_eq!(driver.call("release_semaphore", 1, 0), 0);
    });
    let finding = finding("release_semaphore", 4);
    assert_eq!(finding.sentence, "a semaphore at 0 of 3 is released by 4");
}

#[test]
fn defects_with_irql_and_locks_are_found_where_they_happen() {
    let expected = [
        ("returns_raised", 0xC4, "returns_raised was called at PASSIVE_LEVEL and returned at DISPATCH_LEVEL"),
        ("returns_with_lock", 0xC4, "the IRQL is lowered to PASSIVE_LEVEL while 1 spin locks are held"),
        ("acquires_twice", 0xF, "processor 0 acquires a spin lock that it holds"),
        ("releases_what_it_has_not", 0x10, "processor 0 releases a spin lock that it does not hold"),
        (
            "wait_at_dispatch",
            0xC4,
            "KeWaitForSingleObject at DISPATCH_LEVEL without a time-out; threads may wait below DISPATCH_LEVEL only",
        ),
        ("flush_at_dispatch", 0xC4, "KeFlushQueuedDpcs called at DISPATCH_LEVEL; it may be called at PASSIVE_LEVEL"),
        ("waits_for_nothing", 0xC4, "a wait for an object that was not initialised"),
    ];
    for (name, bug_check, sentence) in expected {
        let config = Config { processors: 1, ..Config::default() };
        let found = run(config, |driver| driver.call(name, 0, 0)).result.expect_err(name).finding;
        assert_eq!((code(&found), &*found.sentence), (bug_check, sentence));
    }
}

#[test]
fn locks_that_are_acquired_in_both_orders_are_a_finding() {
    let outcome = run(Config::default(), |driver| {
        driver.call_in_threads(&[("acquires_both", 0, 0), ("acquires_both", 1, 0)]);
    });
    let sentence = outcome.result.expect_err("a finding").finding.sentence;
    assert!(sentence.starts_with("two locks are acquired in both orders"), "{sentence}");
}

#[test]
fn a_wait_that_nothing_ends_is_a_finding_with_the_place_in_the_driver() {
    let finding = finding("wait_for_event", 1);
    let waits = "nothing can run and nothing is due: scenario (thread 1) waits: KeWaitForSingleObject in ";
    assert!(finding.sentence.starts_with(waits) && finding.sentence.contains("wait_for_event"), "{}", finding.sentence);
}

#[test]
fn run_down_waits_for_what_was_acquired_and_lets_nothing_in() {
    result(|driver| {
        assert_eq!(driver.call("acquire_rundown", 0, 0), 1);
        let image = Rc::clone(&driver.image);
        let over = Rc::new(Cell::new(false));
        let ended = Rc::clone(&over);
        driver.k.spawn("run-down", move |k| {
            k.call("run_down", image.exports["run_down"], &[0, 0]);
            ended.set(true);
        });
        driver.k.sleep(100_000);
        assert_eq!((over.get(), driver.call("acquire_rundown", 0, 0)), (false, 0));
        driver.call("release_rundown", 0, 0);
        driver.k.block_until("run-down", |_| over.get(), None);
    });
}

#[test]
fn text_to_the_debugger_is_in_the_trace_without_addresses() {
    let config = Config { keep_trace: true, ..Config::default() };
    let outcome = run(config, |driver| driver.call("print", (-3_i64).cast_unsigned(), 0));
    assert!(outcome.result.is_ok());
    let texts = outcome.events.iter().filter_map(|event| match &event.kind {
        Kind::Print(text) => Some(&**text),
        _ => None,
    });
    let texts: Vec<&str> = texts.collect();
    assert_eq!(texts[0], "-3|    7|ab  |00AB|-5|text|te|wi|!|%|10000000000");
    assert!(texts[1].starts_with("Images+0x"), "{}", texts[1]);
}

#[test]
fn a_driver_sees_groups_with_gaps_as_they_are() {
    let groups = vec![Group { nodes: vec![0b0011, 0b1000], ..Group::new(0b1011) }, Group::new(0b110)];
    let outcome = run(Config { groups, processors: 2, ..Config::default() }, |driver| {
        let ask = |question, argument| driver.call("ask", question, argument);
        let number = |group: u64, number: u64| group | number << 16;
        let all = 0xFFFF;
        assert_eq!((ask(0, all), ask(1, all), ask(2, 0), ask(3, 0), ask(7, 0)), (2, 5, 1, 2, 2));
        assert_eq!((ask(0, 0), ask(1, 0), ask(4, 0), ask(4, 1), ask(4, 9)), (2, 3, 0b11, 0, 0));
        assert_eq!((ask(5, number(0, 1)), ask(5, number(0, 3)), ask(5, number(0, 2))), (1, 0xFFFF_FFFF, 0xFFFF_FFFF));
        assert_eq!((ask(6, 1), ask(6, 2)), (number(0, 1), 0xC000_000D << 32));
        driver.k.sched.add_processor(driver.k, 3);
        assert_eq!((ask(0, all), ask(2, 0), ask(4, 1), ask(5, number(1, 1)), ask(6, 3)), (3, 2, 0b10, 3, number(1, 1)));
        assert_eq!((ask(6, 2), ask(6, 4), ask(6, 5)), (0xC000_000D << 32, 0xC000_000D << 32, 0xC000_000D << 32));
        assert_eq!((ask(8, 0), ask(8, 1), ask(8, 2)), (0b11 | 2 << 48, 0, 0b10 | 1 << 32 | 1 << 48));
    });
    outcome.result.unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn the_processors_at_the_start_can_have_gaps_that_are_filled_later() {
    let groups = vec![Group { absent: 0b0101, ..Group::new(0b1111) }, Group { absent: 0b10, ..Group::new(0b11) }];
    let outcome = run(Config { groups, processors: 3, ..Config::default() }, |driver| {
        let ask = |question, argument| driver.call("ask", question, argument);
        let all = 0xFFFF;
        assert_eq!((ask(0, all), ask(1, all), ask(4, 0), ask(4, 1)), (3, 6, 0b1010, 0b01));
        driver.k.sched.add_processor(driver.k, 2);
        assert_eq!((ask(0, all), ask(4, 0), ask(4, 1)), (4, 0b1110, 0b01));
    });
    outcome.result.unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn a_thread_can_visit_active_processors() {
    result(|driver| {
        for number in [0, 1, 1, 0] {
            assert_eq!(driver.call("visit", number, 0), number);
        }
        assert_eq!(driver.k.irql(), PASSIVE_LEVEL);
    });
}
