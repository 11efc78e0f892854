//! Requests a second through the lab, in host time: only the ratio of two drivers means anything on another machine.

use anyhow::{Result, anyhow};
use ntlab::{
    config::{Checks, Config},
    machine::{Machine, System},
};
use workload::{Load, Manner, Plan, Target};

use super::{
    figures::{Built, Group, Unit, Value},
    measures::seconds_of,
};

/// Requests that a rate is measured over, each time.
const REQUESTS: u32 = 50_000;
/// How often.
const ROUNDS: u32 = 3;
/// Processors of the machine.
const PROCESSORS: u32 = 8;
/// Requests that are always in flight.
const LANES: u32 = 64;

/// Factorials a second that a driver's software device computes in the lab.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn figures(built: &Built) -> Result<Vec<Value>> {
    let ways = [
        ("every-check", Checks::All, "every check on"),
        ("calls-only", Checks::Calls, "with the checks of kernel calls alone"),
    ];
    let mut values = Vec::new();
    for (name, checks, words) in ways {
        // The best of some: what else the host does makes a run slower, and never faster.
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            best = best.min(seconds(built, checks)?);
        }
        let what = format!("factorials through the lab, software engine, {words}");
        let rate = f64::from(REQUESTS) / best;
        values.push(Value::new(Group::Rate, format!("rate/{name}"), what, Unit::PerSecond, rate));
    }
    Ok(values)
}

/// Seconds that the thread of the machine works for the requests.
fn seconds(built: &Built, checks: Checks) -> Result<f64> {
    let config = Config { checks, ..Config::new(PROCESSORS, PROCESSORS)? };
    let outcome = Machine::new(config)?.run(|system| {
        system.install(workload::package(&built.sys));
        system.plug(workload::software());
        send(system)
    });
    outcome.result.map_err(|report| anyhow!("{report}"))?
}

fn send(system: &System) -> Result<f64> {
    let first = Target::new(workload::open(system, 0).map_err(|status| anyhow!("{status}"))?);
    let second = first.and(workload::open(system, 0).map_err(|status| anyhow!("{status}"))?);
    let manner = Manner { factorials_only: true, ..Manner::default() };
    let plan = Plan { lanes: LANES, seed: 1, cancel_one_in: 0 };
    let load = Load::start_with(system, &[first, second], plan, manner);
    seconds_of(load, REQUESTS)
}
