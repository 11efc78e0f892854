//! `ntlab explore` and `ntlab replay`.

use std::{
    fs::{self, File},
    io::{BufReader, IsTerminal as _, Write, stderr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ntlab::{
    config::Preemption,
    explore::{self, Found, Replay, Results, Shard},
    scenario::Scenario,
};
use serde::Serialize;

use crate::{Outcome, files, repeat::Line};

/// What `explore` is told.
#[derive(Args)]
pub struct Options {
    /// The scenario file.
    scenario: PathBuf,
    /// The driver's image, instead of the one the scenario names.
    #[arg(long)]
    driver: Option<PathBuf>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Who goes on at a scheduling point: `uniform` at random, or `pct:D` by priorities that change at D - 1 random points.
    #[arg(long, default_value = "uniform")]
    policy: PolicyName,
    /// Let other processors, interrupts and DPCs in at any instruction of the driver, about one in N: `instructions:N`.
    #[arg(long)]
    preempt: Option<PreemptName>,
    /// Go on after a finding, and group what is found.
    #[arg(long)]
    collect: bool,
    /// OS threads [default: all cores].
    #[arg(long)]
    jobs: Option<usize>,
    /// Only each N-th seed, from the I-th: `I/N`.
    #[arg(long, default_value = "0/1")]
    shard: ShardName,
    /// Runs that may be spent on making each finding small.
    #[arg(long, default_value_t = 2000)]
    shrink: u64,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
    /// Where to write what repeats a finding; the second and later ones get a number.
    #[arg(long, default_value = "replay.json")]
    out: PathBuf,
}

/// A policy as it is written.
#[derive(Clone, Copy)]
enum PolicyName {
    Uniform,
    Pct(u32),
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let depth = |text: &str| text.parse().ok().filter(|&depth| depth > 0);
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("pct", number)) => depth(number).map(Self::Pct).ok_or_else(|| format!("\"{number}\" is no depth")),
            _ => Err("a policy is `uniform` or `pct:D`".into()),
        }
    }
}

/// A preemption as it is written.
#[derive(Clone, Copy)]
struct PreemptName(Preemption);

impl FromStr for PreemptName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one_in = text.strip_prefix("instructions:").and_then(|number| number.parse().ok());
        let preemption = one_in.filter(|&one_in| one_in > 0).map(|one_in| Preemption::Instructions { one_in });
        preemption.map(Self).ok_or_else(|| "written instructions:N".into())
    }
}

/// A shard as it is written.
#[derive(Clone, Copy)]
struct ShardName(Shard);

impl FromStr for ShardName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let shard = numbers.map(|(index, count)| Shard { index, count }).filter(|shard| shard.index < shard.count);
        shard.map(Self).ok_or_else(|| "a shard is I/N, with I from 0 and below N".into())
    }
}

/// Runs a scenario with many seeds.
///
/// # Errors
///
/// What is wrong with the files.
pub fn explore(options: &Options, out: &mut impl Write) -> Result<Outcome> {
    let scenario = files::scenario_with(&options.scenario, options.driver.as_deref())?;
    ensure_repeatable(&scenario, &options.scenario)?;
    let mut config = scenario.config()?;
    config.preemption = options.preempt.map(|preempt| preempt.0).unwrap_or_default();
    if let PolicyName::Pct(depth) = options.policy {
        config.policy = explore::pct(&scenario, &config, depth);
    }
    let defaults = explore::Options::default();
    let search = explore::Options {
        jobs: options.jobs.unwrap_or(defaults.jobs),
        shard: options.shard.0,
        collect: options.collect,
        shrink_runs: options.shrink,
        progress: stderr().is_terminal(),
    };
    let make = |unit: u64| (scenario.clone(), config.clone().with_seed(options.first.saturating_add(unit)));
    let begun = Instant::now();
    let results = explore::run(options.seeds, make, &search);
    let seconds = begun.elapsed().as_secs_f64();
    let files = write_replays(&results, &options.out)?;
    if options.json {
        let printed = Printed { seconds, replays: &files, results: &results };
        writeln!(out, "{}", serde_json::to_string_pretty(&printed)?)?;
    } else {
        print(&results, &files, seconds, out)?;
    }
    Ok(if results.findings.is_empty() { Outcome::Nothing } else { Outcome::Found })
}

/// Whether the same seed is the same run. A QEMU takes the time that the host gives it, which no seed decides.
fn ensure_repeatable(scenario: &Scenario, path: &Path) -> Result<()> {
    ensure!(
        !scenario.needs_qemu(),
        "{}: no run with real hardware (`qemu = true`) is the same again, so it cannot be explored; explore it with the model, without `qemu`",
        path.display()
    );
    Ok(())
}

/// The results as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    seconds: f64,
    replays: &'a [PathBuf],
    #[serde(flatten)]
    results: &'a Results<Scenario>,
}

/// Writes what repeats each finding, in the order of their keys.
fn write_replays(results: &Results<Scenario>, out: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (number, found) in results.findings.values().enumerate() {
        let path = if number == 0 { out.to_path_buf() } else { numbered(out, number + 1) };
        let text = serde_json::to_string_pretty(&found.replay)?;
        fs::write(&path, text + "\n").with_context(|| format!("{}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

fn numbered(out: &Path, number: usize) -> PathBuf {
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    let extension = out.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    out.with_file_name(format!("{stem}-{number}{extension}"))
}

fn print(results: &Results<Scenario>, files: &[PathBuf], seconds: f64, out: &mut impl Write) -> Result<()> {
    for ((key, found), file) in results.findings.iter().zip(files) {
        let Found { count, first, repeats, replay, shrunk } = found;
        writeln!(out, "{}\n", replay.report)?;
        writeln!(out, "found: {key}, in {count} of {} runs, first in {first}", results.units)?;
        if !repeats {
            eprintln!("warning: it did not come again when that run was repeated");
        }
        let (before, after) = (shrunk.draws_before, shrunk.draws);
        writeln!(
            out,
            "made small in {} runs: {after} of {before} switches and events are left, the scenario became smaller {} times",
            shrunk.runs, shrunk.scenario_steps
        )?;
        writeln!(out, "to repeat this: {}\n", Line::new("replay").file(file).text())?;
    }
    let (pairs, new) = (results.covered.pairs(), results.new_in_last_tenth());
    writeln!(
        out,
        "{} runs in {seconds:.1} s ({:.0} a second), {} scheduling points; {} kinds of findings",
        results.units,
        per_second(results.units, seconds),
        results.points,
        results.findings.len()
    )?;
    writeln!(
        out,
        "{pairs} pairs of events were seen one after the other on different processors or threads, {new} of them first in the last tenth of the runs"
    )?;
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a rate to be read by people")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-9)
}

/// Repeats a finding.
///
/// # Errors
///
/// What is wrong with the file, or that it ends in another way.
pub fn replay(path: &Path, out: &mut impl Write) -> Result<Outcome> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let replay: Replay<Scenario> =
        serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{}", path.display()))?;
    ensure_repeatable(&replay.scenario, path)?;
    replay.config.check().with_context(|| format!("{}", path.display()))?;
    match replay.run()? {
        None => bail!("{}: nothing is found now; it was: {}", path.display(), replay.finding),
        Some(report) => {
            writeln!(out, "{report}")?;
            if report != replay.report {
                eprintln!("\nwarning: the report was another one when the file was written");
            }
            Ok(Outcome::Found)
        }
    }
}

#[cfg(test)]
mod tests;
