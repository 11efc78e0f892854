//! `demo`: hotadd.sys under load while processors and memory are added to its machine.

mod journal;
mod options;
mod results;
mod scenario;
mod view;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Instant,
};

use anyhow::{Error, Result, anyhow, ensure};
use ntlab::{config::Config, hw::qemu, machine::Machine, report::Report};

use workload::Hardware;

pub use self::options::Options;
use self::{
    results::Results,
    scenario::{Played, Scenario},
    view::View,
};
use crate::command;

/// What repeats a run, before the options.
const COMMAND: &str = "cargo xtask demo";

/// Runs the demo with the driver in the file `sys`: 0 if every promise was kept, 1 if one was broken, 2 for options that contradict each
/// other or name a file that cannot be written.
///
/// # Errors
///
/// The driver is not there, or a file could not be written to the end.
pub fn run(options: &Options, sys: impl FnOnce() -> Result<PathBuf>) -> Result<ExitCode> {
    let seed = options.machine.seed();
    let prepared = options.machine.config(seed, COMMAND).map_err(Error::msg).and_then(|config| {
        if options.machine.hardware == Hardware::Qemu {
            qemu::version()?;
        }
        Ok((Config { keep_timeline: options.record.is_some(), ..config }, Files::create(options)?))
    });
    let (config, files) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(command::not_served(&error)),
    };
    let sys = sys()?;
    let scenario = Scenario::new(options, seed, &config);
    let view = Rc::new(View::new(options.quiet, scenario.stages()));
    let repeat = config.repeat.clone().unwrap_or_default();
    match play(&scenario, config, &sys, &view)? {
        Ok(played) => {
            let code = finish(files, &view, &played)?;
            if !played.results.broken.is_empty() {
                eprintln!("to repeat this: {repeat}");
            }
            Ok(code)
        }
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
    let config = options.machine.config(1, COMMAND).map_err(|contradiction| anyhow!(contradiction))?;
    let scenario = Scenario::new(&options, 1, &config);
    let view = Rc::new(View::new(true, scenario.stages()));
    let Played { results, .. } = play(&scenario, config, sys, &view)?.map_err(|report| anyhow!("{report}"))?;
    ensure!(results.broken.is_empty(), "broken promises: {}", results.broken.join("; "));
    Ok(results.host_seconds)
}

fn play(scenario: &Scenario, config: Config, sys: &Path, view: &Rc<View>) -> Result<Result<Played, Box<Report>>> {
    let machine = Machine::new(config)?;
    let start = Instant::now();
    let outcome = machine.run(|system| scenario.play(system, sys, view));
    let host_seconds = start.elapsed().as_secs_f64();
    Ok(outcome.result.map(|played| Played { results: Results { host_seconds, ..played.results }, ..played }))
}

fn finish(files: Files, view: &View, played: &Played) -> Result<ExitCode> {
    let Played { results, recording } = played;
    view.tables(&results.tables());
    for sentence in &results.broken {
        View::broken(sentence);
    }
    command::write_json(files.json, results)?;
    if let (Some(mut file), Some(recording)) = (files.record, recording) {
        file.write_all(recording.to_json()?.as_bytes())?;
    }
    if let Some(mut picture) = files.picture {
        picture.write_all(view.picture().as_bytes())?;
    }
    Ok(if results.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files that were asked for, made before the run: what cannot be written is told at once.
struct Files {
    json: Option<File>,
    record: Option<File>,
    picture: Option<File>,
}

impl Files {
    fn create(options: &Options) -> Result<Self> {
        let create = |path: &Option<PathBuf>| command::create(path.as_deref());
        Ok(Self { json: create(&options.json)?, record: create(&options.record)?, picture: create(&options.picture)? })
    }
}
