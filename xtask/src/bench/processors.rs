//! What it costs that a processor joins, from the first to the last that Windows serves.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, anyhow};
use ntlab::{
    config::{Checks, Config},
    counting::{Counts, Detail, Work},
    hot_add::NewProcessor,
    machine::{Machine, System},
};

use super::{
    figures::{Group, Unit, Value},
    requests::{calls_by_name, count_of, tame},
};

/// The processors that are looked at: the first in the machine, then those around the end of a group, and the last.
const LOOKED_AT: [u32; 4] = [1, 64, 65, LAST];
/// A small machine.
const FEW: u32 = 8;
/// The most processors of Windows.
const LAST: u32 = 2048;
/// What the lab calls the callbacks that announce a processor.
const CHANGE: &str = "processor change callback";
const ARRIVAL: [&str; 3] = ["PnP notification callback", "work item", "worker routine"];

/// What the driver in the file `sys` does when a processor joins, and what it keeps for each.
///
/// # Errors
///
/// A run that stopped, or a processor that was not added.
pub fn figures(sys: &Path) -> Result<Vec<Value>> {
    let config = Config { count_instructions: true, checks: Checks::Calls, ..tame(Config::new(1, LAST)?) };
    let outcome = Machine::new(config)?.run(|system| {
        let mut counted = Vec::new();
        system.start_counting(Detail::Totals);
        system.install(workload::package(sys));
        system.plug(workload::software());
        counted.push((1, system.take_counts()));
        system.settle();
        let first = system.driver_pool();
        let mut active = 1;
        for number in LOOKED_AT.into_iter().filter(|number| *number > 1) {
            while active + 1 < number {
                system.add_processor(NewProcessor::default()).map_err(|status| anyhow!("{status}"))?;
                active += 1;
            }
            counted.push((number, joined(system)?));
            active = number;
        }
        let all = system.driver_pool();
        Ok::<_, anyhow::Error>((counted, first, all, device(system)))
    });
    let (counted, first, all, device) = outcome.result.map_err(|report| anyhow!("{report}"))??;
    let mut values: Vec<Value> = counted.iter().flat_map(|(number, counts)| of_one(*number, counts)).collect();
    let each = count_of(all - first) / f64::from(LAST - 1);
    values.push(Value::new(Group::Memory, "memory/processor", "pool for each processor", Unit::Bytes, each));
    for (processors, bytes) in [(FEW, device_of_few(sys)?), (LAST, device)] {
        let what = format!("pool for another device, software engine, where there are {processors} processors");
        let id = format!("memory/device/{processors}");
        values.push(Value::new(Group::Memory, id, what, Unit::Bytes, count_of(bytes)));
    }
    Ok(values)
}

/// Bytes of pool that the driver takes for another device.
fn device(system: &System) -> u64 {
    let before = system.driver_pool();
    system.plug(workload::software());
    system.settle();
    system.driver_pool().saturating_sub(before)
}

/// The same on a small machine.
fn device_of_few(sys: &Path) -> Result<u64> {
    let outcome = Machine::new(tame(Config::new(FEW, FEW)?))?.run(|system| {
        system.install(workload::package(sys));
        system.plug(workload::software());
        system.settle();
        device(system)
    });
    outcome.result.map_err(|report| anyhow!("{report}"))
}

/// Adds a processor, and counts until all that follows is done.
fn joined(system: &System) -> Result<Counts> {
    system.settle();
    system.start_counting(Detail::Totals);
    let addition = system.begin_addition(NewProcessor::default()).map_err(|status| anyhow!("{status}"))?;
    system.activate(&addition);
    system.complete_addition(addition);
    system.settle();
    Ok(system.take_counts())
}

fn of_one(number: u32, counts: &Counts) -> Vec<Value> {
    let sum = |names: &[&str]| {
        let parts = names.iter().filter_map(|name| counts.callbacks.get(name));
        parts.fold(Work::default(), |mut sum, part| {
            sum += part;
            sum
        })
    };
    let mut values = of_work(number, "processor", "AddStart + AddComplete", &sum(&[CHANGE]));
    // The first is there when the driver is loaded: nothing arrives.
    if number > 1 {
        values.extend(of_work(number, "arrival", "the arrival of its device and what follows", &sum(&ARRIVAL)));
    }
    values
}

fn of_work(number: u32, name: &str, what: &str, work: &Work) -> Vec<Value> {
    let value = |figure: &str, unit, count: u64| {
        let words = if unit == Unit::Bytes { "bytes allocated" } else { &figure.replace('-', " ") };
        let what = format!("{what}, as processor {number}: {words}");
        Value::new(Group::Processor, format!("{name}/{number}/{figure}"), what, unit, count_of(count))
    };
    let by_name: BTreeMap<String, f64> = calls_by_name(work, 1);
    vec![
        value("instructions", Unit::Count, work.instructions),
        value("kernel-calls", Unit::Count, work.kernel_call_count()).of(by_name),
        value("bytes", Unit::Bytes, work.allocated),
    ]
}
