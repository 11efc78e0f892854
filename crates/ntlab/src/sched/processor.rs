//! Simulated processors.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    rc::Rc,
};

use super::{Interrupt, Place, Thread, ThreadId, locks::Held, turns::NO_PRIORITY};
use crate::{
    irql::{DISPATCH_LEVEL, Irql, PASSIVE_LEVEL},
    memory::Ptr,
};
use windows_sys::Wdk::Foundation::KDPC;

/// A simulated processor.
pub struct Processor {
    /// System-wide index.
    pub index: u32,
    /// Where it sits.
    pub place: Place,
    pub(super) irql: Cell<Irql>,
    /// Where the driver was when it last changed the IRQL.
    pub(super) changed_at: Cell<u64>,
    /// The highest level at which something is pending here; `PASSIVE_LEVEL` if nothing is.
    pub(super) pending: Cell<Irql>,
    pub(super) thread: RefCell<Option<Rc<Thread>>>,
    /// The number of that thread.
    pub(super) current: Cell<ThreadId>,
    /// Serves interrupts and DPCs while no thread is current.
    pub(super) idle_thread: RefCell<Option<Rc<Thread>>>,
    /// The thread that ran last.
    pub(super) last: Cell<ThreadId>,
    pub(super) in_dpc: Cell<bool>,
    /// The priority of its interrupts and DPCs, as [`Thread::priority`].
    pub(super) priority: Cell<i64>,
    /// The DPC that runs, by its address.
    pub(super) dpc: Cell<u64>,
    /// Its routine: the DPC object may be gone before it returns.
    pub(super) dpc_routine: Cell<u64>,
    pub(super) dpcs: RefCell<VecDeque<Ptr<KDPC>>>,
    /// DPCs that were queued here and DPCs that are over, both counted from the start; taken back ones count as over.
    pub(super) dpcs_queued: Cell<u64>,
    pub(super) dpcs_over: Cell<u64>,
    /// The spin locks it holds, in the order it acquired them.
    pub(super) locks: RefCell<Vec<Held>>,
    interrupts: RefCell<Vec<Interrupt>>,
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processor").field("index", &self.index).field("irql", &self.irql).finish_non_exhaustive()
    }
}

impl Processor {
    pub(super) const fn new(index: u32, place: Place) -> Self {
        Self {
            index,
            place,
            irql: Cell::new(PASSIVE_LEVEL),
            changed_at: Cell::new(0),
            pending: Cell::new(PASSIVE_LEVEL),
            thread: RefCell::new(None),
            current: Cell::new(ThreadId(0)),
            idle_thread: RefCell::new(None),
            last: Cell::new(ThreadId(0)),
            in_dpc: Cell::new(false),
            priority: Cell::new(NO_PRIORITY),
            dpc: Cell::new(0),
            dpc_routine: Cell::new(0),
            dpcs: RefCell::new(VecDeque::new()),
            dpcs_queued: Cell::new(0),
            dpcs_over: Cell::new(0),
            locks: RefCell::new(Vec::new()),
            interrupts: RefCell::new(Vec::new()),
        }
    }

    /// Its IRQL.
    pub const fn irql(&self) -> Irql {
        self.irql.get()
    }

    /// Whether it runs a DPC, or one that an interrupt interrupts.
    pub const fn in_dpc(&self) -> bool {
        self.in_dpc.get()
    }

    /// Whether something is pending that its IRQL lets through.
    pub(super) fn has_deliverable(&self) -> bool {
        self.pending.get() > self.irql.get()
    }

    /// Pends an interrupt unless its vector is pending.
    pub(super) fn pend(&self, interrupt: Interrupt) {
        let mut interrupts = self.interrupts.borrow_mut();
        if interrupts.iter().any(|pending| pending.vector == interrupt.vector) {
            return;
        }
        self.pending.set(self.pending.get().max(interrupt.irql));
        interrupts.push(interrupt);
    }

    /// Takes the first of the highest pending interrupts above its IRQL.
    pub(super) fn take_interrupt(&self) -> Option<Interrupt> {
        let mut interrupts = self.interrupts.borrow_mut();
        let highest = interrupts.iter().map(|interrupt| interrupt.irql).max()?;
        if highest <= self.irql.get() {
            return None;
        }
        let position = interrupts.iter().position(|interrupt| interrupt.irql == highest)?;
        let interrupt = interrupts.remove(position);
        drop(interrupts);
        self.find_pending();
        Some(interrupt)
    }

    /// Takes back what `vector` has pending.
    pub(super) fn withdraw(&self, vector: u32) {
        self.interrupts.borrow_mut().retain(|interrupt| interrupt.vector != vector);
        self.find_pending();
    }

    /// Sets `pending` to what is pending.
    pub(super) fn find_pending(&self) {
        let dpc = if self.dpcs.borrow().is_empty() { PASSIVE_LEVEL } else { DISPATCH_LEVEL };
        let interrupt = self.interrupts.borrow().iter().map(|interrupt| interrupt.irql).max();
        self.pending.set(interrupt.unwrap_or(PASSIVE_LEVEL).max(dpc));
    }
}
