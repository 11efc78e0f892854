//! Processors, threads, interrupts, DPCs and virtual time. Everything is a coroutine on one OS thread.

mod processor;
mod thread;

use std::{
    cell::{Cell, OnceCell},
    fmt,
    rc::Rc,
};

pub use self::{
    processor::Processor,
    thread::{Thread, ThreadId},
};
use crate::{config::Config, exports::Export, irql::Irql, kernel::Kernel};

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
#[derive(Debug)]
pub struct Sched {
    processors: Box<[OnceCell<Processor>]>,
    running: Cell<u32>,
    /// Virtual time in picoseconds: busy processors share it, and a share of a kernel call is less than a nanosecond.
    clock: Cell<u64>,
}

#[allow(clippy::todo, clippy::unused_self, clippy::missing_const_for_fn, reason = "signatures first")]
impl Sched {
    pub(crate) fn new(config: &Config) -> Self {
        let maximum = config.maximum_processors() as usize;
        Self { processors: (0..maximum).map(|_| OnceCell::new()).collect(), running: Cell::new(0), clock: Cell::new(0) }
    }

    pub(crate) fn enter(&self, _k: &Kernel, _export: &'static Export) {
        todo!()
    }
    pub(crate) fn raise_irql(&self, _k: &Kernel, _to: Irql) -> Irql {
        todo!()
    }
    pub(crate) fn lower_irql(&self, _k: &Kernel, _to: Irql) {
        todo!()
    }
    pub(crate) fn current_processor(&self) -> &Processor {
        self.processors[self.running.get() as usize].get().expect("the running processor exists")
    }
    pub(crate) const fn processor_index(&self) -> u32 {
        self.running.get()
    }
    pub(crate) fn current_thread(&self) -> Rc<Thread> {
        self.current_processor().thread.borrow().clone().expect("kernel code runs on a thread")
    }
    pub(crate) fn thread_id(&self) -> ThreadId {
        todo!()
    }
    pub(crate) const fn now(&self) -> u64 {
        self.clock.get() / 1000
    }
    pub(crate) fn call(&self, _k: &Kernel, _what: &'static str, _function: u64, _arguments: &[u64]) -> u64 {
        todo!()
    }
    pub(crate) fn preempt(&self, _k: &Kernel) {
        todo!()
    }
    pub(crate) fn stall(&self, _k: &Kernel, _ns: u64) {
        todo!()
    }
    pub(crate) fn park(&self, _k: &Kernel, _what: &'static str, _deadline: Option<u64>) -> bool {
        todo!()
    }
    pub(crate) fn wake(&self, _k: &Kernel, _thread: ThreadId) {
        todo!()
    }
    pub(crate) fn block_until(
        &self,
        _k: &Kernel,
        _what: &'static str,
        _condition: &dyn Fn(&Kernel) -> bool,
        _deadline: Option<u64>,
    ) -> bool {
        todo!()
    }
    pub(crate) fn after(&self, _ns: u64, _action: Box<dyn FnOnce(&Kernel)>) -> AlarmId {
        todo!()
    }
    pub(crate) fn cancel_alarm(&self, _alarm: AlarmId) -> bool {
        todo!()
    }
    pub(crate) fn spawn(&self, _k: &Kernel, _name: &str, _body: Box<dyn FnOnce(&Kernel)>) -> ThreadId {
        todo!()
    }
    pub(crate) fn interrupt(&self, _processor: u32, _interrupt: Interrupt) {
        todo!()
    }
}
