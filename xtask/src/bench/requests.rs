//! What a request costs: counted in the lab, on a machine that does nothing else, when everything is warm.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use hotadd_abi::{IOCTL_HOTADD_STATUS, Status, Wire};
use ntlab::{
    config::{Checks, Config, SpecialPool},
    counting::{Counts, Detail},
    machine::{Machine, System},
    pnp::DeviceSpec,
    user::{Handle, Request},
};
use serde::Serialize;

/// Requests of each processor before those that are counted: what is made once and kept is there then.
const WARM_UP: u32 = 32;
/// Requests of each processor that are counted.
const COUNTED: u32 = 8;
/// Virtual nanoseconds until what a request leaves behind is done.
const REST: u64 = 2_000_000;
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
    fn request(self) -> Request {
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
    fn device(self) -> DeviceSpec {
        match self {
            Self::Software => workload::software(),
            Self::Edu => workload::quick_edu(),
        }
    }
}

/// What there is for one of so many requests.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "there are far less than that matters for")]
pub fn each(count: u64, requests: u32) -> f64 {
    count as f64 / f64::from(requests)
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
        ..Config::new(processors, processors)?
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
    Ok(Counted { requests: COUNTED * processors, counts })
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
        self.ask(&handle, kind, WARM_UP);
        self.reach(system, 1);
        self.ask(&handle, kind, COUNTED);
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
