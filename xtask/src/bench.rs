//! `bench`: what the lab and the driver take on this machine, beside what they are meant to take.

use std::{
    fs, iter,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use ntlab::{
    config::Config,
    events::{Event, Kind},
    hot_add::NewProcessor,
    machine::{Machine, Outcome, System},
};
use workload::{Load, Plan, Target};

use crate::demo;

/// The most processors of Windows.
const MOST_PROCESSORS: u32 = 2048;
/// Requests that the throughput is measured over.
const REQUESTS: u32 = 400_000;
/// Virtual nanoseconds that they may take: an hour.
const PATIENCE: u64 = 3_600_000_000_000;
/// Additions that are compared at both ends of a large machine.
const COMPARED: u8 = 64;

/// What the trace calls the driver's processor change callback.
const CALLBACK: &str = "processor change callback";

/// A figure, with what it is meant to be.
struct Figure {
    what: &'static str,
    goal: &'static str,
    measured: String,
}

/// Measures everything with the driver in the file `sys` and prints a table.
///
/// # Errors
///
/// A run that stopped, or a figure of the host that cannot be read.
pub fn run(sys: &Path) -> Result<()> {
    let (additions, memory) = processors(sys)?;
    let total: Duration = additions.iter().sum();
    let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64() / f64::from(COMPARED) * 1e6;
    let compared = COMPARED as usize;
    let ends = (mean(&additions[..compared]), mean(&additions[additions.len() - compared..]));
    let callbacks = callback_calls(sys)?;
    let figures = [
        Figure {
            what: "2,046 processors join a machine of 2",
            goal: "at most 5 s",
            measured: format!("{:.2} s", total.as_secs_f64()),
        },
        Figure { what: "memory for that", goal: "under 1 GiB", measured: format!("{} MiB", memory >> 20) },
        Figure {
            what: "one addition with all that follows: the first 64, the last 64",
            goal: "",
            measured: format!("{:.0} us, {:.0} us", ends.0, ends.1),
        },
        Figure {
            what: "kernel calls of AddStart + AddComplete: the first, the last",
            goal: "the same",
            measured: format!("{}, {}", callbacks.0, callbacks.1),
        },
        Figure {
            what: "software-engine requests through the lab",
            goal: "200,000 a second",
            measured: format!("{:.0} a second", throughput(sys)?),
        },
        Figure { what: "the demo, built", goal: "at most 2 s", measured: format!("{:.2} s", demo::seconds(sys)?) },
    ];
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["measure", "goal", "here"]);
    for figure in figures {
        table.add_row([figure.what.to_owned(), figure.goal.to_owned(), figure.measured]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    Ok(())
}

/// How long each addition took, and the most bytes that were resident.
fn processors(sys: &Path) -> Result<(Vec<Duration>, u64)> {
    let additions = in_machine(Config::new(2, MOST_PROCESSORS)?, sys, |system| {
        let add = |_| {
            let start = Instant::now();
            system.add_processor(NewProcessor::default()).map(|_| start.elapsed())
        };
        (2..MOST_PROCESSORS).map(add).collect::<Result<Vec<Duration>, _>>()
    })?;
    Ok((additions.map_err(|status| anyhow!("a processor was not added: {status}"))?, most_resident()?))
}

/// How many kernel functions the processor change callback called for the first and for the last processor that was added.
fn callback_calls(sys: &Path) -> Result<(usize, usize)> {
    let config = Config { keep_trace: true, ..Config::new(2, MOST_PROCESSORS)? };
    let outcome = with_driver(config, sys, |system| {
        let from = system.now();
        (2..MOST_PROCESSORS).try_for_each(|_| system.add_processor(NewProcessor::default()).map(drop)).map(|()| from)
    })?;
    let from = outcome.result.map_err(|report| anyhow!("{report}"))?;
    let from = from.map_err(|status| anyhow!("a processor was not added: {status}"))?;
    let calls = calls_by_callback(outcome.events.iter().filter(|event| event.time >= from));
    // Two calls of the callback for each processor.
    let (Some(first), Some(last)) = (calls.first_chunk::<2>(), calls.last_chunk::<2>()) else {
        bail!("the processor change callback was not called");
    };
    Ok((first.iter().sum(), last.iter().sum()))
}

/// For each call of the processor change callback, how many kernel functions it called.
fn calls_by_callback<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<usize> {
    let mut finished = Vec::new();
    let mut open: Option<(u32, usize)> = None;
    for event in events {
        match (&event.kind, &mut open) {
            (Kind::CallDriver(CALLBACK), _) => open = Some((event.thread, 0)),
            (Kind::DriverReturned(CALLBACK), _) => finished.extend(open.take().map(|(_, calls)| calls)),
            (Kind::KernelCall(_), Some((thread, calls))) if *thread == event.thread => *calls += 1,
            _ => {}
        }
    }
    finished
}

/// Requests a second.
fn throughput(sys: &Path) -> Result<f64> {
    in_machine(Config::new(8, 8)?, sys, |system| {
        let first = Target::new(workload::open(system, 0)?);
        let others = (1..4).map(|_| workload::open(system, 0).map(|handle| first.and(handle)));
        let targets: Vec<_> = iter::once(Ok(first.clone())).chain(others).collect::<Result<_, _>>()?;
        let load = Load::start(system, &targets, Plan { lanes: 64, seed: 1, cancel_one_in: 0 });
        let start = Instant::now();
        let flowed = load.run(REQUESTS.into(), PATIENCE);
        let seconds = start.elapsed().as_secs_f64();
        let (counts, broken) = load.stop(PATIENCE);
        if !flowed || counts.lost + counts.failed != 0 {
            return Err(anyhow!("requests were lost or failed: {counts:?} {broken:?}"));
        }
        Ok(f64::from(REQUESTS) / seconds)
    })?
}

/// What `scenario` returns on a machine with the driver and its software device.
fn in_machine<T>(config: Config, sys: &Path, scenario: impl FnOnce(&System) -> T) -> Result<T> {
    with_driver(config, sys, scenario)?.result.map_err(|report| anyhow!("{report}"))
}

fn with_driver<T>(config: Config, sys: &Path, scenario: impl FnOnce(&System) -> T) -> Result<Outcome<T>> {
    Ok(Machine::new(config)?.run(|system| {
        system.install(workload::package(sys));
        system.plug(workload::software());
        scenario(system)
    }))
}

/// The most bytes of this process that were ever resident.
fn most_resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
