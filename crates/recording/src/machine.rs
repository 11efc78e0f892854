//! The machine and the driver's devices at one time.

use hotadd_abi::{EngineKind, Gate, InterruptMode, PnpState, ProcessorStatistics, Status};
use serde::{Deserialize, Serialize};

use crate::{name_of, ns};

/// The machine and the devices at one time. Figures count from when the driver was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When.
    pub time: u64,
    /// The most processors there can ever be.
    pub processors_maximum: u32,
    /// Bytes of physical memory.
    pub memory_bytes: u64,
    /// Bytes in the driver's buffer pool.
    pub pool_bytes: u64,
    /// The processors that the driver has a block for, in order of index.
    pub processors: Vec<Processor>,
    /// The driver's devices, in order of number.
    pub devices: Vec<Device>,
}

/// A processor, and what it did for the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// The system's index.
    pub index: u32,
    /// Its group.
    pub group: u16,
    /// Its number in the group.
    pub number: u8,
    /// Its NUMA node.
    pub node: u32,
    /// Whether work is steered to it.
    pub steered: bool,
    /// When it joined.
    pub joined: u64,
    /// Device interrupts it took.
    pub interrupts: u64,
    /// Deferred procedure calls of the driver that ran on it.
    pub dpcs: u64,
    /// Device requests that finished on it.
    pub requests: u64,
}

/// One of the driver's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The number that events call it by, from 1.
    pub number: u32,
    /// What people call it.
    pub name: String,
    /// What processes its requests ([`EngineKind`]).
    pub engine: String,
    /// Its state under PnP ([`PnpState`]).
    pub pnp: String,
    /// What its gate does with requests ([`Gate`]).
    pub gate: String,
    /// How its interrupts are connected.
    pub interrupt: Interrupt,
    /// Requests it accepted.
    pub accepted: u64,
    /// Of which succeeded.
    pub completed: u64,
    /// Of which were cancelled.
    pub cancelled: u64,
    /// Of which failed.
    pub failed: u64,
    /// Requests that had to wait at its gate.
    pub waited: u64,
    /// How often it was stopped for other resources and started again.
    pub rebalances: u64,
}

/// How interrupts of a device are connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// As lines or messages ([`InterruptMode`]).
    pub mode: String,
    /// How many.
    pub messages: u32,
    /// The group of the affinity.
    pub group: u32,
    /// The processors that the first one may interrupt.
    #[serde(with = "crate::mask")]
    pub affinity: u64,
}

impl Snapshot {
    /// From what the driver tells: any device's status for what is the driver's, the statistics of all processors, and the devices.
    #[must_use]
    pub fn new(status: &Status, processors: &[ProcessorStatistics], devices: Vec<Device>) -> Self {
        Self {
            time: ns(status.now),
            processors_maximum: status.processors_maximum,
            memory_bytes: status.memory_bytes,
            pool_bytes: status.pool_bytes,
            processors: processors.iter().map(Processor::from).collect(),
            devices,
        }
    }
}

impl From<&ProcessorStatistics> for Processor {
    fn from(row: &ProcessorStatistics) -> Self {
        Self {
            index: row.index,
            group: row.group,
            number: row.number,
            node: row.node,
            steered: row.steered != 0,
            joined: ns(row.joined_at),
            interrupts: row.interrupts,
            dpcs: row.dpcs,
            requests: row.requests,
        }
    }
}

impl Device {
    /// From what the driver tells of it.
    #[must_use]
    pub fn new(number: u32, name: &str, status: &Status) -> Self {
        Self {
            number,
            name: name.to_owned(),
            engine: name_of(EngineKind::from_code(status.engine), status.engine),
            pnp: name_of(PnpState::from_code(status.pnp_state), status.pnp_state),
            gate: name_of(Gate::from_code(status.gate), status.gate),
            interrupt: Interrupt {
                mode: name_of(InterruptMode::from_code(status.interrupt_mode), status.interrupt_mode),
                messages: status.interrupt_messages,
                group: status.interrupt_group,
                affinity: status.interrupt_affinity,
            },
            accepted: status.accepted,
            completed: status.completed,
            cancelled: status.cancelled,
            failed: status.failed,
            waited: status.waited,
            rebalances: status.rebalances,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_tells_its_states_by_name() {
        let status =
            Status { engine: 1, pnp_state: 2, gate: 1, interrupt_mode: 2, interrupt_affinity: 3, ..Status::default() };
        let device = Device::new(1, "edu", &status);
        let told = [device.engine, device.pnp, device.gate, device.interrupt.mode].join(" ");
        assert_eq!((told.as_str(), device.interrupt.affinity), ("Edu StopPending Holding Message", 3));
        assert_eq!(Device::new(1, "", &Status { engine: 77, ..Status::default() }).engine, "77");
    }

    #[test]
    fn a_snapshot_has_what_the_driver_tells_in_nanoseconds() {
        let status = Status { now: 5, memory_bytes: 6, pool_bytes: 7, processors_maximum: 8, ..Status::default() };
        let row = ProcessorStatistics { index: 1, steered: 1, joined_at: 3, requests: 4, ..Default::default() };
        let snapshot = Snapshot::new(&status, &[row], Vec::new());
        let told = (snapshot.time, snapshot.memory_bytes, snapshot.pool_bytes, snapshot.processors_maximum);
        assert_eq!(told, (500, 6, 7, 8));
        let expected = Processor { index: 1, steered: true, joined: 300, requests: 4, ..Processor::default() };
        assert_eq!(snapshot.processors, [expected]);
    }
}
