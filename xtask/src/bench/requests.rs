//! What a request costs: counted in the lab, on a machine that does nothing else, when everything is warm.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::Path,
    rc::Rc,
};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use hotadd_abi::{IOCTL_HOTADD_STATUS, Status, Wire};
use ntlab::{
    choices::Tape,
    config::{Checks, Config, SpecialPool},
    counting::{Counts, Detail, Work},
    machine::{Machine, System},
    pnp::DeviceSpec,
    user::{Handle, Request},
};
use serde::Serialize;

use super::figures::{Built, Group, Unit, Value};
use crate::drivers::Jobs;

/// Requests of each processor before those that are counted, and how many are: what is made once and kept is there then. Of many
/// processors less, for where all of them wait for one lock, each request takes the lab as long as there are processors.
const fn times(processors: u32) -> (u32, u32) {
    if processors > 64 { (2, 1) } else { (32, 8) }
}

/// Virtual nanoseconds until what a request leaves behind is done.
pub const REST: u64 = 2_000_000;
/// Bytes of a transfer.
const TRANSFER: usize = 512;
/// The factorial that is asked for.
const NUMBER: u32 = 12;

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The control code that computes a factorial.
    Factorial,
    /// 512 bytes of the device's buffer.
    Read,
    /// The same to it.
    Write,
    /// The control code that tells the status.
    Status,
}

impl Kind {
    /// The one that has a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|kind| kind.name() == name)
    }

    /// As it is called in the names of figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Factorial => "factorial",
            Self::Read => "read",
            Self::Write => "write",
            Self::Status => "status",
        }
    }

    /// Such a request.
    #[must_use]
    pub fn request(self) -> Request {
        match self {
            Self::Factorial => workload::factorial_request(NUMBER),
            Self::Read => Request::Read { offset: 0, length: TRANSFER },
            Self::Write => Request::Write { offset: 0, data: vec![0x5A; TRANSFER] },
            Self::Status => Request::Control { code: IOCTL_HOTADD_STATUS, input: Vec::new(), output: Status::SIZE },
        }
    }
}

/// What is behind the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Nothing: the driver does the work.
    Software,
    /// The lab's `edu`.
    Edu,
}

impl Engine {
    /// The one that has a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|engine| engine.name() == name)
    }

    /// As it is called in the names of figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Edu => "edu",
        }
    }

    /// The device.
    #[must_use]
    pub fn device(self) -> DeviceSpec {
        match self {
            Self::Software => workload::software(),
            Self::Edu => workload::quick_edu(),
        }
    }
}

/// The machine where everything that is left to chance goes the ordinary way.
#[must_use]
pub fn tame(config: Config) -> Config {
    Config { tape: Some(Tape::default()), ..config }
}

/// A count as a figure.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "there are far less than that matters for")]
pub const fn count_of(count: u64) -> f64 {
    count as f64
}

/// What there is for one of so many requests.
#[must_use]
pub fn each(count: u64, requests: u32) -> f64 {
    count_of(count) / f64::from(requests)
}

/// The kernel calls of so many requests, for one of them.
#[must_use]
pub fn calls_by_name(work: &Work, requests: u32) -> BTreeMap<String, f64> {
    work.kernel_calls.iter().map(|(name, count)| ((*name).to_owned(), each(*count, requests))).collect()
}

/// What each kind of request costs a driver, on a processor that has nothing else to do.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn figures(built: &Built) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for (engine, kind) in served(built.driver.jobs) {
        let Counted { requests, counts } = count(&built.sys, *kind, *engine, 1)?;
        values.extend(of_request(*engine, *kind, requests, &counts));
    }
    Ok(values)
}

/// The requests that a driver serves.
const fn served(jobs: Jobs) -> &'static [(Engine, Kind)] {
    use Engine::{Edu, Software};
    use Kind::{Factorial, Read, Status, Write};
    const ALL: [(Engine, Kind); 8] = [
        (Software, Factorial),
        (Software, Read),
        (Software, Write),
        (Software, Status),
        (Edu, Factorial),
        (Edu, Read),
        (Edu, Write),
        (Edu, Status),
    ];
    match jobs {
        Jobs::Floor => &[(Software, Factorial)],
        Jobs::All => &ALL,
    }
}

fn of_request(engine: Engine, kind: Kind, requests: u32, counts: &Counts) -> Vec<Value> {
    let total = counts.total();
    let value = |name: &str, figure: &str, count| {
        let what = format!("{}, {} engine: {}", kind.name(), engine.name(), figure.replace('-', " "));
        let id = format!("{name}/{}/{}/{figure}", engine.name(), kind.name());
        Value::new(Group::Request, id, what, Unit::Count, count)
    };
    let mut values = vec![
        value("request", "instructions", each(total.instructions, requests)),
        value("request", "kernel-calls", each(total.kernel_call_count(), requests)).of(calls_by_name(&total, requests)),
        value("request", "atomics", each(total.atomics + total.kernel_atomics, requests)),
        value("request", "atomics-of-its-own", each(total.atomics, requests)),
    ];
    let parts = [("isr", "instructions-of-the-ISR", "Interrupt"), ("dpc", "instructions-of-the-DPC", "DPC")];
    for (name, figure, begins) in parts {
        let works = counts.work.iter().filter(|(within, _)| within.starts_with(begins)).map(|(_, work)| work);
        let (calls, instructions) =
            works.fold((0, 0), |(calls, sum), work| (calls + work.calls, sum + work.instructions));
        if let Ok(calls @ 1..) = u32::try_from(calls) {
            values.push(value(name, figure, each(instructions, calls)));
        }
    }
    values
}

/// Processors that send at the same time.
const SENDING: [u32; 6] = [1, 2, 8, 64, 512, 2048];

/// What processors share that send requests at the same time, beyond what the I/O manager has them share.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn shared(built: &Built) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for processors in SENDING {
        values.extend(shared_by(built, processors)?);
    }
    Ok(values)
}

/// The same where few send.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn shared_by_few(built: &Built) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    for processors in &SENDING[..4] {
        values.extend(shared_by(built, *processors)?);
    }
    Ok(values)
}

/// The same where so many send.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn shared_by(built: &Built, processors: u32) -> Result<Vec<Value>> {
    let Counted { requests, counts } = count(&built.sys, Kind::Factorial, Engine::Software, processors)?;
    let own: Vec<_> = counts.shared.iter().filter(|line| !line.lies.is_io_managers()).collect();
    let mut kinds: BTreeMap<String, f64> = BTreeMap::new();
    for line in &own {
        *kinds.entry(line.lies.to_string()).or_default() += each(line.moves, requests);
    }
    let value = |figure: &str, what: &str, count| {
        let senders =
            if processors == 1 { "1 processor sends".to_owned() } else { format!("{processors} processors send") };
        let what = format!("{senders} factorials, software engine: {what}");
        Value::new(Group::Lines, format!("lines/{processors}/{figure}"), what, Unit::Count, count)
    };
    Ok(vec![
        value("lines", "lines", count_of(own.len() as u64)),
        value("moves", "moves of a line, a request", kinds.values().fold(0.0, |sum, moves| sum + moves)).of(kinds),
    ])
}

/// What was counted, of so many requests.
#[derive(Clone, Debug)]
pub struct Counted {
    /// How many.
    pub requests: u32,
    /// What the driver did for them together.
    pub counts: Counts,
}

/// Counts requests to the driver in the file `sys`: each of `processors` processors sends one after the other.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn count(sys: &Path, kind: Kind, engine: Engine, processors: u32) -> Result<Counted> {
    let config = Config {
        count_instructions: true,
        checks: Checks::Calls,
        // Blocks begin where a cache line does.
        special_pool: SpecialPool::VerifyStart,
        ..quiet(processors)?
    };
    let outcome = Machine::new(config)?.run(|system| {
        system.install(workload::package(sys));
        system.plug(engine.device());
        let senders = Rc::new(Senders::new(processors));
        for processor in 0..processors {
            let senders = Rc::clone(&senders);
            system.spawn("sender", move |system| senders.send(system, processor, kind));
        }
        senders.all_reach(system, 1);
        system.sleep(REST);
        system.start_counting(Detail::Instructions);
        senders.go_on(1);
        senders.all_reach(system, 2);
        system.sleep(REST);
        let counts = system.take_counts();
        senders.go_on(2);
        senders.all_reach(system, 3);
        (counts, senders.broken.take())
    });
    let (counts, broken) = outcome.result.map_err(|report| anyhow!("{report}"))?;
    if let Some(broken) = broken {
        bail!(broken);
    }
    Ok(Counted { requests: times(processors).1 * processors, counts })
}

/// A machine on which nothing is left to chance where there is one processor; where there are more, who goes on is, so that they
/// meet wherever they can.
fn quiet(processors: u32) -> Result<Config> {
    let config = Config::new(processors, processors)?;
    Ok(if processors == 1 { tame(config) } else { config })
}

/// Threads of a user process, one on each processor, that go from one stage to the next together.
#[derive(Debug, Default)]
struct Senders {
    count: u32,
    /// How many have reached the end of a stage.
    reached: Cell<u32>,
    stage: Cell<u32>,
    broken: RefCell<Option<String>>,
}

impl Senders {
    fn new(count: u32) -> Self {
        Self { count, ..Self::default() }
    }

    fn all_reach(&self, system: &System, stage: u32) {
        system.wait_until("the senders", || self.reached.get() == self.count * stage);
    }

    fn go_on(&self, stage: u32) {
        self.stage.set(stage);
    }

    fn reach(&self, system: &System, stage: u32) {
        self.reached.set(self.reached.get() + 1);
        system.wait_until("the other senders", || self.stage.get() >= stage);
    }

    fn send(&self, system: &System, processor: u32, kind: Kind) {
        let opened = system.bind(processor).then(|| workload::open(system, 0));
        let Some(Ok(handle)) = opened else { return self.fail("the device was not opened".to_owned()) };
        let (before, counted) = times(self.count);
        self.ask(&handle, kind, before);
        self.reach(system, 1);
        self.ask(&handle, kind, counted);
        self.reach(system, 2);
        drop(handle);
        self.reached.set(self.reached.get() + 1);
    }

    fn fail(&self, why: String) {
        self.broken.replace(Some(why));
        self.reached.set(self.reached.get() + 1);
    }

    fn ask(&self, handle: &Handle<'_>, kind: Kind, times: u32) {
        let request = kind.request();
        for _ in 0..times {
            let done = handle.submit(&request).wait();
            if !done.status.is_success() {
                self.fail(format!("a request ended with {}", done.status));
            }
        }
    }
}
