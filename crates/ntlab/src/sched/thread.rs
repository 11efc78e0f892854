//! Simulated threads.

use std::{
    cell::{Cell, RefCell},
    panic,
    rc::Rc,
};

use serde::Serialize;

use super::{
    Need, Object, Sched, VERIFIER,
    fiber::{Fiber, Suspender},
    locks::Held,
    turns::NO_PRIORITY,
};
use crate::{
    exec::Context,
    finding::Finding,
    irql::{Irql, PASSIVE_LEVEL},
    kernel::Kernel,
    memory::host,
};

/// Bytes at the end of its stacks that a thread uses first when it goes on.
const HOST_FRAMES: u64 = 512;
const GUEST_FRAMES: u64 = 192;

/// A thread's number, from 1 in the order they were made; 0 is no thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
pub struct ThreadId(pub u32);

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Is current on a processor.
    Running,
    /// Could run, and waits for a processor.
    Ready,
    /// Waits for something.
    Waiting,
    /// Waits for a condition that it looks at itself.
    Polling,
    /// Is over.
    Ended,
}

/// The processors of a group a thread may run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// The group.
    pub group: u16,
    /// Numbers in the group.
    pub mask: u64,
}

/// Unwinds a thread to its base: `PsTerminateSystemThread`.
#[derive(Clone, Copy, Debug)]
pub struct ThreadExit {
    /// The status it ends with.
    pub status: i32,
}

impl ThreadExit {
    /// Ends the current thread.
    pub fn raise(self) -> ! {
        panic::resume_unwind(Box::new(self))
    }
}

/// A simulated thread.
#[derive(Debug)]
pub struct Thread {
    /// Its number.
    pub id: ThreadId,
    /// What reports call it.
    pub name: Rc<str>,
    /// Whether it is the thread of an idle processor, which serves interrupts and DPCs there.
    pub(super) idle: bool,
    pub(super) fiber: RefCell<Option<Fiber>>,
    pub(super) suspender: Cell<Suspender>,
    /// Where it is on its stacks while it is suspended.
    pub(super) context: Cell<Context>,
    /// An address near the end of its host stack while it is suspended.
    pub(super) top: Cell<u64>,
    pub(super) state: Cell<State>,
    /// What it waits for, in words.
    pub(super) what: Cell<&'static str>,
    /// The status its wait ended with.
    pub(super) woken: Cell<i32>,
    /// A wake that came while it was not parked.
    pub(super) token: Cell<bool>,
    /// Whether what it waits for is a wake.
    pub(super) parked: Cell<bool>,
    /// The dispatcher objects it waits for, and how.
    pub(super) objects: RefCell<Vec<Object>>,
    pub(super) need: Cell<Need>,
    /// The address of its `KTHREAD`; 0 until somebody asks.
    pub(super) object: Cell<u64>,
    /// Whether its `KTHREAD` counts references, of which it has one itself.
    pub(super) counted: Cell<bool>,
    /// How many times it entered a critical region and did not leave it, and where it last did.
    pub(super) critical_regions: Cell<u32>,
    pub(super) entered_at: Cell<u64>,
    /// The locks it owns, in the order it acquired them.
    pub(super) locks: RefCell<Vec<Held>>,
    /// How many of its waits have ended.
    pub(super) waits: Cell<u64>,
    /// The level it goes on at.
    pub(super) irql: Cell<Irql>,
    /// Where it may run; anywhere if none.
    pub(super) affinity: Cell<Option<Affinity>>,
    /// Where it ran last.
    pub(super) processor: Cell<u32>,
    /// Its priority among those that can run, where the policy is [`Policy::Pct`](crate::config::Policy::Pct).
    pub(super) priority: Cell<i64>,
    /// Whether it runs a callback that must not block.
    pub(crate) must_not_block: Cell<bool>,
}

impl Thread {
    pub(super) fn new(id: ThreadId, name: &str, idle: bool) -> Self {
        Self {
            id,
            name: name.into(),
            idle,
            fiber: RefCell::new(None),
            suspender: Cell::new(Suspender::NONE),
            context: Cell::default(),
            top: Cell::new(0),
            state: Cell::new(State::Ready),
            what: Cell::new(""),
            woken: Cell::new(0),
            token: Cell::new(false),
            parked: Cell::new(false),
            objects: RefCell::new(Vec::new()),
            need: Cell::new(Need::Any),
            object: Cell::new(0),
            counted: Cell::new(false),
            critical_regions: Cell::new(0),
            entered_at: Cell::new(0),
            locks: RefCell::new(Vec::new()),
            waits: Cell::new(0),
            irql: Cell::new(PASSIVE_LEVEL),
            affinity: Cell::new(None),
            processor: Cell::new(0),
            priority: Cell::new(NO_PRIORITY),
            must_not_block: Cell::new(false),
        }
    }
}

impl Thread {
    /// Has the processor bring to its caches what a suspended thread uses first when it goes on: itself and the ends of its stacks.
    pub(super) fn prefetch(&self) {
        host::prefetch((&raw const *self).addr() as u64, size_of::<Self>() as u64);
        host::prefetch(self.top.get(), HOST_FRAMES);
        host::prefetch(self.context.get().guest_sp, GUEST_FRAMES);
    }

    /// Whether a driver made it as a system thread.
    pub const fn is_system(&self) -> bool {
        self.counted.get()
    }
}

/// `KeLeaveCriticalRegion` without `KeEnterCriticalRegion`.
const NOT_IN_CRITICAL_REGION: u64 = 0x3E;

impl Sched {
    /// Holds off normal kernel APCs of the current thread, of which the lab has none.
    pub fn enter_critical_region(&self, k: &Kernel) {
        let thread = self.current_thread();
        thread.entered_at.set(k.exec.caller());
        thread.critical_regions.set(thread.critical_regions.get() + 1);
    }

    /// Undoes one [`Sched::enter_critical_region`].
    pub fn leave_critical_region(&self) {
        let thread = self.current_thread();
        let Some(left) = thread.critical_regions.get().checked_sub(1) else {
            let sentence = format!("{} leaves a critical region in which it is not", thread.name);
            Finding::bug_check(VERIFIER, [NOT_IN_CRITICAL_REGION, 0, 0, 0], sentence).raise();
        };
        thread.critical_regions.set(left);
    }

    /// Whether the current thread is in a critical region.
    pub fn in_critical_region(&self) -> bool {
        self.current_thread().critical_regions.get() != 0
    }
}
