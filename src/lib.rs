//! `hotadd.sys`: a function driver that keeps working, and gets faster, while processors and memory are added.
//!
//! This is the map. The driver starts here; what it is told of the machine goes to [`processors`], [`notifications`]
//! and [`memory`]; what it is told of a device goes through [`device`] to [`pnp`] and [`power`], and to [`requests`],
//! through the [`gate`] and to an [`engine`].
#![no_std]

extern crate wdk_panic;

mod announcements;
mod device;
mod engine;
mod gate;
mod interrupt;
mod journal;
mod memory;
mod notifications;
mod parameters;
mod pnp;
mod power;
mod processors;
mod requests;
mod steering;
mod trace;

use core::sync::atomic::{AtomicU32, Ordering};

use hotadd_abi::{Event, EventKind};
use wdm::device::FoundDevice;
use wdm::driver::{Driver, DriverObject};
use wdm::irql::Passive;
use wdm::pool::{PoolArc, Tag};
use wdm::processors::ProcessorChangeCallback;
use wdm::status::Result;
use wdm::string::UnicodeStr;
use wdm::thread::Thread;
use wdm::work::WorkItem;

use device::Fdo;
use journal::Journal;
use memory::Memory;
use notifications::{HighMemory, Notifications, Presence, Refresh};
use parameters::Parameters;
use processors::{Changes, Joined, Processors};

/// The tag of the driver's pool blocks.
const TAG: Tag = Tag::new(*b"HotA");

/// What all devices share.
pub struct Shared {
    parameters: Parameters,
    journal: Journal,
    memory: Memory,
    processors: Processors,
    /// Devices added so far, for their numbers.
    devices: AtomicU32,
}

impl Shared {
    fn new(service: UnicodeStr<'_>, passive: Passive<'_>) -> Result<Self> {
        let parameters = Parameters::read(service, passive);
        let journal = Journal::new(&parameters)?;
        parameters.report(&journal);
        let memory = Memory::new(parameters.buffer_pool_maximum(), passive)?;
        let processors = Processors::new(passive)?;
        Ok(Self { parameters, journal, memory, processors, devices: AtomicU32::new(0) })
    }

    /// Looks at processors and memory as they are now.
    fn refresh(&self, passive: Passive<'_>) {
        self.memory.refresh(&self.journal, passive);
        // What joins now was announced before.
        self.journal.take_announcements();
        let Joined { before, now, status } = self.processors.join(passive);
        if before != now || !status.is_success() {
            let event = Event { before: before.into(), count: now.into(), status: status.raw(), ..Event::default() };
            self.journal.record(EventKind::PlanRebuilt, event);
        }
    }
}

/// The driver, from DriverEntry to Unload. The order of the fields is the order in which they end: first whoever calls
/// us, then what they need.
struct Hotadd {
    _high_memory: Option<Thread<HighMemory>>,
    notifications: PoolArc<Notifications>,
    _changes: ProcessorChangeCallback<Changes>,
    _refresh: PoolArc<WorkItem<Refresh>>,
    shared: PoolArc<Shared>,
    _trace: trace::Session,
}

wdm::driver!(Hotadd);

impl Driver for Hotadd {
    type Function = Fdo;
    const TAG: Tag = TAG;

    /// Each step that fails drops those before it.
    fn start(driver: &DriverObject, registry_path: UnicodeStr<'_>, passive: Passive<'_>) -> Result<Self> {
        let trace = trace::Session::new(passive);
        let shared = PoolArc::new(TAG, Shared::new(registry_path, passive)?)?;
        let refresh = PoolArc::new(TAG, WorkItem::new(TAG, driver, Refresh(shared.clone()))?)?;

        let changes = Changes { shared: shared.clone(), refresh: refresh.clone() };
        let changes = ProcessorChangeCallback::register(TAG, changes, passive)?;
        shared.refresh(passive);

        let notifications = PoolArc::new(TAG, Notifications::new(shared.clone(), refresh.clone()))?;
        notifications.register(driver, passive)?;
        let high_memory = if shared.parameters.high_memory_notification() {
            Some(Thread::spawn(TAG, HighMemory::new(shared.clone(), passive)?, passive)?)
        } else {
            None
        };

        let processors = wdm::processors::active_count().into();
        shared.journal.record(EventKind::DriverLoaded, Event { count: processors, ..Event::default() });
        Ok(Self {
            _high_memory: high_memory,
            notifications,
            _changes: changes,
            _refresh: refresh,
            shared,
            _trace: trace,
        })
    }

    fn add_device(&self, driver: &DriverObject, found: FoundDevice<'_, Fdo>, passive: Passive<'_>) -> Result {
        // First, so that the notifications are let go where nothing comes of the only device.
        let presence = Presence::new(&self.notifications, driver, passive)?;
        let device = found.attach(passive)?;
        let number = self.shared.devices.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let function = Fdo::new(self.shared.clone(), number, &device, presence, passive)?;
        device.finish(function, passive)
    }
}
