//! `bench`: what the lab and the driver take on this machine, beside what they are meant to take.

mod listing;
mod measures;
mod requests;
mod scale;

use std::{
    fs::File,
    io::{IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Exit code of options that cannot be served.
const USAGE: u8 = 2;

/// Figures of the driver and the lab, beside what they are meant to be; times mean something on a machine that does nothing else.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Measure these only; without it, everything.
    #[arg(long, value_enum, value_name = "MEASURE")]
    pub only: Vec<Measure>,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print, instead of figures, what a request does: instructions by function, kernel calls in order, atomics, cache lines.
    #[arg(long, value_enum, value_name = "REQUEST")]
    pub listing: Option<requests::Kind>,
    /// The device of that request.
    #[arg(long, value_enum, default_value_t = requests::Engine::Software, requires = "listing")]
    pub engine: requests::Engine,
    /// The image of the driver that is listed, if not hotadd.sys.
    #[arg(long, value_name = "FILE", requires = "listing")]
    pub image: Option<PathBuf>,
    /// Processors that send such requests at the same time, each its own.
    #[arg(long, default_value_t = 1, requires = "listing")]
    pub processors: u32,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Measure {
    /// A machine of 2 processors grows to 2,048.
    Processors,
    /// The kernel calls of the processor change callback.
    Callback,
    /// Requests to the software engine.
    Requests,
    /// The demo.
    Demo,
    /// A million requests over 10,000 hot additions and rebalances.
    Endurance,
    /// The demo with 200 requests, again and again with other seeds.
    Seeds,
    /// Every kernel call that can fail, from every call stack, in every documented way.
    Faults,
    /// A million requests to 256 devices while 64 processors become 2,048 in bursts.
    Scale,
}

impl Measure {
    fn figures(self, sys: &Path) -> Result<Vec<Figure>> {
        match self {
            Self::Processors => measures::processors(sys),
            Self::Callback => measures::callback(sys),
            Self::Requests => measures::requests(sys),
            Self::Demo => measures::demo(sys),
            Self::Endurance => measures::endurance(sys),
            Self::Seeds => measures::seeds(sys),
            Self::Faults => measures::faults(sys),
            Self::Scale => scale::figures(sys),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// A figure, with what it is meant to be.
#[derive(Debug, Serialize)]
pub struct Figure {
    what: String,
    goal: &'static str,
    measured: String,
}

impl Figure {
    fn new(what: impl Into<String>, goal: &'static str, measured: String) -> Self {
        Self { what: what.into(), goal, measured }
    }
}

/// Measures with the driver in the file `sys` and prints a table: 0, or 2 for a file that cannot be written.
///
/// # Errors
///
/// The driver is not there, a run that stopped, or a figure of the host that cannot be read.
pub fn run(options: &Options, sys: impl FnOnce() -> Result<PathBuf>) -> Result<ExitCode> {
    let file = match options.json.as_deref().map(|path| (File::create(path), path)) {
        Some((Err(error), path)) => {
            eprintln!("{} cannot be written: {error}", path.display());
            return Ok(ExitCode::from(USAGE));
        }
        Some((Ok(file), _)) => Some(file),
        None => None,
    };
    if let Some(kind) = options.listing {
        let image = options.image.clone().map_or_else(sys, Ok)?;
        print!("{}", listing::of(&image, kind, options.engine, options.processors)?);
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = if options.only.is_empty() { Measure::value_variants() } else { &options.only };
    let figures = measure(chosen, &sys()?)?;
    println!("{}", table(&figures));
    if let Some(mut file) = file {
        serde_json::to_writer_pretty(&mut file, &figures)?;
        writeln!(file)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(chosen: &[Measure], sys: &Path) -> Result<Vec<Figure>> {
    let bar = if stderr().is_terminal() { ProgressBar::new(chosen.len() as u64) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let mut figures = Vec::new();
    for measure in chosen {
        bar.set_message(measure.name());
        figures.extend(measure.figures(sys)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(figures)
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["measure", "goal", "here"]);
    for Figure { what, goal, measured } in figures {
        table.add_row([what, *goal, measured]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
