//! What is counted of driver code.

use std::{cell::Cell, rc::Rc};

use super::preemption::{Driver, result};
use crate::{
    config::Config,
    counting::{Counts, Detail, Lies},
    sched::Affinity,
};

const TIMES: u64 = 10;

fn counted(detail: Detail, act: impl FnOnce(&Driver<'_>)) -> Counts {
    let config = Config { count_instructions: true, ..Config::default() };
    result(config, |driver| {
        driver.k.counting.begin(driver.k, detail);
        act(driver);
        driver.k.counting.end(driver.k)
    })
}

fn call(driver: &Driver<'_>, name: &'static str) {
    driver.call(name, TIMES, 0);
}

/// Calls once on each of two processors, one after the other.
fn on_both(driver: &Driver<'_>, name: &'static str) {
    for processor in 0..2_u32 {
        let (ended, function) = (Rc::new(Cell::new(false)), driver.image.exports[name]);
        let seen = Rc::clone(&ended);
        driver.k.spawn(name, move |k| {
            k.sched.set_affinity(k, Some(Affinity { group: 0, mask: 1 << processor }));
            k.call(name, function, &[TIMES, 0]);
            ended.set(true);
        });
        driver.k.block_until("the call", |_| seen.get(), None);
    }
}

#[test]
fn instructions_and_kernel_calls_are_the_same_counted_one_by_one_and_all_together() {
    let of = |detail| {
        let counts = counted(detail, |driver| call(driver, "count_in_spin_lock"));
        let work = counts.work["count_in_spin_lock"].clone();
        (work.calls, work.instructions, work.kernel_calls, work.kernel_atomics)
    };
    let (calls, instructions, kernel_calls, atomics) = of(Detail::Instructions);
    assert_eq!((calls, instructions, kernel_calls.clone(), atomics), of(Detail::Totals));
    assert_eq!(calls, 1);
    assert!(instructions > TIMES * 4);
    assert_eq!(kernel_calls["KeAcquireSpinLockRaiseToDpc"], TIMES);
    assert_eq!(kernel_calls["KeReleaseSpinLock"], TIMES);
    assert_eq!(atomics, TIMES, "a spin lock is taken with one, and given back without");
}

#[test]
fn the_instructions_that_are_told_one_by_one_are_all_there_are() {
    let counts = counted(Detail::Instructions, |driver| call(driver, "count_locked"));
    let each: u64 = counts.instructions.iter().map(|instruction| instruction.count).sum();
    assert_eq!(each, counts.total().instructions);
    let atomic: Vec<_> = counts.instructions.iter().filter(|instruction| instruction.is_atomic).collect();
    assert_eq!(atomic.iter().map(|instruction| instruction.count).sum::<u64>(), TIMES);
    assert_eq!(counts.total().atomics, TIMES);
    let function = atomic[0].frames.last().and_then(|frame| frame.function.clone()).expect("it has symbols");
    assert!(function.contains("count_locked"), "{function}");
}

#[test]
fn a_line_that_one_processor_writes_is_not_shared_and_one_that_two_write_is() {
    let one = counted(Detail::Instructions, |driver| call(driver, "count_locked"));
    assert_eq!(one.shared, []);
    assert!(one.written > 0);
    let two = counted(Detail::Instructions, |driver| on_both(driver, "count_locked"));
    let [line] = &two.shared[..] else { panic!("one line is shared: {:?}", two.shared) };
    assert_eq!((line.processors.as_slice(), line.writes, line.moves), ([0, 1].as_slice(), 2 * TIMES, 1));
    assert!(matches!(&line.lies, Lies::Image { section, .. } if section == ".data"), "{:?}", line.lies);
}

#[test]
fn what_a_kernel_function_writes_for_the_driver_is_seen() {
    let counts = counted(Detail::Instructions, |driver| on_both(driver, "count_in_spin_lock"));
    let writers: Vec<_> =
        counts.shared.iter().flat_map(|line| &line.writers).map(|(writer, _)| writer.clone()).collect();
    let function = |name| crate::counting::Writer::Function(name);
    assert!(writers.contains(&function("KeAcquireSpinLockRaiseToDpc")), "{writers:?}");
    assert!(writers.contains(&function("KeReleaseSpinLock")), "{writers:?}");
}

#[test]
fn nothing_is_counted_any_more_when_counting_has_ended() {
    let config = Config { count_instructions: true, ..Config::default() };
    let counts = result(config, |driver| {
        driver.k.counting.begin(driver.k, Detail::Instructions);
        drop(driver.k.counting.end(driver.k));
        driver.call("count_locked", TIMES, 0);
        driver.k.counting.begin(driver.k, Detail::Instructions);
        driver.k.counting.end(driver.k)
    });
    assert_eq!(counts, Counts::default());
}
