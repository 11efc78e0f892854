//! `bench/peer`, the driver in C that hotadd is measured against, keeps the same promises. Those of every request and of every call that fails
//! are held where hotadd's are.

use std::path::Path;

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, each_seed, peer, quick_edu, requests_come_before_add_complete, run, small, status, sys};
use ntlab::{
    config::{Config, Preemption},
    faults::{Fault, Lasting, Plan},
    hot_add::NewProcessor,
    machine::System,
    pnp::Rebalance,
};
use workload::{
    Demo,
    interference::{Interference, What},
    life,
    sequence::{self, Step},
};

/// The longest sequences of events that are played.
const LONGEST: usize = 2;
/// Something else happens at one kernel call of the driver's life in so many.
const ONE_IN: usize = 1499;

fn play_demo(config: Config, seed: u64) {
    let done = run(config.with_seed(seed), |system| Demo::with_seed(seed).play(system, peer()));
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn no_request_is_lost_while_the_machine_grows() {
    each_seed(8, |seed| play_demo(Config::default(), seed));
}

#[test]
fn it_can_be_interrupted_at_any_instruction() {
    each_seed(4, |seed| {
        let preemption = Preemption::Instructions { one_in: 200 };
        play_demo(Config { preemption, ..Config::default() }, seed);
    });
}

#[test]
fn a_new_processor_runs_its_code_at_once() {
    requests_come_before_add_complete(peer());
}

#[test]
fn a_processor_that_never_comes_leaves_nothing_behind() {
    each_seed(4, |seed| {
        run(small().with_seed(seed), |system| {
            let bench = Bench::with(system, workload::package(peer()), quick_edu());
            let fails = Some(status::UNSUCCESSFUL);
            let failed = system.add_processor(NewProcessor { fails, ..NewProcessor::default() });
            assert_eq!(failed, Err(status::UNSUCCESSFUL));
            let told = bench.edu_status();
            assert_eq!((told.processors_known, told.processors_steered), (2, 2));
            assert_eq!(workload::processors(&bench.open_software()).map(|known| known.len()), Ok(2));
            bench.end();
        });
    });
}

#[test]
fn interrupts_reach_all_processors_after_a_rebalance() {
    each_seed(2, |seed| {
        run(small().with_seed(seed), |system| {
            let bench = Bench::with(system, workload::package(peer()), quick_edu());
            assert_eq!(bench.edu_status().interrupt_affinity, 0b11);
            for processors in 3..=8_u32 {
                system.add_processor(NewProcessor::default()).expect("there is room");
                system.settle();
                assert_eq!(bench.edu_status().interrupt_affinity, (1 << processors) - 1);
            }
            bench.end();
        });
    });
}

/// What a driver's journal tells of a rebalance, to one who waits for it.
fn events_of_a_rebalance(sys: &Path) -> Vec<Option<EventKind>> {
    run(small(), |system| {
        let bench = Bench::with(system, workload::package(sys), quick_edu());
        let handle = bench.open_software();
        let from = bench.edu_status().journal_next;
        let (request, parse) = workload::journal(from);
        let waiting = handle.submit(request).wait_for(1_000_000).expect_err("nothing has happened");
        assert_eq!(bench.edu.rebalance(system), Rebalance::Restarted);
        let done = waiting.wait();
        assert_eq!(parse(&done.output).events[0].sequence, from, "the next event ends the wait");
        let told = workload::journal_from(&handle, from).expect("the journal can be read");
        drop(handle);
        bench.end();
        // Windows may ask for the requirements anew, or not.
        let kinds = told.events.iter().map(|event| EventKind::from_code(event.kind));
        kinds.filter(|kind| *kind != Some(EventKind::RequirementsFiltered)).collect()
    })
}

#[test]
fn its_journal_tells_of_a_rebalance_what_hotadd_tells() {
    let told = events_of_a_rebalance(peer());
    assert!(told.contains(&Some(EventKind::DeviceRestarted)), "{told:?}");
    assert_eq!(told, events_of_a_rebalance(sys()));
}

fn lives_through(plan: Plan, seed: u64) -> usize {
    run(small().with_seed(seed).with_faults(plan), |system| {
        life::live(system, peer());
        system.failed_calls().len()
    })
}

#[test]
fn calls_may_fail_at_random() {
    each_seed(6, |seed| {
        lives_through(Plan::at_random(100), seed);
        lives_through(Plan::at_random(10), seed);
    });
}

#[test]
fn memory_may_run_out_at_any_call() {
    let mut failed = 0;
    for call in (1..200).step_by(13) {
        let fault = Fault { call, failure: 0, lasting: Lasting::Memory };
        failed += lives_through(Plan { faults: vec![fault], ..Plan::default() }, 0);
    }
    assert!(failed > 50, "{failed} calls found no memory");
}

fn play_sequence(steps: &[Step]) {
    let broken =
        run(Config { time_limit_ns: 10_000_000_000, ..small() }, |system| sequence::play(system, peer(), steps, 0));
    let names: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(broken, Vec::<String>::new(), "after {}", names.join(", "));
}

#[test]
fn windows_may_do_anything_in_any_order() {
    for steps in sequence::up_to(LONGEST) {
        play_sequence(&steps);
    }
}

fn interfere(system: &System, what: What, call: u64) {
    let played = Interference { what, call }.play(system, peer());
    assert!(played.is_ok(), "{what:?} at call {call}: {played:?}");
}

#[test]
fn anything_may_happen_between_two_kernel_calls() {
    let calls = run(small(), |system| {
        life::live(system, peer());
        system.kernel_calls()
    });
    for (number, call) in (1..calls).step_by(ONE_IN).enumerate() {
        let what = What::ALL[number % What::ALL.len()];
        let config = Interference { what, call }.machine(small());
        run(config, |system| interfere(system, what, call));
    }
}
