//! What comes in between the driver's instructions.

use std::{cell::Cell, path::PathBuf, rc::Rc, sync::OnceLock};

use super::build;
use crate::{
    config::{Config, Preemption},
    exec::{Image, Step},
    irql::Irql,
    kernel::Kernel,
    machine::{Machine, Outcome, System},
    memory::PageKind,
    sched::Interrupt,
};

/// The driver, loaded and entered.
pub struct Driver<'k> {
    /// The machine.
    pub k: &'k Kernel,
    /// The driver.
    pub image: Rc<Image>,
}

impl Driver<'_> {
    /// Calls one of its functions.
    pub fn call(&self, name: &'static str, a: u64, b: u64) -> u64 {
        self.k.call(name, self.image.exports[name], &[a, b])
    }

    /// Calls in a thread for each, and waits for all.
    fn call_in_threads(&self, name: &'static str, threads: u32, argument: u64) {
        let ended = Rc::new(Cell::new(0));
        for _ in 0..threads {
            let (ended, function) = (Rc::clone(&ended), self.image.exports[name]);
            self.k.spawn(name, move |k| {
                k.call(name, function, &[argument, 0]);
                ended.set(ended.get() + 1);
            });
        }
        self.k.block_until("the calls", |_| ended.get() == threads, None);
    }
}

fn run<T>(config: Config, scenario: impl FnOnce(&Driver<'_>) -> T) -> Outcome<T> {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let path = IMAGE.get_or_init(|| build("preemption"));
    Machine::new(config).expect("valid").run(|system: &System| {
        let k = &system.kernel;
        let image = k.exec.load(path).expect("the image loads");
        scenario(&Driver { k, image })
    })
}

/// What a scenario returns that nothing stops.
pub fn result<T>(config: Config, scenario: impl FnOnce(&Driver<'_>) -> T) -> T {
    run(config, scenario).result.unwrap_or_else(|report| panic!("{report}"))
}

/// A machine that switches often, at kernel calls only or at one in so many instructions.
fn config(one_in: Option<u32>, seed: u64) -> Config {
    let preemption = one_in.map_or(Preemption::KernelCalls, |one_in| Preemption::Instructions { one_in });
    Config { preemption, switch_every: 2, ..Config::default() }.with_seed(seed)
}

const THREADS: u32 = 2;
const TIMES: u64 = 100;

/// What is left of [`THREADS`] times [`TIMES`] increments.
fn count(one_in: Option<u32>, seed: u64, how: &'static str) -> u64 {
    result(config(one_in, seed), |driver| {
        driver.call_in_threads(how, THREADS, TIMES);
        driver.call("counter", 0, 0)
    })
}

#[test]
fn an_increment_in_one_instruction_loses_updates_unless_it_is_locked() {
    const ALL: u64 = THREADS as u64 * TIMES;
    for seed in 0..5 {
        assert_eq!(count(None, seed, "count_in_one"), ALL, "kernel calls alone do not show it, seed {seed}");
        for one_in in [1, 7] {
            assert!(count(Some(one_in), seed, "count_in_one") < ALL, "seed {seed}, one in {one_in}");
            for how in ["count_locked", "count_in_lock", "count_in_spin_lock"] {
                assert_eq!(count(Some(one_in), seed, how), ALL, "{how}, seed {seed}, one in {one_in}");
            }
        }
    }
}

/// How many of 40 seeds let two threads initialise what is initialised once.
fn initialised_twice(one_in: Option<u32>, how: &'static str) -> usize {
    let twice = |seed: &u64| {
        result(config(one_in, *seed), |driver| {
            driver.call_in_threads(how, THREADS, 0);
            driver.call("initialise_once", 0, 0) == 2
        })
    };
    (0..40).filter(twice).count()
}

#[test]
fn a_flag_that_is_looked_at_and_then_set_is_found_at_instructions_and_not_at_kernel_calls() {
    assert_eq!(initialised_twice(None, "initialise_checked"), 0);
    assert!(initialised_twice(Some(3), "initialise_checked") > 0);
    assert_eq!(initialised_twice(Some(3), "initialise_once"), 0);
}

/// What the lab finds with 40 seeds where two threads free a block if it is there.
fn found_at_free(one_in: Option<u32>, how: &'static str) -> Vec<String> {
    let found = |seed| {
        let outcome = run(config(one_in, seed), |driver| {
            assert_eq!(driver.call("allocate", 0, 0), 1);
            driver.call_in_threads(how, THREADS, 0);
        });
        outcome.result.err().map(|report| report.to_string())
    };
    (0..40).filter_map(found).collect()
}

#[test]
fn a_block_that_two_threads_find_and_free_is_reported_with_the_function_that_freed_it_again() {
    assert_eq!(found_at_free(None, "free_checked"), Vec::<String>::new());
    let found = found_at_free(Some(3), "free_checked");
    assert!(!found.is_empty());
    for report in found {
        assert!(report.contains("free_checked"), "{report}");
    }
    assert_eq!(found_at_free(Some(3), "free_taken"), Vec::<String>::new());
}

#[test]
fn an_interrupt_comes_in_between_two_instructions_and_changes_no_result() {
    let compute = |one_in, interrupts: bool| {
        result(config(one_in, 1), |driver| {
            let served = Rc::new(Cell::new(0_u32));
            if interrupts {
                again(driver.k, &served, driver.image.exports["compute"]);
            }
            (driver.call("compute", 3000, 7), served.get())
        })
    };
    let (expected, _) = compute(None, false);
    let (at_calls, none) = compute(None, true);
    let (at_instructions, served) = compute(Some(5), true);
    assert_eq!((at_calls, at_instructions), (expected, expected));
    assert_eq!(none, 0, "there is no kernel call in it");
    assert!(served > 100, "{served}");
}

/// An interrupt every 100 ns on processor 0, whose service routine is the driver's `function`.
fn again(k: &Kernel, served: &Rc<Cell<u32>>, function: u64) {
    let served = Rc::clone(served);
    k.after(100, move |k| {
        let count = Rc::clone(&served);
        let handler = Rc::new(move |k: &Kernel| {
            k.call("service", function, &[3, 3]);
            count.set(count.get() + 1);
        });
        for processor in 0..2 {
            k.interrupt(processor, Interrupt { vector: 0x50, irql: Irql(5), handler: handler.clone() });
        }
        again(k, &served, function);
    });
}

#[test]
fn a_trace_depends_on_the_seed_alone() {
    let trace = |seed| {
        let config = Config { keep_trace: true, processors: 4, ..config(Some(5), seed) };
        let outcome = run(config, |driver| {
            driver.call_in_threads("count_in_one", 4, 50);
            driver.call_in_threads("count_in_spin_lock", 4, 10);
            (driver.call("counter", 0, 0), driver.k.exec.instructions(driver.k))
        });
        (outcome.result.unwrap_or_else(|report| panic!("{report}")), outcome.events)
    };
    for seed in 0..3 {
        assert_eq!(trace(seed), trace(seed));
    }
    assert_ne!(trace(0), trace(1));
}

#[test]
fn instructions_are_counted_exactly_however_they_are_run() {
    for preemption in [Preemption::KernelCalls, config(Some(1), 0).preemption, config(Some(9), 0).preemption] {
        let config = Config { preemption, count_instructions: true, ..Config::default() };
        let ran = result(config, |driver| {
            let before = driver.k.exec.instructions(driver.k);
            driver.call("spin", 1000, 0);
            driver.k.exec.instructions(driver.k).zip(before).map(|(after, before)| after - before)
        });
        assert_eq!(ran, Some(2 * 1000 + 2), "{preemption:?}");
    }
    assert_eq!(result(Config::default(), |driver| driver.k.exec.instructions(driver.k)), None);
}

#[test]
fn blocks_that_ran_are_known_until_they_are_forgotten() {
    let config = Config { count_instructions: true, ..Config::default() };
    let [odd, even, both] = result(config, |driver| {
        [&[1_u64, 3, 5][..], &[2, 4], &[1, 2]].map(|numbers| {
            driver.k.exec.forget_blocks();
            for number in numbers {
                driver.call("is_odd", *number, 0);
            }
            driver.k.exec.blocks()
        })
    });
    assert!(!odd.is_subset(&even) && !even.is_subset(&odd), "each has a block of its own: {odd:?} {even:?}");
    assert_eq!(both, odd.union(&even).copied().collect());
}

#[test]
fn a_processor_that_spins_without_a_kernel_call_is_found() {
    for one_in in [None, Some(1000)] {
        let config = Config { count_instructions: true, ..config(one_in, 0) };
        let report = run(config, |driver| driver.call("spin_for_ever", 0, 0)).result.expect_err("it does not end");
        assert!(report.finding.sentence.ends_with("instructions without a kernel call"), "{report}");
        assert!(report.to_string().contains("spin_for_ever"), "{report}");
    }
}

#[test]
fn an_observer_sees_every_access_and_which_of_them_are_atomic() {
    let seen = |name| {
        result(Config { count_instructions: true, ..Config::default() }, |driver| {
            let counts = Rc::new(Cell::new((0, 0)));
            let (both, k) = (Rc::clone(&counts), driver.k);
            assert!(k.exec.observe(k, Some(Rc::new(move |k, step| both.set(look(k, step, both.get()))))));
            driver.call(name, 10, 0);
            k.exec.observe(k, None);
            driver.call(name, 10, 0);
            counts.get()
        })
    };
    assert_eq!(seen("count_in_one"), (10, 0));
    assert_eq!(seen("count_locked"), (10, 10));
    let (writes, atomics) = seen("count_in_lock");
    assert_eq!((writes, atomics), (30, 10), "the lock is taken, the counter and the lock are written");
}

/// Counts writes to the image, and those that are atomic.
fn look(k: &Kernel, step: &Step<'_>, (writes, atomics): (u32, u32)) -> (u32, u32) {
    let is_data = |address| k.memory.space.kind(address) == PageKind::ImageData;
    let writes_data =
        step.accesses().iter().any(|access| access.writes && access.bytes == 8 && is_data(access.address));
    (writes + u32::from(writes_data), atomics + u32::from(step.is_atomic()))
}

#[test]
fn what_cannot_be_stepped_is_refused_by_name() {
    let config = Config { count_instructions: true, ..Config::default() };
    let report = run(config, |driver| driver.call("vex", 0, 0)).result.expect_err("it is refused");
    assert_eq!(report.finding.sentence, "the instruction VEX_Vxorps_xmm_xmm_xmmm128 in stepped code");
}

/// Nanoseconds that this thread of the host has run.
fn on_processor() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a number")
}

/// `cargo test --profile lab -p ntlab --lib speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measure"]
fn speed() {
    let configs = [
        ("native", Config::default()),
        ("counted", Config { count_instructions: true, ..Config::default() }),
        ("one in 1000", config(Some(1000), 0)),
        ("one in 100", config(Some(100), 0)),
        ("one in 10", config(Some(10), 0)),
        ("one in 1", config(Some(1), 0)),
    ];
    for (name, config) in configs {
        let (instructions, elapsed) = result(config, |driver| {
            driver.call("compute", 10, 7);
            let before = driver.k.exec.instructions(driver.k);
            let start = on_processor();
            driver.call("compute", 200_000, 7);
            (
                driver.k.exec.instructions(driver.k).zip(before).map(|(after, before)| after - before),
                on_processor() - start,
            )
        });
        println!("{name}: {elapsed} ns for {instructions:?} instructions");
    }
}
