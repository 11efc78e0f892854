//! How figures of the driver grow with the processors. All of it is virtual or counted: the same every time.

use std::{path::Path, rc::Rc};

use anyhow::{Result, anyhow, ensure};
use ntlab::{
    config::{Config, Preemption},
    counting::Detail,
    hot_add::NewProcessor,
    machine::{Machine, System},
    pnp::Device,
};
use serde::Serialize;
use workload::uniform::Uniform;

/// The machines that are compared.
const PROCESSORS: [u32; 6] = [1, 2, 8, 64, 512, 2048];
/// Processors that join together.
const BURST: u32 = 64;
/// Threads on each processor, and requests of each, that throughput is measured with.
const THREADS: u32 = 2;
const REQUESTS: u32 = 32;
/// About how many instructions run between two scheduling points: so their time counts, and they are rarely interrupted.
const INSTRUCTIONS: u32 = 200;
/// Devices of each kind that are rebalanced together.
const DEVICES: usize = 16;
/// Virtual nanoseconds in a unit of the driver's durations, and in a microsecond.
const DURATION: f64 = 100.0;
const MICROSECOND: f64 = 1000.0;
/// What the lab calls the driver's processor change callback.
const CALLBACK: &str = "processor change callback";

/// A figure over the number of processors.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Curve {
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// Processors, and the figure with so many.
    pub points: Vec<(u32, f64)>,
}

/// All curves of a driver.
///
/// # Errors
///
/// A run that stopped, or requests that were lost.
pub fn curves(sys: &Path) -> Result<Vec<Curve>> {
    let mut rates = Vec::new();
    let mut bursts = Vec::new();
    let mut holds = Vec::new();
    for processors in PROCESSORS {
        rates.push(throughput(processors, sys)?);
        bursts.push(burst(processors, sys)?);
        holds.push(hold(processors, sys)?);
    }
    let curve = |what: &str, unit, values: Vec<f64>| Curve {
        what: what.to_owned(),
        unit,
        points: PROCESSORS.into_iter().zip(values).collect(),
    };
    let of_bursts = |figure: fn(&Burst) -> f64| bursts.iter().map(figure).collect::<Vec<f64>>();
    let of_holds = |figure: fn(&Hold) -> f64| holds.iter().map(figure).collect::<Vec<f64>>();
    Ok(vec![
        curve("throughput of the software engine", "requests a virtual second", rates),
        curve("a burst of 64 processors, with the rebalance that follows", "virtual us", of_bursts(|burst| burst.time)),
        curve("kernel calls of AddStart and AddComplete", "calls", of_bursts(|burst| burst.kernel_calls)),
        curve("instructions of AddStart and AddComplete", "instructions", of_bursts(|burst| burst.instructions)),
        curve("longest hold when 32 devices are rebalanced", "virtual us", of_holds(|hold| hold.time)),
        curve("pool of the driver with 32 devices", "bytes", of_holds(|hold| hold.pool)),
    ])
}

/// Requests in a second of virtual time, in which instructions take time.
fn throughput(processors: u32, sys: &Path) -> Result<f64> {
    let preemption = Preemption::Instructions { one_in: INSTRUCTIONS };
    let config = Config { preemption, ..Config::new(processors, processors)? };
    let uniform = Uniform { requesters: (0..processors).collect(), threads: THREADS, requests: REQUESTS };
    let served = run(config, sys, |system| {
        system.plug(workload::software());
        let handle = Rc::new(workload::open(system, 0)?);
        Ok(uniform.play(system, &handle))
    })?;
    Ok(served.map_err(|wrong| anyhow!("{wrong}"))?.rate)
}

/// What a burst of processors takes.
struct Burst {
    /// Virtual microseconds, all of it.
    time: f64,
    /// Of the processor change callback, for each processor.
    kernel_calls: f64,
    instructions: f64,
}

/// A burst joins a machine of so many processors, or of fewer where there is no room.
#[allow(clippy::cast_precision_loss, reason = "there are few")]
fn burst(processors: u32, sys: &Path) -> Result<Burst> {
    let before = processors.min(2048 - BURST);
    let config = Config { count_instructions: true, ..Config::new(before, before + BURST)? };
    run(config, sys, |system| {
        plug(system);
        system.settle();
        let start = system.now();
        system.start_counting(Detail::Totals);
        let added = system.add_processors(vec![NewProcessor::default(); BURST as usize]);
        let counts = system.take_counts();
        let time = (system.now() - start) as f64 / MICROSECOND;
        ensure!(added.iter().all(Result::is_ok), "a processor was refused: {added:?}");
        let callback = counts.work.get(CALLBACK).cloned().unwrap_or_default();
        let each = |count: u64| count as f64 / f64::from(BURST);
        Ok(Burst { time, kernel_calls: each(callback.kernel_call_count()), instructions: each(callback.instructions) })
    })
}

/// What a rebalance of all devices takes.
struct Hold {
    /// Virtual microseconds of the device that holds requests longest.
    time: f64,
    /// Bytes of pool that the driver has.
    pool: f64,
}

#[allow(clippy::cast_precision_loss, reason = "there are few")]
fn hold(processors: u32, sys: &Path) -> Result<Hold> {
    run(Config::new(processors, processors)?, sys, |system| {
        let devices = plug(system);
        system.rebalance();
        let mut longest = 0;
        for number in 0..devices.len() {
            longest = longest.max(workload::status(&workload::open(system, number)?)?.last_hold_duration);
        }
        Ok(Hold { time: longest as f64 * DURATION / MICROSECOND, pool: system.driver_pool() as f64 })
    })
}

/// Devices of each kind.
fn plug(system: &System) -> Vec<Device> {
    let hardware = (0..DEVICES).map(|_| system.plug(workload::quick_edu()));
    let mut devices: Vec<Device> = hardware.collect();
    devices.extend((0..DEVICES).map(|_| system.plug(workload::software())));
    devices
}

/// What a scenario returns on a machine with the driver.
fn run<T>(config: Config, sys: &Path, scenario: impl for<'k> FnOnce(&'k System) -> Result<T>) -> Result<T> {
    let outcome = Machine::new(config)?.run(|system| {
        system.install(workload::package(sys));
        scenario(system)
    });
    outcome.result.map_err(|report| anyhow!("{report}"))?
}
