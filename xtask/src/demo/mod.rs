//! `demo`: hotadd.sys under load while processors and memory are added to its machine.

mod journal;
mod options;
mod results;
mod scenario;
mod view;
mod words;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use ntlab::{config::Config, machine::Machine, report::Report};

pub use self::options::Options;
use self::{results::Results, scenario::Scenario, view::View};

/// Exit code of options that make no sense.
const USAGE: u8 = 2;

/// Runs the demo with the driver in the file `sys`: 0 if every promise was kept, 1 if one was broken, 2 for options that contradict each
/// other.
///
/// # Errors
///
/// A file that cannot be written.
pub fn run(options: &Options, sys: impl FnOnce() -> Result<PathBuf>) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(seed_from_clock);
    let config = match options.machine(seed) {
        Ok(config) => config,
        Err(contradiction) => {
            eprintln!("{contradiction}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let sys = sys()?;
    let scenario = Scenario::new(options, seed, &config);
    let view = Rc::new(View::new(options.quiet, scenario.stages()));
    match play(&scenario, config, &sys, &view)? {
        Ok(results) => finish(options, &view, &results),
        Err(report) => {
            View::broken(&report.to_string());
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Seconds that the demo takes as it is by default, without showing anything.
///
/// # Errors
///
/// A run that stopped, or broke a promise.
pub fn seconds(sys: &Path) -> Result<f64> {
    let options = Options { quiet: true, ..Options::default() };
    let config = options.machine(1).map_err(|contradiction| anyhow!(contradiction))?;
    let scenario = Scenario::new(&options, 1, &config);
    let view = Rc::new(View::new(true, scenario.stages()));
    let results = play(&scenario, config, sys, &view)?.map_err(|report| anyhow!("{report}"))?;
    ensure!(results.broken.is_empty(), "broken promises: {}", results.broken.join("; "));
    Ok(results.host_seconds)
}

fn play(scenario: &Scenario, config: Config, sys: &Path, view: &Rc<View>) -> Result<Result<Results, Box<Report>>> {
    let machine = Machine::new(config)?;
    let start = Instant::now();
    let outcome = machine.run(|system| scenario.play(system, sys, view));
    let host_seconds = start.elapsed().as_secs_f64();
    Ok(outcome.result.map(|results| Results { host_seconds, ..results }))
}

fn finish(options: &Options, view: &View, results: &Results) -> Result<ExitCode> {
    view.tables(&results.tables());
    for sentence in &results.broken {
        View::broken(sentence);
    }
    if let Some(file) = &options.json {
        write_json(file, results)?;
    }
    if let Some(file) = &options.picture {
        view.save_picture(file)?;
    }
    Ok(if results.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_json(file: &Path, results: &Results) -> Result<()> {
    let text = serde_json::to_string_pretty(results)?;
    fs::write(file, text + "\n").with_context(|| format!("{} cannot be written", file.display()))
}

/// Different from run to run; printed with the results, so that a run can be repeated.
fn seed_from_clock() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(since_1970.subsec_nanos()) ^ since_1970.as_secs()
}
