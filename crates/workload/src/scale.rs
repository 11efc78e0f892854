//! The largest machine that Windows serves, from the first processors to the last.

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc};

use ntlab::{
    config::{Config, ConfigError, Group},
    hot_add::NewProcessor,
    machine::System,
    pnp::{Device, DeviceState, Rebalance},
    user::Status,
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Load, Manner, Plan, SERVICE, Target, client, open_twice, package, quick_edu, software};

/// Virtual nanoseconds that what is asked for may take: ten minutes.
const PATIENCE: u64 = 600_000_000_000;
/// How long a lane waits, at most, before its next request: so long that a wave lasts while all devices are asked to stop and processors
/// join.
const PAUSE: u64 = 500_000;
/// The smallest memory module, and how many sizes there are, each twice as large as the one before: up to 1 TiB.
const SMALLEST_MODULE: u64 = 1 << 30;
const MODULE_SIZES: u32 = 11;

/// A machine that grows to its full size under load, in bursts of processors that join while every device is rebalanced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scale {
    /// Processor groups of 64 places on two NUMA nodes, of which two places are taken at the start.
    pub groups: u32,
    /// Processors that join together.
    pub burst: usize,
    /// Devices with hardware, which are stopped and started again in a rebalance.
    pub hardware: u32,
    /// Devices without, which are asked and not stopped.
    pub software: u32,
    /// Requests, all in all.
    pub requests: u64,
    /// How many of them are in flight at a time.
    pub lanes: u32,
    /// Decides what is asked and which processors join when.
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grown {
    /// Requests that ended, each with the right answer or because it was cancelled.
    pub requests: u64,
    /// Those of them that were cancelled.
    pub cancelled: u64,
    /// Processors in the end.
    pub processors: u32,
    /// Rebalances of devices.
    pub rebalances: u64,
    /// Bytes of memory that were added.
    pub memory: u64,
    /// Requests that waited while their device was rebalanced.
    pub waited: u64,
    /// Virtual nanoseconds of each burst, from its first AddStart to the end of the rebalance that follows.
    pub bursts: Vec<u64>,
}

impl Grown {
    /// In numbers that can be summed up.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<String, u64> {
        let figures = [
            ("requests", self.requests),
            ("requests cancelled", self.cancelled),
            ("requests that waited", self.waited),
            ("processors at the end", self.processors.into()),
            ("rebalances", self.rebalances),
        ];
        figures.map(|(what, count)| (what.to_owned(), count)).into()
    }
}

impl Scale {
    /// 2,048 processors in 32 groups and 64 nodes, 256 devices, a million requests.
    pub const LARGEST: Self =
        Self { groups: 32, burst: 64, hardware: 128, software: 128, requests: 1_000_000, lanes: 1024, seed: 0 };

    /// The same with less of something, on the same machine.
    #[must_use]
    pub fn smaller(&self) -> Vec<Self> {
        let less = [
            Self { requests: self.requests / 2, ..*self },
            Self { lanes: self.lanes / 2, ..*self },
            Self { hardware: self.hardware / 2, ..*self },
            Self { software: self.software / 2, ..*self },
        ];
        let can_be = |less: &Self| less != self && less.lanes > 0 && less.hardware + less.software > 0;
        less.into_iter().filter(can_be).collect()
    }

    /// The machine it starts on: in each group two processors, one of each node, with gaps around them.
    ///
    /// # Errors
    ///
    /// No group, or more than Windows serves.
    pub fn machine(&self) -> Result<Config, ConfigError> {
        let group = |number: u32| {
            let present = 1 << (number * 7 % 32) | 1 << (32 + number * 11 % 32);
            Group { mask: u64::MAX, nodes: vec![u64::MAX >> 32, u64::MAX << 32], absent: !present }
        };
        let groups = (0..self.groups).map(group).collect();
        let config = Config { seed: self.seed, processors: 2 * self.groups, groups, ..Config::default() };
        config.check()?;
        Ok(config)
    }

    /// Grows the machine under load and unloads the driver. What was seen, or which promises were broken.
    ///
    /// # Errors
    ///
    /// The promises that were broken.
    pub fn play(&self, system: &System, sys: &Path) -> Result<Grown, String> {
        system.install(package(sys));
        let devices = self.plug(system)?;
        let targets =
            open_twice(system, devices.len()).map_err(|status| format!("a device does not open: {status}"))?;
        let mut run = Run { scale: self, system, targets, waves: 0, grown: Grown::default(), broken: Vec::new() };
        run.grow();
        system.settle();
        run.look()?;
        let Run { targets, grown, mut broken, .. } = run;
        drop(targets);
        if let Err(error) = system.unload(SERVICE) {
            broken.push(format!("the driver was not unloaded: {error}"));
        }
        if broken.is_empty() { Ok(grown) } else { Err(broken.join("; ")) }
    }

    fn plug(&self, system: &System) -> Result<Vec<Device>, String> {
        let hardware = (0..self.hardware).map(|_| quick_edu());
        let specs = hardware.chain((0..self.software).map(|_| software()));
        let devices: Vec<Device> = specs.map(|spec| system.plug(spec)).collect();
        let states: Vec<DeviceState> = devices.iter().map(|device| device.state(system)).collect();
        if states.iter().all(|state| *state == DeviceState::Started) {
            Ok(devices)
        } else {
            Err(format!("not every device works: {states:?}"))
        }
    }

    /// The places without a processor at the start, in the order in which processors join.
    fn absent(&self) -> Vec<u32> {
        let groups = self.machine().map(|config| config.groups).unwrap_or_default();
        let present = groups.iter().flat_map(|group| (0..64).map(move |number| group.absent >> number & 1 == 0));
        let mut absent: Vec<u32> = (0..).zip(present).filter(|(_, present)| !present).map(|(place, _)| place).collect();
        absent.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        absent
    }

    /// What is wrong with how a rebalance of all devices ended.
    fn judge(&self, outcomes: &[Rebalance]) -> Option<String> {
        let mut counts = BTreeMap::new();
        for outcome in outcomes {
            *counts.entry(format!("{outcome:?}")).or_default() += 1;
        }
        let expected = [(Rebalance::NotStopped, self.software), (Rebalance::Restarted, self.hardware)];
        let expected = expected.iter().filter(|(_, count)| *count != 0);
        let expected: BTreeMap<String, u32> =
            expected.map(|(outcome, count)| (format!("{outcome:?}"), *count)).collect();
        (counts != expected).then(|| format!("a rebalance ended with {counts:?}"))
    }
}

/// A machine that grows.
struct Run<'s, 'k> {
    scale: &'s Scale,
    system: &'k System,
    targets: Vec<Target<'k>>,
    waves: u64,
    grown: Grown,
    broken: Vec<String>,
}

impl<'k> Run<'_, 'k> {
    /// All bursts. Requests come in waves of equal size: before the first burst, two in each, after the last.
    fn grow(&mut self) {
        let absent = self.scale.absent();
        let bursts: Vec<&[u32]> = absent.chunks(self.scale.burst).collect();
        let requests = self.scale.requests / (2 * bursts.len() as u64 + 2);
        let first = self.wave(requests).start(self.system);
        self.finish(first, requests);
        for (number, places) in (0..).zip(&bursts) {
            self.add_memory(number);
            self.burst(places, requests);
        }
        let left = self.scale.requests - self.grown.requests;
        let last = self.wave(left).start(self.system);
        self.finish(last, left);
    }

    /// Processors join while every device is rebalanced and a wave of requests comes in; another wave comes during the rebalance that
    /// follows.
    fn burst(&mut self, places: &[u32], requests: u64) {
        let first = self.wave(requests).start(self.system);
        if !first.run(requests / 4, PATIENCE) {
            self.broken.push("requests stopped flowing".into());
        }
        let start = self.system.now();
        let meanwhile = Rc::new(RefCell::new(None));
        let (place, wave) = (Rc::clone(&meanwhile), self.wave(requests));
        self.system.spawn("rebalance", move |system| {
            let outcomes = system.rebalance();
            *place.borrow_mut() = Some((outcomes, wave.start(system)));
        });
        self.broken.extend(add(self.system, places));
        self.grown.bursts.push(self.system.now() - start);
        self.system.wait_until("the rebalance during a burst", || meanwhile.borrow().is_some());
        self.finish(first, requests);
        if let Some((outcomes, second)) = meanwhile.take() {
            self.broken.extend(self.scale.judge(&outcomes));
            self.finish(second, requests);
        }
        self.grown.rebalances += 2 * u64::from(self.scale.hardware + self.scale.software);
    }

    fn add_memory(&mut self, number: u32) {
        let module = SMALLEST_MODULE << (number % MODULE_SIZES);
        let node = u16::try_from(number % (2 * self.scale.groups)).unwrap_or_default();
        match self.system.add_memory(module, node) {
            Ok(()) => self.grown.memory += module,
            Err(status) => self.broken.push(format!("a module of {module} bytes was refused: {status}")),
        }
    }

    /// The next so many requests.
    fn wave(&mut self, requests: u64) -> Wave<'k> {
        self.waves += 1;
        let plan = Plan { lanes: self.scale.lanes, seed: self.scale.seed ^ self.waves << 32, cancel_one_in: 64 };
        Wave { targets: self.targets.clone(), plan, requests }
    }

    /// Waits for the end of a wave.
    fn finish(&mut self, load: Load<'k>, requests: u64) {
        let (counts, wrong) = load.finish(PATIENCE);
        self.broken.extend(wrong);
        if counts.lost + counts.failed != 0 || counts.submitted != requests {
            self.broken.push(format!("{requests} requests were to end well: {counts:?}"));
        }
        self.grown.requests += counts.submitted;
        self.grown.cancelled += counts.cancelled;
    }

    /// Looks at what the driver says in the end.
    fn look(&mut self) -> Result<(), String> {
        for target in self.targets.iter().step_by(2) {
            let status =
                client::status(target.handle()).map_err(|status| format!("a device tells no status: {status}"))?;
            self.grown.waited += status.waited;
            self.grown.processors = status.processors_active;
            let told = [status.processors_active, status.processors_known, status.processors_steered];
            let there = self.scale.groups * 64;
            if told != [there; 3] {
                self.broken.push(format!("of {there} processors, {told:?} are active, known and steered to"));
            }
        }
        Ok(())
    }
}

/// Requests that come together.
struct Wave<'k> {
    targets: Vec<Target<'k>>,
    plan: Plan,
    requests: u64,
}

impl<'k> Wave<'k> {
    fn start(self, system: &'k System) -> Load<'k> {
        Load::start_with(
            system,
            &self.targets,
            self.plan,
            Manner { most: Some(self.requests), pause: PAUSE, ..Manner::default() },
        )
    }
}

/// Has processors join at these places; what was wrong with that.
fn add(system: &System, places: &[u32]) -> Vec<String> {
    let new = |&place: &u32| NewProcessor { place: Some(place), ..NewProcessor::default() };
    let added = system.add_processors(places.iter().map(new).collect());
    let refusal = |(place, added): (&u32, Result<u32, Status>)| match added {
        Ok(index) => (index != *place).then(|| format!("the processor at {place} has index {index}")),
        Err(status) => Some(format!("the processor at {place} was refused: {status}")),
    };
    places.iter().zip(added).filter_map(refusal).collect()
}
