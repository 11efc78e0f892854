//! The trace of a run: numbered events under virtual time. Nothing in it depends on the host: no addresses, no clocks.

use std::{
    array,
    cell::{Cell, RefCell},
    fmt,
};

use serde::Serialize;

use crate::{finding::Finding, kernel::Kernel, sched::PICOSECONDS};

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

    #[cold]
    #[inline(never)]
    fn drop_text(&mut self) {
        *self = Self::ThreadEnded;
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
    keeping: Keeping,
    count: Cell<u64>,
    /// All of them, where they are kept.
    all: RefCell<Vec<Event>>,
    /// The last ones else, in a ring.
    last: RefCell<Box<[Moment; KEPT]>>,
}

/// What is kept of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// Nothing.
    Nothing,
    /// The last events.
    Last,
    /// Everything.
    All,
}

/// What is kept of an event for each kernel call, and made an [`Event`] when somebody looks.
#[derive(Debug)]
struct Moment {
    picoseconds: u64,
    processor: u32,
    thread: u32,
    kind: Kind,
}

impl Moment {
    fn event(&self, number: u64) -> Event {
        let &Self { picoseconds, processor, thread, ref kind } = self;
        Event { number, time: picoseconds / PICOSECONDS, processor, thread, kind: kind.clone() }
    }
}

impl Log {
    /// An empty trace.
    #[must_use]
    pub fn new(keeping: Keeping) -> Self {
        let nothing = |_| Moment { picoseconds: 0, processor: 0, thread: 0, kind: Kind::ThreadEnded };
        let last = Box::new(array::from_fn(nothing)).into();
        Self { keeping, count: Cell::new(0), all: RefCell::default(), last }
    }

    /// Adds an event to the trace.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the caller knows the kind, there is nothing to decide")]
    pub fn record(&self, kernel: &Kernel, kind: impl FnOnce() -> Kind) {
        match self.keeping {
            Keeping::Nothing => {}
            Keeping::Last => self.keep(kernel, kind),
            Keeping::All => self.push(kernel, kind()),
        }
    }

    /// Adds an event to the last ones. It is made where it stays, member by member: a processor waits for what it has written in parts and
    /// reads as a whole, and this is done at every kernel call.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as above")]
    fn keep(&self, kernel: &Kernel, kind: impl FnOnce() -> Kind) {
        let number = self.count.get();
        self.count.set(number + 1);
        let mut last = self.last.borrow_mut();
        let moment = &mut last[place(number)];
        if moment.kind.owns_text() {
            moment.kind.drop_text();
        }
        // What is there owns nothing, so that nothing is lost.
        std::mem::forget(std::mem::replace(&mut moment.kind, kind()));
        moment.picoseconds = kernel.sched.picoseconds();
        moment.processor = kernel.processor_index();
        moment.thread = kernel.thread_id().0;
    }

    #[inline(never)]
    fn push(&self, kernel: &Kernel, kind: Kind) {
        let number = self.count.get();
        self.count.set(number + 1);
        if number == LONGEST {
            Finding::not_modelled(format!("a trace of more than {LONGEST} events, all of them kept")).raise();
        }
        let (processor, thread) = (kernel.processor_index(), kernel.thread_id().0);
        self.all.borrow_mut().push(Event { number, time: kernel.now(), processor, thread, kind });
    }

    /// How many events there were.
    pub const fn count(&self) -> u64 {
        self.count.get()
    }

    /// The last events, at most `count`, oldest first.
    pub fn last(&self, count: usize) -> Vec<Event> {
        if self.keeping == Keeping::All {
            let all = self.all.borrow();
            return all[all.len().saturating_sub(count)..].to_vec();
        }
        let last = self.last.borrow();
        let first = self.count().saturating_sub(count.min(KEPT) as u64);
        (first..self.count()).map(|number| last[place(number)].event(number)).collect()
    }

    /// Takes what was kept out of the log, oldest first.
    pub fn take(&self) -> Vec<Event> {
        if self.keeping == Keeping::All { self.all.take() } else { self.last(KEPT) }
    }
}

/// The place of an event in the ring.
#[allow(clippy::cast_possible_truncation, reason = "the remainder is small")]
const fn place(number: u64) -> usize {
    (number % KEPT as u64) as usize
}
