//! What a demo run ended with: the figures, and which promises were broken.

use std::iter;

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;
use workload::Counts;

/// Everything the demo knows at its end. Depends on the options and the seed alone, but for the fields that begin with `host_`.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Decides the run.
    pub seed: u64,
    /// What became of the requests.
    #[serde(flatten)]
    pub counts: Counts,
    /// A row for each processor, by index.
    pub processors: Vec<Processor>,
    /// A row for each time a device's resources were rebalanced.
    pub rebalances: Vec<Rebalance>,
    /// Physical memory in bytes, before and after.
    pub memory_bytes: Change,
    /// The driver's buffer pool in bytes, before and after.
    pub pool_bytes: Change,
    /// Virtual time that the run took.
    pub elapsed_us: u64,
    /// One sentence for each promise that was broken.
    pub broken: Vec<String>,
    /// Seconds the run took on the host.
    pub host_seconds: f64,
}

/// A quantity before and after all processors and memory were added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// What one processor did until the last one was added, and since.
#[derive(Clone, Debug, Serialize)]
pub struct Processor {
    /// The system's index.
    pub index: u32,
    /// Its group.
    pub group: u16,
    /// Its number in the group.
    pub number: u8,
    /// Virtual time at which it joined; 0 for one that was there.
    pub joined_us: u64,
    /// Device interrupts.
    pub interrupts: Change,
    /// Deferred procedure calls.
    pub dpcs: Change,
    /// Device requests that finished on it.
    pub requests: Change,
}

/// One rebalance of one device.
#[derive(Clone, Debug, Serialize)]
pub struct Rebalance {
    /// Which device.
    pub device: &'static str,
    /// Virtual time at which the device was asked to stop.
    pub at_us: u64,
    /// How long requests were held.
    pub held_us: u64,
    /// How many requests waited.
    pub waited: u64,
    /// Whether the device was given other resources; a device without any is only asked.
    pub restarted: bool,
    /// The interrupt's affinity afterwards.
    pub affinity: u64,
}

impl Results {
    /// The tables for people.
    #[must_use]
    pub fn tables(&self) -> String {
        let parts = [self.processor_table(), self.rebalance_table(), self.summary_table()];
        parts.map(|table| table.to_string()).join("\n\n")
    }

    fn processor_table(&self) -> Table {
        let mut table = table(&[
            "processor",
            "group:number",
            "joined us",
            "interrupts before",
            "after",
            "DPCs before",
            "after",
            "requests before",
            "after",
        ]);
        for row in &self.processors {
            let numbers = [row.interrupts, row.dpcs, row.requests].map(|change| [change.before, change.after]);
            let place = [row.index.to_string(), format!("{}:{}", row.group, row.number), row.joined_us.to_string()];
            table.add_row(place.into_iter().chain(numbers.concat().iter().map(u64::to_string)).map(number_cell));
        }
        table
    }

    fn rebalance_table(&self) -> Table {
        let mut table = table(&["rebalance of", "at us", "held us", "waited", "ended with", "interrupt affinity"]);
        for row in &self.rebalances {
            let ended = if row.restarted { "START_DEVICE" } else { "CANCEL_STOP" };
            let affinity = if row.affinity == 0 { "-".to_owned() } else { format!("{:#x}", row.affinity) };
            let numbers = [row.at_us, row.held_us, row.waited].map(|number| number_cell(number.to_string()));
            let words = [Cell::new(ended), number_cell(affinity)];
            table.add_row(iter::once(Cell::new(row.device)).chain(numbers).chain(words));
        }
        table
    }

    fn summary_table(&self) -> Table {
        let Counts { submitted, completed, cancelled, failed, lost } = self.counts;
        let mut table =
            table(&["submitted", "completed", "cancelled", "failed", "LOST", "memory GiB", "pool KiB", "seed"]);
        let change = |change: Change, unit: u64| format!("{} to {}", change.before / unit, change.after / unit);
        let counts = [submitted, completed, cancelled, failed, lost].map(|count| count.to_string());
        let rest = [change(self.memory_bytes, 1 << 30), change(self.pool_bytes, 1 << 10), self.seed.to_string()];
        table.add_row(counts.into_iter().chain(rest).map(number_cell));
        table
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header.iter().copied());
    table
}

fn number_cell(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
