//! The largest machine: what it takes to run it, and how the driver's figures grow with the processors.

use std::path::Path;

use anyhow::{Result, anyhow};
use cpu_time::ThreadTime;
use ntlab::machine::Machine;
use workload::scale::{Grown, Scale};

use super::{Figure, measures::most_resident};

/// A million requests to 256 devices while a machine of 64 processors grows to 2,048.
pub fn figures(sys: &Path) -> Result<Vec<Figure>> {
    let start = ThreadTime::now();
    let grown = play(Scale::LARGEST, sys)?;
    let seconds = start.elapsed().as_secs_f64();
    let memory = most_resident()? >> 20;
    let Grown { requests, waited, processors, rebalances, memory: added, bursts, .. } = grown;
    let what = format!(
        "{requests} requests, none of them lost, {waited} of which waited while {processors} processors and {} GiB joined and {rebalances} devices were rebalanced",
        added >> 30
    );
    let longest = bursts.iter().max().copied().unwrap_or_default();
    Ok(vec![
        Figure::new(what, "at most 60 s", format!("{seconds:.1} s")),
        Figure::new("memory for that", "at most 2 GiB", format!("{memory} MiB")),
        Figure::new("virtual time of the longest burst", "", format!("{} us", longest / 1000)),
    ])
}

fn play(scale: Scale, sys: &Path) -> Result<Grown> {
    let outcome = Machine::new(scale.machine()?)?.run(|system| scale.play(system, sys));
    outcome.result.map_err(|report| anyhow!("{report}"))?.map_err(|broken| anyhow!("{broken}"))
}
