//! `status`: the driver, a device, and what each processor did.

use std::{collections::BTreeMap, io::Write};

use clap::Args;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use hotadd_abi::{ProcessorStatistics, Status, Version};
use serde::Serialize;

use crate::{
    client::Client,
    device::{Access, Host, Place},
    failure::Failure,
    styles::{BAD, GOOD, HELD, STRONG, WEAK},
    words,
};

/// Show the driver, the device, and what each processor did, by group and node.
#[derive(Args, Debug)]
pub struct Options {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Shows it.
pub fn run(host: &dyn Host, place: &Place, options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    let mut client = Client::open(host, place, Access::Nothing)?;
    let (status, processors) = (client.status()?, client.processors()?);
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &Told::new(place, &status, &processors))?;
        return Ok(writeln!(out)?);
    }
    for (what, text) in lines(place, &status) {
        writeln!(out, "{WEAK}{what:<11}{WEAK:#} {text}")?;
    }
    writeln!(out, "\n{}", processor_table(&processors))?;
    if Version::from_code(status.driver_version) != Version::THIS {
        writeln!(out, "{HELD}This is hotaddctl {}; driver and tool belong together.{HELD:#}", Version::THIS)?;
    }
    Ok(())
}

/// What there is to say of driver and device.
fn lines(place: &Place, status: &Status) -> [(&'static str, String); 10] {
    let gate_style = if status.gate == 0 { GOOD } else { HELD };
    let failed_style = if status.failed == 0 { GOOD } else { BAD };
    [
        ("driver", format!("{STRONG}hotadd.sys {}{STRONG:#}", Version::from_code(status.driver_version))),
        ("device", format!("{STRONG}{}{STRONG:#}, device {} of the journal", place.instance, status.device)),
        ("state", format!("{}, D{}, engine {}", words::pnp_state(status), status.power_state, words::engine(status))),
        (
            "gate",
            format!(
                "{gate_style}{}{gate_style:#}, {} held; last hold {}, {} waited; {} have waited in all",
                words::gate(status),
                status.held,
                words::duration(status.last_hold_duration),
                status.last_hold_waited,
                status.waited
            ),
        ),
        ("interrupt", words::interrupt(status)),
        (
            "processors",
            format!(
                "{} steered to, {} known, {} active, at most {}",
                status.processors_steered, status.processors_known, status.processors_active, status.processors_maximum
            ),
        ),
        ("pool", grown(status.pool_bytes_at_load, status.pool_bytes)),
        ("memory", grown(status.memory_bytes_at_load, status.memory_bytes)),
        (
            "requests",
            format!(
                "{} accepted, {} completed, {} cancelled, {failed_style}{} failed{failed_style:#}, {} timeouts",
                status.accepted, status.completed, status.cancelled, status.failed, status.timeouts
            ),
        ),
        ("rebalances", format!("{}; the next event is number {}", status.rebalances, status.journal_next)),
    ]
}

fn grown(before: u64, now: u64) -> String {
    format!("{} when loaded, {} now", words::bytes(before), words::bytes(now))
}

/// Processors by group and node; a group or a node is named in its first row.
fn processor_table(processors: &[ProcessorStatistics]) -> Table {
    let mut table =
        table(&["group", "node", "number", "index", "work", "interrupts", "DPCs", "requests", "early", "joined ms"]);
    let mut before = None;
    for row in by_place(processors) {
        let place = (row.group, row.node);
        let is_new_group = before.is_none_or(|(group, _)| group != row.group);
        let group = if is_new_group { row.group.to_string() } else { String::new() };
        let node = if before == Some(place) { String::new() } else { row.node.to_string() };
        before = Some(place);
        let work = Cell::new(if row.steered == 0 { "not yet" } else { "steered to" });
        let joined = row.joined_at / 10_000;
        let rest = [row.interrupts, row.dpcs, row.requests, row.early_requests.into(), joined]
            .map(|figure| right(figure.to_string()));
        table.add_row(
            [group, node, row.number.to_string(), row.index.to_string()]
                .map(right)
                .into_iter()
                .chain([work])
                .chain(rest),
        );
    }
    table
}

/// The processors in the order of group, node and number.
fn by_place(processors: &[ProcessorStatistics]) -> Vec<ProcessorStatistics> {
    let mut sorted = processors.to_vec();
    sorted.sort_by_key(|row| (row.group, row.node, row.number));
    sorted
}

/// A table of this crate.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    table
}

/// A cell for a number.
pub fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// The same for programs.
#[derive(Serialize)]
struct Told<'a> {
    instance: &'a str,
    device: u32,
    driver_version: String,
    state: String,
    power_state: u32,
    engine: String,
    gate: String,
    hold_reasons: u32,
    held: u64,
    waited: u64,
    last_hold_us: u64,
    last_hold_waited: u64,
    interrupt_mode: String,
    interrupt_messages: u32,
    interrupt_group: u32,
    interrupt_affinity: u64,
    processors_maximum: u32,
    processors_active: u32,
    processors_known: u32,
    processors_steered: u32,
    pool_bytes_at_load: u64,
    pool_bytes: u64,
    memory_bytes_at_load: u64,
    memory_bytes: u64,
    buffer_bytes: u64,
    accepted: u64,
    completed: u64,
    cancelled: u64,
    failed: u64,
    timeouts: u64,
    rebalances: u64,
    journal_next: u64,
    /// Group, then node, then processors.
    groups: BTreeMap<u16, BTreeMap<u32, Vec<Processor>>>,
}

#[derive(Serialize)]
struct Processor {
    index: u32,
    number: u8,
    steered: bool,
    interrupts: u64,
    dpcs: u64,
    requests: u64,
    early_requests: u32,
    joined_us: u64,
}

impl<'a> Told<'a> {
    fn new(place: &'a Place, status: &Status, processors: &[ProcessorStatistics]) -> Self {
        let mut groups: BTreeMap<_, BTreeMap<_, Vec<_>>> = BTreeMap::new();
        for row in by_place(processors) {
            groups.entry(row.group).or_default().entry(row.node).or_default().push(Processor {
                index: row.index,
                number: row.number,
                steered: row.steered != 0,
                interrupts: row.interrupts,
                dpcs: row.dpcs,
                requests: row.requests,
                early_requests: row.early_requests,
                joined_us: row.joined_at / 10,
            });
        }
        Self {
            instance: &place.instance,
            device: status.device,
            driver_version: Version::from_code(status.driver_version).to_string(),
            state: words::pnp_state(status),
            power_state: status.power_state,
            engine: words::engine(status),
            gate: words::gate(status),
            hold_reasons: status.hold_reasons,
            held: status.held,
            waited: status.waited,
            last_hold_us: status.last_hold_duration / 10,
            last_hold_waited: status.last_hold_waited,
            interrupt_mode: words::interrupt_mode(status),
            interrupt_messages: status.interrupt_messages,
            interrupt_group: status.interrupt_group,
            interrupt_affinity: status.interrupt_affinity,
            processors_maximum: status.processors_maximum,
            processors_active: status.processors_active,
            processors_known: status.processors_known,
            processors_steered: status.processors_steered,
            pool_bytes_at_load: status.pool_bytes_at_load,
            pool_bytes: status.pool_bytes,
            memory_bytes_at_load: status.memory_bytes_at_load,
            memory_bytes: status.memory_bytes,
            buffer_bytes: status.buffer_bytes,
            accepted: status.accepted,
            completed: status.completed,
            cancelled: status.cancelled,
            failed: status.failed,
            timeouts: status.timeouts,
            rebalances: status.rebalances,
            journal_next: status.journal_next,
            groups,
        }
    }
}
