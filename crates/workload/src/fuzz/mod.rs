//! Random device-control requests, guided by which of the driver's basic blocks they reach: every one ends as the interface documents, what it
//! returns is right, and nothing is left behind.

mod corpus;
mod input;
mod model;
mod play;

use std::{collections::BTreeMap, path::Path};

use ntlab::machine::System;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use self::{
    corpus::{Corpus, CorpusError, Reach},
    input::{Control, Sequence, Step},
    model::{Expected, Facts, Meanwhile},
    play::Bench,
};
use crate::{package, quick_edu, software};

/// What came of many requests.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that were sent.
    pub requests: u64,
    /// How many ended with each status.
    pub statuses: BTreeMap<String, u64>,
    /// A sentence for each that broke a promise.
    pub broken: Vec<String>,
}

/// A run of random requests, through the driver's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fuzz {
    /// How many requests, at least.
    pub requests: u64,
    /// Decides which.
    pub seed: u64,
}

/// What a run ended with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// What became of the requests.
    pub tally: Tally,
    /// Sequences that reached blocks which none before them had reached; none where the machine does not note blocks.
    pub new: Vec<Sequence>,
}

impl Fuzz {
    /// Virtual nanoseconds that the requests may take, for [`Config::time_limit_ns`](ntlab::config::Config::time_limit_ns): 10 s each, for
    /// `edu` works for seconds at the factorial of a large number.
    #[must_use]
    pub const fn time_limit_ns(&self) -> u64 {
        self.requests.saturating_mul(10_000_000_000)
    }

    /// Plays the corpus on an `edu` and a software device, then random sequences and changed ones of the corpus and of those that reached
    /// something new; looks whether the devices still answer, and unloads the driver.
    ///
    /// # Errors
    ///
    /// The promises that were broken.
    pub fn play(&self, system: &System, sys: &Path, corpus: &Corpus) -> Result<Found, String> {
        start(system, sys);
        let found = Bench::new(system).map(|bench| self.run(system, &bench, corpus));
        let mut found = found.map_err(|status| format!("a device does not open: {status}"))?;
        found.tally.broken.extend(end(system));
        if found.tally.broken.is_empty() { Ok(found) } else { Err(found.tally.broken.join("; ")) }
    }

    fn run(&self, system: &System, bench: &Bench<'_>, corpus: &Corpus) -> Found {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut kept: Vec<Sequence> = corpus.sequences().cloned().collect();
        for sequence in &kept {
            bench.play(sequence);
        }
        let mut found = Found::default();
        while bench.requests() < self.requests {
            let sequence = next(&mut random, &kept);
            let before = system.count_driver_blocks();
            bench.play(&sequence);
            if system.count_driver_blocks() > before {
                kept.push(sequence.clone());
                found.new.push(sequence);
            }
        }
        bench.look_at_counters();
        found.tally = bench.tally();
        found
    }
}

/// One in four is random.
fn next(random: &mut ChaCha8Rng, kept: &[Sequence]) -> Sequence {
    if kept.is_empty() || random.random_range(0..4) == 0 {
        return Sequence::random(random);
    }
    let [like, other] = [(); 2].map(|()| &kept[random.random_range(0..kept.len())]);
    like.changed(random, other)
}

/// Installs the driver, and plugs in a device of each kind.
fn start(system: &System, sys: &Path) {
    system.install(package(sys));
    system.plug(quick_edu());
    system.plug(software());
}

/// Unloads the driver. What it left behind.
fn end(system: &System) -> Vec<String> {
    system.settle();
    let left = system.outstanding_requests().into_iter().map(|request| format!("still there: {request}"));
    let mut left: Vec<String> = left.collect();
    left.extend(system.unload("hotadd").err().map(|error| format!("the driver was not unloaded: {error}")));
    left
}
