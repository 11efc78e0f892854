//! The function device: what belongs to one device, and its dispatch routines.

use core::sync::atomic::{AtomicU64, Ordering};

use hotadd_abi::{BUFFER_BYTES, Event, EventKind, INTERFACE_CLASS, PnpState, Status, Version, hold};
use wdm::device::{Device, Function, Interface, NewDevice};
use wdm::irp::{Disposition, Irp};
use wdm::irql::Passive;
use wdm::lock::SpinLock;
use wdm::pool::{PoolArc, PoolArray};
use wdm::rundown::Rundown;
use wdm::status::{NtStatus, Result};
use wdm::wdk_sys::GUID;
use wdm::{processors, time};

use crate::engine::Engines;
use crate::gate::Gate;
use crate::notifications::Presence;
use crate::power::PowerState;
use crate::requests::{self, Work};
use crate::{Shared, TAG, pnp, power};

/// Counters among which requests are spread, so that processors seldom meet at one.
const SHARDS: usize = 16;

/// What a device's requests and engines need of it.
pub struct Core {
    /// Devices are numbered from 1 as they are added.
    pub number: u32,
    pub shared: PoolArc<Shared>,
    counters: PoolArray<Counters>,
    /// The device's buffer, for the software engine.
    pub store: SpinLock<PoolArray<u8>>,
    rebalances: AtomicU64,
    timeouts: AtomicU64,
}

/// Counters on a cache line of their own.
#[repr(align(64))]
#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    completed: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
}

/// What became of a request.
#[derive(Clone, Copy)]
pub enum Outcome {
    Completed,
    Cancelled,
    Failed,
}

impl Outcome {
    /// What a status means.
    pub const fn of(status: NtStatus) -> Self {
        match status {
            NtStatus::CANCELLED => Self::Cancelled,
            status if status.is_success() => Self::Completed,
            _ => Self::Failed,
        }
    }
}

impl Core {
    fn new(shared: PoolArc<Shared>, number: u32) -> Result<Self> {
        Ok(Self {
            number,
            shared,
            counters: PoolArray::from_fn(TAG, SHARDS, |_| Counters::default())?,
            store: SpinLock::new(PoolArray::from_fn(TAG, BUFFER_BYTES as usize, |_| 0)?),
            rebalances: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
        })
    }

    fn add(&self, counter: impl FnOnce(&Counters) -> &AtomicU64) {
        if let Some(counters) = self.counters.get(processors::current().0 as usize % SHARDS) {
            counter(counters).fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().fold(0, |sum, shard| sum.wrapping_add(counter(shard).load(Ordering::Relaxed)))
    }

    /// Counts a request that is to be completed by us.
    pub fn count_accepted(&self) {
        self.add(|counters| &counters.accepted);
    }

    /// Counts an accepted request that is completed.
    pub fn count(&self, outcome: Outcome) {
        self.add(|counters| match outcome {
            Outcome::Completed => &counters.completed,
            Outcome::Cancelled => &counters.cancelled,
            Outcome::Failed => &counters.failed,
        });
    }

    /// Counts a request that the device did not answer in time.
    pub fn count_timeout(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a stop for other resources that was followed by a start.
    pub fn count_rebalance(&self) {
        self.rebalances.fetch_add(1, Ordering::Relaxed);
    }

    /// Records an event of this device.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    pub fn record(&self, kind: EventKind, event: Event) {
        self.shared.journal.record(kind, Event { device: self.number, ..event });
    }
}

/// A device.
pub struct Fdo {
    pub interface: Interface,
    pub gate: Gate,
    pub engines: Engines,
    pub pnp: SpinLock<PnpRecord>,
    pub power: PowerState,
    pub core: PoolArc<Core>,
    /// Last, because the driver may be unloaded as soon as it is gone.
    _presence: Presence,
}

/// Where the device is under PnP.
pub struct PnpRecord {
    pub state: PnpState,
    /// Paging, hibernation and dump files in its path.
    pub files_in_path: u32,
}

impl Fdo {
    /// A device that has not been started.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, or what registering the interface failed with.
    pub fn new(
        shared: PoolArc<Shared>,
        number: u32,
        device: &NewDevice<Self>,
        presence: Presence,
        passive: Passive<'_>,
    ) -> Result<Self> {
        let (data1, data2, data3, data4) = INTERFACE_CLASS;
        let class = GUID { Data1: data1, Data2: data2, Data3: data3, Data4: data4 };
        let core = PoolArc::new(TAG, Core::new(shared, number)?)?;
        let in_flight = PoolArc::new(TAG, Rundown::new(TAG, passive)?)?;
        let fdo = Self {
            interface: Interface::register(device.pdo(), &class, passive)?,
            gate: Gate::new(core.clone(), in_flight.clone(), hold::NOT_STARTED)?,
            engines: Engines::new(core.clone(), in_flight)?,
            pnp: SpinLock::new(PnpRecord { state: PnpState::NotStarted, files_in_path: 0 }),
            power: PowerState::new(device)?,
            core,
            _presence: presence,
        };
        fdo.core.record(EventKind::DeviceAdded, Event::default());
        Ok(fdo)
    }

    /// For the status request.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn status(&self) -> Status {
        let shared = &self.core.shared;
        let gate = self.gate.snapshot();
        let connection = self.engines.connection();
        let (memory_bytes_at_load, memory_bytes) = shared.memory.physical();
        let (pool_bytes_at_load, pool_bytes) = shared.memory.pool_bytes();
        Status {
            processors_maximum: shared.processors.room(),
            processors_active: processors::active_count(),
            processors_known: shared.processors.known(),
            processors_steered: shared.processors.steered(),
            gate: gate.mode.code(),
            hold_reasons: gate.reasons,
            pnp_state: self.pnp.lock().state.code(),
            engine: self.engines.kind().code(),
            interrupt_mode: connection.mode.code(),
            interrupt_messages: connection.messages,
            interrupt_group: connection.group.into(),
            power_state: self.power.code(),
            interrupt_affinity: connection.affinity,
            buffer_bytes: self.engines.buffer_bytes().into(),
            accepted: self.core.sum(|counters| &counters.accepted),
            completed: self.core.sum(|counters| &counters.completed),
            cancelled: self.core.sum(|counters| &counters.cancelled),
            failed: self.core.sum(|counters| &counters.failed),
            held: gate.held,
            pool_bytes_at_load,
            pool_bytes,
            memory_bytes_at_load,
            memory_bytes,
            rebalances: self.core.rebalances.load(Ordering::Relaxed),
            last_hold_duration: gate.last.duration,
            last_hold_waited: gate.last.waited,
            waited: gate.waited,
            timeouts: self.core.timeouts.load(Ordering::Relaxed),
            journal_next: shared.journal.next(),
            now: time::now(),
            driver_version: Version::THIS.code(),
            device: self.core.number,
        }
    }
}

impl Drop for Fdo {
    /// Free requests in the pool remember the device; they let go of it. IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        self.core.shared.memory.pool.forget(&self.core);
    }
}

impl Function for Fdo {
    fn create<'a>(device: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.complete(if device.gate.is_refusing() { NtStatus::NO_SUCH_DEVICE } else { NtStatus::SUCCESS })
    }

    fn cleanup<'a>(device: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        let file = irp.file();
        device.gate.cancel(file);
        device.engines.cancel(file);
        device.core.shared.journal.cancel_waits(file);
        irp.complete(NtStatus::SUCCESS)
    }

    fn close<'a>(_: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.complete(NtStatus::SUCCESS)
    }

    fn read<'a>(device: &Device<Self>, irp: Irp<'a>) -> Disposition<'a> {
        requests::read_write(device, irp, Work::Read)
    }

    fn write<'a>(device: &Device<Self>, irp: Irp<'a>) -> Disposition<'a> {
        requests::read_write(device, irp, Work::Write)
    }

    fn device_control<'a>(device: &Device<Self>, irp: Irp<'a>) -> Disposition<'a> {
        requests::device_control(device, irp)
    }

    fn pnp<'a>(device: &Device<Self>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
        pnp::dispatch(device, irp, passive)
    }

    fn power<'a>(device: &Device<Self>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
        power::dispatch(device, irp, passive)
    }

    fn remove(device: &Device<Self>, passive: Passive<'_>) {
        pnp::remove(device, passive);
    }
}
