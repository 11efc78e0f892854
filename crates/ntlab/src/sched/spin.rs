//! Spin locks, and time that a processor spends on the spot.

use super::{LockKind, Processor, Sched, level::VERIFIER};
use crate::{finding::Finding, kernel::Kernel, memory::Ptr};

/// `SPIN_LOCK_ALREADY_OWNED`.
const ALREADY_OWNED: u32 = 0xF;
/// `SPIN_LOCK_NOT_OWNED`.
const NOT_OWNED: u32 = 0x10;
/// `SPIN_LOCK_INIT_FAILURE`.
const NOT_INITIALISED: u32 = 0x81;

impl Sched {
    /// Acquires a spin lock at the current IRQL, which has to be as high as wherever it is acquired. The word holds the owner: 1 and
    /// the index of the processor.
    pub fn acquire(&self, k: &Kernel, lock: Ptr<usize>, kind: LockKind) {
        let processor = self.current_processor();
        let number = self.before_acquire(k, lock.address(), kind);
        while !self.take(k, lock, kind, number) {
            self.spin(k, processor, lock.address());
        }
    }

    /// Acquires a spin lock if it is free.
    pub fn try_acquire(&self, k: &Kernel, lock: Ptr<usize>) -> bool {
        let number = self.number_of(k, lock.address(), LockKind::SpinLock);
        self.take(k, lock, LockKind::SpinLock, number)
    }

    fn take(&self, k: &Kernel, lock: Ptr<usize>, kind: LockKind, number: u32) -> bool {
        let processor = self.current_processor();
        let own = processor.index as usize + 1;
        let owner = lock.read();
        if owner != 0 {
            self.check_owner(lock.address(), owner, own);
            return false;
        }
        lock.write(own);
        processor.locks.borrow_mut().push(self.held_now(k, lock.address(), kind, number));
        self.locks.count_held(1);
        true
    }

    /// What a lock holds that is not free must be the number of another processor.
    #[cold]
    fn check_owner(&self, lock: u64, owner: usize, own: usize) {
        if owner == own {
            let sentence = format!("processor {} acquires a spin lock that it holds", own - 1);
            Finding::bug_check(ALREADY_OWNED, [lock, 0, 0, 0], sentence).raise();
        }
        if self.processor((owner - 1).try_into().unwrap_or(u32::MAX)).is_none() {
            let sentence = "a spin lock that was not initialised, or was overwritten";
            Finding::bug_check(NOT_INITIALISED, [lock, owner as u64, 0, 0], sentence).raise();
        }
    }

    /// Releases a spin lock that the current processor holds.
    pub fn release(&self, lock: Ptr<usize>) {
        let processor = self.current_processor();
        let mut locks = processor.locks.borrow_mut();
        let Some(position) = locks.iter().rposition(|held| held.lock == lock.address()) else {
            drop(locks);
            self.refuse_release(lock)
        };
        let held = locks.remove(position);
        drop(locks);
        self.locks.count_held(-1);
        lock.write(0);
        self.check_time(held);
        if !self.spinning.borrow().is_empty() {
            self.stop_spinning(lock.address());
        }
    }

    #[cold]
    fn refuse_release(&self, lock: Ptr<usize>) -> ! {
        if lock.read() != 0 {
            self.released_by_another(lock.address()).raise();
        }
        let sentence = format!("processor {} releases a spin lock that it does not hold", self.processor_index());
        Finding::bug_check(NOT_OWNED, [lock.address(), 0, 0, 0], sentence).raise()
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
