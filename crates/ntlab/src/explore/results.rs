//! What a search came to; parts of it merge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Replay, Tally};
use crate::interleavings::{Pair, Site};

/// What a search came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results<S> {
    /// How many units were run.
    pub units: u64,
    /// One after the last unit, of all shards.
    pub end: u64,
    /// What they counted.
    pub tally: Tally,
    /// Scheduling points of all of them.
    pub points: u64,
    /// What was found, by what findings of the same defect have in common.
    pub findings: BTreeMap<String, Found<S>>,
    /// Which interleavings were seen.
    pub covered: Covered,
}

/// A finding.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found<S> {
    /// In how many units.
    pub count: u64,
    /// The first of them.
    pub first: u64,
    /// Whether it came again when that unit was run again, as it must.
    pub repeats: bool,
    /// What repeats it, small.
    pub replay: Replay<S>,
    /// How much smaller than it was found.
    pub shrunk: Shrunk,
}

/// How much smaller a finding became.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shrunk {
    /// Draws that were not the ordinary ones, as found.
    pub draws_before: usize,
    /// The same at the end.
    pub draws: usize,
    /// How many times the scenario became smaller.
    pub scenario_steps: u64,
    /// Runs that took.
    pub runs: u64,
}

/// Pairs of places that followed each other on different processors or threads, and the first unit that saw each.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(Site, Site, u64)>", into = "Vec<(Site, Site, u64)>")]
pub struct Covered {
    first_seen: BTreeMap<Pair, u64>,
}

impl From<Vec<(Site, Site, u64)>> for Covered {
    fn from(seen: Vec<(Site, Site, u64)>) -> Self {
        Self { first_seen: seen.into_iter().map(|(first, second, unit)| ((first, second), unit)).collect() }
    }
}

impl From<Covered> for Vec<(Site, Site, u64)> {
    fn from(covered: Covered) -> Self {
        covered.first_seen.into_iter().map(|((first, second), unit)| (first, second, unit)).collect()
    }
}

impl Covered {
    /// How many pairs were seen.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.first_seen.len()
    }

    /// How many of them no unit before `unit` had seen.
    #[must_use]
    pub fn new_since(&self, unit: u64) -> usize {
        self.first_seen.values().filter(|&&first| first >= unit).count()
    }

    pub(super) fn add(&mut self, pairs: impl IntoIterator<Item = Pair>, unit: u64) {
        for pair in pairs {
            let first = self.first_seen.entry(pair).or_insert(unit);
            *first = unit.min(*first);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (pair, unit) in other.first_seen {
            self.add([pair], unit);
        }
    }

    /// Takes back what only units after `unit` saw.
    pub(super) fn retain_until(&mut self, unit: u64) {
        self.first_seen.retain(|_, first| *first <= unit);
    }
}

impl<S> Default for Results<S> {
    fn default() -> Self {
        Self {
            units: 0,
            end: 0,
            tally: Tally::new(),
            points: 0,
            findings: BTreeMap::new(),
            covered: Covered::default(),
        }
    }
}

impl<S> Results<S> {
    /// Adds the results of another part of the search.
    pub fn merge(&mut self, other: Self) {
        self.units += other.units;
        self.end = self.end.max(other.end);
        self.points += other.points;
        add(&mut self.tally, other.tally);
        self.covered.merge(other.covered);
        for (key, found) in other.findings {
            let Some(known) = self.findings.get_mut(&key) else {
                self.findings.insert(key, found);
                continue;
            };
            known.count += found.count;
            if found.first < known.first {
                *known = Found { count: known.count, ..found };
            }
        }
    }

    /// Pairs that only the last tenth of the units saw: how much there may be left to see.
    #[must_use]
    pub fn new_in_last_tenth(&self) -> usize {
        self.covered.new_since(self.end - self.end / 10)
    }
}

pub(super) fn add(sum: &mut Tally, tally: Tally) {
    for (name, count) in tally {
        *sum.entry(name).or_default() += count;
    }
}
