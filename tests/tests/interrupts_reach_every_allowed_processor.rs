//! After a rebalance, interrupts reach every active processor that the policy allows; before it, the old set still works.

use std::collections::BTreeMap;

use hotadd_abi::{EventKind, InterruptMode};
use hotadd_tests::{Bench, each_seed, quick_edu, run, small, sys};
use ntlab::{
    config::{Config, Group},
    hot_add::NewProcessor,
    machine::System,
    pnp::{DeviceSpec, Rebalance},
};

/// `IrqPolicyOneCloseProcessor` and `IrqPolicySpecifiedProcessors`.
const ONE_CLOSE: u16 = 2;
const SPECIFIED: u16 = 4;
/// The driver stays out of rebalances after a hot add.
const NO_REBALANCE: u32 = 1;

/// Requests that a device is asked until every processor should have had an interrupt.
const MANY: u32 = 400;

/// Which processors took interrupts while the device worked, as a mask by processor index.
fn reached(bench: Bench<'_>) -> u64 {
    let before = bench.edu.interrupt_counts(bench.system);
    let device = bench.open_edu();
    for number in 0..MANY {
        let answer = workload::factorial(&device, number % 12).expect("the device answers");
        assert_eq!(answer.factorial, (1..=number % 12).product::<u32>());
    }
    let after = bench.edu.interrupt_counts(bench.system);
    let took = |(processor, count): (&u32, &u64)| (before.get(processor) != Some(count)).then_some(1 << processor);
    after.iter().filter_map(took).fold(0, |mask, bit: u64| mask | bit)
}

fn add_all(system: &System, count: u32) {
    for _ in 0..count {
        system.add_processor(NewProcessor::default()).expect("there is room");
    }
    system.settle();
}

fn with_edu(seed: u64, edu: DeviceSpec, scenario: impl FnOnce(Bench<'_>)) {
    run(small().with_seed(seed), |system| {
        let bench = Bench::with(system, workload::package(sys()), edu);
        scenario(bench);
        bench.end();
    });
}

#[test]
fn with_messages_all_of_them_after_the_rebalance() {
    each_seed(4, |seed| {
        with_edu(seed, quick_edu(), |bench| {
            assert_eq!(reached(bench), 0b11, "before it, the processors there are");
            add_all(bench.system, 6);
            assert_eq!(reached(bench), 0xFF);
            let status = bench.edu_status();
            assert_eq!((status.interrupt_affinity, status.interrupt_mode), (0xFF, InterruptMode::Message.code()));
        });
    });
}

#[test]
fn with_a_line_too() {
    each_seed(4, |seed| {
        with_edu(seed, quick_edu().with_line_interrupts_only(), |bench| {
            assert_eq!(reached(bench), 0b11);
            add_all(bench.system, 6);
            assert_eq!(reached(bench), 0xFF);
            assert_eq!(bench.edu_status().interrupt_mode, InterruptMode::Line.code());
        });
    });
}

#[test]
fn before_the_rebalance_the_old_set_works() {
    each_seed(4, |seed| {
        with_edu(seed, quick_edu().with_rebalance_policy(NO_REBALANCE), |bench| {
            add_all(bench.system, 6);
            assert_eq!(reached(bench), 0b11, "nobody has rebalanced the device");
            assert_eq!(bench.edu_status().rebalances, 0);
            assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
            assert_eq!(reached(bench), 0xFF);
        });
    });
}

#[test]
fn only_those_that_the_administrator_allows() {
    each_seed(4, |seed| {
        with_edu(seed, quick_edu().with_affinity_policy(SPECIFIED, 0b1010_0010), |bench| {
            assert_eq!(reached(bench), 0b10, "of those allowed, the one that is there");
            add_all(bench.system, 6);
            assert_eq!(reached(bench), 0b1010_0010);
            let filtered = bench.events(EventKind::RequirementsFiltered);
            assert!(!filtered.is_empty() && filtered.iter().all(|event| event.device != 1 || event.count == 0));
        });
    });
}

#[test]
fn one_close_processor_stays_one() {
    each_seed(4, |seed| {
        with_edu(seed, quick_edu().with_affinity_policy(ONE_CLOSE, 0), |bench| {
            add_all(bench.system, 6);
            assert_eq!(reached(bench).count_ones(), 1);
        });
    });
}

#[test]
fn in_a_group_with_gaps_those_that_are_there() {
    each_seed(4, |seed| {
        let config = Config { processors: 1, groups: vec![Group::new(0b1101_0010), Group::new(0b11)], ..small() };
        run(config.with_seed(seed), |system| {
            let bench = Bench::new(system);
            add_all(system, 5);
            // The system chooses the group. Indices count through the masks: the first group's four come first.
            let status = bench.edu_status();
            let expected = if status.interrupt_group == 0 { (0b1101_0010, 0b00_1111) } else { (0b11, 0b11_0000) };
            assert_eq!((status.interrupt_affinity, reached(bench)), expected);
            bench.end();
        });
    });
}

#[test]
fn and_the_driver_counts_what_the_machine_delivered() {
    each_seed(4, |seed| {
        with_edu(seed, quick_edu(), |bench| {
            add_all(bench.system, 6);
            reached(bench);
            let statistics = workload::processors(&bench.open_edu()).expect("statistics can be read");
            let counted: BTreeMap<_, _> =
                statistics.iter().filter(|own| own.interrupts != 0).map(|own| (own.index, own.interrupts)).collect();
            assert_eq!(counted, bench.edu.interrupt_counts(bench.system));
        });
    });
}
