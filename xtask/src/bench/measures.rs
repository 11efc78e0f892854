//! What is measured, and how.

use std::{
    fs, iter,
    num::NonZero,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use cpu_time::ThreadTime;
use ntlab::{
    config::{Checks, Config},
    events::{Event, Kind},
    hot_add::NewProcessor,
    machine::{Machine, Outcome, System},
};
use workload::{Load, Manner, Plan, Target};

use super::Figure;
use crate::{
    campaign::{self, Part},
    demo,
};

/// The most processors of Windows.
const MOST_PROCESSORS: u32 = 2048;
/// Requests that the throughput is measured over, each time.
const REQUESTS: u32 = 200_000;
/// How often.
const ROUNDS: u32 = 3;
/// The share of a campaign's seeds that the rate is measured over.
const ONE_SEED_IN: NonZero<u32> = NonZero::new(10).expect("10 is not 0");
/// Virtual nanoseconds that they may take: an hour.
const PATIENCE: u64 = 3_600_000_000_000;
/// Additions that are compared at both ends of a large machine.
const COMPARED: u8 = 64;

/// What the trace calls the driver's processor change callback.
const CALLBACK: &str = "processor change callback";

/// The machine grows from 2 processors to as many as Windows serves.
pub fn processors(sys: &Path) -> Result<Vec<Figure>> {
    let (additions, memory) = add_all(sys)?;
    let total: Duration = additions.iter().sum();
    let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64() / f64::from(COMPARED) * 1e6;
    let compared = COMPARED as usize;
    let (first, last) = (mean(&additions[..compared]), mean(&additions[additions.len() - compared..]));
    Ok(vec![
        Figure::new("2,046 processors join a machine of 2", "at most 5 s", format!("{:.2} s", total.as_secs_f64())),
        Figure::new("memory for that", "under 1 GiB", format!("{} MiB", memory >> 20)),
        Figure::new(
            "one addition with all that follows: the first 64, the last 64",
            "",
            format!("{first:.0} us, {last:.0} us"),
        ),
    ])
}

/// What the driver's processor change callback takes.
pub fn callback(sys: &Path) -> Result<Vec<Figure>> {
    let (first, last) = callback_calls(sys)?;
    let what = "kernel calls of AddStart + AddComplete: the first, the last";
    Ok(vec![Figure::new(what, "the same", format!("{first}, {last}"))])
}

/// Requests through the lab, and what the checks cost. All in turn, and the best of each: what else the machine
/// does makes a run slower, and never faster.
pub fn requests(sys: &Path) -> Result<Vec<Figure>> {
    let mixed = Manner::default();
    let factorials = Manner { factorials_only: true, ..mixed };
    let runs = [(Checks::All, mixed), (Checks::Traces, mixed), (Checks::Traces, factorials), (Checks::Calls, mixed)];
    let mut best = [f64::INFINITY; 4];
    for _ in 0..ROUNDS {
        for (best, (checks, manner)) in best.iter_mut().zip(runs) {
            *best = best.min(request(sys, checks, manner)?);
        }
    }
    let [all, traces, traces_of_factorials, calls] = best;
    let rate = |nanoseconds: f64| format!("{:.0} a second", 1e9 / nanoseconds);
    let overhead = format!("{:.0} ns a request, {:.0} %", all - calls, (all / calls - 1.0) * 100.0);
    Ok(vec![
        Figure::new(
            "software-engine requests through the lab, half of them reads and writes, every check on",
            "300,000 a second",
            rate(all),
        ),
        Figure::new("the same without page protection", "1,000,000 a second", rate(traces)),
        Figure::new("factorials alone, without page protection", "1,000,000 a second", rate(traces_of_factorials)),
        Figure::new("the mixture with the checks of kernel calls alone", "", rate(calls)),
        Figure::new("what the other checks add to it", "", overhead),
    ])
}

/// The demo as it is without options.
pub fn demo(sys: &Path) -> Result<Vec<Figure>> {
    Ok(vec![Figure::new("the demo, built", "at most 2 s", format!("{:.2} s", demo::seconds(sys)?))])
}

/// The part of a campaign in which the machine changes 10,000 times.
pub fn endurance(sys: &Path) -> Result<Vec<Figure>> {
    let results = campaign::measure(Part::Endurance, NonZero::<u32>::MIN, sys)?;
    let what = format!(
        "{} requests over {} changes of the machine, none of them lost",
        results.count("requests"),
        results.count("processors added") + results.count("rebalances")
    );
    Ok(vec![Figure::new(what, "at most 180 s", format!("{:.1} s", results.host_seconds))])
}

/// The demo with 200 requests and other seeds.
pub fn seeds(sys: &Path) -> Result<Vec<Figure>> {
    let results = campaign::measure(Part::Seeds, ONE_SEED_IN, sys)?;
    let (runs, _) = results.done();
    #[allow(clippy::cast_precision_loss, reason = "there are few")]
    let rate = runs as f64 / results.host_seconds;
    let what = "seeds of the demo at 200 requests";
    Ok(vec![Figure::new(what, "at least 300 a second", format!("{rate:.0} a second"))])
}

/// Every failure of every call.
pub fn faults(sys: &Path) -> Result<Vec<Figure>> {
    let results = campaign::measure(Part::Faults, NonZero::<u32>::MIN, sys)?;
    let (runs, _) = results.done();
    let what = format!("systematic faults over the driver's life: {runs} runs");
    Ok(vec![Figure::new(what, "at most 300 s", format!("{:.0} s", results.host_seconds))])
}

/// How long each addition took, and the most bytes that were resident.
fn add_all(sys: &Path) -> Result<(Vec<Duration>, u64)> {
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

/// Seconds of CPU time that the thread of the machine works for so many requests of the load, which ends with them.
///
/// # Errors
///
/// A request that was lost or failed.
pub fn seconds_of(load: Load<'_>, requests: u32) -> Result<f64> {
    let start = ThreadTime::now();
    let flowed = load.run(requests.into(), PATIENCE);
    let seconds = start.elapsed().as_secs_f64();
    let (counts, broken) = load.stop(PATIENCE);
    if !flowed || counts.lost + counts.failed != 0 {
        return Err(anyhow!("requests were lost or failed: {counts:?} {broken:?}"));
    }
    Ok(seconds)
}

/// Nanoseconds that the thread of the machine works for a request.
fn request(sys: &Path, checks: Checks, manner: Manner) -> Result<f64> {
    in_machine(Config { checks, ..Config::new(8, 8)? }, sys, |system| {
        let first = Target::new(workload::open(system, 0)?);
        let others = (1..4).map(|_| workload::open(system, 0).map(|handle| first.and(handle)));
        let targets: Vec<_> = iter::once(Ok(first.clone())).chain(others).collect::<Result<_, _>>()?;
        let load = Load::start_with(system, &targets, Plan { lanes: 64, seed: 1, cancel_one_in: 0 }, manner);
        Ok(seconds_of(load, REQUESTS)? * 1e9 / f64::from(REQUESTS))
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
pub fn most_resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
