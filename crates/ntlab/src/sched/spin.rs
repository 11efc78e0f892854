//! Spin locks, and time that a processor spends on the spot.

use std::ops::Range;

use super::{Processor, Sched, level::VERIFIER};
use crate::{finding::Finding, kernel::Kernel, memory::Ptr};

/// `SPIN_LOCK_ALREADY_OWNED`.
const ALREADY_OWNED: u32 = 0xF;
/// Parameter 1 of bug check 0xC4: a lock is deleted that is owned.
const LOCK_DELETED_WHILE_OWNED: u64 = 0x100B;
/// `SPIN_LOCK_NOT_OWNED`.
const NOT_OWNED: u32 = 0x10;
/// `SPIN_LOCK_INIT_FAILURE`.
const NOT_INITIALISED: u32 = 0x81;

impl Sched {
    /// Acquires a spin lock at the current IRQL, which has to be as high as wherever it is acquired. The word holds the owner: 1 and
    /// the index of the processor.
    pub fn acquire(&self, k: &Kernel, lock: Ptr<usize>) {
        let processor = self.current_processor();
        while !self.try_acquire(lock) {
            self.spin(k, processor, lock.address());
        }
    }

    /// Acquires a spin lock if it is free.
    pub fn try_acquire(&self, lock: Ptr<usize>) -> bool {
        let processor = self.current_processor();
        let own = processor.index as usize + 1;
        match lock.read() {
            0 => {
                lock.write(own);
                processor.locks.borrow_mut().push(lock.address());
                true
            }
            owner if owner == own => {
                let sentence = format!("processor {} acquires a spin lock that it holds", processor.index);
                Finding::bug_check(ALREADY_OWNED, [lock.address(), 0, 0, 0], sentence).raise()
            }
            owner if self.processor((owner - 1).try_into().unwrap_or(u32::MAX)).is_none() => {
                let sentence = "a spin lock that was not initialised, or was overwritten";
                Finding::bug_check(NOT_INITIALISED, [lock.address(), owner as u64, 0, 0], sentence).raise()
            }
            _ => false,
        }
    }

    /// Releases a spin lock that the current processor holds.
    pub fn release(&self, lock: Ptr<usize>) {
        let processor = self.current_processor();
        let mut locks = processor.locks.borrow_mut();
        let Some(position) = locks.iter().rposition(|&held| held == lock.address()) else {
            let sentence = format!("processor {} releases a spin lock that it does not hold", processor.index);
            Finding::bug_check(NOT_OWNED, [lock.address(), 0, 0, 0], sentence).raise()
        };
        locks.remove(position);
        drop(locks);
        lock.write(0);
        if !self.spinning.borrow().is_empty() {
            self.stop_spinning(lock.address());
        }
    }

    /// The current processor waits for a lock; interrupts above its IRQL are served meanwhile.
    fn spin(&self, k: &Kernel, processor: &Processor, lock: u64) {
        if self.in_alarm.get() || std::thread::panicking() {
            let sentence = "a spin lock is contended where nothing can wait";
            Finding::bug_check(VERIFIER, [0, lock, 0, 0], sentence).raise();
        }
        self.spinning.borrow_mut().push((processor.index, lock));
        self.hold(processor.index);
        self.pause(k, &self.current_thread());
        self.spinning.borrow_mut().retain(|&(index, _)| index != processor.index);
    }

    /// Stops the run if a spin lock in these addresses, which are given back, is held.
    pub(super) fn check_freed_locks(&self, range: &Range<u64>) {
        let runnable = self.runnable.borrow();
        let mut processors = (0..runnable.len()).filter_map(|position| self.processor(runnable.get(position)));
        let held =
            processors.find_map(|processor| processor.locks.borrow().iter().copied().find(|lock| range.contains(lock)));
        if let Some(lock) = held {
            let sentence = "memory is freed that holds a spin lock which is held";
            Finding::bug_check(VERIFIER, [LOCK_DELETED_WHILE_OWNED, lock, range.start, range.end], sentence).raise();
        }
    }

    fn stop_spinning(&self, lock: u64) {
        let spinning = self.spinning.borrow();
        for &(processor, _) in spinning.iter().filter(|&&(_, waited)| waited == lock) {
            self.kick(processor);
        }
    }

    /// Keeps the current processor busy; interrupts above its IRQL are served meanwhile.
    pub(crate) fn stall(&self, k: &Kernel, ns: u64) {
        let until = self.now() + ns;
        while self.now() < until && !self.in_alarm.get() && !std::thread::panicking() {
            let index = self.processor_index();
            let alarm = k.after(until - self.now(), move |k| k.sched.kick(index));
            self.hold(index);
            self.pause(k, &self.current_thread());
            self.cancel_alarm(alarm);
        }
    }
}
