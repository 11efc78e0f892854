//! The `edu` engine: registers, an interrupt and DMA; one request at a time.

pub mod hardware;

use hotadd_abi::{BUFFER_BYTES, Event, EventKind, InterruptMode};
use hotadd_policy::work::Transfer;
use wdm::device::{Device, DeviceRef, Pdo};
use wdm::dma::{Adapter, CommonBuffer};
use wdm::dpc::{Again, Dpc, DpcRoutine};
use wdm::event::{Event as Signal, EventKind as SignalKind};
use wdm::interrupt::{self, Interrupt};
use wdm::irp::{FileId, PendedIrp};
use wdm::irql::{Dispatch, Passive};
use wdm::lock::SpinLock;
use wdm::pool::{PoolArc, PoolArray};
use wdm::queue::CancelSafeQueue;
use wdm::resources::{InterruptResource, Resource, ResourceList};
use wdm::status::{NtStatus, Result};
use wdm::time::{self, Interval};
use wdm::timer::Timer;

use crate::TAG;
use crate::device::{Core, Fdo};
use crate::interrupt::Service;
use crate::requests::{Here, Passed, Waiting};
use hardware::{Hardware, REACHABLE, Registers, Tell};

/// How often the watchdog looks.
const WATCH_MILLISECONDS: u32 = 250;
/// How long to pause, in microseconds, between the first two looks at a device that is waited for without interrupts; it doubles from
/// look to look.
const FIRST_PAUSE: u32 = 50;
/// The longest of these pauses.
const LONGEST_PAUSE: u32 = 5_000;
/// The whole of the device's buffer that is used.
const ALL: Transfer = Transfer { offset: 0, length: REACHABLE };

/// The engine; it lives as long as its device, the hardware from start to stop.
pub struct Edu {
    core: PoolArc<Core>,
    /// Requests that wait for their turn, across a stop too. They are not in flight.
    waiting: CancelSafeQueue<Waiting>,
    bench: SpinLock<Bench>,
    /// What has to be taken down outside of locks.
    attached: SpinLock<Option<Attached>>,
    /// The device's buffer from before it was stopped or lost power.
    saved: SpinLock<Option<PoolArray<u8>>>,
    connection: SpinLock<Connection>,
    /// A common buffer to which the device may still transfer, from before it was stopped.
    stray: SpinLock<Option<CommonBuffer>>,
    /// Never signaled: waiting for it is a pause.
    pause: Signal,
}

impl Drop for Edu {
    /// A common buffer to which the device may still transfer is never freed: losing a page is better than having
    /// somebody else's overwritten.
    fn drop(&mut self) {
        core::mem::forget(self.stray.get_mut().take());
    }
}

/// The hardware and the request that it works on.
#[derive(Default)]
struct Bench {
    hardware: Option<Hardware>,
    active: Option<Active>,
    /// Requests that were accepted here, and had not waited at the gate.
    accepted: u64,
    /// The device is gone: nothing is started any more.
    abandoned: bool,
    /// A request timed out, and the device has not come back since.
    stuck: bool,
    /// The device may be in a state below D0, where its registers are not to be touched.
    asleep: Option<Asleep>,
}

/// What was seen of a device before it lost power.
#[derive(Clone, Copy)]
struct Asleep {
    /// It was transferring, and may go on when it has power again.
    transferring: bool,
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
    /// Starts the request that `next` returns, if the device is free. Returns one that could not be started.
    fn try_begin(&mut self, next: impl FnOnce() -> Option<(PendedIrp, Passed)>) -> Option<NotBegun> {
        if self.abandoned {
            return next().map(|(irp, passed)| (irp, passed, NtStatus::DELETE_PENDING));
        }
        if self.active.is_some() {
            return None;
        }
        let (stuck, asleep) = (self.stuck, self.asleep.is_some());
        let hardware = self.hardware.as_mut()?;
        if stuck && (asleep || !hardware.is_idle()) {
            return None;
        }
        let (irp, mut passed) = next()?;
        if let Err(status) = hardware.begin(&irp, &mut passed.work) {
            return Some((irp, passed, status));
        }
        self.stuck = false;
        self.active = Some(Active { irp, passed, since: time::now() });
        None
    }

    fn recovery(&mut self) -> Recovery {
        match &self.hardware {
            Some(hardware) if self.stuck && (self.asleep.is_some() || !hardware.is_idle()) => Recovery::Stuck,
            Some(_) if self.stuck => {
                self.stuck = false;
                Recovery::Recovered
            }
            _ => Recovery::Well,
        }
    }
}

struct Active {
    irp: PendedIrp,
    passed: Passed,
    since: u64,
}

/// A request that could not be started, and why.
type NotBegun = (PendedIrp, Passed, NtStatus);

/// The watchdog and the interrupt, in the order in which they end.
struct Attached {
    _watchdog: Timer<Watchdog>,
    _interrupt: Interrupt<Service>,
}

/// How interrupts are connected.
#[derive(Clone, Copy)]
pub struct Connection {
    pub mode: InterruptMode,
    pub messages: u32,
    pub group: u16,
    pub affinity: u64,
}

impl Connection {
    const NONE: Self = Self { mode: InterruptMode::None, messages: 0, group: 0, affinity: 0 };

    const fn of(resource: &InterruptResource, connection: interrupt::Connection) -> Self {
        let (mode, messages) = match connection {
            interrupt::Connection::Messages(messages) => (InterruptMode::Message, messages),
            interrupt::Connection::Line => (InterruptMode::Line, 1),
        };
        Self { mode, messages, group: resource.group, affinity: resource.affinity }
    }

    fn event(&self) -> Event {
        let (group, count) = (self.group.into(), self.messages.into());
        Event { group, affinity: self.affinity, count, before: self.mode.code().into(), ..Event::default() }
    }
}

/// The deferred half of the interrupt.
pub struct Completion(PoolArc<Edu>);

impl DpcRoutine for Completion {
    fn run(&self, _: usize, dispatch: Dispatch<'_>) -> Again {
        let here = Here { dispatch: Some(dispatch), ..Here::now() };
        self.0.core.shared.processors.count_dpc(here);
        self.0.complete_active(here);
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
        let waiting = CancelSafeQueue::new(TAG)?;
        Ok(Self {
            core,
            waiting,
            bench: SpinLock::new(Bench::default()),
            attached: SpinLock::new(None),
            saved: SpinLock::new(None),
            connection: SpinLock::new(Connection::NONE),
            stray: SpinLock::new(None),
            pause: Signal::new(TAG, SignalKind::Notification, false)?,
        })
    }

    /// Brings the hardware up from its resources; what was saved when it was stopped is restored.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What is wrong with the hardware or the resources; nothing is left behind then.
    pub fn start(
        this: &PoolArc<Self>,
        device: &Device<Fdo>,
        resources: ResourceList<'_>,
        passive: Passive<'_>,
    ) -> Result {
        let (start, length) = registers_among(resources).ok_or(NtStatus::DEVICE_CONFIGURATION_ERROR)?;
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
        {
            let mut bench = this.bench.lock();
            bench.hardware = Some(Hardware { registers: registers.clone(), common });
            bench.asleep = None;
        }
        this.attach(watchdog, pdo, resources, registers, passive).inspect_err(|_| this.stop(false, passive))
    }

    fn attach(
        &self,
        watchdog: Watchdog,
        pdo: &Pdo,
        resources: ResourceList<'_>,
        registers: PoolArc<Registers>,
        passive: Passive<'_>,
    ) -> Result {
        // Registers survive a reset of the bus: something from before may still be going on.
        self.wait_until_idle(passive)?;
        let found = resources.interrupt().ok_or(NtStatus::DEVICE_CONFIGURATION_ERROR)?;
        let dpc = Dpc::new(TAG, Completion(watchdog.0.clone()))?;
        let service = Service::new(registers, dpc, self.core.shared.clone());
        let interrupt = Interrupt::connect(TAG, pdo, &found, service, passive)?;
        let connection = Connection::of(&found, interrupt.connection());
        *self.connection.lock() = connection;
        self.core.record(EventKind::InterruptConnected, connection.event());
        let watchdog = Timer::new(TAG, watchdog)?;
        watchdog.set_periodic(Interval::from_millis(WATCH_MILLISECONDS), WATCH_MILLISECONDS);
        *self.attached.lock() = Some(Attached { _watchdog: watchdog, _interrupt: interrupt });
        self.wake(passive)
    }
}

/// Requests.
impl Edu {
    /// Works on a request when its turn comes.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn submit(&self, irp: PendedIrp, mut passed: Passed) {
        let is_new = !passed.work.was_counted();
        passed.work.set_counted(true);
        let mut own = Some((irp, passed));
        let not_begun = {
            let mut bench = self.bench.lock();
            bench.accepted = bench.accepted.wrapping_add(is_new.into());
            bench.try_begin(|| self.waiting.is_empty().then(|| own.take())?)
        };
        if let Some((irp, passed, status)) = not_begun {
            passed.fail(irp, status);
        }
        let Some((irp, passed)) = own else { return };
        // Kept to the end, so that the gate is not found drained while a request is on its way into the queue.
        let pass = passed.pass;
        let work = passed.work.keep_bytes(&self.core, &irp);
        match pass.hold() {
            Ok(device) => match self.waiting.insert(irp, Waiting { device, work }) {
                Ok(()) => self.begin_next(&pass),
                Err((irp, waiting)) => waiting.fail(irp, NtStatus::DEVICE_NOT_READY),
            },
            Err(status) => Passed { pass, work }.fail(irp, status),
        }
    }

    /// How many requests were accepted here, and had not waited at the gate.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn accepted(&self) -> u64 {
        self.bench.lock().accepted
    }

    /// How many requests wait for their turn.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Starts the next request, if the device is free and the gate is not closed. One that cannot be started fails, and
    /// the next has its turn.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn begin_next(&self, device: &Device<Fdo>) {
        loop {
            let not_begun = self.bench.lock().try_begin(|| self.next(device));
            let Some((irp, passed, status)) = not_begun else { return };
            passed.fail(irp, status);
        }
    }

    /// The request whose turn it is, in flight.
    fn next(&self, device: &Device<Fdo>) -> Option<(PendedIrp, Passed)> {
        if self.waiting.is_empty() {
            return None;
        }
        // With the pass first: without it the request stays in the queue.
        let pass = device.pass()?;
        let (irp, waiting) = self.waiting.remove_next()?;
        Some((irp, Passed { pass, work: waiting.work }))
    }

    /// Completes the request that the device is done with, and starts the next.
    fn complete_active(&self, here: Here<'_>) {
        let (active, result, not_begun) = {
            let mut bench = self.bench.lock();
            let done = match (&bench.hardware, &bench.active) {
                (Some(hardware), Some(active)) => hardware.is_done(&active.passed.work),
                _ => false,
            };
            // An interrupt of a request that timed out, say, leaves the one that is worked on alone.
            if !done {
                return;
            }
            let Some(active) = bench.active.take() else { return };
            let collected = bench.hardware.as_ref().map(|hardware| hardware.collect(&active.irp, &active.passed.work));
            let not_begun = bench.try_begin(|| self.next(&active.passed.pass));
            (active, collected.unwrap_or(Err(NtStatus::DEVICE_NOT_READY)), not_begun)
        };
        if let Some((irp, passed, status)) = not_begun {
            self.begin_next(&passed.pass);
            passed.fail(irp, status);
        }
        self.core.shared.processors.count_request(here);
        active.passed.finish(active.irp, result, here);
    }

    /// Ends a request that the device does not answer in time, and resets the device.
    fn watch(&self, device: &Device<Fdo>) {
        let limit = Interval::from_millis(self.core.shared.parameters.request_timeout()).units();
        let (late, state) = {
            let mut bench = self.bench.lock();
            let late = bench.active.take_if(|active| time::now().saturating_sub(active.since) > limit);
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
            Recovery::Stuck => self.fail_waiting(NtStatus::IO_TIMEOUT),
            Recovery::Recovered => self.begin_next(device),
        }
    }

    /// The device has no reset of its own. This takes back what it may still signal; what it computes or transfers
    /// cannot be stopped, and goes to the common buffer at most.
    fn reset(hardware: &Hardware) {
        hardware::silence(&hardware.registers);
        hardware::enable_interrupts(&hardware.registers);
    }

    /// Fails the requests that wait for their turn.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn fail_waiting(&self, status: NtStatus) {
        while let Some((irp, waiting)) = self.waiting.remove_next() {
            waiting.fail(irp, status);
        }
    }

    /// Fails everything: the device is gone.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn abandon(&self, status: NtStatus) {
        // First: what is on its way here is not started on a device that will not answer.
        let active = {
            let mut bench = self.bench.lock();
            bench.abandoned = true;
            bench.active.take()
        };
        self.fail_waiting(status);
        if let Some(active) = active {
            active.passed.fail(active.irp, status);
        }
    }

    /// Cancels the requests of a handle that wait for their turn.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn cancel(&self, file: FileId) {
        while let Some((irp, waiting)) = self.waiting.remove_next_of(file) {
            waiting.fail(irp, NtStatus::CANCELLED);
        }
    }
}

/// Stop and power. Nothing is in flight meanwhile.
impl Edu {
    /// Takes the hardware down: silent first, then the interrupt, then the registers and the common buffer.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn stop(&self, save: bool, passive: Passive<'_>) {
        if save {
            self.sleep(passive);
        } else if let Some(registers) = self.awake().filter(|registers| !hardware::is_gone(registers)) {
            // What cannot be silenced or does not end is dealt with when the hardware is let go.
            hardware::silence(&registers);
            let _idle = self.wait_until_idle(passive);
        }
        let attached = self.attached.lock().take();
        if attached.is_some() {
            drop(attached);
            let connection = core::mem::replace(&mut *self.connection.lock(), Connection::NONE);
            self.core.record(EventKind::InterruptDisconnected, connection.event());
        }
        let (hardware, asleep) = {
            let mut bench = self.bench.lock();
            (bench.hardware.take(), bench.asleep)
        };
        let still_transferring = |hardware: &Hardware| match asleep {
            Some(Asleep { transferring }) => transferring,
            None => hardware.is_transferring(),
        };
        self.keep(hardware.filter(still_transferring).map(|hardware| hardware.common));
    }

    /// Keeps a common buffer to which the device may still transfer. Where one is kept already, that is the one.
    fn keep(&self, stray: Option<CommonBuffer>) {
        let surplus = {
            let mut kept = self.stray.lock();
            if kept.is_some() { stray } else { core::mem::replace(&mut *kept, stray) }
        };
        drop(surplus);
    }

    /// Saves the device's buffer and silences the device. Nothing for a device that was not woken since.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn sleep(&self, passive: Passive<'_>) {
        if self.bench.lock().asleep.is_some() {
            return;
        }
        let saved = self.save(passive);
        if let Err(status) = saved.as_ref() {
            self.core.record(EventKind::DeviceReset, Event { status: status.raw(), ..Event::default() });
        }
        *self.saved.lock() = saved.ok();
        self.rest();
    }

    /// Silences the device and waits for what it does, before it loses power. Nothing for a device that was not woken since.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn fall_asleep(&self, passive: Passive<'_>) {
        if let Some(registers) = self.awake() {
            hardware::silence(&registers);
            let _idle = self.wait_until_idle(passive);
            self.rest();
        }
    }

    /// The device is silent, if it is there at all, and may lose power from now on.
    fn rest(&self) {
        let mut bench = self.bench.lock();
        let silence = |hardware: &Hardware| {
            hardware::silence(&hardware.registers);
            hardware.is_transferring()
        };
        let transferring = bench.hardware.as_ref().is_some_and(silence);
        bench.asleep = Some(Asleep { transferring });
    }

    /// Restores the device's buffer, if it was saved, and lets the device interrupt.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `IO_TIMEOUT` where the device does not answer.
    pub fn wake(&self, passive: Passive<'_>) -> Result {
        self.bench.lock().asleep = None;
        let Some(registers) = self.registers() else { return Ok(()) };
        hardware::silence(&registers);
        let saved = self.saved.lock().take();
        if let Some(saved) = saved
            && let Err(status) = self.transfer(passive, |hardware| hardware.store(ALL, &saved, Tell::Nothing))
        {
            // For the next attempt.
            *self.saved.lock() = Some(saved);
            return Err(status);
        }
        hardware::enable_interrupts(&registers);
        Ok(())
    }

    fn save(&self, passive: Passive<'_>) -> Result<PoolArray<u8>> {
        let mut saved = PoolArray::from_fn(TAG, REACHABLE as usize, |_| 0)?;
        self.transfer(passive, |hardware| hardware.fetch(ALL, Tell::Nothing))?;
        let bench = self.bench.lock();
        let hardware = bench.hardware.as_ref().ok_or(NtStatus::DEVICE_NOT_READY)?;
        hardware.common.read(0, &mut saved)?;
        drop(bench);
        Ok(saved)
    }

    /// Starts a transfer and waits for its end without an interrupt. What a request that timed out has left going on
    /// comes first: until that ends the device ignores what it is told.
    fn transfer(&self, passive: Passive<'_>, begin: impl FnOnce(&mut Hardware) -> Result) -> Result {
        self.wait_until_idle(passive)?;
        begin(self.bench.lock().hardware.as_mut().ok_or(NtStatus::DEVICE_NOT_READY)?)?;
        self.wait_until_idle(passive)
    }

    /// Waits until the device does nothing, as long as a request may take.
    fn wait_until_idle(&self, passive: Passive<'_>) -> Result {
        let limit = Interval::from_millis(self.core.shared.parameters.request_timeout()).units();
        let began = time::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let idle = self.bench.lock().hardware.as_ref().map(Hardware::is_idle);
            match idle {
                None => return Err(NtStatus::DEVICE_NOT_READY),
                Some(true) => {
                    // Nothing can be written to a common buffer that was kept for that any more.
                    let stray = self.stray.lock().take();
                    drop(stray);
                    return Ok(());
                }
                Some(false) if time::now().saturating_sub(began) > limit => return Err(NtStatus::IO_TIMEOUT),
                Some(false) => {}
            }
            // It is never signaled: this is a pause.
            let _ = self.pause.wait_for(Interval::from_micros(pause), passive);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// The registers of a device that has power.
    fn awake(&self) -> Option<PoolArc<Registers>> {
        let bench = self.bench.lock();
        let hardware = bench.hardware.as_ref().filter(|_| bench.asleep.is_none());
        hardware.map(|hardware| hardware.registers.clone())
    }

    fn registers(&self) -> Option<PoolArc<Registers>> {
        self.bench.lock().hardware.as_ref().map(|hardware| hardware.registers.clone())
    }

    /// How interrupts are connected.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn connection(&self) -> Connection {
        *self.connection.lock()
    }
}
