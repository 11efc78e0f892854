//! Events, semaphores, mutexes and threads as dispatcher objects.

use windows_sys::Wdk::{
    Foundation::{KEVENT, KMUTANT},
    System::SystemServices::KSEMAPHORE,
};

use super::{
    LockKind, Need, Object, Sched, Thread,
    wait::object_type::{MUTANT, NOTIFICATION_EVENT, SEMAPHORE, SYNCHRONIZATION_EVENT, THREAD},
};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

/// `KMODE_EXCEPTION_NOT_HANDLED`: the bug check of status codes that the kernel raises.
const EXCEPTION: u32 = 0x1E;
/// `STATUS_MUTANT_NOT_OWNED`.
const MUTANT_NOT_OWNED: u64 = 0xC000_0046;
/// `STATUS_SEMAPHORE_LIMIT_EXCEEDED`.
const SEMAPHORE_LIMIT_EXCEEDED: u64 = 0xC000_0047;
/// Bytes of a `KTHREAD`, of which drivers know that they can wait for it and nothing else.
const KTHREAD_SIZE: usize = 0x480;

impl Sched {
    /// Makes an event: a notification event, which stays signalled, or a synchronization event, which one wait resets.
    pub fn initialize_event(&self, event: Ptr<KEVENT>, notification: bool, signalled: bool) {
        let kind = if notification { NOTIFICATION_EVENT } else { SYNCHRONIZATION_EVENT };
        self.initialize_object(event.cast(), kind, signalled.into());
    }

    /// Signals an event and returns its state before.
    pub fn set_event(&self, k: &Kernel, event: Ptr<KEVENT>) -> i32 {
        let before = at!(event, Header.SignalState).replace(1);
        self.signalled(k, event.cast());
        before
    }

    /// Ends the waits there are and leaves the event not signalled; returns its state before.
    pub fn pulse_event(&self, k: &Kernel, event: Ptr<KEVENT>) -> i32 {
        let before = self.set_event(k, event);
        at!(event, Header.SignalState).write(0);
        before
    }

    /// Makes a semaphore.
    pub fn initialize_semaphore(&self, semaphore: Ptr<KSEMAPHORE>, count: i32, limit: i32) {
        self.initialize_object(semaphore.cast(), SEMAPHORE, count);
        at!(semaphore, Limit).write(limit);
    }

    /// Adds to a semaphore and returns its count before.
    pub fn release_semaphore(&self, k: &Kernel, semaphore: Ptr<KSEMAPHORE>, adjustment: i32) -> i32 {
        let before = at!(semaphore, Header.SignalState).read();
        let limit = at!(semaphore, Limit).read();
        let Some(after) = before.checked_add(adjustment).filter(|&after| adjustment > 0 && after <= limit) else {
            let sentence = format!("a semaphore at {before} of {limit} is released by {adjustment}");
            Finding::bug_check(EXCEPTION, [SEMAPHORE_LIMIT_EXCEEDED, 0, 0, 0], sentence).raise();
        };
        at!(semaphore, Header.SignalState).write(after);
        self.signalled(k, semaphore.cast());
        before
    }

    /// Makes a mutex that nobody owns.
    pub fn initialize_mutex(&self, mutex: Ptr<KMUTANT>) {
        self.initialize_object(mutex.cast(), MUTANT, 1);
        at!(mutex, OwnerThread).cast().write(0_u64);
        self.initialize_lock(mutex.address());
    }

    /// Releases a mutex that the current thread owns and returns its state before: 1 less the number of acquisitions.
    pub fn release_mutex(&self, k: &Kernel, mutex: Ptr<KMUTANT>) -> i32 {
        let thread = self.current_thread();
        if owner(mutex.cast()) != self.thread_object(k, &thread) {
            let sentence = format!("{} releases a mutex that it does not own", thread.name);
            Finding::bug_check(EXCEPTION, [MUTANT_NOT_OWNED, 0, 0, 0], sentence).raise();
        }
        self.thread_releases(mutex.address());
        let before = at!(mutex, Header.SignalState).read();
        at!(mutex, Header.SignalState).write(before + 1);
        if before == 0 {
            at!(mutex, OwnerThread).cast().write(0_u64);
            self.signalled(k, mutex.cast());
        }
        before
    }

    /// The address of a thread's `KTHREAD`. It lives as long as the machine.
    pub fn thread_object(&self, k: &Kernel, thread: &Thread) -> u64 {
        if thread.object.get() == 0 {
            let object = k.memory.allocate_object_bytes(KTHREAD_SIZE);
            self.initialize_object(object.cast(), THREAD, 0);
            thread.object.set(object.address());
        }
        thread.object.get()
    }

    /// The current thread is over: whoever waits for it goes on.
    pub(super) fn signal_end(&self, k: &Kernel, thread: &Thread) {
        let object = Object::new(thread.object.get());
        if !object.is_null() {
            at!(object, SignalState).write(1);
            self.signalled(k, object);
        }
    }

    /// Waits for an event without a time limit.
    pub fn wait_for_event(&self, k: &Kernel, event: Ptr<KEVENT>, what: &'static str) {
        self.wait(k, what, &[event.cast()], Need::Any, None);
    }
}

/// The address of the thread that owns a mutex; 0 if none does.
pub(super) fn owner(mutex: Object) -> u64 {
    at!(mutex.cast::<KMUTANT>(), OwnerThread).cast().read()
}

/// A thread's wait for a mutex ended: it owns it, once more if it did.
pub(super) fn own(k: &Kernel, thread: &Thread, mutex: Object) {
    let object = k.sched.thread_object(k, thread);
    let state = at!(mutex, SignalState);
    state.write(state.read() - 1);
    at!(mutex.cast::<KMUTANT>(), OwnerThread).cast().write(object);
    k.sched.thread_acquired(k, thread, mutex.address(), LockKind::Mutex);
}
