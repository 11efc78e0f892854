//! The trace of a run: numbered events under virtual time. Nothing in it depends on the host: no addresses, no clocks.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use serde::Serialize;

use crate::{finding::Finding, kernel::Kernel};

/// How many events a report shows where the whole trace is not kept.
const KEPT: usize = 64;

/// A longer trace is not kept: it would fill the host's memory before anybody reads it.
const LONGEST: u64 = 1 << 24;

/// What happened. Every part of the lab adds the kinds it needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Kind {
    /// The driver called a kernel function.
    KernelCall(&'static str),
    /// The kernel called into the driver.
    CallDriver(&'static str),
    /// The call into the driver returned.
    DriverReturned(&'static str),
    /// A thread was made.
    ThreadStarted(Box<str>),
    /// A thread ended.
    ThreadEnded,
    /// A thread begins to wait.
    Wait(&'static str),
    /// A thread's wait ended with this status.
    WaitEnded(i32),
    /// A processor goes on with this thread.
    Dispatch(u32),
    /// An interrupt is delivered.
    Interrupt {
        /// Its vector.
        vector: u32,
    },
    /// A DPC was queued to a processor.
    DpcQueued {
        /// Index of the processor.
        target: u32,
    },
    /// A processor became active.
    ProcessorAdded {
        /// Index of the processor.
        index: u32,
    },
    /// An exception with this code in the driver, or in a kernel function that it called.
    Exception(u32),
    /// Text from `DbgPrint`.
    Print(Box<str>),
    /// A step of something else, in words.
    Note(Box<str>),
}

impl Kind {
    const fn owns_text(&self) -> bool {
        matches!(self, Self::ThreadStarted(_) | Self::Print(_) | Self::Note(_))
    }
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Event {
    /// Position in the trace, from 0.
    pub number: u64,
    /// Virtual nanoseconds since the machine started.
    pub time: u64,
    /// Index of the processor it happened on.
    pub processor: u32,
    /// The thread that was current there.
    pub thread: u32,
    /// What happened.
    pub kind: Kind,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, time, processor, thread, kind } = self;
        write!(f, "{number} {}.{:03} us p{processor} t{thread} {kind:?}", time / 1000, time % 1000)
    }
}

/// The events of a run.
#[derive(Debug)]
pub struct Log {
    keep_all: bool,
    count: Cell<u64>,
    /// All events, or the last [`KEPT`] in a ring.
    events: RefCell<Vec<Event>>,
}

impl Log {
    /// An empty trace, of which everything is kept or the last events.
    #[must_use]
    pub fn new(keep_all: bool) -> Self {
        Self { keep_all, count: Cell::new(0), events: RefCell::new(Vec::with_capacity(KEPT)) }
    }

    /// Adds an event to the trace. Where the last ones are kept, it is made where it stays, member by member: a processor waits for what it
    /// has written in parts and reads as a whole, and this is done at every kernel call.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the caller knows the kind, there is nothing to decide")]
    pub fn record(&self, kernel: &Kernel, kind: impl FnOnce() -> Kind) {
        let number = self.count.get();
        self.count.set(number + 1);
        let (processor, thread) = (kernel.processor_index(), kernel.thread_id().0);
        let time = kernel.now();
        let mut events = self.events.borrow_mut();
        let Some(event) = events.get_mut(place(number)).filter(|_| !self.keep_all) else {
            drop(events);
            return self.push(Event { number, time, processor, thread, kind: kind() });
        };
        if event.kind.owns_text() {
            event.kind = Kind::ThreadEnded;
        }
        // What is there owns nothing, so that nothing is lost.
        std::mem::forget(std::mem::replace(&mut event.kind, kind()));
        (event.number, event.time, event.processor, event.thread) = (number, time, processor, thread);
    }

    #[inline(never)]
    fn push(&self, event: Event) {
        if self.keep_all && event.number == LONGEST {
            Finding::not_modelled(format!("a trace of more than {LONGEST} events, all of them kept")).raise();
        }
        self.events.borrow_mut().push(event);
    }

    /// How many events there were.
    pub const fn count(&self) -> u64 {
        self.count.get()
    }

    /// The last events, at most `count`, oldest first.
    pub fn last(&self, count: usize) -> Vec<Event> {
        let events = self.events.borrow();
        let (newer, older) = events.split_at(self.oldest(events.len()));
        let skipped = events.len().saturating_sub(count);
        older.iter().chain(newer).skip(skipped).cloned().collect()
    }

    /// Takes what was kept out of the log, oldest first.
    pub fn take(&self) -> Vec<Event> {
        let mut events = self.events.take();
        let oldest = self.oldest(events.len());
        events.rotate_left(oldest);
        events
    }

    /// Where the oldest of `kept` events is.
    const fn oldest(&self, kept: usize) -> usize {
        if self.keep_all || kept < KEPT { 0 } else { place(self.count.get()) }
    }
}

/// The place of an event in the ring.
#[allow(clippy::cast_possible_truncation, reason = "the remainder is small")]
const fn place(number: u64) -> usize {
    (number % KEPT as u64) as usize
}
