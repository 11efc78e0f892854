//! The demo, short: what is run with many seeds.

use std::{collections::BTreeMap, path::Path};

use ntlab::{hot_add::NewProcessor, machine::System};
use serde::{Deserialize, Serialize};

use crate::{Counts, Load, Manner, Plan, Target, open_twice, package, processors, quick_edu, software, status};

/// Virtual nanoseconds that requests may take: a minute.
const PATIENCE: u64 = 60_000_000_000;

/// An `edu` and a software device under load, while processors and memory are added; each addition has the resources rebalanced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Demo {
    /// Requests in all.
    pub requests: u32,
    /// Requests in flight, at most.
    pub lanes: u32,
    /// Processors that are added.
    pub processors: u32,
    /// Memory modules that are added.
    pub modules: u32,
    /// MiB of each.
    pub module_mib: u32,
    /// Decides what is asked.
    pub seed: u64,
}

/// What is added in a stage.
#[derive(Clone, Copy)]
enum Change {
    Nothing,
    Processor,
    Module,
}

impl Demo {
    /// 200 requests while a machine with 6 free places gets 6 processors, and twice 2 GiB of memory.
    #[must_use]
    pub const fn with_seed(seed: u64) -> Self {
        Self { requests: 200, lanes: 16, processors: 6, modules: 2, module_mib: 2048, seed }
    }

    fn module_bytes(&self) -> u64 {
        u64::from(self.module_mib) << 20
    }

    /// Smaller ones, the smallest first.
    #[must_use]
    pub fn smaller(&self) -> Vec<Self> {
        let halves = [
            Self { requests: self.requests / 2, ..*self },
            Self { processors: self.processors / 2, ..*self },
            Self { modules: 0, ..*self },
            Self { lanes: self.lanes.div_ceil(2), ..*self },
        ];
        halves.into_iter().filter(|half| half != self).collect()
    }

    /// Starts both devices, uses them while the machine grows, and unloads the driver. How much was done.
    ///
    /// # Errors
    ///
    /// The promises that were broken.
    pub fn play(&self, system: &System, sys: &Path) -> Result<BTreeMap<String, u64>, String> {
        system.install(package(sys));
        let devices = [system.plug(quick_edu()), system.plug(software())];
        let targets =
            open_twice(system, devices.len()).map_err(|status| format!("a device does not open: {status}"))?;
        let before = Self::status_of(&targets)?;
        let mut counts = Counts::default();
        let mut broken = Vec::new();
        for (number, change) in self.stages().into_iter().enumerate() {
            let (stage, wrong) = self.stage(system, &targets, number, change);
            counts += stage;
            broken.extend(wrong);
        }
        system.settle();
        let after = Self::status_of(&targets)?;
        let active = processors(targets[0].handle()).map_err(|status| format!("no statistics: {status}"))?;
        let same = |what: &str, is: u64, must: u64| (is != must).then(|| format!("{what}: {is}, not {must}"));
        let checks = [
            same("requests that were sent", counts.submitted, self.requests.into()),
            same("requests that failed", counts.failed, 0),
            same("requests that were lost", counts.lost, 0),
            same(
                "bytes of memory added",
                after.memory_bytes - before.memory_bytes,
                u64::from(self.modules) * self.module_bytes(),
            ),
            same("processors added", active.len() as u64, u64::from(before.processors_active + self.processors)),
        ];
        broken.extend(checks.into_iter().flatten());
        drop(targets);
        broken.extend(system.unload(crate::SERVICE).err().map(|error| format!("the driver was not unloaded: {error}")));
        if !broken.is_empty() {
            return Err(broken.join("; "));
        }
        let figures = [
            ("requests", counts.submitted),
            ("requests cancelled", counts.cancelled),
            ("processors added", self.processors.into()),
            ("rebalances", after.rebalances),
        ];
        Ok(figures.map(|(what, count)| (what.to_owned(), count)).into())
    }

    fn status_of(targets: &[Target<'_>]) -> Result<hotadd_abi::Status, String> {
        status(targets[0].handle()).map_err(|status| format!("the driver does not tell its status: {status}"))
    }

    /// The processors one by one, the modules between them; at the end nothing is added.
    fn stages(&self) -> Vec<Change> {
        let mut stages = vec![Change::Processor; self.processors as usize];
        for module in (1..=self.modules).rev() {
            stages.insert((self.processors * module / (self.modules + 1)) as usize, Change::Module);
        }
        stages.push(Change::Nothing);
        stages
    }

    /// Adds something while a part of the requests is in flight; ends with them.
    fn stage(&self, system: &System, targets: &[Target<'_>], number: usize, change: Change) -> (Counts, Vec<String>) {
        let (stages, number) = (u64::from(self.processors + self.modules) + 1, number as u64);
        let until = |stage: u64| u64::from(self.requests) * stage / stages;
        let plan = Plan { lanes: self.lanes, seed: self.seed * stages + number, cancel_one_in: 16 };
        let most = Some(until(number + 1) - until(number));
        let load = Load::start_with(system, targets, plan, Manner { most, ..Manner::default() });
        let added = match change {
            Change::Nothing => Ok(()),
            Change::Processor => system.add_processor(NewProcessor::default()).map(drop),
            Change::Module => system.add_memory(self.module_bytes(), 0),
        };
        let (counts, mut broken) = load.finish(PATIENCE);
        broken.extend(added.err().map(|status| format!("nothing was added: {status}")));
        (counts, broken)
    }
}
