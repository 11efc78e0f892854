//! Processors, threads, interrupts, DPCs and virtual time. Everything is a coroutine on one OS thread.

mod alarms;
mod block;
mod deliver;
mod dispatch;
mod fiber;
mod level;
mod locks;
mod objects;
mod processor;
mod set;
mod spin;
mod thread;
mod timer;
mod topology;
mod turns;
mod wait;

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    ptr::NonNull,
    rc::Rc,
};

use self::{alarms::Clock, locks::Locks, set::ProcessorSet, turns::Turns};
pub use self::{alarms::PICOSECONDS, level::VERIFIER, locks::LockKind};
pub use self::{
    processor::Processor,
    thread::{Affinity, Thread, ThreadExit, ThreadId},
    timer::SYSTEM_TIME_AT_START,
    topology::{ALL_GROUPS, Node, Place, Topology},
    wait::{Need, Object},
};
use crate::{config::Config, events::Kind, irql::Irql, kernel::Kernel};

/// An alarm that was set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AlarmId {
    due: u64,
    sequence: u64,
}

/// An interrupt that a device asks for.
#[derive(Clone)]
pub struct Interrupt {
    /// Its vector; a processor holds each vector pending at most once.
    pub vector: u32,
    /// The level it is served at.
    pub irql: Irql,
    /// What serves it, called at `irql` on the processor.
    pub handler: Rc<dyn Fn(&Kernel)>,
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("vector", &self.vector).field("irql", &self.irql).finish_non_exhaustive()
    }
}

/// The scheduler's state.
pub struct Sched {
    /// Where processors sit, and which of them are active.
    pub topology: Topology,
    /// By index; made when they become active.
    processors: Rc<[OnceCell<Processor>]>,
    /// One of `processors`.
    running: Cell<NonNull<Processor>>,
    clock: Clock,
    /// Picoseconds that a kernel call takes on one processor.
    call_time: u64,
    /// What it adds to the clock: the time of busy processors runs in parallel.
    share: Cell<u64>,
    /// Processors that have something to do now.
    runnable: RefCell<ProcessorSet>,
    /// Active processors without a thread.
    idle: RefCell<ProcessorSet>,
    turns: Turns,
    /// The processor that a switch chose.
    chosen: Cell<Option<u32>>,
    threads: RefCell<Vec<Option<Rc<Thread>>>>,
    ready: RefCell<VecDeque<Rc<Thread>>>,
    /// Threads that wait for a condition.
    polling: RefCell<Vec<Rc<Thread>>>,
    /// By the address of a dispatcher object: who waits for it, first come, first served.
    waiters: RefCell<BTreeMap<u64, Vec<Rc<Thread>>>>,
    /// The priorities that drivers gave threads, by the address of their `KTHREAD`.
    pub priorities: RefCell<BTreeMap<u64, i32>>,
    /// The threads of user processes.
    pub users: RefCell<BTreeSet<ThreadId>>,
    /// The timers that are set, by address.
    timers: RefCell<BTreeMap<u64, timer::SetTimer>>,
    /// Processors that wait for a spin lock, and for which.
    spinning: RefCell<Vec<(u32, u64)>>,
    /// What is known of locks.
    locks: Locks,
    /// Why the machine stops, once it does.
    stopped: RefCell<Option<Stop>>,
    in_alarm: Cell<bool>,
    time_limit: u64,
}

/// Why a machine stops.
pub enum Stop {
    /// The scenario is over.
    Done,
    /// Something unwound to the base of a thread: a finding or a panic.
    Unwound(Box<dyn Any + Send>),
}

impl fmt::Debug for Sched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sched").field("topology", &self.topology).field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Sched {
    pub(crate) fn new(config: &Config) -> Self {
        let maximum = config.maximum_processors() as usize;
        let call_time = u64::from(config.call_ns) * 1000;
        let topology = Topology::new(config);
        let present = present(config, &topology);
        let processors: Rc<[OnceCell<Processor>]> = (0..maximum).map(|_| OnceCell::new()).collect();
        let first = processors[present[0] as usize].get_or_init(|| made(&topology, present[0]));
        let sched = Self {
            topology,
            running: Cell::new(first.into()),
            processors,
            clock: Clock::new(),
            call_time,
            share: Cell::new(call_time),
            runnable: RefCell::new(ProcessorSet::new(maximum)),
            idle: RefCell::new(ProcessorSet::new(maximum)),
            turns: Turns::new(config),
            chosen: Cell::new(None),
            threads: RefCell::new(Vec::new()),
            ready: RefCell::new(VecDeque::new()),
            polling: RefCell::new(Vec::new()),
            waiters: RefCell::new(BTreeMap::new()),
            priorities: RefCell::default(),
            users: RefCell::default(),
            timers: RefCell::new(BTreeMap::new()),
            spinning: RefCell::new(Vec::new()),
            locks: Locks::default(),
            stopped: RefCell::new(None),
            in_alarm: Cell::new(false),
            time_limit: config.time_limit_ns,
        };
        for index in present {
            sched.activate(index);
        }
        sched
    }

    fn activate(&self, index: u32) {
        self.processors[index as usize].get_or_init(|| made(&self.topology, index));
        self.topology.activate(index);
        self.idle.borrow_mut().insert(index);
    }

    /// Makes the processor at place `index` active: from now on threads may run on it. What drivers are told of it is PnP's.
    ///
    /// # Panics
    ///
    /// Where there is no such place or its processor is active.
    pub fn add_processor(&self, k: &Kernel, index: u32) {
        assert!(self.processor(index).is_none(), "processor {index} is active already");
        self.activate(index);
        k.record(|| Kind::ProcessorAdded { index });
        self.give_ready_thread(k, index);
    }

    /// The active processor with this index.
    pub fn processor(&self, index: u32) -> Option<&Processor> {
        self.processors.get(index as usize)?.get()
    }

    /// The active processors, by index.
    pub fn active(&self) -> impl Iterator<Item = &Processor> {
        self.processors.iter().filter_map(OnceCell::get)
    }

    /// The active processors of a group that are in `mask`, by index.
    pub fn processors_in(&self, group: u16, mask: u64) -> Vec<u32> {
        let active = self.topology.active_mask(group) & mask;
        let numbers = (0..64).filter(|number| active >> number & 1 != 0);
        numbers.filter_map(|number| self.topology.index(group, number)).collect()
    }

    #[inline]
    pub(crate) const fn current_processor(&self) -> &Processor {
        // SAFETY: it is one of `processors`, which are never taken out and live as long as `self`.
        unsafe { self.running.get().as_ref() }
    }

    pub(crate) const fn processor_index(&self) -> u32 {
        self.current_processor().index
    }

    pub(crate) fn current_thread(&self) -> Rc<Thread> {
        self.current_processor().thread.borrow().clone().expect("kernel code runs on a thread")
    }

    pub(crate) const fn thread_id(&self) -> ThreadId {
        self.current_processor().current.get()
    }

    pub(crate) const fn now(&self) -> u64 {
        self.clock.now()
    }

    pub(crate) const fn picoseconds(&self) -> u64 {
        self.clock.picoseconds()
    }

    /// Something there is to do on a processor.
    fn kick(&self, processor: u32) {
        self.turns.changed();
        if self.runnable.borrow_mut().insert(processor) {
            self.idle.borrow_mut().remove(processor);
            self.find_share();
        }
    }

    /// A processor waits, with its thread.
    fn hold(&self, processor: u32) {
        self.runnable.borrow_mut().remove(processor);
        self.find_share();
    }

    /// A processor has nothing to do.
    fn rest(&self, processor: u32) {
        self.hold(processor);
        self.idle.borrow_mut().insert(processor);
    }

    fn find_share(&self) {
        let busy = self.runnable.borrow().len().max(1);
        self.share.set(self.call_time / busy as u64);
    }

    pub(crate) fn after(&self, ns: u64, action: Box<dyn FnOnce(&Kernel)>) -> AlarmId {
        self.clock.set(ns, action)
    }

    pub(crate) fn cancel_alarm(&self, alarm: AlarmId) -> bool {
        self.clock.cancel(alarm)
    }

    /// Does what is due.
    #[inline(never)]
    fn ring(&self, k: &Kernel) {
        let nested = self.in_alarm.replace(true);
        while let Some(action) = self.clock.take_due() {
            action(k);
        }
        self.in_alarm.set(nested);
    }
}

/// The processors that are there when the machine starts.
fn present(config: &Config, topology: &Topology) -> Vec<u32> {
    let is_present = |place: &Place| config.groups[usize::from(place.group)].absent >> place.number & 1 == 0;
    let places = (0..).zip(topology.places()).filter(|(_, place)| is_present(place));
    places.map(|(index, _)| index).take(config.processors as usize).collect()
}

/// The processor at a place.
fn made(topology: &Topology, index: u32) -> Processor {
    Processor::new(index, topology.place(index).expect("the place was checked"))
}

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod tests;
