//! The `edu` engine: registers, an interrupt and DMA; one request at a time.

pub mod hardware;
mod power;

use core::sync::atomic::{AtomicU64, Ordering};

use hotadd_abi::{BUFFER_BYTES, Event, EventKind};
use wdm::device::{Device, DeviceRef, Pdo};
use wdm::dma::{Adapter, CommonBuffer};
use wdm::dpc::{Again, Dpc, DpcRoutine};
use wdm::event::{Event as Signal, EventKind as SignalKind};
use wdm::interrupt::Interrupt;
use wdm::irp::PendedIrp;
use wdm::irql::{Dispatch, Passive};
use wdm::lock::SpinLock;
use wdm::pool::{PoolArc, PoolArray};
use wdm::resources::{Resource, ResourceList};
use wdm::status::{NtStatus, Result};
use wdm::time::{self, Interval};
use wdm::timer::Timer;

use crate::TAG;
use crate::device::{Core, Fdo};
use crate::interrupt::{Connected, Connection, Service};
use crate::requests::{Here, Passed};
use hardware::{Hardware, Registers};

/// How often the watchdog looks.
const WATCH_MILLISECONDS: u32 = 250;
/// The engine; it lives as long as its device, the hardware from start to stop.
pub struct Edu {
    core: PoolArc<Core>,
    bench: SpinLock<Bench>,
    /// Requests that had not waited at the gate when they were started; written under the bench's lock.
    accepted: AtomicU64,
    connection: Connected,
    /// Never signaled: waiting for it is a pause.
    pause: Signal,
}

impl Drop for Edu {
    /// A common buffer to which the device may still transfer is never freed: losing a page is better than having
    /// somebody else's overwritten.
    fn drop(&mut self) {
        core::mem::forget(self.bench.get_mut().stray.take());
    }
}

/// The hardware and the request that it works on.
struct Bench {
    hardware: Option<Hardware>,
    /// Not to be dropped under the lock.
    attached: Option<Attached>,
    active: Option<Active>,
    /// The device is gone: nothing is started any more.
    abandoned: bool,
    /// A request timed out, and the device has not come back since.
    stuck: bool,
    /// The device may be in a state below D0, where its registers are not to be touched.
    asleep: Option<Asleep>,
    /// The device's buffer from before it was stopped or lost power, if it was saved. The room is there from the start, because it must
    /// not be lost for want of memory.
    saved: PoolArray<u8>,
    is_saved: bool,
    /// A common buffer to which the device may still transfer, from before it was stopped.
    stray: Option<CommonBuffer>,
}

/// What was seen of a device before it lost power.
#[derive(Clone, Copy)]
struct Asleep {
    /// It was transferring, and may go on when it has power again.
    transferring: bool,
}

/// The hardware while it works on nothing.
struct Free<'a> {
    hardware: &'a mut Hardware,
    active: &'a mut Option<Active>,
}

impl Free<'_> {
    /// Starts a request. Returns it if it cannot be started.
    #[expect(
        clippy::inline_always,
        reason = "on the way of every request, where saving registers would cost as much as the work"
    )]
    #[inline(always)]
    fn begin(self, irp: PendedIrp, passed: Passed) -> Option<NotBegun> {
        let active = self.active.get_or_insert_with(|| Active { irp, passed, seen: None });
        let begun = self.hardware.begin(&active.irp, &mut active.passed.work);
        begun.err().and_then(|status| self.give_back(status))
    }

    #[cold]
    fn give_back(self, status: NtStatus) -> Option<NotBegun> {
        self.active.take().map(|Active { irp, passed, .. }| (irp, passed, status))
    }
}

/// Where a device is that did not answer a request.
enum Recovery {
    /// It has answered every request, or there is none.
    Well,
    /// It does not answer yet.
    Stuck,
    /// It answers again.
    Recovered,
}

impl Bench {
    /// Without hardware.
    const fn new(saved: PoolArray<u8>) -> Self {
        Self {
            hardware: None,
            attached: None,
            active: None,
            abandoned: false,
            stuck: false,
            asleep: None,
            saved,
            is_saved: false,
            stray: None,
        }
    }

    /// The hardware, if a request can be started.
    #[inline]
    fn free(&mut self) -> Option<Free<'_>> {
        if self.active.is_some() || self.abandoned || (self.stuck && !self.has_recovered()) {
            return None;
        }
        Some(Free { hardware: self.hardware.as_mut()?, active: &mut self.active })
    }

    /// Whether a device that did not answer a request is idle again.
    #[cold]
    fn has_recovered(&mut self) -> bool {
        let idle = self.asleep.is_none() && self.hardware.as_ref().is_some_and(Hardware::is_idle);
        self.stuck = !idle;
        idle
    }

    /// Starts the first of those that wait, if the device is free.
    #[expect(
        clippy::inline_always,
        reason = "on the way of every request, where saving registers would cost as much as the work"
    )]
    #[inline(always)]
    fn begin_waiting(&mut self, device: &Device<Fdo>) -> Option<NotBegun> {
        let free = self.free()?;
        let (irp, passed) = device.gate.next(device)?;
        free.begin(irp, passed)
    }

    /// Takes the request that the device is done with, and its result.
    #[inline]
    fn take_done(&mut self) -> Option<(Active, Result<u32>)> {
        let (hardware, active) = (self.hardware.as_ref()?, self.active.as_ref()?);
        // An interrupt of a request that timed out, say, leaves the one that is worked on alone.
        if !hardware.is_done(&active.passed.work) {
            return None;
        }
        let result = hardware.collect(&active.irp, &active.passed.work);
        Some((self.active.take()?, result))
    }

    fn recovery(&mut self) -> Recovery {
        if !self.stuck || self.hardware.is_none() {
            Recovery::Well
        } else if self.has_recovered() {
            Recovery::Recovered
        } else {
            Recovery::Stuck
        }
    }
}

struct Active {
    irp: PendedIrp,
    passed: Passed,
    /// When the watchdog first saw it, in 100 ns units.
    seen: Option<u64>,
}

impl Active {
    /// Whether it has been worked on for longer than `limit` since this was first asked.
    fn is_late(&mut self, limit: u64) -> bool {
        let now = time::now();
        now.saturating_sub(*self.seen.get_or_insert(now)) > limit
    }
}

/// A request that could not be started, and why.
type NotBegun = (PendedIrp, Passed, NtStatus);

/// The watchdog and the interrupt, in the order in which they end.
struct Attached {
    _watchdog: Timer<Watchdog>,
    _interrupt: Interrupt<Service>,
}

/// The deferred half of the interrupt.
pub struct Completion(PoolArc<Edu>);

impl DpcRoutine for Completion {
    const RUNS_AGAIN: bool = false;

    fn run(&self, _: usize, dispatch: Dispatch<'_>) -> Again {
        let here = Here { dispatch: Some(dispatch), ..Here::now() };
        let processors = &self.0.core.shared.processors;
        let mut bench = self.0.bench.lock_at_dispatch(dispatch);
        let Some((Active { irp, passed, .. }, result)) = bench.take_done() else {
            drop(bench);
            processors.count_dpc(here, false);
            return Again::No;
        };
        let waits = !passed.pass.gate.is_empty();
        let not_begun = if waits { bench.begin_waiting(&passed.pass) } else { None };
        drop(bench);
        processors.count_dpc(here, true);
        passed.finish(irp, result, here);
        if let Some((irp, next, status)) = not_begun {
            self.0.begin_next(&next.pass);
            next.fail(irp, status);
        }
        Again::No
    }
}

/// Looks whether the device still answers.
struct Watchdog(PoolArc<Edu>, DeviceRef<Fdo>);

impl DpcRoutine for Watchdog {
    fn run(&self, _: usize, _: Dispatch<'_>) -> Again {
        self.0.watch(&self.1);
        Again::No
    }
}

wdm::pageable! {
    /// Where the registers are, if the resources have any.
    pub fn registers_among(resources: ResourceList<'_>) -> Option<(u64, u64)> {
        resources.iter().find_map(|resource| match resource {
            Resource::Memory { start, length } => Some((start, length)),
            _ => None,
        })
    }
}

impl Edu {
    /// An engine without hardware.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(core: PoolArc<Core>) -> Result<Self> {
        Ok(Self {
            core,
            bench: SpinLock::new(Bench::new(PoolArray::from_fn(TAG, hardware::REACHABLE as usize, |_| 0)?)),
            accepted: AtomicU64::new(0),
            connection: Connected::default(),
            pause: Signal::new(TAG, SignalKind::Notification, false)?,
        })
    }

    /// Brings the hardware up from its resources, among which are the registers; what was saved when it was stopped is restored.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What is wrong with the hardware or the resources; nothing is left behind then.
    pub fn start(
        this: &PoolArc<Self>,
        device: &Device<Fdo>,
        (start, length): (u64, u64),
        resources: ResourceList<'_>,
        passive: Passive<'_>,
    ) -> Result {
        if length < hardware::REGISTERS_LENGTH as u64 {
            return Err(NtStatus::DEVICE_CONFIGURATION_ERROR);
        }
        let registers = Registers::map(start, passive)?;
        let registers = PoolArc::new(TAG, registers)?;
        hardware::identify(&registers)?;
        hardware::silence(&registers);

        let watchdog = Watchdog(this.clone(), device.hold()?);
        let pdo = device.pdo();
        let adapter = Adapter::get(TAG, pdo, hardware::BUS_MASTER, passive)?;
        let common = adapter.common_buffer(BUFFER_BYTES, passive)?;
        // From here on `stop` undoes what was done.
        let mut bench = this.bench.lock();
        bench.hardware = Some(Hardware { registers: registers.clone(), common });
        bench.asleep = None;
        // Registers survive a reset of the bus: something from before may still be going on.
        let idle = this.when_idle(bench, passive).map(drop);
        let attached = idle.and_then(|()| this.attach(watchdog, pdo, resources, registers, passive));
        attached.inspect_err(|_| this.stop(false, passive))
    }

    fn attach(
        &self,
        watchdog: Watchdog,
        pdo: &Pdo,
        resources: ResourceList<'_>,
        registers: PoolArc<Registers>,
        passive: Passive<'_>,
    ) -> Result {
        let found = resources.interrupt().ok_or(NtStatus::DEVICE_CONFIGURATION_ERROR)?;
        let dpc = Dpc::new(TAG, Completion(watchdog.0.clone()))?;
        let service = Service::new(registers, dpc, self.core.shared.clone());
        let interrupt = Interrupt::connect(TAG, pdo, &found, service, passive)?;
        let connection = Connection::of(&found, interrupt.connection());
        self.connection.replace(connection);
        self.core.record(EventKind::InterruptConnected, connection.event());
        let watchdog = Timer::new(TAG, watchdog)?;
        watchdog.set_periodic(Interval::from_millis(WATCH_MILLISECONDS), WATCH_MILLISECONDS);
        self.bench.lock().attached = Some(Attached { _watchdog: watchdog, _interrupt: interrupt });
        self.wake(passive)
    }
}

/// Requests.
impl Edu {
    /// Works on a request when its turn comes.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn submit(&self, irp: PendedIrp, mut passed: Passed) {
        let mut bench = self.bench.lock();
        // Those that wait come first.
        let free = if passed.pass.gate.is_empty() { bench.free() } else { None };
        let Some(free) = free else {
            drop(bench);
            return self.wait(irp, passed);
        };
        passed.work.set_counted(true);
        self.accepted.store(self.accepted.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let not_begun = free.begin(irp, passed);
        drop(bench);
        if let Some((irp, passed, status)) = not_begun {
            passed.fail(irp, status);
        }
    }

    #[cold]
    fn wait(&self, irp: PendedIrp, passed: Passed) {
        let work = passed.work.keep_bytes(&self.core, &irp);
        passed.pass.gate.wait(&passed.pass, irp, work);
    }

    /// How many requests were accepted here, and had not waited at the gate.
    ///
    /// IRQL: any.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Starts the next request, if the device is free and the gate is open. One that cannot be started fails, and the next has its turn.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn begin_next(&self, device: &Device<Fdo>) {
        while !device.gate.is_empty() {
            let not_begun = self.bench.lock().begin_waiting(device);
            let Some((irp, passed, status)) = not_begun else { return };
            passed.fail(irp, status);
        }
    }

    /// Ends a request that the device does not answer in time, and resets the device.
    fn watch(&self, device: &Device<Fdo>) {
        let limit = Interval::from_millis(self.core.shared.parameters.request_timeout()).units();
        let (late, state) = {
            let mut bench = self.bench.lock();
            let late = bench.active.take_if(|active| active.is_late(limit));
            if let (Some(_), Some(hardware)) = (&late, &bench.hardware) {
                Self::reset(hardware);
            }
            bench.stuck |= late.is_some();
            (late, bench.recovery())
        };
        if let Some(active) = late {
            active.passed.fail(active.irp, NtStatus::IO_TIMEOUT);
            self.core.count_timeout();
            self.core.record(EventKind::RequestTimeout, Event::default());
            self.core.record(EventKind::DeviceReset, Event::default());
        }
        match state {
            Recovery::Well => {}
            // The reset did not free it, so those that wait would wait for ever.
            Recovery::Stuck => device.gate.fail_waiting(NtStatus::IO_TIMEOUT),
            Recovery::Recovered => self.begin_next(device),
        }
    }

    /// The device has no reset of its own. This takes back what it may still signal; what it computes or transfers
    /// cannot be stopped, and goes to the common buffer at most.
    fn reset(hardware: &Hardware) {
        hardware::silence(&hardware.registers);
        hardware::enable_interrupts(&hardware.registers);
    }

    /// Fails what is in flight: the device is gone.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn abandon(&self, status: NtStatus) {
        // First: what is on its way here is not started on a device that will not answer.
        let active = {
            let mut bench = self.bench.lock();
            bench.abandoned = true;
            bench.active.take()
        };
        if let Some(active) = active {
            active.passed.fail(active.irp, status);
        }
    }

    /// How interrupts are connected.
    ///
    /// IRQL: any.
    pub fn connection(&self) -> Connection {
        self.connection.get()
    }
}
