//! Whatever Windows does to the device and its machine, in whatever order: no request is lost, every answer is right, nothing is left.

use hotadd_tests::{each_seed, small, sys};
use ntlab::{config::Config, machine::Machine};
use workload::sequence::{self, Step};

/// The longest sequences that are played here; `cargo xtask campaign` plays longer ones.
const LONGEST: usize = 3;
/// Virtual nanoseconds that one may take.
const TIME_LIMIT: u64 = 10_000_000_000;

fn play(steps: &[Step], seed: u64) {
    let config = Config { time_limit_ns: TIME_LIMIT, ..small() };
    let machine = Machine::new(config.with_seed(seed)).expect("the machine makes sense");
    let outcome = machine.run(|system| sequence::play(system, sys(), steps, seed));
    let names: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let after = names.join(", ");
    let broken = outcome.result.unwrap_or_else(|report| panic!("after {after}: {report}"));
    assert_eq!(broken, Vec::<String>::new(), "after {after}");
}

#[test]
fn of_pnp_requests_power_requests_and_hot_additions() {
    each_seed(1, |seed| {
        for steps in sequence::up_to(LONGEST) {
            play(&steps, seed);
        }
    });
}
