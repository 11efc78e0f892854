//! Runs a scenario many times, on all cores, each time otherwise: finds what is wrong with a driver, makes it small, and writes down what
//! repeats it.
//!
//! ```no_run
//! use ntlab::{explore::{self, Options}, scenario::Scenario};
//!
//! let scenario = Scenario::parse("[driver]\nimage = \"toaster.sys\"").unwrap();
//! let config = scenario.config().unwrap();
//! let results = explore::run(1000, |unit| (scenario.clone(), config.clone().with_seed(unit)), &Options::default());
//! for (what, found) in &results.findings {
//!     println!("{what}: {} of {} runs, first in {}", found.count, results.units, found.first);
//! }
//! ```

mod attempt;
mod replay;
mod results;
mod search;
mod shrink;
mod side_by_side;
mod simpler;

use std::{collections::BTreeMap, num::NonZero, path::PathBuf, thread};

use serde::{Serialize, de::DeserializeOwned};

pub use self::{
    replay::{Replay, Stale},
    results::{Covered, Found, Results, Shrunk},
    search::run,
};
use crate::{
    config::{Config, Policy},
    machine::Outcome,
};

/// What a run counted, by name.
pub type Tally = BTreeMap<String, u64>;

/// What can be run again and again. Nothing but itself, the images and the [`Config`] may decide what happens.
pub trait Scenario: Clone + Serialize + DeserializeOwned + Send + Sync {
    /// What reports call it.
    fn name(&self) -> String;

    /// The files of the driver images it runs.
    fn images(&self) -> Vec<PathBuf>;

    /// Runs it once on a machine made as `config` says, what is the scenario's own excepted. An error is a promise that the driver broke, as
    /// is a panic.
    fn run(&self, config: Config) -> Outcome<Result<Tally, String>>;

    /// Smaller scenarios, the smallest first.
    fn shrink(&self) -> Vec<Self> {
        Vec::new()
    }
}

/// How to search.
#[derive(Clone, Debug)]
pub struct Options {
    /// Machines that run at the same time: each in a process of its own where the caller is the only thread of its process, else on OS
    /// threads.
    pub jobs: usize,
    /// Only the units of this shard.
    pub shard: Shard,
    /// Whether to go on after a finding.
    pub collect: bool,
    /// Runs that may be spent on making each finding smaller.
    pub shrink_runs: u64,
    /// Whether to show a bar on a terminal.
    pub progress: bool,
}

impl Default for Options {
    /// All cores and all units, up to the first finding.
    fn default() -> Self {
        Self {
            jobs: thread::available_parallelism().map_or(1, NonZero::get),
            shard: Shard::default(),
            collect: false,
            shrink_runs: 2000,
            progress: false,
        }
    }
}

/// A part of the units of a search: those whose number modulo `count` is `index`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Which part, from 0.
    pub index: u64,
    /// Of how many.
    pub count: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

/// A policy of priorities for a scenario on a machine made as `config` says, whose length is measured with one run.
#[must_use]
pub fn pct<S: Scenario>(scenario: &S, config: &Config, depth: u32) -> Policy {
    let config = Config { report_panics: true, ..config.clone() };
    let points = scenario.run(config).points.max(1);
    Policy::Pct { depth, points }
}
