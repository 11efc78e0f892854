//! The trace of a run depends on nothing but image, scenario and seed.

use std::thread;

use hotadd_tests::{Bench, Traffic, each_seed, small};
use ntlab::{
    config::{Checks, Config},
    events::Event,
    hot_add::NewProcessor,
    machine::Machine,
    power::SystemState,
};

/// A run with everything that leaves something to chance.
fn trace(seed: u64) -> Vec<Event> {
    trace_of(small().with_seed(seed))
}

fn trace_of(machine: Config) -> Vec<Event> {
    let seed = machine.seed;
    let config = Config { keep_trace: true, ..machine };
    let outcome = Machine::new(config).expect("the machine makes sense").run(|system| {
        let bench = Bench::new(system);
        let traffic = Traffic::start(bench, 12, seed);
        for _ in 0..3 {
            system.add_processor(NewProcessor::default()).expect("there is room");
            system.add_memory(256 << 20, 0).expect("there is room");
            traffic.run(20);
        }
        system.sleep_system(SystemState::S3).expect("no driver refuses");
        traffic.run(20);
        traffic.stop_unharmed();
        bench.end();
    });
    if let Err(report) = outcome.result {
        panic!("{report}");
    }
    outcome.events
}

#[test]
fn the_same_seed_gives_the_same_trace_event_for_event() {
    each_seed(3, |seed| {
        let first = trace(seed);
        // On another thread of the host, which has other addresses, and where no machine has been, while this one works too.
        let second = thread::spawn(move || trace(seed));
        let third = trace(seed);
        let second = second.join().expect("the run ends");
        assert!(first.len() > 5_000, "much happened: {} events", first.len());
        for other in [second, third] {
            let difference = first.iter().zip(&other).find(|(one, other)| one != other);
            assert_eq!(difference, None);
            assert_eq!(first.len(), other.len());
        }
    });
}

#[test]
fn another_seed_gives_another_trace() {
    let kinds = |events: Vec<Event>| events.into_iter().map(|event| event.kind).collect::<Vec<_>>();
    assert!(kinds(trace(1)) != kinds(trace(2)));
}

#[test]
fn without_checks_the_trace_is_the_same() {
    for checks in [Checks::Calls, Checks::Traces] {
        assert!(trace_of(Config { checks, ..small().with_seed(3) }) == trace(3), "{checks:?}");
    }
}
