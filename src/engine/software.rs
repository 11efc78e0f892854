//! The software engine: a DPC on the processor that the request is steered to.

use wdm::dpc::{Again, DpcRoutine};
use wdm::irp::{FileId, PendedIrp};
use wdm::irql::Dispatch;

use crate::device::Core;
use crate::processors::Block;
use crate::requests::Queued;

/// How many requests one DPC finishes before others get their turn.
const BATCH: usize = 32;

/// Gives the request to the processor that it is steered to.
///
/// IRQL: <= DISPATCH_LEVEL.
pub fn submit(core: &Core, irp: PendedIrp, queued: Queued) {
    let Some(block) = core.shared.processors.steer() else {
        // No processor has joined yet: served where it was asked for.
        return execute_here(core, irp, queued);
    };
    match block.pending.insert(irp, queued) {
        Ok(()) => {
            block.queue(0);
        }
        Err((irp, queued)) => execute_here(core, irp, queued),
    }
}

fn execute_here(core: &Core, irp: PendedIrp, mut queued: Queued) {
    let result = queued.0.execute();
    queued.finish(irp, result, &core.shared.memory.pool);
}

/// Cancels the requests of a handle that no DPC has taken yet.
///
/// IRQL: <= DISPATCH_LEVEL.
pub fn cancel(core: &Core, file: FileId) {
    for pending in core.shared.processors.queues() {
        while let Some((irp, queued)) = pending.remove_next_of(file) {
            queued.fail(irp, wdm::status::NtStatus::CANCELLED);
        }
    }
}

impl DpcRoutine for Block {
    fn run(&self, _: usize, _: Dispatch<'_>) -> Again {
        self.count_dpc();
        for _ in 0..BATCH {
            let Some((irp, mut queued)) = self.pending.remove_next() else { return Again::No };
            let result = queued.0.execute();
            queued.finish(irp, result, &self.pool);
        }
        Again::Yes
    }
}
