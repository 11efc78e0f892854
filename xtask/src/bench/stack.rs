//! The deepest stack of any path: over the demo, from the load of the driver to its end.

use anyhow::{Result, anyhow};
use ntlab::{
    config::{Checks, Config},
    counting::Detail,
    machine::Machine,
};
use workload::Demo;

use super::{
    figures::{Built, Group, Unit, Value},
    requests::count_of,
};

/// What a driver uses of kernel stacks, most of it at a time.
///
/// # Errors
///
/// A run that stopped, or a promise that was broken.
pub fn figures(built: &Built) -> Result<Vec<Value>> {
    let config = Config { count_instructions: true, checks: Checks::Calls, ..Config::default() };
    let outcome = Machine::new(config)?.run(|system| {
        system.start_counting(Detail::Instructions);
        let played = Demo::with_seed(0).play(system, &built.sys);
        (played, system.take_counts())
    });
    let (played, counts) = outcome.result.map_err(|report| anyhow!("{report}"))?;
    played.map_err(|broken| anyhow!(broken))?;
    let of = |work: &ntlab::counting::Work| count_of(work.deepest_stack);
    let parts = counts.work.iter().map(|(within, work)| ((*within).to_owned(), of(work))).collect();
    let what = "deepest stack of any path of the demo";
    Ok(vec![Value::new(Group::Memory, "memory/stack", what, Unit::Bytes, of(&counts.total())).of(parts)])
}
