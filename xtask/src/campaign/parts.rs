//! The parts of a campaign that are made of units.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use ntlab::{
    config::{Config, Preemption},
    explore::{Scenario, Tally},
    machine::{Machine, Outcome},
};
use serde::{Deserialize, Serialize};
use workload::{
    Demo, Endurance,
    fuzz::{Corpus, Fuzz},
    interference::{Interference, What},
    life,
    scale::Scale,
    sequence::{self, Step},
};

use super::Part;

/// The units of a part.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// How many there are.
    pub count: fn() -> u64,
    /// One of them, and the machine it runs on.
    pub unit: fn(u64) -> (Unit, Config),
}

/// The units of a part; none for the faults, whose cases depend on each other.
pub fn units(part: Part) -> Option<Units> {
    match part {
        Part::Sequences => Some(Units { count: || sequences().len() as u64, unit: sequence }),
        Part::Seeds => Some(Units { count: || SEEDS_UNITS, unit: seeds }),
        Part::Endurance => Some(Units { count: || ENDURANCE_UNITS, unit: endurance }),
        Part::Stepped => Some(Units { count: || STEPPED_UNITS, unit: stepped }),
        Part::Fuzz => Some(Units { count: || FUZZ_UNITS, unit: fuzz }),
        Part::Interference => Some(Units { count: interferences, unit: interference }),
        Part::Scale => Some(Units { count: || SCALE_UNITS, unit: scale }),
        Part::Faults => None,
    }
}

/// What one run of a campaign plays.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Unit {
    /// A sequence of PnP requests, power requests and hot additions.
    Sequence(Vec<Step>),
    /// The demo, short.
    Demo(Demo),
    /// Load while processors are added and resources are rebalanced.
    Endurance(Endurance),
    /// Random control requests.
    Fuzz(Fuzz),
    /// Something that happens between two kernel calls.
    Interference(Interference),
    /// The largest machine grows under load.
    Scale(Scale),
}

/// Steps of the longest sequences.
const LONGEST_SEQUENCE: usize = 6;
/// Virtual nanoseconds that a sequence may take.
const SEQUENCE_TIME: u64 = 10_000_000_000;

/// Seeds of the demo.
const SEEDS_UNITS: u64 = 10_000;

/// 100 machines of 10,000 requests and 100 changes each.
const ENDURANCE_UNITS: u64 = 100;
const ENDURANCE: Endurance = Endurance { changes: 100, requests: 100, lanes: 32, seed: 0 };

/// Seeds of the stepped part.
const STEPPED_UNITS: u64 = 200;
/// The life of the driver in it is short: an instruction takes long.
const STEPPED: Endurance = Endurance { changes: 6, requests: 20, lanes: 6, seed: 0 };
/// A point of preemption once in about so many instructions.
const STEPPED_POINT: u32 = 40;

/// 10 million requests.
const FUZZ_UNITS: u64 = 1000;
const FUZZ_REQUESTS: u64 = 10_000;

/// Machines of 2,048 processors.
const SCALE_UNITS: u64 = 4;

/// Processors of the machine in which something happens at each kernel call.
const INTERFERENCE_PROCESSORS: u32 = 2;

/// The machine of the demo, with so many of its 8 processors active.
pub fn machine(processors: u32) -> Config {
    Config { processors, ..Config::default() }
}

fn sequences() -> &'static [Vec<Step>] {
    static ALL: OnceLock<Vec<Vec<Step>>> = OnceLock::new();
    ALL.get_or_init(|| sequence::up_to(LONGEST_SEQUENCE))
}

fn sequence(number: u64) -> (Unit, Config) {
    let steps = usize::try_from(number).ok().and_then(|number| sequences().get(number));
    let steps = steps.cloned().unwrap_or_default();
    (Unit::Sequence(steps), Config { time_limit_ns: SEQUENCE_TIME, ..machine(2).with_seed(number) })
}

/// The demo of 200 requests on its own machine. One seed is for all that is left to chance.
pub fn seeds(number: u64) -> (Unit, Config) {
    (Unit::Demo(Demo::with_seed(number)), Config::default().with_seed(number))
}

fn endurance(number: u64) -> (Unit, Config) {
    let config = Config { seed: number, ..Config::new(2, 64).unwrap_or_default() };
    (Unit::Endurance(Endurance { seed: number, ..ENDURANCE }), config)
}

fn stepped(number: u64) -> (Unit, Config) {
    let preemption = Preemption::Instructions { one_in: STEPPED_POINT };
    (
        Unit::Endurance(Endurance { seed: number, ..STEPPED }),
        Config { preemption, keep_interleavings: true, ..machine(2).with_seed(number) },
    )
}

fn fuzz(number: u64) -> (Unit, Config) {
    let plan = Fuzz { requests: FUZZ_REQUESTS, seed: number };
    let time_limit_ns = plan.time_limit_ns();
    (Unit::Fuzz(plan), Config { note_blocks: true, time_limit_ns, ..machine(2).with_seed(number) })
}

/// The kept sequences that all units of the fuzz part start from.
fn corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| Corpus::load(&crate::fuzz::corpus_folder()).unwrap_or_else(|error| panic!("{error}")))
}

/// Every kernel call of the driver's life, with everything that may happen there.
fn interferences() -> u64 {
    static CALLS: OnceLock<u64> = OnceLock::new();
    let calls = CALLS.get_or_init(|| {
        let machine = Machine::new(machine(INTERFERENCE_PROCESSORS)).expect("the machine makes sense");
        machine.run(|system| life::live(system, driver())).kernel_calls
    });
    calls * What::ALL.len() as u64
}

fn interference(number: u64) -> (Unit, Config) {
    let interference = Interference::numbered(number);
    (Unit::Interference(interference), interference.machine(machine(INTERFERENCE_PROCESSORS)))
}

fn scale(number: u64) -> (Unit, Config) {
    let scale = Scale { seed: number, ..Scale::LARGEST };
    (Unit::Scale(scale), scale.machine().unwrap_or_default())
}

/// The driver that all units run.
static DRIVER: OnceLock<PathBuf> = OnceLock::new();

/// Has all units run the driver in the file `sys`; the first call counts.
pub fn set_driver(sys: &Path) {
    DRIVER.get_or_init(|| sys.to_owned());
}

fn driver() -> &'static Path {
    DRIVER.get().map_or_else(|| Path::new("hotadd.sys"), PathBuf::as_path)
}

impl Scenario for Unit {
    fn name(&self) -> String {
        match self {
            Self::Sequence(steps) => steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            Self::Demo(Demo { requests, seed, .. }) => format!("the demo with {requests} requests, seed {seed}"),
            Self::Fuzz(Fuzz { requests, seed }) => format!("{requests} random requests, seed {seed}"),
            Self::Endurance(Endurance { changes, seed, .. }) => format!("{changes} changes under load, seed {seed}"),
            Self::Interference(Interference { what, call }) => format!("{what:?} at kernel call {call}"),
            Self::Scale(Scale { groups, seed, .. }) => format!("{groups} groups of processors fill up, seed {seed}"),
        }
    }

    fn images(&self) -> Vec<PathBuf> {
        vec![driver().to_owned()]
    }

    fn run(&self, config: Config) -> Outcome<Result<Tally, String>> {
        let seed = config.seed;
        let machine = Machine::new(config).expect("the machine makes sense");
        match self {
            Self::Sequence(steps) => machine.run(|system| {
                let broken = sequence::play(system, driver(), steps, seed);
                if broken.is_empty() {
                    Ok([("steps".to_owned(), steps.len() as u64)].into())
                } else {
                    Err(broken.join("; "))
                }
            }),
            Self::Demo(plan) => machine.run(|system| plan.play(system, driver())),
            Self::Fuzz(plan) => machine.run(|system| {
                let found = plan.play(system, driver(), corpus())?;
                let kept = ("sequences that reach what the kept ones do not".to_owned(), found.new.len() as u64);
                Ok(found.tally.statuses.into_iter().chain([kept]).collect())
            }),
            Self::Endurance(plan) => machine.run(|system| plan.play(system, driver())),
            Self::Interference(plan) => machine.run(|system| plan.play(system, driver())),
            Self::Scale(plan) => machine.run(|system| plan.play(system, driver()).map(|grown| grown.tally())),
        }
    }

    fn shrink(&self) -> Vec<Self> {
        match self {
            Self::Sequence(steps) => sequence::shorter(steps).into_iter().map(Self::Sequence).collect(),
            Self::Demo(plan) => plan.smaller().into_iter().map(Self::Demo).collect(),
            Self::Fuzz(plan) if plan.requests > 1 => vec![Self::Fuzz(Fuzz { requests: plan.requests / 2, ..*plan })],
            Self::Fuzz(_) | Self::Interference(_) => Vec::new(),
            Self::Scale(plan) => plan.smaller().into_iter().map(Self::Scale).collect(),
            Self::Endurance(plan) => {
                let halves = [
                    Endurance { changes: plan.changes / 2, ..*plan },
                    Endurance { requests: plan.requests / 2, ..*plan },
                    Endurance { lanes: plan.lanes / 2, ..*plan },
                ];
                halves.into_iter().filter(|half| half != plan && half.lanes > 0).map(Self::Endurance).collect()
            }
        }
    }
}
