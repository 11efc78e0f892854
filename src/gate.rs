//! The gate that every request for the device passes: it lets requests through, holds them, or refuses them.
//!
//! The decisions are those of [`hotadd_policy::gate`]. Requests in flight have a [`Pass`], which they bring along; taking it is all
//! that an open gate costs, and writes to no cache line that others write to.
//!
//! Requests wait in one queue. Where the engine works on many at a time, it admits requests exactly while the gate is not
//! running; that is decided under the queue's own lock, so no request slips in behind the one who empties it. Where the engine works on
//! one at a time, they wait for their turn in the same queue, and opening the gate is all it takes to let them go: the engine takes
//! one after the other.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hotadd_abi::{Event, EventKind, Gate as Mode};
use hotadd_policy::gate::{Closing, Releasing, State};
use wdm::device::{Device, IoDevice, Pass};
use wdm::event::{Event as Signal, EventKind as SignalKind};
use wdm::irp::{FileId, PendedIrp};
use wdm::irql::Passive;
use wdm::lock::SpinLock;
use wdm::pool::PoolArc;
use wdm::queue::CancelSafeQueue;
use wdm::status::{NtStatus, Result};
use wdm::time;

use crate::TAG;
use crate::device::{Core, Fdo};
use crate::engine;
use crate::processors::Processors;
use crate::requests::{Passed, Waiting, Work, refuse};

/// How many held requests go on before the gate's state is looked at again.
const BATCH: usize = 128;

/// The gate of one device.
pub struct Gate {
    core: PoolArc<Core>,
    /// The mode, and above it the reasons, of the state. Read by every request, written when the gate opens and closes only.
    published: AtomicU64,
    /// How many threads are letting held requests go: one, and for a moment one that is about to stop.
    releasing: AtomicU32,
    /// Whether what is held fails at once: the device did not come back, and nobody knows whether it will.
    failing: AtomicBool,
    held: CancelSafeQueue<Waiting>,
    inner: SpinLock<Inner>,
    /// Signaled when what is in flight has ended, for those who join the one who waits for that.
    drained: Signal,
    /// Requests that had to wait, ever.
    waited: AtomicU64,
    /// The [`LastHold`]; written under the lock, the two one after the other.
    last_duration: AtomicU64,
    last_waited: AtomicU64,
}

struct Inner {
    state: State,
    /// Somebody joined, and is to be told.
    joined: bool,
    hold: Hold,
}

/// The hold that is going on.
#[derive(Clone, Copy, Default)]
struct Hold {
    since: u64,
    /// [`Gate::waited`] when it began.
    waited: u64,
    /// Requests that waited for their turn at the device then.
    in_turn: u64,
}

/// The hold that ended last.
#[derive(Clone, Copy, Default)]
pub struct LastHold {
    /// How long it lasted, in 100 ns units.
    pub duration: u64,
    /// How many requests waited.
    pub waited: u64,
}

/// The gate as it is now.
pub struct Snapshot {
    /// The code of a [`Mode`].
    pub mode: u32,
    pub reasons: u32,
    pub held: u64,
    pub waited: u64,
    pub last: LastHold,
}

/// Lets a request through to the engine, holds it, or fails it with `DELETE_PENDING`.
///
/// IRQL: <= DISPATCH_LEVEL.
#[expect(
    clippy::inline_always,
    reason = "on the way of every request, where saving registers would cost as much as the work"
)]
#[inline(always)]
pub fn submit(device: IoDevice<Fdo>, irp: PendedIrp, work: Work, processors: &Processors) {
    match device {
        // Looked at with the pass: whoever closes the gate after that look waits for the pass.
        IoDevice::Open(pass) if pass.gate.is_passing() => engine::submit(irp, Passed { pass, work }, processors),
        device => device.gate.wait(&device, irp, work),
    }
}

/// What is published of a state.
const fn word(mode: Mode, reasons: u32) -> u64 {
    (reasons as u64) << u32::BITS | mode.code() as u64
}

impl Gate {
    /// A gate that holds requests for `reasons`.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(core: PoolArc<Core>, reasons: u32) -> Result<Self> {
        let queue = CancelSafeQueue::new(TAG)?;
        let hold = Hold { since: time::now(), ..Hold::default() };
        Ok(Self {
            core,
            published: AtomicU64::new(word(Mode::Holding, reasons)),
            releasing: AtomicU32::new(0),
            failing: AtomicBool::new(false),
            held: queue,
            inner: SpinLock::new(Inner { state: State::held(reasons), joined: false, hold }),
            drained: Signal::new(TAG, SignalKind::Notification, true)?,
            waited: AtomicU64::new(0),
            last_duration: AtomicU64::new(0),
            last_waited: AtomicU64::new(0),
        })
    }

    fn is_passing(&self) -> bool {
        self.published.load(Ordering::Acquire) == word(Mode::Running, 0)
    }

    /// Changes the state, which everybody sees from then on.
    fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.lock();
        let changed = change(&mut inner);
        self.published.store(word(inner.state.mode(), inner.state.reasons()), Ordering::Release);
        changed
    }

    /// Has a request wait, unless the gate has opened or refuses by now.
    #[cold]
    pub fn wait(&self, device: &Device<Fdo>, mut irp: PendedIrp, mut work: Work) {
        loop {
            let Ok(held) = device.hold() else { return refuse(device, irp, work, NtStatus::DELETE_PENDING) };
            work.set_counted(true);
            let waits_here = !self.is_passing();
            match self.held.insert(irp, Waiting { device: held, work }) {
                Ok(()) => {
                    self.core.count_accepted();
                    self.waited.fetch_add(waits_here.into(), Ordering::Relaxed);
                    self.fail_held_if_failing();
                    return self.let_go(device);
                }
                Err((back, waiting)) => (irp, work) = (back, waiting.work),
            }
            // The queue takes none: the gate runs by now, or refuses. Whoever is changing it has the lock.
            if self.inner.lock().state.mode() == Mode::Refusing {
                return refuse(device, irp, work, NtStatus::DELETE_PENDING);
            }
            if let Some(pass) = device.pass()
                && self.is_passing()
            {
                work.set_counted(false);
                return engine::submit(irp, Passed { pass, work }, &self.core.shared.processors);
            }
        }
    }

    /// Somebody waits now: looks whether the first can go.
    fn let_go(&self, device: &Device<Fdo>) {
        if device.engines.takes_turns() {
            device.engines.begin_next(device);
        } else {
            self.help_release(device);
        }
    }

    /// Whether nobody waits, at this moment.
    ///
    /// IRQL: any.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The request whose turn it is, in flight, if the gate is open.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[inline]
    pub fn next(&self, device: &Device<Fdo>) -> Option<(PendedIrp, Passed)> {
        // With the pass first: whoever closes the gate after this look waits for it, and without it the request stays in the queue.
        let pass = device.pass()?;
        if self.is_passing() { self.first(pass) } else { None }
    }

    /// The first of those that wait, in flight with `pass`.
    #[inline]
    fn first(&self, pass: Pass<Fdo>) -> Option<(PendedIrp, Passed)> {
        let (irp, waiting) = self.held.remove_next()?;
        Some((irp, Passed { pass, work: waiting.work }))
    }

    /// Whether the device has been removed.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn is_refusing(&self) -> bool {
        // Nobody takes that back, and the reasons are no matter.
        self.published.load(Ordering::Acquire) & u64::from(u32::MAX) == word(Mode::Refusing, 0)
    }

    /// Holds requests for `reason`, on top of other reasons, and waits until nothing is in flight.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn close(&self, reason: u32, device: &Device<Fdo>, passive: Passive<'_>) {
        let (known, closing) = self.change(|inner| {
            let known = inner.state.reasons() & reason == reason;
            if inner.state.mode() == Mode::Running {
                if !device.engines.takes_turns() {
                    self.held.open();
                }
                inner.hold = self.begin_hold();
            }
            let closing = inner.state.close(reason);
            self.prepare_to_join(closing, inner);
            (known, closing)
        });
        if known && closing == Closing::Done {
            return;
        }
        self.record(EventKind::GateClosed, Event { count: reason.into(), ..Event::default() });
        self.drain(closing, device, passive);
    }

    /// Refuses requests for good, fails those that are held, and waits until nothing is in flight. `hurry` ends what
    /// is.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn refuse(&self, device: &Device<Fdo>, hurry: impl FnOnce(), passive: Passive<'_>) {
        let (known, closing) = self.change(|inner| {
            let known = inner.state.mode() == Mode::Refusing;
            let closing = inner.state.refuse();
            self.held.close();
            self.prepare_to_join(closing, inner);
            (known, closing)
        });
        if known && closing == Closing::Done {
            return;
        }
        let count = self.fail_all(NtStatus::DELETE_PENDING);
        self.record(EventKind::GateRefusing, Event { count, ..Event::default() });
        hurry();
        self.drain(closing, device, passive);
    }

    fn begin_hold(&self) -> Hold {
        Hold { since: time::now(), waited: self.waited.load(Ordering::Relaxed), in_turn: self.held.len() as u64 }
    }

    /// Fails those that wait; returns how many that were.
    fn fail_all(&self, status: NtStatus) -> u64 {
        let mut failed = 0_u64;
        while let Some((irp, waiting)) = self.held.remove_next() {
            waiting.fail(irp, status);
            failed = failed.saturating_add(1);
        }
        failed
    }

    /// Fails those that wait for their turn at a device which does not answer. While the gate is closed they go on waiting.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn fail_waiting(&self, status: NtStatus) {
        if self.is_passing() {
            self.fail_all(status);
        }
    }

    fn prepare_to_join(&self, closing: Closing, inner: &mut Inner) {
        if closing == Closing::Join && !core::mem::replace(&mut inner.joined, true) {
            self.drained.clear();
        }
    }

    fn drain(&self, closing: Closing, device: &Device<Fdo>, passive: Passive<'_>) {
        match closing {
            Closing::Done => {}
            Closing::Join => self.drained.wait(passive),
            Closing::Drain => {
                // Only one who was told to drain comes here, so nobody else is inside the protection.
                let drained = device.drain(passive);
                let (release, since, joined) = self.change(|inner| {
                    let release = inner.state.drained().then(|| inner.state.release());
                    (release, inner.hold.since, core::mem::take(&mut inner.joined))
                });
                if joined {
                    self.drained.set();
                }
                let status = drained.err().unwrap_or(NtStatus::SUCCESS).raw();
                let duration = time::now().saturating_sub(since);
                self.record(EventKind::GateDrained, Event { duration, status, ..Event::default() });
                if let Some(next) = release {
                    self.release(next, device, passive);
                }
            }
        }
    }

    /// The device did not come back: fails what is held, and what comes from now on, until the gate opens. It stays closed.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn fail(&self) {
        self.failing.store(true, Ordering::Release);
        self.fail_held_if_failing();
    }

    /// Whoever adds a request to the held ones looks after that, so that none is left there.
    fn fail_held_if_failing(&self) {
        while self.failing.load(Ordering::Acquire) {
            let Some((irp, waiting)) = self.held.remove_next() else { return };
            waiting.fail(irp, NtStatus::DEVICE_NOT_READY);
        }
    }

    /// Takes `reasons` back; when none is left, what was held passes in the order it came, and then the gate runs.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn open(&self, reasons: u32, device: &Device<Fdo>, passive: Passive<'_>) {
        self.failing.store(false, Ordering::Release);
        let release = self.change(|inner| inner.state.open(reasons).then(|| inner.state.release()));
        if let Some(next) = release {
            self.release(next, device, passive);
        }
    }

    fn release(&self, next: Releasing, device: &Device<Fdo>, passive: Passive<'_>) {
        self.releasing.fetch_add(1, Ordering::AcqRel);
        self.release_all(next, device, passive);
        self.releasing.fetch_sub(1, Ordering::AcqRel);
    }

    /// While held requests are let go, whoever adds one lets the first one go: the queue does not grow meanwhile, so
    /// that it gets empty however fast requests come.
    fn help_release(&self, device: &Device<Fdo>) {
        if self.releasing.load(Ordering::Acquire) == 0 {
            return;
        }
        let Some(pass) = device.pass() else { return };
        // With the pass first: whoever closes the gate after this look waits for it.
        let lets_go = self.inner.lock().state.lets_go();
        if lets_go {
            self.pass_first(pass);
        }
    }

    fn pass_first(&self, pass: Pass<Fdo>) {
        // None there: the one that was has just been cancelled, or somebody else passed it on.
        if let Some((irp, passed)) = self.first(pass) {
            engine::submit(irp, passed, &self.core.shared.processors);
        }
    }

    /// Lets the first requests go, as long as they get passes: while only this thread makes the count usable, a pass says that nobody
    /// has drained it since.
    fn pass_batch(&self, device: &Device<Fdo>) {
        let next = || self.first(device.pass()?);
        engine::submit_all(&self.core.shared.processors, core::iter::from_fn(next).take(BATCH));
    }

    fn release_all(&self, mut next: Releasing, device: &Device<Fdo>, passive: Passive<'_>) {
        let takes_turns = device.engines.takes_turns();
        loop {
            let is_recounted = match next {
                Releasing::Stop => return,
                // Waited for before, and whoever closes the gate next drains only what is counted again.
                Releasing::Recount => device.readmit(passive).is_ok(),
                Releasing::Pass => {
                    // Those that take turns are taken, one by one, when the gate runs.
                    if !takes_turns {
                        self.pass_batch(device);
                    }
                    false
                }
            };
            let opened;
            (next, opened) = self.change(|inner| {
                if is_recounted {
                    inner.state.recounted();
                }
                let next = inner.state.release();
                (next, (next == Releasing::Pass).then(|| self.let_run(inner, takes_turns)).flatten())
            });
            if let Some(last) = opened {
                device.engines.begin_next(device);
                let event = Event { count: last.waited, duration: last.duration, ..Event::default() };
                return self.record(EventKind::GateOpened, event);
            }
        }
    }

    /// Lets a gate run that nobody has closed meanwhile, if nothing waits, or those that wait take turns.
    fn let_run(&self, inner: &mut Inner, takes_turns: bool) -> Option<LastHold> {
        if !takes_turns && !self.held.close_if_empty() {
            return None;
        }
        let waited = self.waited.load(Ordering::Relaxed).saturating_sub(inner.hold.waited);
        let last = LastHold {
            duration: time::now().saturating_sub(inner.hold.since),
            waited: waited.saturating_add(inner.hold.in_turn),
        };
        self.last_duration.store(last.duration, Ordering::Relaxed);
        self.last_waited.store(last.waited, Ordering::Relaxed);
        inner.state.run();
        Some(last)
    }

    fn record(&self, kind: EventKind, event: Event) {
        self.core.record(kind, event);
    }

    /// Cancels the requests of a handle that wait.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn cancel(&self, file: FileId) {
        while let Some((irp, waiting)) = self.held.remove_next_of(file) {
            waiting.fail(irp, NtStatus::CANCELLED);
        }
    }

    /// The gate as it is now.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn snapshot(&self) -> Snapshot {
        let word = self.published.load(Ordering::Acquire);
        let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let (mode, reasons) = (half(word), half(word >> u32::BITS));
        Snapshot {
            mode,
            reasons,
            // Those that wait for their turn at a running device are not held.
            held: if mode == Mode::Running.code() { 0 } else { self.held.len() as u64 },
            waited: self.waited.load(Ordering::Relaxed),
            last: LastHold {
                duration: self.last_duration.load(Ordering::Relaxed),
                waited: self.last_waited.load(Ordering::Relaxed),
            },
        }
    }
}
