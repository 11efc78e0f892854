//! How long a machine of the lab takes to start.

use std::{path::Path, time::Duration};

use anyhow::{Result, anyhow};
use cpu_time::ThreadTime;
use ntlab::{config::Config, machine::Machine};

use super::Figure;

/// How often each machine is started: the quickest counts.
const ROUNDS: u32 = 10;
const GOAL: &str = "at most 5 ms";

/// From the order for a machine to the first moment of its scenario, and on to a driver whose device can be opened.
pub fn figures(sys: &Path) -> Result<Vec<Figure>> {
    let machines = [(Config::new(8, 8)?, "8 processors"), (Config::new(2048, 2048)?, "2,048 processors")];
    let mut figures = Vec::new();
    for (config, size) in machines {
        let (bare, ready) = quickest(&config, sys)?;
        let told = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        figures.push(Figure::new(format!("start of a machine of {size}"), GOAL, told(bare)));
        let what = format!("the same, with the driver loaded and its software device started: {size}");
        figures.push(Figure::new(what, "", told(ready)));
    }
    Ok(figures)
}

fn quickest(config: &Config, sys: &Path) -> Result<(Duration, Duration)> {
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let (bare, ready) = start(config.clone(), sys)?;
        best = (best.0.min(bare), best.1.min(ready));
    }
    Ok(best)
}

/// What the thread of the machine works until its scenario begins, and until the device is there.
fn start(config: Config, sys: &Path) -> Result<(Duration, Duration)> {
    let start = ThreadTime::now();
    let outcome = Machine::new(config)?.run(|system| {
        let bare = start.elapsed();
        system.install(workload::package(sys));
        system.plug(workload::software());
        (bare, start.elapsed())
    });
    outcome.result.map_err(|report| anyhow!("{report}"))
}
