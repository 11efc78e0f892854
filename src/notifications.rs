//! The asynchronous notifications, and the work that every notification leads to.

use hotadd_abi::{Event, EventKind};
use wdm::driver::DriverObject;
use wdm::event::{EitherWait, Event as Signal, EventKind as SignalKind, Wait, wait_for_either};
use wdm::irql::Passive;
use wdm::lock::SpinLock;
use wdm::memory::HighMemoryCondition;
use wdm::notify::{GUID_DEVICE_MEMORY, GUID_DEVICE_PROCESSOR, InterfaceChange, InterfaceNotification};
use wdm::pool::{PoolArc, PoolBox};
use wdm::status::Result;
use wdm::thread::ThreadRoutine;
use wdm::time::Interval;
use wdm::work::{WorkItem, WorkRoutine};

use crate::{Shared, TAG};

/// Looks at processors and memory as they are now. Whatever was announced, however often and in whichever order, this
/// is what is done about it.
pub struct Refresh(pub PoolArc<Shared>);

impl WorkRoutine for Refresh {
    fn run(&self, passive: Passive<'_>) {
        self.0.refresh(passive);
    }
}

/// The registrations for processor and memory devices.
///
/// Each holds a reference to the driver object, and a driver with references to it is not unloaded. So they are let go
/// with the last device, and made again with the next.
pub struct Notifications {
    shared: PoolArc<Shared>,
    refresh: PoolArc<WorkItem<Refresh>>,
    inner: SpinLock<Inner>,
}

#[derive(Default)]
struct Inner {
    devices: u32,
    registered: Option<PoolBox<Registered>>,
}

struct Registered {
    _processors: InterfaceNotification<Arrival>,
    _memory: InterfaceNotification<Arrival>,
}

/// What happens when a device of one of the two classes arrives.
struct Arrival {
    kind: EventKind,
    shared: PoolArc<Shared>,
    refresh: PoolArc<WorkItem<Refresh>>,
}

impl InterfaceChange for Arrival {
    fn arrived(&self, _: Passive<'_>) {
        self.shared.journal.record(self.kind, Event::default());
        self.refresh.queue();
    }
}

/// A device that keeps the notifications registered.
pub struct Presence(PoolArc<Notifications>);

impl Notifications {
    /// No registrations yet.
    pub fn new(shared: PoolArc<Shared>, refresh: PoolArc<WorkItem<Refresh>>) -> Self {
        Self { shared, refresh, inner: SpinLock::new(Inner::default()) }
    }

    /// Registers, if that has not been done.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, or what registering failed with.
    pub fn register(&self, driver: &DriverObject, passive: Passive<'_>) -> Result {
        if self.inner.lock().registered.is_some() {
            return Ok(());
        }
        let new = Registered {
            _processors: self.arrivals(driver, EventKind::ProcessorArrival, passive)?,
            _memory: self.arrivals(driver, EventKind::MemoryArrival, passive)?,
        };
        let new = PoolBox::new(TAG, new)?;
        // Where somebody else was quicker, theirs end, outside of the lock.
        let surplus = self.inner.lock().registered.replace(new);
        if surplus.is_none() {
            self.shared.journal.record(EventKind::NotificationsRegistered, Event::default());
        }
        drop(surplus);
        // For what arrived before.
        self.refresh.queue();
        Ok(())
    }

    fn arrivals(
        &self,
        driver: &DriverObject,
        kind: EventKind,
        passive: Passive<'_>,
    ) -> Result<InterfaceNotification<Arrival>> {
        let class = if kind == EventKind::MemoryArrival { &GUID_DEVICE_MEMORY } else { &GUID_DEVICE_PROCESSOR };
        let arrival = Arrival { kind, shared: self.shared.clone(), refresh: self.refresh.clone() };
        InterfaceNotification::register(TAG, driver, class, false, arrival, passive)
    }
}

impl Presence {
    /// One more device; registers the notifications if they were let go.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// As for [`Notifications::register`].
    pub fn new(notifications: &PoolArc<Notifications>, driver: &DriverObject, passive: Passive<'_>) -> Result<Self> {
        {
            let mut inner = notifications.inner.lock();
            inner.devices = inner.devices.saturating_add(1);
        }
        // Made first, so that an error takes it back.
        let presence = Self(notifications.clone());
        notifications.register(driver, passive)?;
        Ok(presence)
    }
}

impl Drop for Presence {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        let released = {
            let mut inner = self.0.inner.lock();
            inner.devices = inner.devices.saturating_sub(1);
            if inner.devices == 0 { inner.registered.take() } else { None }
        };
        // Ending a registration waits for its callback, so not under the lock.
        if let Some(released) = released {
            drop(released);
            self.0.shared.journal.record(EventKind::NotificationsReleased, Event::default());
        }
    }
}

/// How long to wait between two looks while memory stays plentiful, which keeps the condition signaled.
const HIGH_MEMORY_PAUSE: Interval = Interval::from_millis(10_000);

/// The thread that waits for the high memory condition; there is one only if a parameter asks for it.
pub struct HighMemory {
    shared: PoolArc<Shared>,
    condition: HighMemoryCondition,
    stop: Signal,
}

impl HighMemory {
    /// What the thread needs.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// Where the condition cannot be opened.
    pub fn new(shared: PoolArc<Shared>, passive: Passive<'_>) -> Result<Self> {
        let condition = HighMemoryCondition::open(passive)?;
        Ok(Self { shared, condition, stop: Signal::new(TAG, SignalKind::Notification, false)? })
    }
}

impl ThreadRoutine for HighMemory {
    fn run(&self, passive: Passive<'_>) {
        while matches!(wait_for_either(&self.stop, &self.condition, None, passive), Ok(EitherWait::Second)) {
            if self.shared.memory.has_grown(passive) {
                self.shared.journal.record(EventKind::HighMemory, Event::default());
                self.shared.refresh(passive);
            }
            if self.stop.wait_for(HIGH_MEMORY_PAUSE, passive) == Wait::Satisfied {
                return;
            }
        }
    }

    fn stop(&self) {
        self.stop.set();
    }
}
