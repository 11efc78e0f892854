//! Following the journal: one request waits in the driver for the next event.

use std::time::Duration;

use crate::{
    client::{self, Journal},
    device::Device,
    failure::Failure,
};

/// Follows the journal from some event on, through a device that nothing else is asked of.
#[derive(Debug)]
pub struct Follower {
    cursor: u64,
    is_waiting: bool,
}

impl Follower {
    /// From the event with this number on.
    pub const fn from(cursor: u64) -> Self {
        Self { cursor, is_waiting: false }
    }

    /// The next events, as soon as there are some; none if there are none for as long as `patience`.
    pub fn next(&mut self, device: &mut dyn Device, patience: Duration) -> Result<Option<Journal>, Failure> {
        if !self.is_waiting {
            device.submit(0, client::journal_wait(self.cursor));
            self.is_waiting = true;
        }
        let Some((_, done)) = device.wait(patience) else { return Ok(None) };
        self.is_waiting = false;
        client::succeeded("waiting for events", done.status)?;
        let journal = client::parse_journal(&done.output)?;
        self.cursor = journal.next;
        Ok(Some(journal))
    }
}
