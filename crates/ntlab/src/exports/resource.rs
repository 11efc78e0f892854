//! `ERESOURCE`: locks that many readers or one writer have ("Introduction to ERESOURCE Routines").

use std::{cell::RefCell, collections::BTreeMap, ops::Range};

use super::Export;
use crate::{
    export,
    finding::Finding,
    irql::{APC_LEVEL, DISPATCH_LEVEL, at_most},
    kernel::Kernel,
    sched::{LockKind, ThreadId, VERIFIER},
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ExInitializeResourceLite", at_most(DISPATCH_LEVEL), ex_initialize_resource_lite),
    export!("ExReinitializeResourceLite", at_most(DISPATCH_LEVEL), ex_reinitialize_resource_lite),
    export!("ExDeleteResourceLite", at_most(APC_LEVEL), ex_delete_resource_lite),
    export!("ExAcquireResourceExclusiveLite", at_most(APC_LEVEL), ex_acquire_resource_exclusive_lite),
    export!("ExAcquireResourceSharedLite", at_most(APC_LEVEL), ex_acquire_resource_shared_lite),
    export!(
        "ExEnterCriticalRegionAndAcquireResourceExclusive",
        at_most(APC_LEVEL),
        ex_enter_critical_region_and_acquire_resource_exclusive
    ),
    export!("ExReleaseResourceLite", at_most(DISPATCH_LEVEL), ex_release_resource_lite),
    export!(
        "ExReleaseResourceAndLeaveCriticalRegion",
        at_most(APC_LEVEL),
        ex_release_resource_and_leave_critical_region
    ),
    export!("ExIsResourceAcquiredExclusiveLite", at_most(DISPATCH_LEVEL), ex_is_resource_acquired_exclusive_lite),
    export!("ExIsResourceAcquiredSharedLite", at_most(DISPATCH_LEVEL), ex_is_resource_acquired_shared_lite),
];

/// Parameters of `DRIVER_VERIFIER_DETECTED_VIOLATION`.
const APCS_ENABLED: u64 = 0x37;
const SELF_DEADLOCK: u64 = 0x1000;
const BAD_RESOURCE: u64 = 0x3D;
const INITIALIZED_AGAIN: u64 = 0xD0;
const NOT_INITIALIZED: u64 = 0xD1;
const FREED_WITH_POOL: u64 = 0xD2;
/// `RESOURCE_NOT_OWNED`.
const RESOURCE_NOT_OWNED: u32 = 0xE3;
/// `sizeof(ERESOURCE)`.
const SIZE: u64 = 104;

/// Who has a resource. What lies in the driver's memory says nothing: the structure is opaque.
#[derive(Debug, Default)]
struct Resource {
    /// The writer, and how often it has it.
    exclusive: Option<(ThreadId, u32)>,
    /// How often each reader has it.
    shared: BTreeMap<ThreadId, u32>,
    /// Threads that wait, and whether to write: first come, first served.
    waiting: Vec<(ThreadId, bool)>,
}

impl Resource {
    /// Gives it to a thread, if it is to be had.
    fn take(&mut self, thread: ThreadId, exclusive: bool) -> bool {
        if let Some((owner, times)) = &mut self.exclusive {
            *times += u32::from(*owner == thread);
            return *owner == thread;
        }
        if exclusive {
            let free = self.shared.is_empty();
            self.exclusive = free.then_some((thread, 1));
            return free;
        }
        let writer_waits = self.waiting.iter().any(|(waiter, writes)| *writes && *waiter != thread);
        let allowed = !writer_waits || self.shared.contains_key(&thread);
        if allowed {
            *self.shared.entry(thread).or_default() += 1;
        }
        allowed
    }

    /// Takes it back once from a thread; false if that does not have it.
    fn give_back(&mut self, thread: ThreadId) -> bool {
        if let Some((owner, times)) = &mut self.exclusive {
            let owns = *owner == thread;
            *times -= u32::from(owns);
            if *times == 0 {
                self.exclusive = None;
            }
            return owns;
        }
        let Some(times) = self.shared.get_mut(&thread) else { return false };
        *times -= 1;
        if *times == 0 {
            self.shared.remove(&thread);
        }
        true
    }
}

/// The resources that are initialized, by address.
#[derive(Debug, Default)]
pub struct Resources {
    all: RefCell<BTreeMap<u64, Resource>>,
}

impl Resources {
    /// Stops the run if memory that is given back holds a resource.
    pub fn check_freed(&self, range: &Range<u64>) {
        let held = self.all.borrow().range(range.clone()).next().map(|(address, _)| *address);
        if let Some(address) = held {
            let sentence = "pool is freed that holds an ERESOURCE which was not deleted";
            let length = range.end - range.start;
            Finding::bug_check(VERIFIER, [FREED_WITH_POOL, address, range.start, length], sentence).raise();
        }
    }
}

fn violation(violation: u64, resource: u64, sentence: &str) -> ! {
    Finding::bug_check(VERIFIER, [violation, resource, 0, 0], sentence).raise()
}

/// Does something with an initialized resource.
fn with<T>(k: &Kernel, resource: u64, action: impl FnOnce(&mut Resource) -> T) -> T {
    let done = k.io.resources.all.borrow_mut().get_mut(&resource).map(action);
    done.unwrap_or_else(|| violation(NOT_INITIALIZED, resource, "an ERESOURCE that is not initialized"))
}

fn acquire(k: &Kernel, resource: u64, exclusive: bool, wait: bool) -> bool {
    if !k.sched.in_critical_region() && k.irql() < APC_LEVEL {
        let sentence =
            "an ERESOURCE is acquired while normal kernel APCs are enabled: call KeEnterCriticalRegion before";
        violation(APCS_ENABLED, resource, sentence);
    }
    let thread = k.thread_id();
    if wait {
        k.sched.thread_acquires(k, resource, LockKind::Resource);
        if exclusive && with(k, resource, |own| own.shared.contains_key(&thread)) {
            let sentence = "a thread that has an ERESOURCE to read waits to write: for ever, since it waits for itself";
            violation(SELF_DEADLOCK, resource, sentence);
        }
    }
    let taken =
        with(k, resource, |own| own.take(thread, exclusive)) || wait && await_turn(k, resource, thread, exclusive);
    if taken {
        k.sched.thread_acquired(k, &k.current_thread(), resource, LockKind::Resource);
    }
    taken
}

/// Waits until the thread has the resource.
fn await_turn(k: &Kernel, resource: u64, thread: ThreadId, exclusive: bool) -> bool {
    with(k, resource, |own| own.waiting.push((thread, exclusive)));
    loop {
        k.park("an ERESOURCE", None);
        let taken = with(k, resource, |own| {
            let is_next = exclusive.then(|| own.waiting.iter().find(|(_, writes)| *writes).map(|(first, _)| *first));
            let taken = is_next.is_none_or(|first| first == Some(thread)) && own.take(thread, exclusive);
            if taken {
                own.waiting.retain(|(waiter, _)| *waiter != thread);
            }
            taken
        });
        if taken {
            return true;
        }
    }
}

fn release(k: &Kernel, resource: u64) {
    let thread = k.thread_id();
    if !with(k, resource, |own| own.give_back(thread)) {
        let sentence = "a thread releases an ERESOURCE that it does not have";
        Finding::bug_check(RESOURCE_NOT_OWNED, [resource, thread.0.into(), 0, 0], sentence).raise();
    }
    k.sched.thread_releases(resource);
    let waiting = with(k, resource, |own| own.waiting.clone());
    for (waiter, _) in waiting {
        k.wake(waiter);
    }
}

/// "`ExInitializeResourceLite` function".
fn ex_initialize_resource_lite(k: &Kernel, resource: u64) -> i32 {
    if !resource.is_multiple_of(8) {
        violation(BAD_RESOURCE, resource, "an ERESOURCE that is not aligned");
    }
    crate::memory::Ptr::<u8>::new(resource).fill(crate::memory::host::to_usize(SIZE), 0);
    if k.io.resources.all.borrow_mut().insert(resource, Resource::default()).is_some() {
        violation(INITIALIZED_AGAIN, resource, "an ERESOURCE is initialized again");
    }
    k.tracking.made(k, Tracked::Resource, resource, String::new);
    0
}

/// "`ExReinitializeResourceLite` function".
fn ex_reinitialize_resource_lite(k: &Kernel, resource: u64) -> i32 {
    with(k, resource, |own| *own = Resource::default());
    0
}

/// "`ExDeleteResourceLite` function".
fn ex_delete_resource_lite(k: &Kernel, resource: u64) -> i32 {
    if k.io.resources.all.borrow_mut().remove(&resource).is_none() {
        violation(NOT_INITIALIZED, resource, "an ERESOURCE is deleted that is not initialized");
    }
    k.tracking.gone(Tracked::Resource, resource);
    0
}

/// "`ExAcquireResourceExclusiveLite` function".
fn ex_acquire_resource_exclusive_lite(k: &Kernel, resource: u64, wait: bool) -> bool {
    acquire(k, resource, true, wait)
}

/// "`ExAcquireResourceSharedLite` function": a reader waits while a writer does, unless it reads already.
fn ex_acquire_resource_shared_lite(k: &Kernel, resource: u64, wait: bool) -> bool {
    acquire(k, resource, false, wait)
}

/// "`ExEnterCriticalRegionAndAcquireResourceExclusive` function".
fn ex_enter_critical_region_and_acquire_resource_exclusive(k: &Kernel, resource: u64) -> u64 {
    k.sched.enter_critical_region(k);
    acquire(k, resource, true, true);
    0
}

/// "`ExReleaseResourceLite` function".
fn ex_release_resource_lite(k: &Kernel, resource: u64) {
    release(k, resource);
}

/// "`ExReleaseResourceAndLeaveCriticalRegion` function".
fn ex_release_resource_and_leave_critical_region(k: &Kernel, resource: u64) {
    release(k, resource);
    k.sched.leave_critical_region();
}

/// "`ExIsResourceAcquiredExclusiveLite` function".
fn ex_is_resource_acquired_exclusive_lite(k: &Kernel, resource: u64) -> bool {
    let thread = k.thread_id();
    with(k, resource, |own| own.exclusive.is_some_and(|(owner, _)| owner == thread))
}

/// "`ExIsResourceAcquiredSharedLite` function": how often the thread has it, to read or to write.
fn ex_is_resource_acquired_shared_lite(k: &Kernel, resource: u64) -> u32 {
    let thread = k.thread_id();
    with(k, resource, |own| match own.exclusive {
        Some((owner, times)) if owner == thread => times,
        _ => own.shared.get(&thread).copied().unwrap_or(0),
    })
}
