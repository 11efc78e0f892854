//! The software engine: a DPC on the processor that the request is steered to.

use wdm::dpc::{Again, DpcRoutine};
use wdm::irp::PendedIrp;
use wdm::irql::Dispatch;

use crate::processors::{Lane, Processors};
use crate::requests::{Here, Passed};

/// How many requests one DPC finishes before others get their turn.
const BATCH: usize = 128;

/// Gives the request to the processor that it is steered to.
///
/// IRQL: <= DISPATCH_LEVEL.
#[expect(
    clippy::inline_always,
    reason = "on the way of every request, where saving registers would cost as much as the work"
)]
#[inline(always)]
pub fn submit(processors: &Processors, irp: PendedIrp, passed: Passed) {
    match processors.steer() {
        Ok(lane) => {
            lane.pending.add(irp, passed);
            lane.queue(0);
        }
        // No processor is steered to yet: served where it was asked for.
        Err(processor) => execute_here(irp, passed, processor),
    }
}

#[cold]
fn execute_here(irp: PendedIrp, passed: Passed, processor: u32) {
    passed.execute(irp, Here { processor, dispatch: None });
}

/// Gives requests of one device to one processor, which is told once.
///
/// IRQL: <= DISPATCH_LEVEL.
pub fn submit_all(processors: &Processors, requests: impl Iterator<Item = (PendedIrp, Passed)>) {
    match processors.steer() {
        Ok(lane) => {
            requests.for_each(|(irp, passed)| lane.pending.add(irp, passed));
            lane.queue(0);
        }
        Err(processor) => {
            requests.for_each(|(irp, passed)| execute_here(irp, passed, processor));
        }
    }
}

impl DpcRoutine for Lane {
    fn run(&self, _: usize, dispatch: Dispatch<'_>) -> Again {
        self.dpcs.add_here(dispatch);
        let mut chain = self.pending.take();
        for (irp, passed) in chain.by_ref().take(BATCH) {
            self.requests.add_here(dispatch);
            passed.execute(irp, Here { processor: self.index, dispatch: Some(dispatch) });
        }
        if chain.is_empty() {
            // Whoever has added to the list since queues the DPC again.
            return Again::No;
        }
        self.pending.put_back(chain);
        Again::Yes
    }
}
