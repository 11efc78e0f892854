//! Every promise holds where interrupts, DPCs, threads and processors come in between any two instructions of the driver, too.

use hotadd_tests::{Bench, Traffic, each_seed, small, with_all_seeds};
use ntlab::{
    config::{Config, Preemption},
    events::{Event, Kind},
    hot_add::NewProcessor,
    machine::Machine,
};

/// What became of a life of the driver.
struct Life {
    events: Vec<Event>,
    /// Instructions and basic blocks of the driver.
    instructions: Option<u64>,
    blocks: usize,
}

/// Load, start, requests, processors and memory added, a rebalance with each, removal, unload.
fn life(config: Config) -> Life {
    let config = Config { keep_trace: true, ..config };
    let seed = config.seed;
    let outcome = Machine::new(config).expect("the machine makes sense").run(|system| {
        let bench = Bench::new(system);
        let traffic = Traffic::start(bench, 12, seed);
        for _ in 0..2 {
            traffic.run(20);
            system.add_processor(NewProcessor::default()).expect("there is room");
            system.add_memory(256 << 20, 0).expect("there is room");
        }
        traffic.run(20);
        traffic.stop_unharmed();
        bench.end();
        (system.driver_instructions(), system.driver_blocks().len())
    });
    let (instructions, blocks) = outcome.result.unwrap_or_else(|report| panic!("{report}"));
    Life { events: outcome.events, instructions, blocks }
}

fn at_instructions(one_in: u32, seed: u64) -> Config {
    Config { preemption: Preemption::Instructions { one_in }, ..small() }.with_seed(seed)
}

/// How often another processor, an interrupt or a DPC came when the driver had been called and had not called the kernel yet.
fn between_instructions(events: &[Event]) -> usize {
    let came = |pair: &&[Event]| {
        let other = pair[1].processor != pair[0].processor || matches!(pair[1].kind, Kind::Interrupt { .. });
        other && matches!(pair[0].kind, Kind::CallDriver(_))
    };
    events.windows(2).filter(came).count()
}

#[test]
fn the_driver_lives_its_whole_life_interrupted_at_any_instruction() {
    let mut within = 0;
    each_seed(3, |seed| {
        for one_in in [1, 10, 100] {
            let life = life(at_instructions(one_in, seed));
            within += between_instructions(&life.events);
            assert!(life.instructions > Some(50_000), "{:?} instructions", life.instructions);
            assert!(life.blocks > 500, "{} blocks", life.blocks);
        }
    });
    assert!(within > 100 || !with_all_seeds(), "others came between instructions: {within}");
}

#[test]
fn a_count_of_instructions_changes_nothing_that_happens() {
    each_seed(2, |seed| {
        let native = life(small().with_seed(seed));
        eprintln!(
            "native within {} of {}",
            between_instructions(&native.events),
            native.events.iter().filter(|e| matches!(e.kind, Kind::Interrupt { .. })).count()
        );
        let counted = life(Config { count_instructions: true, ..small() }.with_seed(seed));
        assert!(native.events == counted.events, "the traces are the same");
        assert_eq!(native.instructions, None);
        assert!(counted.instructions > Some(50_000), "{:?} instructions", counted.instructions);
    });
}

#[test]
fn the_same_seed_interrupts_the_same_instructions() {
    each_seed(2, |seed| {
        let lives = [0; 2].map(|_| life(at_instructions(25, seed)));
        assert!(lives[0].events == lives[1].events, "the traces are the same");
        assert_eq!(lives[0].instructions, lives[1].instructions);
    });
}
