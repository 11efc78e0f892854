//! `bench`: what the lab and the driver take on this machine, beside what they are meant to take.

pub mod charts;
pub mod curves;
pub mod document;
pub mod figures;
pub mod goals;
pub mod hold;
pub mod images;
mod listing;
mod measures;
pub mod processors;
pub mod ratchet;
pub mod rates;
pub mod report;
pub mod requests;
mod scale;
mod sizes;
pub mod stack;
mod start;

use std::{
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::{
    figures::{Built, Row, Value},
    report::Report,
    sizes::Sizes,
};
use crate::{command, drivers::Driver};

/// Figures of the driver and the lab, beside what they are meant to be; times mean something on a machine that does nothing else.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Measure these only; without it, everything.
    #[arg(long, value_enum, value_name = "MEASURE")]
    pub only: Vec<Measure>,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write docs/performance.md, its charts, and the figures that a test holds the driver against.
    #[arg(long, conflicts_with_all = ["only", "listing"])]
    pub write_docs: bool,
    /// Print, instead of figures, what a request or a hold does: instructions by function, kernel calls in order, atomics, cache lines; or
    /// what the bytes of the image are.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub listing: Option<Listing>,
    /// The device of that request or hold.
    #[arg(long, value_enum, default_value_t = requests::Engine::Software, requires = "listing")]
    pub engine: requests::Engine,
    /// The image of the driver that is listed, if not hotadd.sys.
    #[arg(long, value_name = "FILE", requires = "listing")]
    pub image: Option<PathBuf>,
    /// Processors that send such requests at the same time, each its own.
    #[arg(long, default_value_t = 1, requires = "listing")]
    pub processors: u32,
    /// Requests that wait during the hold.
    #[arg(long, default_value_t = 64, requires = "listing")]
    pub waiting: u32,
}

/// What is told instead of figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Listing {
    /// A request to compute a factorial.
    Factorial,
    /// A read.
    Read,
    /// A write.
    Write,
    /// A request for the status.
    Status,
    /// A hold of the device.
    Hold,
    /// The image: its parts, and its code by source and by function.
    Image,
}

impl Listing {
    /// The request that it is about.
    const fn request(self) -> Option<requests::Kind> {
        match self {
            Self::Factorial => Some(requests::Kind::Factorial),
            Self::Read => Some(requests::Kind::Read),
            Self::Write => Some(requests::Kind::Write),
            Self::Status => Some(requests::Kind::Status),
            Self::Hold | Self::Image => None,
        }
    }
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
    /// The start of a machine.
    Start,
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
    /// What a request costs, counted.
    RequestCosts,
    /// Cache lines that processors share, counted.
    Lines,
    /// What a hold costs, counted.
    Holds,
    /// What it costs that a processor joins, counted.
    Joining,
    /// How large the drivers' images are.
    Images,
    /// Requests a second through the lab, driver beside driver.
    Rates,
    /// The deepest stack of the demo.
    Stack,
    /// What grows with the processors.
    Curves,
}

/// What measures the host.
type OfHost = fn(&Path) -> Result<Vec<Figure>>;
/// What counts in the lab what a driver does.
type OfDriver = fn(&Built) -> Result<Vec<Value>>;

/// How something is measured.
enum Way {
    /// With hotadd.sys, in host time.
    Host(OfHost),
    /// With each driver that does all that hotadd does.
    Drivers(OfDriver),
    /// With the floors too.
    AllDrivers(OfDriver),
    /// With hotadd.sys, over the number of processors.
    Curves,
}

impl Measure {
    fn way(self) -> Way {
        match self {
            Self::Processors => Way::Host(measures::processors),
            Self::Callback => Way::Host(measures::callback),
            Self::Requests => Way::Host(measures::requests),
            Self::Start => Way::Host(start::figures),
            Self::Demo => Way::Host(measures::demo),
            Self::Endurance => Way::Host(measures::endurance),
            Self::Seeds => Way::Host(measures::seeds),
            Self::Faults => Way::Host(measures::faults),
            Self::Scale => Way::Host(scale::figures),
            Self::RequestCosts => Way::AllDrivers(requests::figures),
            Self::Lines => Way::Drivers(requests::shared),
            Self::Holds => Way::Drivers(hold::figures),
            Self::Images => Way::AllDrivers(images::figures),
            Self::Rates => Way::AllDrivers(rates::figures),
            Self::Curves => Way::Curves,
            Self::Stack => Way::Drivers(stack::figures),
            Self::Joining => Way::Drivers(|built| processors::figures(&built.sys)),
        }
    }

    /// What docs/performance.md is made of.
    const DOCUMENTED: &[Self] = &[
        Self::RequestCosts,
        Self::Lines,
        Self::Holds,
        Self::Joining,
        Self::Stack,
        Self::Images,
        Self::Rates,
        Self::Curves,
        Self::Requests,
        Self::Scale,
    ];
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
    let file = match command::create(options.json.as_deref()) {
        Ok(file) => file,
        Err(error) => return Ok(command::not_served(&error)),
    };
    if let Some(listed) = options.listing {
        let image = options.image.clone().map_or_else(sys, Ok)?;
        print!("{}", text_of(listed, options, &image)?);
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = match options {
        Options { write_docs: true, .. } => Measure::DOCUMENTED,
        Options { only, .. } if only.is_empty() => Measure::value_variants(),
        Options { only, .. } => only,
    };
    let report = measure(chosen, &sys()?)?;
    print!("{report}");
    command::write_json(file, &report)?;
    if options.write_docs {
        for path in document::write(kit::root(), &report)? {
            println!("wrote {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text_of(listed: Listing, options: &Options, image: &Path) -> Result<String> {
    match (listed.request(), listed) {
        (Some(kind), _) => listing::of(image, kind, options.engine, options.processors),
        (None, Listing::Hold) => listing::of_hold(image, options.engine, options.waiting),
        (None, _) => Ok(Sizes::of(image)?.to_string()),
    }
}

fn measure(chosen: &[Measure], sys: &Path) -> Result<Report> {
    let bar = if stderr().is_terminal() { ProgressBar::new(chosen.len() as u64) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let mut report = Report::default();
    for measure in chosen {
        bar.set_message(command::name(measure));
        match measure.way() {
            Way::Host(figures) => report.host.extend(figures(sys)?),
            Way::Curves => report.curves.extend(curves::curves(sys)?),
            Way::Drivers(values) => report.rows.extend(compare("", JOBS, values)?),
            Way::AllDrivers(values) => {
                report.rows.extend(compare("", JOBS, values)?);
                report.rows.extend(compare("floor/", FLOORS, values)?);
            }
        }
        bar.inc(1);
    }
    report.rows.sort_by_key(|row| row.group);
    bar.finish_and_clear();
    Ok(report)
}

/// What is counted in a few seconds.
///
/// # Errors
///
/// A driver that does not build, or a run that stopped.
pub fn count_quickly() -> Result<Vec<Row>> {
    let mut rows = compare("floor/", FLOORS, requests::figures)?;
    let measures: [OfDriver; 4] =
        [requests::figures, requests::shared_by_few, hold::small_figures, |built| processors::figures(&built.sys)];
    for values in measures {
        rows.extend(compare("", JOBS, values)?);
    }
    Ok(rows)
}

/// The driver in Rust and the one in C that do all the jobs, and those that do as little as can be.
const JOBS: Pair = (Driver::HOTADD, Some(Driver::PEER));
const FLOORS: Pair = (Driver::FLOOR_RUST, Some(Driver::FLOOR_C));
type Pair = (Driver, Option<Driver>);

/// The figures of a driver in Rust beside those of the one in C.
fn compare(prefix: &str, (rust, c): Pair, values: OfDriver) -> Result<Vec<Row>> {
    let of = |driver: Driver| -> Result<Vec<Value>> { values(&Built { driver, sys: driver.build()?.sys }) };
    let c = c.map(of).transpose()?.unwrap_or_default();
    Ok(figures::join(prefix, of(rust)?, &c))
}
