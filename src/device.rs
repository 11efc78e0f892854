//! The function device: what belongs to one device, and its dispatch routines.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hotadd_abi::{
    BUFFER_BYTES, Event, EventKind, INTERFACE_CLASS, PnpState, Status, Version, Wire, hold, write_in_place,
};
use hotadd_policy::pnp::usage_after;
use wdm::device::{Device, Function, Interface, IoDevice, NewDevice};
use wdm::irp::{DeviceControl, Disposition, Irp, Transfer};
use wdm::irql::Passive;
use wdm::lock::SpinLock;
use wdm::per_processor::{LocalCount, OnDemand};
use wdm::pool::{PoolArc, PoolArray};
use wdm::status::{NtStatus, Result};
use wdm::wdk_sys::GUID;
use wdm::{processors, time};

use crate::engine::Engines;
use crate::gate::Gate;
use crate::notifications::Presence;
use crate::power::PowerState;
use crate::requests::{self, Here};
use crate::{Shared, TAG, pnp, power};

/// What a device's requests and engines need of it.
pub struct Core {
    /// Devices are numbered from 1 as they are added.
    pub number: u32,
    pub shared: PoolArc<Shared>,
    /// What requests came to, on each processor.
    counters: OnDemand<Counters>,
    /// The same, where a processor has no memory for its own, and what is counted seldom.
    others: Others,
    /// The device's buffer, for the software engine.
    pub store: SpinLock<PoolArray<u8>>,
    rebalances: AtomicU64,
    timeouts: AtomicU64,
}

/// Counters of a processor, on a cache line of their own.
#[repr(align(64))]
#[derive(Default)]
struct Counters {
    accepted: LocalCount,
    completed: LocalCount,
}

/// How many requests were accepted and completed, by these counters.
#[inline(never)]
fn sums_of(counters: &[Counters]) -> (u64, u64) {
    counters.iter().fold((0, 0), |(accepted, completed), counters| {
        // In this order: what is completed was accepted before.
        let completed = counters.completed.get().wrapping_add(completed);
        (counters.accepted.get().wrapping_add(accepted), completed)
    })
}

#[derive(Default)]
struct Others {
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
    /// What a request has come to.
    pub const fn of(ended: Result<usize>) -> Self {
        match ended {
            Ok(_) => Self::Completed,
            Err(NtStatus::CANCELLED) => Self::Cancelled,
            Err(_) => Self::Failed,
        }
    }
}

impl Core {
    fn new(shared: PoolArc<Shared>, number: u32) -> Result<Self> {
        let room = usize::try_from(shared.processors.room()).unwrap_or(usize::MAX);
        Ok(Self {
            number,
            shared,
            counters: OnDemand::new(TAG, room)?,
            others: Others::default(),
            store: SpinLock::new(PoolArray::from_fn(TAG, BUFFER_BYTES as usize, |_| 0)?),
            rebalances: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
        })
    }

    /// Counts a request that is to be completed by us, and will not be when it ends.
    pub fn count_accepted(&self) {
        self.others.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that has ended, and, unless it was counted before, that it was accepted.
    #[inline]
    pub fn count(&self, was_counted: bool, outcome: Outcome, here: Here<'_>) {
        if let (Outcome::Completed, Some(dispatch)) = (outcome, here.dispatch)
            && let Some(counters) = self.counters.get(here.processor)
        {
            if !was_counted {
                counters.accepted.add_here(dispatch);
            }
            return counters.completed.add_here(dispatch);
        }
        self.count_elsewhere(was_counted, outcome);
    }

    #[cold]
    fn count_elsewhere(&self, was_counted: bool, outcome: Outcome) {
        if !was_counted {
            self.count_accepted();
        }
        let counter = match outcome {
            Outcome::Completed => &self.others.completed,
            Outcome::Cancelled => &self.others.cancelled,
            Outcome::Failed => &self.others.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were accepted, but for what an engine has counted, and how many of them have succeeded. Looked at in this order,
    /// so that no more have ended than were accepted: where a request ends, that it was accepted is counted first, there or in `others`.
    fn accepted_and_completed(&self) -> (u64, u64) {
        let mut completed = self.others.completed.load(Ordering::Acquire);
        let mut accepted = 0_u64;
        for (start, group) in self.counters.groups() {
            let used = self.shared.processors.end().saturating_sub(start);
            let sums = sums_of(group.get(..used).unwrap_or(group));
            accepted = accepted.wrapping_add(sums.0);
            completed = completed.wrapping_add(sums.1);
        }
        (accepted.wrapping_add(self.others.accepted.load(Ordering::Relaxed)), completed)
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
    #[inline]
    pub fn record(&self, kind: EventKind, mut event: Event) {
        event.device = self.number;
        self.shared.journal.record(kind, event);
    }
}

/// A device.
pub struct Fdo {
    pub interface: Interface,
    pub gate: Gate,
    pub engines: Engines,
    pub pnp: PnpRecord,
    pub power: PowerState,
    pub core: PoolArc<Core>,
    /// Last, because the driver may be unloaded as soon as it is gone.
    _presence: Presence,
}

/// Where the device is under PnP. The PnP manager sends one request that changes the state after the other.
pub struct PnpRecord {
    /// The code of a [`PnpState`].
    state: AtomicU32,
    /// Paging, hibernation and dump files in its path.
    files_in_path: AtomicU32,
}

impl Default for PnpRecord {
    fn default() -> Self {
        Self { state: AtomicU32::new(PnpState::NotStarted.code()), files_in_path: AtomicU32::new(0) }
    }
}

impl PnpRecord {
    /// The state.
    pub fn state(&self) -> PnpState {
        PnpState::from_code(self.state.load(Ordering::Relaxed)).unwrap_or(PnpState::NotStarted)
    }

    /// Another state.
    pub fn enter(&self, state: PnpState) {
        self.state.store(state.code(), Ordering::Relaxed);
    }

    /// How many files are in its path.
    pub fn files_in_path(&self) -> u32 {
        self.files_in_path.load(Ordering::Relaxed)
    }

    /// A file came or went; returns how many there are now.
    pub fn count_file(&self, came: bool) -> u32 {
        let next = |files: u32| Some(usage_after(files, came));
        let before = self.files_in_path.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        usage_after(before.unwrap_or_else(|files| files), came)
    }
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
        let fdo = Self {
            interface: Interface::register(device.pdo(), &class, passive)?,
            gate: Gate::new(core.clone(), hold::NOT_STARTED)?,
            engines: Engines::new(core.clone())?,
            pnp: PnpRecord::default(),
            power: PowerState::new(device)?,
            core,
            _presence: presence,
        };
        fdo.core.record(EventKind::DeviceAdded, Event::default());
        Ok(fdo)
    }

    /// Answers the status request. Takes no lock: what must fit together is in one word, or looked at in an order in which it does.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn write_status(&self, output: &mut [u8; Status::SIZE]) {
        let (core, shared): (&Core, &Shared) = (&self.core, &self.core.shared);
        write_in_place!(output, Status {
            processors_maximum: shared.processors.room(),
            processors_active: processors::active_count(),
            processors_known: shared.processors.known(),
            processors_steered: shared.processors.steered(),
            let gate = self.gate.snapshot();
            gate: gate.mode,
            hold_reasons: gate.reasons,
            held: gate.held,
            waited: gate.waited,
            last_hold_duration: gate.last.duration,
            last_hold_waited: gate.last.waited,
            pnp_state: self.pnp.state.load(Ordering::Relaxed),
            engine: self.engines.code(),
            buffer_bytes: self.engines.buffer_bytes().into(),
            let connection = self.engines.connection();
            interrupt_mode: connection.mode,
            interrupt_messages: connection.messages,
            interrupt_group: connection.group,
            interrupt_affinity: connection.affinity,
            power_state: self.power.code(),
            // Before those that were accepted, so that no more have ended than that.
            cancelled: core.others.cancelled.load(Ordering::Acquire),
            failed: core.others.failed.load(Ordering::Acquire),
            let counts = core.accepted_and_completed();
            accepted: counts.0.wrapping_add(self.engines.accepted()),
            completed: counts.1,
            rebalances: core.rebalances.load(Ordering::Relaxed),
            timeouts: core.timeouts.load(Ordering::Relaxed),
            let pool = shared.memory.pool_bytes();
            pool_bytes_at_load: pool.0,
            pool_bytes: pool.1,
            let memory = shared.memory.physical();
            memory_bytes_at_load: memory.0,
            memory_bytes: memory.1,
            journal_next: shared.journal.next(),
            now: time::now(),
            driver_version: Version::THIS.code(),
            device: core.number,
        });
    }
}

impl Function for Fdo {
    fn create<'a>(device: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.complete(if device.gate.is_refusing() { NtStatus::NO_SUCH_DEVICE } else { NtStatus::SUCCESS })
    }

    fn cleanup<'a>(device: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        let file = irp.file();
        device.gate.cancel(file);
        device.core.shared.journal.cancel_waits(file);
        irp.complete(NtStatus::SUCCESS)
    }

    fn close<'a>(_: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.complete(NtStatus::SUCCESS)
    }

    fn transfer(device: IoDevice<Self>, irp: Irp<'_>, wanted: Transfer) -> Disposition<'_> {
        requests::transfer(device, irp, wanted)
    }

    fn device_control(device: IoDevice<Self>, irp: Irp<'_>, control: DeviceControl) -> Disposition<'_> {
        requests::device_control(device, irp, control)
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
