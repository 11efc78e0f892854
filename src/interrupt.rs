//! The interrupt: how it is connected, and its service routine.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hotadd_abi::{Event, InterruptMode};
use wdm::dpc::Dpc;
use wdm::interrupt::{self, InterruptService};
use wdm::irql::DeviceIrql;
use wdm::pool::PoolArc;
use wdm::resources::InterruptResource;

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
    #[inline]
    fn service(&self, _message: u32, _: DeviceIrql<'_>) -> bool {
        if hardware::take_interrupts(&self.registers).is_none() {
            return false;
        }
        self.shared.processors.count_interrupt();
        self.dpc.queue(0);
        true
    }
}

/// How interrupts are connected.
#[derive(Clone, Copy, Default)]
pub struct Connection {
    /// The code of an [`InterruptMode`].
    pub mode: u32,
    pub messages: u32,
    pub group: u32,
    pub affinity: u64,
}

impl Connection {
    /// That of an interrupt that was connected with a resource.
    pub fn of(resource: &InterruptResource, connection: interrupt::Connection) -> Self {
        let (mode, messages) = match connection {
            interrupt::Connection::Messages(messages) => (InterruptMode::Message, messages),
            interrupt::Connection::Line => (InterruptMode::Line, 1),
        };
        Self { mode: mode.code(), messages, group: resource.group.into(), affinity: resource.affinity }
    }

    /// As an event tells it.
    pub fn event(&self) -> Event {
        let (group, count) = (self.group, self.messages.into());
        Event { group, affinity: self.affinity, count, before: self.mode.into(), ..Event::default() }
    }
}

/// The [`Connection`] that there is, for who asks at any time. While it changes, some of it may be that from before.
#[derive(Default)]
pub struct Connected {
    mode: AtomicU32,
    messages: AtomicU32,
    group: AtomicU32,
    affinity: AtomicU64,
}

impl Connected {
    /// It.
    ///
    /// IRQL: any.
    pub fn get(&self) -> Connection {
        Connection {
            mode: self.mode.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            group: self.group.load(Ordering::Relaxed),
            affinity: self.affinity.load(Ordering::Relaxed),
        }
    }

    /// Another one; returns that from before. One thread at a time.
    ///
    /// IRQL: any.
    pub fn replace(&self, connection: Connection) -> Connection {
        let before = self.get();
        self.mode.store(connection.mode, Ordering::Relaxed);
        self.messages.store(connection.messages, Ordering::Relaxed);
        self.group.store(connection.group, Ordering::Relaxed);
        self.affinity.store(connection.affinity, Ordering::Relaxed);
        before
    }
}
