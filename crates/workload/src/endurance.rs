//! Load that goes on while the machine changes under it, again and again.

use std::{collections::BTreeMap, path::Path};

use ntlab::{hot_add::NewProcessor, machine::System, pnp::Rebalance};
use serde::{Deserialize, Serialize};

use crate::{Load, Manner, Plan, open_twice, package, quick_edu, software};

/// Virtual nanoseconds that requests may take: a minute.
const PATIENCE: u64 = 60_000_000_000;

/// How long a lane waits, at most, before its next request, in virtual nanoseconds: while the `edu` device does nothing, as in a rebalance,
/// the software device would answer many thousands.
const PAUSE: u64 = 2_000_000;

/// How much is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endurance {
    /// Processors that are added, and rebalances.
    pub changes: u32,
    /// Requests that end between two changes, at least.
    pub requests: u32,
    /// Requests that are always in flight.
    pub lanes: u32,
    /// Decides what is asked.
    pub seed: u64,
}

impl Endurance {
    /// Uses an `edu` and a software device while processors are added, as long as there is a place for one, and resources are rebalanced;
    /// unloads the driver. How much was done, or which promises were broken.
    ///
    /// # Errors
    ///
    /// The promises that were broken.
    pub fn play(&self, system: &System, sys: &Path) -> Result<BTreeMap<String, u64>, String> {
        system.install(package(sys));
        let devices = [system.plug(quick_edu()), system.plug(software())];
        let targets =
            open_twice(system, devices.len()).map_err(|status| format!("a device does not open: {status}"))?;
        let plan = Plan { lanes: self.lanes, seed: self.seed, cancel_one_in: 16 };
        let load = Load::start_with(system, &targets, plan, Manner { pause: PAUSE, ..Manner::default() });
        drop(targets);
        let mut broken = Vec::new();
        let mut done = [0; 2];
        for change in 0..self.changes {
            if !load.run(self.requests.into(), PATIENCE) {
                broken.push(format!("requests stopped flowing after {change} changes"));
                break;
            }
            if change % 2 == 0 && system.add_processor(NewProcessor::default()).is_ok() {
                done[0] += 1;
            } else {
                let outcome = system.rebalance();
                if outcome != [Rebalance::Restarted, Rebalance::NotStopped] {
                    broken.push(format!("a rebalance ended with {outcome:?}"));
                }
                done[1] += 1;
            }
        }
        let (counts, wrong) = load.stop(PATIENCE);
        broken.extend(wrong);
        if counts.lost + counts.failed != 0 {
            broken.push(format!("requests were lost or failed: {counts:?}"));
        }
        system.settle();
        if let Err(error) = system.unload("hotadd") {
            broken.push(format!("the driver was not unloaded: {error}"));
        }
        if !broken.is_empty() {
            return Err(broken.join("; "));
        }
        let figures = [
            ("requests", counts.submitted),
            ("requests cancelled", counts.cancelled),
            ("processors added", done[0]),
            ("rebalances", done[1]),
        ];
        Ok(figures.map(|(what, count)| (what.to_owned(), count)).into())
    }
}
