//! Virtual time and what is due at which point of it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
};

use super::AlarmId;
use crate::kernel::Kernel;

/// Picoseconds of a nanosecond.
pub const PICOSECONDS: u64 = 1000;

type Action = Box<dyn FnOnce(&Kernel)>;

/// The clock and its alarms. It counts picoseconds: busy processors share the time of a kernel call, and a share can be less than a
/// nanosecond.
pub(super) struct Clock {
    now: Cell<u64>,
    /// When the first alarm is due; the end of time where there is none.
    next: Cell<u64>,
    sequence: Cell<u64>,
    alarms: RefCell<BTreeMap<AlarmId, Action>>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Clock {
    pub(super) const fn new() -> Self {
        let alarms = RefCell::new(BTreeMap::new());
        Self { now: Cell::new(0), next: Cell::new(u64::MAX), sequence: Cell::new(0), alarms }
    }

    /// Nanoseconds since the machine started.
    pub(super) const fn now(&self) -> u64 {
        self.now.get() / PICOSECONDS
    }

    /// Picoseconds since the machine started.
    pub(super) const fn picoseconds(&self) -> u64 {
        self.now.get()
    }

    /// Lets `picoseconds` pass and says whether an alarm is due.
    pub(super) fn pass(&self, picoseconds: u64) -> bool {
        let now = self.now.get() + picoseconds;
        self.now.set(now);
        now >= self.next.get()
    }

    /// Goes on to the first alarm; false where there is none.
    pub(super) fn skip(&self) -> bool {
        let next = self.next.get();
        if next == u64::MAX {
            return false;
        }
        self.now.set(self.now.get().max(next));
        true
    }

    pub(super) fn set(&self, ns: u64, action: Action) -> AlarmId {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let due = self.now.get().saturating_add(ns.saturating_mul(PICOSECONDS)).min(u64::MAX - 1);
        let alarm = AlarmId { due, sequence };
        self.alarms.borrow_mut().insert(alarm, action);
        self.next.set(self.next.get().min(due));
        alarm
    }

    pub(super) fn cancel(&self, alarm: AlarmId) -> bool {
        let cancelled = self.alarms.borrow_mut().remove(&alarm).is_some();
        self.find_next();
        cancelled
    }

    /// Takes the first alarm that is due.
    pub(super) fn take_due(&self) -> Option<Action> {
        if self.now.get() < self.next.get() {
            return None;
        }
        let (_, action) = self.alarms.borrow_mut().pop_first()?;
        self.find_next();
        Some(action)
    }

    fn find_next(&self) {
        let first = self.alarms.borrow().first_key_value().map_or(u64::MAX, |(alarm, _)| alarm.due);
        self.next.set(first);
    }
}
