//! What a hold costs: from a query-stop until every request that came meanwhile is done.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ntlab::{
    config::{Checks, Config},
    counting::{Counts, Detail, Work},
    machine::{Machine, System},
    pnp::{Device, PnpRequest},
    user::Status,
};

use super::{
    figures::{Built, Group, Unit, Value},
    requests::{Engine, Kind, REST, calls_by_name, count_of, tame},
};

/// The devices that are held.
const ENGINES: [Engine; 2] = [Engine::Software, Engine::Edu];
/// Requests that wait.
const WAITING: [u32; 3] = [0, 64, 4096];
/// Requests before, so that what is made once is there.
const WARM_UP: u32 = 64;
/// Processors of the machine.
const PROCESSORS: u32 = 8;

/// What a hold took.
pub struct Hold {
    /// Until the query-stop was answered.
    pub asked: Counts,
    /// From when the requests wait to when the last of them is done.
    pub released: Counts,
    nanoseconds: u64,
    /// Bytes of pool that the requests took while they waited.
    bytes: u64,
}

impl Hold {
    fn work(&self) -> Work {
        let mut work = self.asked.total();
        work += &self.released.total();
        work
    }
}

/// What a driver does while its devices are held.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn figures(built: &Built) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for engine in &ENGINES {
        let [none, some, most] = WAITING.map(|waiting| hold(&built.sys, *engine, waiting, Detail::Totals));
        let holds = [none?, some?, most?];
        for (waiting, hold) in WAITING.into_iter().zip(&holds) {
            values.extend(of_one(*engine, waiting, hold));
        }
        values.extend(growth(*engine, &holds));
    }
    Ok(values)
}

/// The same without the largest number of requests.
///
/// # Errors
///
/// Those of [`figures`].
pub fn small_figures(built: &Built) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for engine in &ENGINES {
        for waiting in &WAITING[..2] {
            values.extend(of_one(*engine, *waiting, &hold(&built.sys, *engine, *waiting, Detail::Totals)?));
        }
    }
    Ok(values)
}

fn of_one(engine: Engine, waiting: u32, hold: &Hold) -> Vec<Value> {
    let value = |figure: &str, unit, count| {
        let what = format!("{}, {waiting} requests waiting: {}", title(engine), figure.replace('-', " "));
        Value::new(Group::Hold, format!("hold/{}/{waiting}/{figure}", engine.name()), what, unit, count_of(count))
    };
    let work = hold.work();
    vec![
        value("instructions", Unit::Count, work.instructions),
        value("kernel-calls", Unit::Count, work.kernel_call_count()).of(calls_by_name(&work, 1)),
        value("virtual-time", Unit::Nanoseconds, hold.nanoseconds),
    ]
}

const fn title(engine: Engine) -> &'static str {
    match engine {
        Engine::Software => "software device, asked to stop and asked no more",
        Engine::Edu => "edu device, stopped and started again",
    }
}

/// How much more a request costs where many wait than where few do, and what it keeps.
fn growth(engine: Engine, [none, some, most]: &[Hold; 3]) -> Vec<Value> {
    let slope = |more: &Hold, less: &Hold, requests: u32| {
        (count_of(more.work().instructions) - count_of(less.work().instructions)) / f64::from(requests)
    };
    let growth = slope(most, some, WAITING[2] - WAITING[1]) / slope(some, none, WAITING[1]);
    let name = engine.name();
    let what = format!("{}: instructions for each of 4,096 over those for each of 64", title(engine));
    let kept = (count_of(most.bytes) - count_of(none.bytes)) / f64::from(WAITING[2]);
    vec![
        Value::new(Group::Hold, format!("hold/{name}/growth"), what, Unit::Count, growth),
        Value::new(
            Group::Memory,
            format!("memory/request/{name}"),
            format!("pool for each of 4,096 requests that wait, {name} engine"),
            Unit::Bytes,
            kept,
        ),
    ]
}

/// Has a device held by the driver in the file `sys` while so many requests wait.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn hold(sys: &Path, engine: Engine, waiting: u32, detail: Detail) -> Result<Hold> {
    let config =
        Config { count_instructions: true, checks: Checks::Calls, ..tame(Config::new(PROCESSORS, PROCESSORS)?) };
    let outcome = Machine::new(config)?.run(|system| {
        system.install(workload::package(sys));
        let device = system.plug(engine.device());
        system.settle();
        held(system, device, engine, waiting, detail)
    });
    outcome.result.map_err(|report| anyhow!("{report}"))?
}

fn held(system: &System, device: Device, engine: Engine, waiting: u32, detail: Detail) -> Result<Hold> {
    let handle = workload::open(system, 0).map_err(|status| anyhow!("{status}"))?;
    let request = Kind::Factorial.request();
    for _ in 0..WARM_UP {
        handle.submit(&request).wait().success().map_err(|status| anyhow!("{status}"))?;
    }
    system.sleep(REST);
    let before = system.driver_pool();
    let asked = Part::begin(system, detail);
    send(system, device, PnpRequest::QueryStop)?;
    let asked = asked.end(system);
    let pending: Vec<_> = (0..waiting).map(|_| handle.submit(&request)).collect();
    if pending.iter().any(ntlab::user::Pending::is_done) {
        bail!("a request was not held");
    }
    let bytes = system.driver_pool().checked_sub(before).context("less pool is in use than before")?;
    let released = Part::begin(system, detail);
    match engine {
        Engine::Software => send(system, device, PnpRequest::CancelStop)?,
        Engine::Edu => {
            send(system, device, PnpRequest::Stop)?;
            send(system, device, PnpRequest::Restart)?;
        }
    }
    for pending in pending {
        pending.wait().success().map_err(|status| anyhow!("{status}"))?;
    }
    let released = released.end(system);
    Ok(Hold { asked: asked.0, released: released.0, nanoseconds: asked.1 + released.1, bytes })
}

fn send(system: &System, device: Device, request: PnpRequest) -> Result<()> {
    device.send(system, request).map_err(|status: Status| anyhow!("{request:?}: {status}"))
}

/// A part of a hold that is counted: the requests are sent between two.
struct Part {
    begin: u64,
}

impl Part {
    fn begin(system: &System, detail: Detail) -> Self {
        system.start_counting(detail);
        Self { begin: system.now() }
    }

    fn end(self, system: &System) -> (Counts, u64) {
        (system.take_counts(), system.now() - self.begin)
    }
}
