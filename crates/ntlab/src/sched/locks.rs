//! Locks that are held, and the order in which locks are acquired ("Deadlock Detection"): two that were ever acquired in both orders are a
//! finding, also where nobody waited for ever this time.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
};

use super::{Processor, Sched, Thread, VERIFIER};
use crate::{config::Checks, finding::Finding, kernel::Kernel, memory::PageKind, rule::Rule};

/// "The current thread has tried to recursively […] acquire a resource".
const SELF_DEADLOCK: u64 = 0x1000;
/// "A lock hierarchy violation has been found."
const INVERSION: u64 = 0x1001;
/// "The wrong thread releases a resource."
const WRONG_THREAD: u64 = 0x1004;
/// "A resource is initialized more than one time": here, while it is held.
const INITIALIZED_WHILE_HELD: u64 = 0x1005;
/// "A resource is released before it has been acquired."
const NOT_ACQUIRED: u64 = 0x1007;
/// "The driver tried to acquire a lock by using an API that is mismatched for this lock type."
const MISMATCHED: u64 = 0x1008;
/// "The terminated thread owns the lock."
const THREAD_ENDED: u64 = 0x100A;
/// "The deleted lock is still owned by a thread."
const FREED_WHILE_HELD: u64 = 0x100B;
/// The DDI compliance rules `SpinLock` and `QueuedSpinLock`.
const HELD_ACROSS_RETURN: [(LockKind, u64); 2] = [(LockKind::SpinLock, 0x4_0009), (LockKind::QueuedSpinLock, 0x4_0006)];

/// Virtual nanoseconds for which a spin lock may be held: 40 times the 25 microseconds of its page.
const LONGEST: u64 = 1_000_000;

/// The number of locks of which no order is kept.
const NO_NUMBER: u32 = u32::MAX;

/// How many locks are found without a look at all of them.
const RECENT: usize = 16;

/// How a lock is acquired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LockKind {
    /// A spin lock.
    SpinLock,
    /// A spin lock with a queue handle on the stack.
    QueuedSpinLock,
    /// A fast mutex.
    FastMutex,
    /// An `ERESOURCE`.
    Resource,
    /// A `KMUTEX`.
    Mutex,
}

/// A lock that is held.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its address.
    pub lock: u64,
    /// How it was acquired.
    pub kind: LockKind,
    number: u32,
    /// The virtual time since when, and the instruction that acquired it.
    since: u64,
    at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    number: u32,
    kind: LockKind,
}

/// Locks by number, and where each was acquired.
type Followers = BTreeMap<u32, Rc<[u64]>>;

/// What is known of the locks of drivers.
#[derive(Debug, Default)]
pub struct Locks {
    /// By address, until the memory is freed or initialised again.
    known: RefCell<BTreeMap<u64, Known>>,
    /// Those of `known` that were acquired last, each in the place of its [`address`](recent): the same few are acquired again and again.
    recent: [Cell<Option<(u64, Known)>>; RECENT],
    count: Cell<u32>,
    /// How many locks processors and threads hold: where that is none, nobody's need be looked at.
    held: Cell<i64>,
    /// By number: the locks that were acquired while this one was held, and where.
    after: RefCell<BTreeMap<u32, Followers>>,
}

/// The place of a lock in [`Locks::recent`].
#[allow(clippy::cast_possible_truncation, reason = "the remainder is small")]
const fn recent(address: u64) -> usize {
    (address / size_of::<usize>() as u64 % RECENT as u64) as usize
}

impl Locks {
    #[inline]
    pub(super) fn count_held(&self, change: i64) {
        self.held.set(self.held.get() + change);
    }

    /// The lock at `address`. One that is acquired in two ways that do not go together is a finding.
    fn know(&self, address: u64, kind: LockKind) -> u32 {
        let recent = &self.recent[recent(address)];
        if let Some((of, lock)) = recent.get()
            && (of, lock.kind) == (address, kind)
        {
            return lock.number;
        }
        let number = self.look_up(address, kind);
        recent.set(Some((address, Known { number, kind })));
        number
    }

    fn look_up(&self, address: u64, kind: LockKind) -> u32 {
        use LockKind::{QueuedSpinLock, SpinLock};
        let mut known = self.known.borrow_mut();
        match known.get(&address) {
            Some(lock) if lock.kind == kind => lock.number,
            Some(lock) if matches!((lock.kind, kind), (SpinLock, QueuedSpinLock) | (QueuedSpinLock, SpinLock)) => {
                let sentence =
                    "a spin lock is acquired with a queue handle and without one; the two do not go together";
                Finding::bug_check(VERIFIER, [MISMATCHED, address, 0, 0], sentence).raise()
            }
            _ => {
                let number = self.count.get();
                self.count.set(number + 1);
                known.insert(address, Known { number, kind });
                number
            }
        }
    }

    /// Where a lock was acquired on the way from `from`, held, to `to`, if there was a way.
    fn way(&self, from: u32, to: u32) -> Option<Rc<[u64]>> {
        let after = self.after.borrow();
        let (mut seen, mut left) = (BTreeSet::from([from]), vec![from]);
        while let Some(next) = left.pop() {
            let Some(followers) = after.get(&next) else { continue };
            if let Some(stack) = followers.get(&to) {
                return Some(Rc::clone(stack));
            }
            left.extend(followers.keys().copied().filter(|&follower| seen.insert(follower)));
        }
        None
    }

    /// Notes that `next` is acquired while `held` is.
    fn order(&self, k: &Kernel, held: Held, next: u32, address: u64) {
        let is_known = self.after.borrow().get(&held.number).is_some_and(|followers| followers.contains_key(&next));
        if is_known || held.number == next {
            return;
        }
        if let Some(stack) = self.way(next, held.number) {
            let sentence = "two locks are acquired in both orders: processors that do so at the same time wait for each other for ever";
            let finding = Finding::bug_check(VERIFIER, [INVERSION, address, held.lock, 0], sentence);
            finding
                .with_stack("the lock that is held was acquired", &[held.at])
                .with_stack("the other order", &stack)
                .raise();
        }
        self.after.borrow_mut().entry(held.number).or_default().insert(next, k.exec.driver_stack());
    }

    fn forget(&self, range: &Range<u64>) {
        let mut known = self.known.borrow_mut();
        while let Some((&address, _)) = known.range(range.clone()).next() {
            known.remove(&address);
            self.recent[recent(address)].set(None);
        }
    }
}

impl Sched {
    /// A lock is going to be acquired, and waited for if need be; its number.
    #[inline]
    pub(super) fn before_acquire(&self, k: &Kernel, lock: u64, kind: LockKind) -> u32 {
        if k.config.checks < Checks::Traces { NO_NUMBER } else { self.before_noted(k, lock, kind) }
    }

    fn before_noted(&self, k: &Kernel, lock: u64, kind: LockKind) -> u32 {
        let number = self.number_of(k, lock, kind);
        let processor = self.current_processor();
        for position in 0..processor.locks.borrow().len() {
            let held = processor.locks.borrow()[position];
            self.locks.order(k, held, number, lock);
        }
        if !processor.in_dpc() && processor.irql() <= crate::irql::DISPATCH_LEVEL {
            let thread = self.current_thread();
            for position in 0..thread.locks.borrow().len() {
                let held = thread.locks.borrow()[position];
                self.locks.order(k, held, number, lock);
            }
        }
        number
    }

    /// The number of a lock; those on a stack, which come and go unnoticed, have one together that no order is kept of.
    pub(super) fn number_of(&self, k: &Kernel, lock: u64, kind: LockKind) -> u32 {
        if k.config.checks < Checks::Traces || k.memory.space.is(lock, PageKind::Stack) {
            NO_NUMBER
        } else {
            self.locks.know(lock, kind)
        }
    }

    /// A lock that was just acquired.
    #[inline]
    pub(super) fn held_now(&self, k: &Kernel, lock: u64, kind: LockKind, number: u32) -> Held {
        Held { lock, kind, number, since: self.now(), at: k.exec.caller() }
    }

    /// A spin lock is released.
    #[inline]
    pub(super) fn check_time(&self, held: Held) {
        let time = self.now() - held.since;
        if time > LONGEST {
            refuse_time(held, time);
        }
    }

    /// A call into the driver that began with `before` spin locks held is over.
    #[inline]
    pub(super) fn check_held(processor: &Processor, what: &str, before: usize) {
        let held = processor.locks.borrow().len();
        if held != before {
            let sentence = || format!("{what} was called with {before} spin locks held and returned with {held}");
            refuse_held(processor, sentence);
        }
    }

    /// The IRQL falls below that of spin locks.
    #[inline]
    pub(super) fn check_none_held(processor: &Processor, to: crate::irql::Irql) {
        let held = processor.locks.borrow().len();
        if held != 0 {
            refuse_held(processor, || format!("the IRQL is lowered to {to} while {held} spin locks are held"));
        }
    }

    /// The current thread is going to acquire a lock that threads own, and to wait for it if need be. One that it owns is a finding where
    /// the kind cannot be acquired twice.
    pub fn thread_acquires(&self, k: &Kernel, lock: u64, kind: LockKind) {
        let owned = self.current_thread().locks.borrow().iter().rfind(|held| held.lock == lock).copied();
        if let Some(held) = owned.filter(|_| kind == LockKind::FastMutex) {
            let finding = Finding::bug_check(
                VERIFIER,
                [SELF_DEADLOCK, lock, 0, 0],
                "a thread acquires a fast mutex that it owns",
            );
            finding.with_stack("it was acquired", &[held.at]).raise();
        }
        if owned.is_none() {
            self.before_acquire(k, lock, kind);
        }
    }

    /// `thread` owns a lock now, once more if it did.
    pub fn thread_acquired(&self, k: &Kernel, thread: &Thread, lock: u64, kind: LockKind) {
        let number = self.number_of(k, lock, kind);
        thread.locks.borrow_mut().push(self.held_now(k, lock, kind, number));
        self.locks.count_held(1);
    }

    /// The current thread releases a lock that threads own; one that it does not own is a finding.
    pub fn thread_releases(&self, lock: u64) {
        let thread = self.current_thread();
        let position = thread.locks.borrow().iter().rposition(|held| held.lock == lock);
        if let Some(position) = position {
            thread.locks.borrow_mut().remove(position);
            self.locks.count_held(-1);
            return;
        }
        let owner = self.owner_of(lock);
        let (violation, sentence) = match &owner {
            Some((name, _)) => (WRONG_THREAD, format!("{} releases a lock that {name} owns", thread.name)),
            None => (NOT_ACQUIRED, format!("{} releases a lock that nobody owns", thread.name)),
        };
        let acquired = owner.map_or(0, |(_, at)| at);
        Finding::bug_check(VERIFIER, [violation, lock, 0, 0], sentence)
            .with_stack("it was acquired", &[acquired])
            .raise();
    }

    /// The thread that owns a lock, and where it acquired it.
    fn owner_of(&self, lock: u64) -> Option<(Rc<str>, u64)> {
        self.threads.borrow().iter().flatten().find_map(|thread| {
            let at = thread.locks.borrow().iter().rfind(|held| held.lock == lock)?.at;
            Some((Rc::clone(&thread.name), at))
        })
    }

    /// What is found where a thread ends with locks.
    pub(super) fn ends_with_locks(thread: &Thread) -> Option<Finding> {
        let held = thread.locks.borrow().last().copied()?;
        let sentence = format!("{} ends and owns {} locks", thread.name, thread.locks.borrow().len());
        let finding = Finding::bug_check(VERIFIER, [THREAD_ENDED, thread.object.get(), held.lock, 0], sentence);
        Some(finding.with_stack("the last one was acquired", &[held.at]))
    }

    /// A spin lock that another processor holds is released.
    pub(super) fn released_by_another(&self, lock: u64) -> Finding {
        let held = |processor: &Processor| processor.locks.borrow().iter().find(|held| held.lock == lock).copied();
        let owner = self.active().find_map(|processor| held(processor).map(|held| (processor.index, held)));
        let (index, at) = owner.map_or((0, 0), |(index, held)| (index, held.at));
        let sentence =
            format!("processor {} releases a spin lock that processor {index} holds", self.processor_index());
        Finding::bug_check(VERIFIER, [WRONG_THREAD, lock, 0, 0], sentence).with_stack("it was acquired", &[at])
    }

    /// How many critical regions and mutexes of the current thread hold off its APCs.
    #[inline]
    pub(super) fn apcs_disabled(&self) -> usize {
        let thread = self.current_processor().thread.borrow();
        thread.as_ref().map_or(0, |thread| thread.critical_regions.get() as usize + thread.locks.borrow().len())
    }

    /// Where the current thread last did what holds off its APCs.
    pub(super) fn disabled_at(&self) -> u64 {
        let thread = self.current_thread();
        let acquired = thread.locks.borrow().last().map(|held| held.at);
        acquired.unwrap_or_else(|| thread.entered_at.get())
    }

    /// A lock is initialised: it is a new one.
    pub fn initialize_lock(&self, lock: u64) {
        self.end_locks(&(lock..lock + 1), INITIALIZED_WHILE_HELD, "a lock is initialised while it is held");
    }

    /// Memory is given back: the locks in it are no more.
    pub fn free_locks(&self, address: u64, length: u64) {
        let range = address..address.saturating_add(length);
        self.end_locks(&range, FREED_WHILE_HELD, "memory is freed with a lock in it that is held");
    }

    fn end_locks(&self, range: &Range<u64>, violation: u64, sentence: &str) {
        if self.locks.held.get() != 0 {
            self.check_ended(range, violation, sentence);
        }
        self.locks.forget(range);
    }

    fn check_ended(&self, range: &Range<u64>, violation: u64, sentence: &str) {
        let is_in = |held: &Held| range.contains(&held.lock);
        let by_processor = self.active().find_map(|processor| processor.locks.borrow().iter().copied().find(is_in));
        let by_thread = || {
            let threads = self.threads.borrow();
            threads.iter().flatten().find_map(|thread| thread.locks.borrow().iter().copied().find(is_in))
        };
        if let Some(held) = by_processor.or_else(by_thread) {
            let finding = Finding::bug_check(VERIFIER, [violation, held.lock, 0, 0], sentence);
            finding.with_stack("it was acquired", &[held.at]).raise();
        }
    }
}

#[cold]
fn refuse_time(held: Held, time: u64) -> ! {
    let sentence = format!("a spin lock was held for {} microseconds", time / 1000);
    let finding = Rule::LockHeldTooLong.broken([held.lock, time, LONGEST], sentence);
    finding.with_stack("it was acquired", &[held.at]).raise()
}

#[cold]
fn refuse_held(processor: &Processor, sentence: impl FnOnce() -> String) -> ! {
    let last = processor.locks.borrow().last().copied();
    let (lock, kind, at) = last.map_or((0, LockKind::SpinLock, 0), |held| (held.lock, held.kind, held.at));
    let rule = HELD_ACROSS_RETURN.iter().find(|(of, _)| *of == kind).map_or(0, |(_, rule)| *rule);
    let finding = Finding::bug_check(VERIFIER, [rule, lock, 0, 0], sentence());
    if at == 0 { finding } else { finding.with_stack("the last one was acquired", &[at]) }.raise()
}
