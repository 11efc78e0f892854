//! `campaign`: long runs of hotadd.sys that nobody waits for: in one go, or spread over machines by shards.

mod parts;
mod results;

use std::{
    fs::File,
    io::{BufReader, IsTerminal, stderr},
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
    slice,
    str::FromStr,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use ntlab::explore;
use workload::systematic::{self, Case, Search};

pub(crate) use self::parts::machine;
pub use self::results::{PartFound, PartResults};
use self::{parts::Units, results::Results};
use crate::command;

/// Runs that are spent on making a finding smaller.
const SHRINK_RUNS: u64 = 300;

/// Runs that find what the tests are too short for; every finding ends with the command that repeats it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Run these parts only; without it, all of them.
    #[arg(long, value_enum, value_name = "PART")]
    pub only: Vec<Part>,
    /// Run one unit in so many of each part, spread over all of it.
    #[arg(long, value_name = "N", default_value_t = NonZero::<u32>::MIN)]
    pub one_in: NonZero<u32>,
    /// Run this shard of so many, such as 0/4; the results of all are merged with --merge.
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    pub shard: Shard,
    /// Run this unit alone, with one --only: a number, or a case of the faults.
    #[arg(long, value_name = "UNIT", conflicts_with_all = ["shard", "one_in"])]
    pub unit: Option<String>,
    /// Go on with the faults from the merged results in this file: each shard leaves failures that it was the first to meet to the others.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "unit", "one_in"])]
    pub from: Option<PathBuf>,
    /// Go on after a finding.
    #[arg(long)]
    pub collect: bool,
    /// Machines that run at the same time; without it, one for each processor of the host.
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZero<usize>>,
    /// Write the results to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Run nothing: merge the results in these files.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["only", "shard", "unit", "one_in", "from"])]
    pub merge: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let shard = Shard { index: 0, count: NonZero::<u32>::MIN };
        let one_in = NonZero::<u32>::MIN;
        Self {
            only: Vec::new(),
            one_in,
            shard,
            unit: None,
            from: None,
            collect: false,
            jobs: None,
            json: None,
            merge: Vec::new(),
        }
    }
}

/// A part of a campaign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// Every sequence of up to 6 PnP requests, power requests and parts of hot additions that Windows may send.
    Sequences,
    /// The demo with 200 requests, again and again with other seeds.
    Seeds,
    /// A million requests over 10,000 hot additions and rebalances.
    Endurance,
    /// The driver interrupted at any of its instructions.
    Stepped,
    /// Ten million random control requests.
    Fuzz,
    /// At every kernel call of the driver: its device pulled out, a handle closed, its requests cancelled, a thread ended.
    Interference,
    /// Four million requests, to 256 devices each time, while 64 processors become 2,048 in bursts.
    Scale,
    /// Every kernel call that can fail, from every call stack, in every documented way.
    Faults,
}

/// A part of the units: those whose number modulo `count` is `index`.
#[derive(Clone, Copy, Debug)]
pub struct Shard {
    index: u32,
    count: NonZero<u32>,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        let (index, count) = numbers.ok_or_else(|| format!("{text}: not a shard, such as 0/4"))?;
        if index < NonZero::get(count) {
            Ok(Self { index, count })
        } else {
            Err(format!("{text}: there are shards 0 to {}", count.get() - 1))
        }
    }
}

/// Runs the campaign with the driver in the file `sys`: 0 if nothing was found, 1 if something was, 2 for options that cannot be served.
///
/// # Errors
///
/// The driver is not there, or a file could not be written to the end.
pub fn run(options: &Options, sys: impl FnOnce() -> Result<PathBuf>) -> Result<ExitCode> {
    let prepared = prepare(options);
    let Prepared { file, merged, from } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(command::not_served(&error)),
    };
    let results = match (merged, from) {
        (Some(results), _) => results,
        (None, Some(from)) => go_on(options, from, &sys()?),
        (None, None) => play(options, &sys()?),
    };
    println!("{}", results.table());
    let findings = results.findings();
    for finding in &findings {
        eprintln!("{finding}");
    }
    command::write_json(file, &results)?;
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the options name.
struct Prepared {
    /// The file for the results.
    file: Option<File>,
    /// What was to be merged.
    merged: Option<Results>,
    /// What is to be gone on from.
    from: Option<Results>,
}

/// Looks at the options; opens the file for the results, and merges what is to be merged.
fn prepare(options: &Options) -> Result<Prepared> {
    if let Some(unit) = &options.unit {
        ensure!(options.only.len() == 1, "--unit needs one --only");
        check_unit(options.only[0], unit)?;
    }
    let merged = if options.merge.is_empty() { None } else { Some(merge(&options.merge)?) };
    let from = options.from.as_ref().map(|path| merge(slice::from_ref(path))).transpose()?;
    Ok(Prepared { file: command::create(options.json.as_deref())?, merged, from })
}

fn check_unit(part: Part, unit: &str) -> Result<()> {
    let Some(units) = parts::units(part) else {
        serde_json::from_str::<Case>(unit).context("--unit is not a case, which is JSON")?;
        return Ok(());
    };
    let number: u64 = unit.parse().map_err(|_| anyhow!("--unit {unit}: not a number"))?;
    if part == Part::Interference {
        // How many calls there are only the driver knows.
        return Ok(());
    }
    let count = (units.count)();
    ensure!(number < count, "--unit {unit}: there are units 0 to {}", count - 1);
    Ok(())
}

fn merge(files: &[PathBuf]) -> Result<Results> {
    let mut all = Results::default();
    for path in files {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let results = serde_json::from_reader(BufReader::new(file));
        all.merge(results.with_context(|| format!("{} holds no results of a campaign", path.display()))?);
    }
    Ok(all)
}

/// Runs what the shards have left to each other of the faults in `from`. What was run before stays in the files that it was merged from.
fn go_on(options: &Options, from: Results, sys: &Path) -> Results {
    let start = Instant::now();
    let known = systematic::Results { runs: 0, ..from.into_faults() };
    let found = PartFound::Faults(play_faults(options, sys, known));
    let mut results = Results::default();
    results.add(Part::Faults, PartResults { found, host_seconds: start.elapsed().as_secs_f64() });
    results
}

fn play(options: &Options, sys: &Path) -> Results {
    parts::set_driver(sys);
    let chosen = if options.only.is_empty() { Part::value_variants() } else { &options.only };
    let mut results = Results::default();
    for &part in chosen {
        let start = Instant::now();
        let found = parts::units(part).map_or_else(
            || PartFound::Faults(play_faults(options, sys, systematic::Results::default())),
            |units| PartFound::Units(play_units(options, units)),
        );
        results.add(part, PartResults { found, host_seconds: start.elapsed().as_secs_f64() });
        if !options.collect && !results.findings().is_empty() {
            break;
        }
    }
    results
}

/// Runs one unit in so many of a part: what was done, and how many seconds it took.
///
/// # Errors
///
/// What was found.
pub fn measure(part: Part, one_in: NonZero<u32>, sys: &Path) -> Result<PartResults> {
    let options = Options { only: vec![part], one_in, ..Options::default() };
    let mut results = play(&options, sys);
    if let Some(finding) = results.findings().into_iter().next() {
        bail!(finding);
    }
    results.take(part).ok_or_else(|| anyhow!("{part:?} was not run"))
}

fn jobs(options: &Options) -> NonZero<usize> {
    options.jobs.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZero::<usize>::MIN)
}

fn play_units(options: &Options, units: Units) -> explore::Results<parts::Unit> {
    let alone: Option<u64> = options.unit.as_ref().and_then(|unit| unit.parse().ok());
    let sample = Sample { units: if alone.is_some() { 1 } else { (units.count)() }, one_in: options.one_in.into() };
    let unit = |number| alone.unwrap_or_else(|| sample.unit(number));
    let explore = explore::Options {
        jobs: jobs(options).get(),
        shard: explore::Shard { index: options.shard.index.into(), count: options.shard.count.get().into() },
        collect: options.collect,
        // What is repeated is told as it is.
        shrink_runs: if alone.is_some() { 0 } else { SHRINK_RUNS },
        progress: stderr().is_terminal(),
    };
    let mut results = explore::run(sample.count(), |number| (units.unit)(unit(number)), &explore);
    for found in results.findings.values_mut() {
        found.first = unit(found.first);
    }
    results
}

/// One unit of so many.
#[derive(Clone, Copy)]
struct Sample {
    units: u64,
    one_in: NonZero<u64>,
}

impl Sample {
    const fn count(self) -> u64 {
        self.units.div_ceil(self.one_in.get())
    }

    /// The unit that is the sample's `number`: one out of each neighbourhood, and not always the same one, since neighbours differ in
    /// what they do in turn.
    fn unit(self, number: u64) -> u64 {
        let first = number * self.one_in.get();
        let neighbours = self.one_in.get().min(self.units.saturating_sub(first)).max(1);
        first + (number.wrapping_mul(GOLDEN) >> 32) % neighbours
    }
}

/// 2^64 divided by the golden ratio, whose multiples spread evenly ("Fibonacci hashing").
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn play_faults(options: &Options, sys: &Path, from: systematic::Results) -> systematic::Results {
    // One case in so many is one shard of so many.
    let count = options.shard.count.saturating_mul(options.one_in);
    let search = Search {
        sys,
        life: workload::life::live,
        machine: parts::machine(1),
        seeds: FAULT_SEEDS,
        shard: systematic::Shard { index: options.shard.index, count },
        threads: jobs(options),
    };
    let case: Option<Case> = options.unit.as_ref().and_then(|unit| serde_json::from_str(unit).ok());
    let Some(case) = case else {
        return search.run(from, |results| options.collect || results.broken.is_empty());
    };
    let broken = search.run_case(&case).map(|what| systematic::Broken { what, case });
    systematic::Results { runs: 1, broken: broken.into_iter().collect(), ..systematic::Results::default() }
}

/// Seeds of the runs without a failure that the faults start from.
const FAULT_SEEDS: u64 = 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_sample_has_units_of_every_kind_each_once() {
        for one_in in 1..=64 {
            let sample = Sample { units: 10_007, one_in: NonZero::new(one_in).expect("it is not 0") };
            let units: Vec<u64> = (0..sample.count()).map(|number| sample.unit(number)).collect();
            assert!(units.iter().is_sorted_by(|one, next| one < next), "one in {one_in}");
            assert!(units.last().is_some_and(|unit| *unit < sample.units), "one in {one_in}");
            for kinds in 2..=8 {
                let found: BTreeSet<u64> = units.iter().map(|unit| unit % kinds).collect();
                assert_eq!(found.len() as u64, kinds, "one in {one_in}, {kinds} kinds");
            }
        }
    }

    #[test]
    fn a_sample_of_all_is_all() {
        let sample = Sample { units: 5, one_in: NonZero::<u64>::MIN };
        assert!((0..sample.count()).map(|number| sample.unit(number)).eq(0..5));
    }
}
