//! The search: units dealt out to processes or OS threads, each with machines of its own.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::{
    Found, Options, Results, Scenario, Tally,
    attempt::{Attempt, Failure, attempt},
    results::{self, Covered},
    shrink::shrink,
    side_by_side,
};
use crate::{config::Config, memory::host::Shared};

/// Runs the units `0..units` of a search, of which `make` says what each is: up to the first that finds something, or all.
///
/// What is found depends on nothing but the units: not on the number of jobs, nor on how fast they are.
///
/// # Panics
///
/// Where a scenario makes a process of the host end, or the host has no memory left.
pub fn run<S: Scenario>(units: u64, make: impl Fn(u64) -> (S, Config) + Sync, options: &Options) -> Results<S> {
    let shard = options.shard;
    let own = units.saturating_sub(shard.index).div_ceil(shard.count.max(1));
    let search = Search {
        make,
        unit: |number| shard.index + number * shard.count,
        units: own,
        shared: Shared::new().expect("the host has a page left"),
        collect: options.collect,
    };
    search.last().store(u64::MAX, Ordering::Relaxed);
    let bar = bar(own, options.progress);
    let show = || bar.set_position(search.done().load(Ordering::Relaxed));
    let parts = side_by_side::run(options.jobs, || search.work(), show);
    bar.finish_and_clear();
    let last = search.last().load(Ordering::Relaxed);
    let mut sum = Part::default();
    for part in parts {
        sum.merge(part);
    }
    let mut results = sum.results(last);
    results.end = if last == u64::MAX { units } else { last + 1 };
    results.findings = shrink_all(sum.failures, &search.make, options, last);
    results
}

/// What the jobs of a search share.
struct Search<Make, Unit> {
    make: Make,
    /// From the number of a unit of this shard to its number.
    unit: Unit,
    units: u64,
    shared: Shared,
    collect: bool,
}

impl<S: Scenario, Make: Fn(u64) -> (S, Config) + Sync, Unit: Fn(u64) -> u64 + Sync> Search<Make, Unit> {
    /// How many units were dealt out.
    fn taken(&self) -> &AtomicU64 {
        self.shared.number(0)
    }

    /// How many of them were run.
    fn done(&self) -> &AtomicU64 {
        self.shared.number(1)
    }

    /// The first unit that found something; those after it do not count. Where findings are collected, the end of all numbers.
    fn last(&self) -> &AtomicU64 {
        self.shared.number(2)
    }

    /// Runs units until there are no more.
    fn work(&self) -> Part {
        let mut part = Part::default();
        loop {
            let number = self.taken().fetch_add(1, Ordering::Relaxed);
            if number >= self.units {
                return part;
            }
            let unit = (self.unit)(number);
            if unit > self.last().load(Ordering::Relaxed) {
                return part;
            }
            let (scenario, config) = (self.make)(unit);
            let ended = attempt(&scenario, Config { keep_interleavings: true, ..config });
            if ended.result.is_err() && !self.collect {
                self.last().fetch_min(unit, Ordering::Relaxed);
            }
            part.add(unit, ended);
            self.done().fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What one job has come to.
#[derive(Default, Serialize, Deserialize)]
struct Part {
    done: Vec<(u64, Tally, u64)>,
    covered: Covered,
    failures: BTreeMap<String, Failures>,
}

/// The findings that are alike.
#[derive(Serialize, Deserialize)]
struct Failures {
    units: Vec<u64>,
    first: Failure,
}

impl Failures {
    fn first_unit(&self) -> u64 {
        self.units.iter().copied().min().unwrap_or(u64::MAX)
    }
}

impl Part {
    fn add(&mut self, unit: u64, ended: Attempt) {
        let tally = match ended.result {
            Ok(tally) => tally,
            Err(failure) => {
                self.add_failures(failure.key.clone(), Failures { units: vec![unit], first: failure });
                Tally::new()
            }
        };
        self.done.push((unit, tally, ended.points));
        self.covered.add(ended.interleavings, unit);
    }

    fn add_failures(&mut self, key: String, mut new: Failures) {
        let Some(known) = self.failures.get_mut(&key) else {
            self.failures.insert(key, new);
            return;
        };
        if new.first_unit() < known.first_unit() {
            std::mem::swap(known, &mut new);
        }
        known.units.extend(new.units);
    }

    fn merge(&mut self, other: Self) {
        self.done.extend(other.done);
        self.covered.merge(other.covered);
        for (key, failures) in other.failures {
            self.add_failures(key, failures);
        }
    }

    /// What counts: the units up to `last`.
    fn results<S>(&mut self, last: u64) -> Results<S> {
        let mut results = Results { covered: std::mem::take(&mut self.covered), ..Results::default() };
        results.covered.retain_until(last);
        for (_, tally, points) in self.done.drain(..).filter(|(unit, ..)| *unit <= last) {
            results.units += 1;
            results.points += points;
            results::add(&mut results.tally, tally);
        }
        results
    }
}

/// Makes the findings of units up to `last` small.
fn shrink_all<S: Scenario>(
    failures: BTreeMap<String, Failures>,
    make: &(impl Fn(u64) -> (S, Config) + Sync),
    options: &Options,
    last: u64,
) -> BTreeMap<String, Found<S>> {
    let counted: Vec<_> = failures.into_iter().filter(|(_, failures)| failures.first_unit() <= last).collect();
    let taken = AtomicU64::new(0);
    let bar = bar(counted.len() as u64, options.progress);
    bar.set_message("making findings small");
    let work = || {
        let mut shrunk = Vec::new();
        loop {
            let number = usize::try_from(taken.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
            let Some((key, failures)) = counted.get(number) else { return shrunk };
            let first = failures.first_unit();
            let mut found = shrink(make(first), failures.first.clone(), first, options.shrink_runs);
            found.count = failures.units.iter().filter(|unit| **unit <= last).count() as u64;
            shrunk.push((key.clone(), found));
            bar.inc(1);
        }
    };
    let shrunk = side_by_side::on_threads(options.jobs.min(counted.len()), work, || ());
    bar.finish_and_clear();
    shrunk.into_iter().flatten().collect()
}

fn bar(length: u64, wanted: bool) -> ProgressBar {
    let target = if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {per_sec} {eta} {msg}");
    ProgressBar::with_draw_target(Some(length), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
