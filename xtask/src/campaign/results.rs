//! What a campaign ended with.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use ntlab::explore;
use serde::{Deserialize, Serialize};
use workload::systematic;

use super::{Part, parts::Unit};
use crate::command::name;

/// The results of a campaign or of a shard of it, by part.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    parts: BTreeMap<String, PartResults>,
}

/// The results of a part.
#[derive(Debug, Serialize, Deserialize)]
pub struct PartResults {
    /// What was run and found.
    pub found: PartFound,
    /// Seconds it took on the host; those of all shards together.
    pub host_seconds: f64,
}

/// What was run and found.
#[derive(Debug, Serialize, Deserialize)]
pub enum PartFound {
    /// By a part that is made of units.
    Units(explore::Results<Unit>),
    /// By the faults.
    Faults(systematic::Results),
}

impl Results {
    /// Adds a part.
    pub fn add(&mut self, part: Part, results: PartResults) {
        self.parts.insert(name(&part), results);
    }

    /// Takes those of a part out.
    pub fn take(&mut self, part: Part) -> Option<PartResults> {
        self.parts.remove(&name(&part))
    }

    /// Adds what another shard of the same campaign ended with.
    pub fn merge(&mut self, other: Self) {
        for (name, part) in other.parts {
            match self.parts.get_mut(&name) {
                Some(own) => own.merge(part),
                None => drop(self.parts.insert(name, part)),
            }
        }
    }

    /// What the faults found; nothing where they were not run.
    pub fn into_faults(self) -> systematic::Results {
        let faults = |part: PartResults| match part.found {
            PartFound::Faults(found) => Some(found),
            PartFound::Units(_) => None,
        };
        self.parts.into_values().find_map(faults).unwrap_or_default()
    }

    /// A row for each part.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["part", "runs", "what they did", "found", "seconds"]);
        for (name, part) in &self.parts {
            let (runs, done) = part.done();
            let found = part.findings(name).len();
            table.add_row([
                name.clone(),
                runs.to_string(),
                done,
                found.to_string(),
                format!("{:.1}", part.host_seconds),
            ]);
        }
        for column in [1, 3, 4] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// Each finding, with the command that repeats it.
    pub fn findings(&self) -> Vec<String> {
        self.parts.iter().flat_map(|(name, part)| part.findings(name)).collect()
    }
}

impl PartResults {
    fn merge(&mut self, other: Self) {
        self.host_seconds += other.host_seconds;
        match (&mut self.found, other.found) {
            (PartFound::Units(own), PartFound::Units(other)) => own.merge(other),
            (PartFound::Faults(own), PartFound::Faults(other)) => own.merge(other),
            _ => unreachable!("a part is always of one kind"),
        }
    }

    /// How often the units of the part did this.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        match &self.found {
            PartFound::Units(found) => found.tally.get(what).copied().unwrap_or_default(),
            PartFound::Faults(_) => 0,
        }
    }

    /// How many runs, and what they did.
    #[must_use]
    pub fn done(&self) -> (u64, String) {
        match &self.found {
            PartFound::Units(found) => {
                let done = found.tally.iter().map(|(what, count)| format!("{count} {what}"));
                let covered = format!(
                    "{} pairs of places, {} of them new in the last tenth",
                    found.covered.pairs(),
                    found.new_in_last_tenth()
                );
                let seen = (found.covered.pairs() > 0).then_some(covered);
                (found.units, done.chain(seen).collect::<Vec<_>>().join("\n"))
            }
            PartFound::Faults(found) => {
                let (known, left) = (found.known.len(), found.remaining());
                (found.runs, format!("{known} calls that can fail, {left} failures of them left to other shards"))
            }
        }
    }

    fn findings(&self, part: &str) -> Vec<String> {
        let repeat = format!("to repeat this: cargo xtask campaign --only {part} --unit");
        match &self.found {
            PartFound::Units(found) => {
                let tell = |(key, found): (&String, &explore::Found<Unit>)| {
                    let explore::Found { count, first, replay, .. } = found;
                    format!("{part}: {key}, in {count} units, first in {first}\n{}\n{repeat} {first}", replay.report)
                };
                found.findings.iter().map(tell).collect()
            }
            PartFound::Faults(found) => {
                let tell = |broken: &systematic::Broken| {
                    let case = serde_json::to_string(&broken.case).unwrap_or_default();
                    format!("{part}: {}\n{repeat} '{case}'", broken.what)
                };
                found.broken.iter().map(tell).collect()
            }
        }
    }
}
