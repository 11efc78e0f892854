//! Dispatcher objects and the threads that wait for them. The objects lie in the machine's memory, as drivers see them; who waits is
//! kept here.

use std::{ops::Range, rc::Rc};

use windows_sys::Wdk::Foundation::DISPATCHER_HEADER;

use super::{
    LockKind, Sched, Thread,
    block::{SUCCESS, TIMEOUT},
};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

/// A dispatcher object.
pub type Object = Ptr<DISPATCHER_HEADER>;

/// Types of dispatcher objects, in their first byte.
pub mod object_type {
    /// Event that stays signalled.
    pub const NOTIFICATION_EVENT: u8 = 0;
    /// Event that one wait resets.
    pub const SYNCHRONIZATION_EVENT: u8 = 1;
    /// Mutex.
    pub const MUTANT: u8 = 2;
    /// Semaphore.
    pub const SEMAPHORE: u8 = 5;
    /// Thread.
    pub const THREAD: u8 = 6;
    /// Timer that stays signalled.
    pub const NOTIFICATION_TIMER: u8 = 8;
    /// Timer that one wait resets.
    pub const SYNCHRONIZATION_TIMER: u8 = 9;
}

/// In `WaitListHead.Flink` of an object that threads wait for. One that nothing waits for points to itself.
const WAITED_FOR: u64 = 1;

/// What a wait needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// One of the objects.
    Any,
    /// Every object at once.
    All,
}

impl Sched {
    /// Makes an object that nothing waits for.
    pub(super) fn initialize_object(&self, object: Object, kind: u8, state: i32) {
        if self.waiters.borrow().contains_key(&object.address()) {
            let sentence = "an object is initialised while threads wait for it";
            Finding::bug_check(super::VERIFIER, [0, object.address(), 0, 0], sentence).raise();
        }
        at!(object, Anonymous.Anonymous1.Lock).write(i32::from(kind));
        at!(object, SignalState).write(state);
        not_waited_for(object);
    }

    /// Waits for objects until virtual time `deadline`; 0 does not wait. Returns the status of the wait: for [`Need::Any`] the position of
    /// the object that ended it.
    pub fn wait(&self, k: &Kernel, what: &'static str, objects: &[Object], need: Need, deadline: Option<u64>) -> i32 {
        for &object in objects {
            check(object);
            if kind_of(object) == object_type::MUTANT {
                self.thread_acquires(k, object.address(), LockKind::Mutex);
            }
        }
        let thread = self.current_thread();
        if let Some(status) = satisfy(k, &thread, objects, need) {
            return status;
        }
        if deadline == Some(0) {
            return TIMEOUT;
        }
        self.check_wait(k, what);
        if !objects.iter().all(|&object| kind_of(object) == object_type::MUTANT) {
            self.check_may_block(what);
        }
        thread.objects.replace(objects.to_vec());
        thread.need.set(need);
        for object in objects {
            at!(*object, WaitListHead.Flink).cast().write(WAITED_FOR);
            self.waiters.borrow_mut().entry(object.address()).or_default().push(Rc::clone(&thread));
        }
        self.block_with_deadline(k, what, deadline)
    }

    /// Ends the waits that an object which was signalled allows, first come, first served.
    pub(super) fn signalled(&self, k: &Kernel, object: Object) {
        if !is_waited_for(object) {
            return;
        }
        while let Some((thread, status)) = self.first_satisfied(k, object) {
            self.forget_waiter(&thread);
            self.unblock(k, &thread, status);
        }
    }

    fn first_satisfied(&self, k: &Kernel, object: Object) -> Option<(Rc<Thread>, i32)> {
        let waiters = self.waiters.borrow();
        waiters.get(&object.address())?.iter().find_map(|thread| {
            let status = satisfy(k, thread, &thread.objects.borrow(), thread.need.get())?;
            Some((Rc::clone(thread), status))
        })
    }

    /// A thread waits for none of its objects any longer.
    pub(super) fn forget_waiter(&self, thread: &Rc<Thread>) {
        for object in thread.objects.take() {
            let mut waiters = self.waiters.borrow_mut();
            let Some(threads) = waiters.get_mut(&object.address()) else { continue };
            threads.retain(|waiter| !Rc::ptr_eq(waiter, thread));
            if threads.is_empty() {
                waiters.remove(&object.address());
                not_waited_for(object);
            }
        }
    }

    /// Stops the run if memory that is given back holds something the scheduler still uses.
    pub fn check_freed(&self, address: u64, length: u64) {
        let range = address..address.saturating_add(length);
        if let Some((object, threads)) = self.waiters.borrow().range(range.clone()).next() {
            let names: Vec<&str> = threads.iter().map(|thread| &*thread.name).collect();
            let sentence = format!("memory is freed that holds an object for which threads wait: {}", names.join(", "));
            Finding::bug_check(super::VERIFIER, [0, *object, address, length], sentence).raise();
        }
        self.free_locks(address, length);
        self.check_freed_timers(&range);
        self.check_freed_dpcs(&range);
    }

    /// Stops the run if something is under way that would call a driver whose image lies in these addresses.
    pub fn check_unloaded(&self, image: &Range<u64>, name: &str) {
        self.check_unloaded_timers(image, name);
        self.check_unloaded_dpcs(image, name);
        self.free_locks(image.start, image.end - image.start);
    }
}

/// If the objects allow the thread's wait to end, takes what it takes from them and returns the status.
fn satisfy(k: &Kernel, thread: &Thread, objects: &[Object], need: Need) -> Option<i32> {
    match need {
        Need::Any => {
            let position = objects.iter().position(|&object| is_signalled(thread, object))?;
            take(k, thread, objects[position]);
            i32::try_from(position).ok()
        }
        Need::All => {
            let all = objects.iter().all(|&object| is_signalled(thread, object));
            all.then(|| objects.iter().for_each(|&object| take(k, thread, object)))?;
            Some(SUCCESS)
        }
    }
}

fn kind_of(object: Object) -> u8 {
    at!(object, Anonymous.Anonymous2.Type).read()
}

fn is_signalled(thread: &Thread, object: Object) -> bool {
    let owned = || kind_of(object) == object_type::MUTANT && super::objects::owner(object) == thread.object.get();
    at!(object, SignalState).read() > 0 || owned()
}

/// What the end of a wait does to an object.
fn take(k: &Kernel, thread: &Thread, object: Object) {
    let state = at!(object, SignalState);
    match kind_of(object) {
        object_type::SYNCHRONIZATION_EVENT | object_type::SYNCHRONIZATION_TIMER => state.write(0),
        object_type::SEMAPHORE => state.write(state.read() - 1),
        object_type::MUTANT => super::objects::own(k, thread, object),
        _ => (),
    }
}

/// Stops the run if threads cannot wait for what lies there.
fn check(object: Object) {
    let known = [0, 1, 2, 5, 6, 8, 9].contains(&kind_of(object));
    if !known || at!(object, WaitListHead.Flink).read().is_null() {
        let sentence = "a wait for an object that was not initialised";
        Finding::bug_check(super::VERIFIER, [0, object.address(), 0, 0], sentence).raise();
    }
}

fn not_waited_for(object: Object) {
    let head = at!(object, WaitListHead);
    at!(head, Flink).cast().write(head.address());
    at!(head, Blink).cast().write(head.address());
}

fn is_waited_for(object: Object) -> bool {
    match at!(object, WaitListHead.Flink).cast::<u64>().read() {
        WAITED_FOR => true,
        0 => {
            let sentence = "an object is signalled that was not initialised";
            Finding::bug_check(super::VERIFIER, [0, object.address(), 0, 0], sentence).raise()
        }
        _ => false,
    }
}
