//! Simulated threads.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{
    Need, Object,
    fiber::{Fiber, Suspender},
};
use crate::irql::{Irql, PASSIVE_LEVEL};

/// A thread's number, from 1 in the order they were made; 0 is no thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
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
    /// How many times it entered a critical region and did not leave it.
    pub(super) critical_regions: Cell<u32>,
    /// How many of its waits have ended.
    pub(super) waits: Cell<u64>,
    /// The level it goes on at.
    pub(super) irql: Cell<Irql>,
    /// Where it may run; anywhere if none.
    pub(super) affinity: Cell<Option<Affinity>>,
    /// Where it ran last.
    pub(super) processor: Cell<u32>,
}

impl Thread {
    pub(super) fn new(id: ThreadId, name: &str, idle: bool) -> Self {
        Self {
            id,
            name: name.into(),
            idle,
            fiber: RefCell::new(None),
            suspender: Cell::new(Suspender::NONE),
            state: Cell::new(State::Ready),
            what: Cell::new(""),
            woken: Cell::new(0),
            token: Cell::new(false),
            parked: Cell::new(false),
            objects: RefCell::new(Vec::new()),
            need: Cell::new(Need::Any),
            object: Cell::new(0),
            critical_regions: Cell::new(0),
            waits: Cell::new(0),
            irql: Cell::new(PASSIVE_LEVEL),
            affinity: Cell::new(None),
            processor: Cell::new(0),
        }
    }
}
