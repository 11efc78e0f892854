//! Which basic blocks of the driver have run is known at its own speed, and that anybody wants to know changes nothing.

use std::collections::BTreeSet;

use hotadd_tests::{Bench, Traffic, each_seed, small};
use ntlab::{
    config::Config,
    events::Event,
    exec::BlockStart,
    hot_add::NewProcessor,
    machine::{Machine, System},
};

/// The trace of a short life of the driver, and what `ask` says when it is over.
fn life<T>(config: Config, ask: impl FnOnce(&System) -> T) -> (Vec<Event>, T) {
    let seed = config.seed;
    let outcome = Machine::new(Config { keep_trace: true, ..config }).expect("the machine makes sense").run(|system| {
        let bench = Bench::new(system);
        let traffic = Traffic::start(bench, 8, seed);
        traffic.run(20);
        system.add_processor(NewProcessor::default()).expect("there is room");
        traffic.run(20);
        traffic.stop_unharmed();
        bench.end();
        ask(system)
    });
    (outcome.events, outcome.result.unwrap_or_else(|report| panic!("{report}")))
}

fn noting(seed: u64) -> Config {
    Config { note_blocks: true, ..small() }.with_seed(seed)
}

#[test]
fn the_blocks_that_breakpoints_find_are_those_that_the_stepper_finds() {
    each_seed(2, |seed| {
        let (native, ()) = life(small().with_seed(seed), |_| ());
        let (noted, (found, known)) =
            life(noting(seed), |system| (system.driver_blocks(), system.known_driver_blocks()));
        let counting = Config { count_instructions: true, ..small() }.with_seed(seed);
        let (_, stepped) = life(counting, System::driver_blocks);

        assert!(native == noted, "the traces are the same");
        let known: BTreeSet<BlockStart> = known.into_iter().map(|(block, _)| block).collect();
        assert!(found.len() > 1000, "{} blocks", found.len());
        assert_eq!(stepped.difference(&known).collect::<Vec<_>>(), [] as [&BlockStart; 0], "all that runs is known");
        assert_eq!(stepped.difference(&found).collect::<Vec<_>>(), [] as [&BlockStart; 0], "all that runs is found");
        // The stepper names those only that a branch leads to.
        let entered = found.difference(&stepped).count();
        assert!(entered < found.len() / 2, "{entered} of {} are only fallen into", found.len());
    });
}

#[test]
fn what_was_forgotten_is_found_when_it_runs_again() {
    hotadd_tests::run(noting(0), |system| {
        let bench = Bench::new(system);
        let ask = || {
            system.forget_driver_blocks();
            assert_eq!(system.count_driver_blocks(), 0);
            workload::processors(&bench.open_software()).expect("it answers");
            system.driver_blocks()
        };
        let first = ask();
        assert!(first.len() > 50, "{} blocks", first.len());
        assert_eq!(ask(), first);
        bench.end();
    });
}
