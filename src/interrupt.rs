//! The interrupt's service routine, and the requirements that decide which processors it may reach.

use wdm::dpc::Dpc;
use wdm::interrupt::InterruptService;
use wdm::irql::DeviceIrql;
use wdm::pool::PoolArc;

use crate::Shared;
use crate::engine::edu::{
    Completion,
    hardware::{self, Registers},
};

/// What the service routine needs.
pub struct Service {
    registers: PoolArc<Registers>,
    dpc: Dpc<Completion>,
    shared: PoolArc<Shared>,
}

impl Service {
    /// Serves the device behind `registers`; `dpc` does the rest.
    pub const fn new(registers: PoolArc<Registers>, dpc: Dpc<Completion>, shared: PoolArc<Shared>) -> Self {
        Self { registers, dpc, shared }
    }
}

impl InterruptService for Service {
    /// Acknowledges, notes, queues the DPC. A shared line that somebody else raised is not ours, nor one of a device
    /// that is gone.
    fn service(&self, _message: u32, _: DeviceIrql<'_>) -> bool {
        if hardware::take_interrupts(&self.registers).is_none() {
            return false;
        }
        self.shared.processors.count_interrupt();
        self.dpc.queue(0);
        true
    }
}
