//! Remove locks ("Using Remove Locks").

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use windows_sys::{
    Wdk::System::SystemServices::IO_REMOVE_LOCK_COMMON_BLOCK,
    Win32::Foundation::{NTSTATUS, STATUS_DELETE_PENDING, STATUS_SUCCESS},
};

use super::irp::IO_MANAGER_VIOLATION;
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr, rule::Rule, sched::VERIFIER};

/// The size of a remove lock of a driver that was built with `DBG`: behind the common block it has one for tags and times, which the lab
/// leaves empty.
const CHECKED_SIZE: usize = 120;

/// A remove lock: the block that those of both builds begin with.
pub type RemoveLock = Ptr<IO_REMOVE_LOCK_COMMON_BLOCK>;

/// Parameter 1 of bug check 0xC4: a remove lock is initialised again.
const INITIALISED_AGAIN: u64 = 0xD7;

/// Who has acquired each remove lock: the tag, and where.
#[derive(Debug, Default)]
pub(crate) struct RemoveLocks {
    acquired: RefCell<BTreeMap<u64, Vec<Acquired>>>,
    limits: RefCell<BTreeMap<u64, Limits>>,
    /// Those that somebody waits for.
    awaited: RefCell<BTreeSet<u64>>,
}

/// An acquisition of a remove lock.
#[derive(Clone, Copy, Debug)]
struct Acquired {
    tag: u64,
    caller: u64,
    /// When, in virtual nanoseconds.
    since: u64,
}

/// What a driver says of how its lock is used ("`IoInitializeRemoveLock` macro"); 0 is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// For how many minutes it is held at most.
    pub minutes: u32,
    /// How often it is acquired at the same time at most.
    pub acquisitions: u32,
    /// The driver was built with `DBG`: who gives it back names the tag of an acquisition.
    checked: bool,
}

impl Limits {
    /// The limits of a driver's lock.
    #[must_use]
    pub const fn new(minutes: u32, acquisitions: u32) -> Self {
        Self { minutes, acquisitions, checked: false }
    }
}

const MINUTE: u64 = 60_000_000_000;

impl RemoveLocks {
    fn add(&self, lock: RemoveLock, acquired: Acquired) -> usize {
        let mut all = self.acquired.borrow_mut();
        let own = all.entry(lock.address()).or_default();
        own.push(acquired);
        own.len()
    }

    /// Where those were acquired that somebody waits for.
    fn awaited(&self) -> Vec<u64> {
        let (acquired, awaited) = (self.acquired.borrow(), self.awaited.borrow());
        let holders = awaited.iter().filter_map(|lock| acquired.get(lock)).flatten();
        holders.map(|acquired| acquired.caller).collect()
    }

    /// An acquisition with that tag is over; any where none has it, for drivers without `DBG` may use what tags they like.
    fn remove(&self, lock: RemoveLock, tag: u64) -> Option<Acquired> {
        let mut all = self.acquired.borrow_mut();
        let acquired = all.get_mut(&lock.address())?;
        let position = acquired.iter().rposition(|other| other.tag == tag);
        position.or_else(|| acquired.len().checked_sub(1)).map(|position| acquired.remove(position))
    }

    fn limits_of(&self, lock: RemoveLock) -> Limits {
        self.limits.borrow().get(&lock.address()).copied().unwrap_or_default()
    }
}

/// Adds to a finding about something that does not end where the remove locks were acquired that are waited for.
pub(crate) fn with_holders(k: &Kernel, finding: Finding) -> Finding {
    let holders = k.io.remove_locks.awaited();
    holders
        .iter()
        .fold(finding, |finding, caller| finding.with_stack("a remove lock that is waited for, at", &[*caller]))
}

/// Stops the run if memory that is given back holds a remove lock that is acquired.
pub(crate) fn check_freed(k: &Kernel, range: &Range<u64>) {
    let mut locks = k.io.remove_locks.acquired.borrow_mut();
    let freed: Vec<u64> = locks.range(range.clone()).map(|(&lock, _)| lock).collect();
    for lock in freed {
        let acquired = locks.remove(&lock).unwrap_or_default();
        if acquired.is_empty() {
            continue;
        }
        let sentence = format!("memory goes away that holds a remove lock which is acquired {} times", acquired.len());
        let finding = Rule::RemoveLockHeld.broken([lock, acquired.len() as u64, 0], sentence);
        told(finding, &acquired).raise();
    }
}

/// Adds where a lock was acquired to a finding about it.
fn told(finding: Finding, acquired: &[Acquired]) -> Finding {
    let shown = acquired.iter().filter(|acquired| acquired.caller != 0);
    shown.fold(finding, |finding, acquired| finding.with_stack("acquired at", &[acquired.caller]))
}

/// Makes a remove lock (`IoInitializeRemoveLock`). A lock that was waited on must not be made again.
pub fn initialize(k: &Kernel, lock: RemoveLock, limits: Limits, size: u32) {
    if ![size_of::<IO_REMOVE_LOCK_COMMON_BLOCK>(), CHECKED_SIZE].contains(&(size as usize)) {
        Finding::not_modelled(format!("IoInitializeRemoveLockEx: a remove lock of {size} bytes")).raise();
    }
    if k.io.remove_locks.acquired.borrow_mut().insert(lock.address(), Vec::new()).is_some() {
        let parameters = [INITIALISED_AGAIN, lock.address(), lock.address(), 0];
        Finding::bug_check(VERIFIER, parameters, "a remove lock is initialised again").raise();
    }
    let limits = Limits { checked: size as usize == CHECKED_SIZE, ..limits };
    k.io.remove_locks.limits.borrow_mut().insert(lock.address(), limits);
    lock.cast::<u8>().fill(size as usize, 0);
    at!(lock, Removed).cast::<u32>().write(0);
    at!(lock, IoCount).write(1);
    k.sched.initialize_event(at!(lock, RemoveEvent), true, false);
}

fn is_removed(lock: RemoveLock) -> bool {
    at!(lock, Removed).cast::<u8>().read() != 0
}

/// Takes the lock, unless the device is being removed (`IoAcquireRemoveLock`).
pub fn acquire(k: &Kernel, lock: RemoveLock, tag: u64) -> NTSTATUS {
    let count = at!(lock, IoCount);
    count.write(count.read() + 1);
    if !is_removed(lock) {
        let acquired = Acquired { tag, caller: k.exec.caller(), since: k.now() };
        check_count(k, lock, k.io.remove_locks.add(lock, acquired));
        return STATUS_SUCCESS;
    }
    give_back(k, lock);
    STATUS_DELETE_PENDING
}

/// Gives the lock back (`IoReleaseRemoveLock`).
pub fn release(k: &Kernel, lock: RemoveLock, tag: u64) {
    if let Some(acquired) = k.io.remove_locks.remove(lock, tag) {
        check_release(k, lock, tag, acquired);
    }
    give_back(k, lock);
}

/// More acquisitions at a time than the driver says there can be are a leak.
fn check_count(k: &Kernel, lock: RemoveLock, count: usize) {
    let Limits { acquisitions, .. } = k.io.remove_locks.limits_of(lock);
    if acquisitions != 0 && count > acquisitions as usize {
        let all = k.io.remove_locks.acquired.borrow().get(&lock.address()).cloned().unwrap_or_default();
        let sentence = format!("a remove lock is acquired {count} times, of at most {acquisitions}");
        told(Rule::RemoveLockCount.broken([lock.address(), count as u64, 0], sentence), &all).raise();
    }
}

fn check_release(k: &Kernel, lock: RemoveLock, tag: u64, acquired: Acquired) {
    let Limits { minutes, checked, .. } = k.io.remove_locks.limits_of(lock);
    if checked && acquired.tag != tag {
        let sentence = "a remove lock is given back with a tag that it was not acquired with";
        told(Rule::RemoveLockTag.broken([lock.address(), tag, 0], sentence), &[acquired]).raise();
    }
    let held = k.now() - acquired.since;
    if minutes != 0 && held > u64::from(minutes) * MINUTE {
        let sentence = format!("a remove lock was held for {} s, of at most {minutes} minutes", held / 1_000_000_000);
        told(Rule::RemoveLockTime.broken([lock.address(), held, 0], sentence), &[acquired]).raise();
    }
}

fn give_back(k: &Kernel, lock: RemoveLock) {
    let count = at!(lock, IoCount);
    let left = count.read() - 1;
    if left < 0 || left == 0 && !is_removed(lock) {
        Finding::bug_check(
            IO_MANAGER_VIOLATION,
            [0x200, 0, lock.address(), 0],
            "a remove lock was released more often than acquired",
        )
        .raise();
    }
    count.write(left);
    if left == 0 {
        k.sched.set_event(k, at!(lock, RemoveEvent));
    }
}

/// Gives the lock back for the last time and waits until everybody has (`IoReleaseRemoveLockAndWait`).
pub fn release_and_wait(k: &Kernel, lock: RemoveLock, tag: u64) {
    if is_removed(lock) {
        Finding::bug_check(
            IO_MANAGER_VIOLATION,
            [0x200, 0, lock.address(), 0],
            "IoReleaseRemoveLockAndWait was called twice for a remove lock",
        )
        .raise();
    }
    at!(lock, Removed).cast::<u8>().write(1);
    release(k, lock, tag);
    let count = at!(lock, IoCount);
    if count.read() < 1 {
        Finding::bug_check(
            IO_MANAGER_VIOLATION,
            [0x200, 0, lock.address(), 0],
            "IoReleaseRemoveLockAndWait was called without an acquisition of its own",
        )
        .raise();
    }
    give_back(k, lock);
    if count.read() > 0 {
        k.io.remove_locks.awaited.borrow_mut().insert(lock.address());
        k.sched.wait_for_event(k, at!(lock, RemoveEvent), "a remove lock");
        k.io.remove_locks.awaited.borrow_mut().remove(&lock.address());
    }
}
