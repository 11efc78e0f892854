//! What is told about a run that was stopped.

use std::fmt;

use crate::{events::Event, finding::Finding, kernel::Kernel};

/// The report of a finding, made where it was noticed.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was found.
    pub finding: Finding,
    /// The seed of the run.
    pub seed: u64,
    /// The last events.
    pub events: Vec<Event>,
}

impl Report {
    /// The report of `finding` as the machine is now.
    #[must_use]
    pub fn new(kernel: &Kernel, finding: Finding) -> Self {
        Self { finding, seed: kernel.config.seed, events: kernel.log.last(40) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.finding.sentence)?;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        write!(f, "seed {}", self.seed)
    }
}
