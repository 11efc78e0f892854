//! `list`: the devices there are.

use std::io::Write;

use clap::Args;
use hotadd_abi::Status;
use serde::Serialize;

use crate::{
    client::Client,
    device::{Access, Host, Place},
    failure::Failure,
    status::{right, table},
    words,
};

/// List the devices: state, engine, interrupt mode, processors used.
#[derive(Args, Debug)]
pub struct Options {
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    index: usize,
    instance: String,
    /// Its number in the journal.
    device: u32,
    state: String,
    gate: String,
    engine: String,
    interrupt_mode: String,
    interrupt_messages: u32,
    interrupt_affinity: u64,
    processors_steered: u32,
    processors_active: u32,
}

/// Lists the devices.
pub fn run(host: &dyn Host, options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    let rows = host.places()?.into_iter().map(|place| row(host, place)).collect::<Result<Vec<_>, _>>()?;
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        return Ok(writeln!(out)?);
    }
    let mut table = table(&["index", "instance", "state", "gate", "engine", "interrupt", "processors"]);
    for row in &rows {
        let interrupt = match row.interrupt_messages {
            0 => row.interrupt_mode.clone(),
            count => format!("{count} {}, {:#x}", row.interrupt_mode, row.interrupt_affinity),
        };
        let mut cells = vec![right(row.index.to_string())];
        let processors = format!("{} of {}", row.processors_steered, row.processors_active);
        let words = [&row.instance, &row.state, &row.gate, &row.engine, &interrupt, &processors];
        cells.extend(words.map(Into::into));
        table.add_row(cells);
    }
    Ok(writeln!(out, "{table}")?)
}

fn row(host: &dyn Host, place: Place) -> Result<Row, Failure> {
    let status: Status = Client::open(host, &place, Access::Nothing)?.status()?;
    Ok(Row {
        index: place.index,
        instance: place.instance,
        device: status.device,
        state: words::pnp_state(&status),
        gate: words::gate(&status),
        engine: words::engine(&status),
        interrupt_mode: words::interrupt_mode(&status),
        interrupt_messages: status.interrupt_messages,
        interrupt_affinity: status.interrupt_affinity,
        processors_steered: status.processors_steered,
        processors_active: status.processors_active,
    })
}
