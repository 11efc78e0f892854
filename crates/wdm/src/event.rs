//! Events and waiting ("Event Objects", "Defining and Using an Event Object").

use core::ffi::c_void;
use core::ptr;

use wdk_sys::{_EVENT_TYPE, _KWAIT_REASON, _WAIT_TYPE, KEVENT, STATUS_TIMEOUT, STATUS_WAIT_0, STATUS_WAIT_1, ntddk};

use crate::irql::Passive;
use crate::kernel::{KERNEL_MODE, Kernel, NO};
use crate::pool::{PoolBox, Tag};
use crate::status::{NtStatus, Result};
use crate::time::Interval;

/// What a satisfied wait does to an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// Nothing: it stays signaled until it is cleared.
    Notification,
    /// Clears it: one waiter goes on.
    Synchronization,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The object was signaled.
    Satisfied,
    /// The interval passed first.
    TimedOut,
}

/// How a wait for either of two objects ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EitherWait {
    /// The first object was signaled.
    First,
    /// The second object was signaled.
    Second,
    /// The interval passed first.
    TimedOut,
}

/// A kernel dispatcher object that threads can wait for.
///
/// # Safety
///
/// [`Waitable::object`] returns a dispatcher object that lives as long as `self`.
pub unsafe trait Waitable {
    /// The dispatcher object.
    fn object(&self) -> *mut c_void;
}

/// An event object.
pub struct Event {
    event: PoolBox<Kernel<KEVENT>>,
}

// SAFETY: the event lies in pool for as long as `self` lives.
unsafe impl Waitable for Event {
    fn object(&self) -> *mut c_void {
        self.event.get().cast()
    }
}

impl Event {
    /// A new event ("`KeInitializeEvent` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, kind: EventKind, signaled: bool) -> Result<Self> {
        let event = PoolBox::new(tag, Kernel::zeroed())?;
        let kind = match kind {
            EventKind::Notification => _EVENT_TYPE::NotificationEvent,
            EventKind::Synchronization => _EVENT_TYPE::SynchronizationEvent,
        };
        // SAFETY: the event lies in nonpaged pool, where it stays; it is initialised once, before any use.
        unsafe { ntddk::KeInitializeEvent(event.get(), kind, signaled.into()) };
        Ok(Self { event })
    }

    /// Signals it ("`KeSetEvent` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn set(&self) {
        // SAFETY: the event is initialised; without Wait DISPATCH_LEVEL is allowed.
        unsafe { ntddk::KeSetEvent(self.event.get(), 0, NO) };
    }

    /// Makes it not signaled ("`KeClearEvent` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn clear(&self) {
        // SAFETY: the event is initialised.
        unsafe { ntddk::KeClearEvent(self.event.get()) };
    }

    /// Whether it is signaled at this moment ("`KeReadStateEvent` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn is_set(&self) -> bool {
        // SAFETY: the event is initialised.
        let state = unsafe { ntddk::KeReadStateEvent(self.event.get()) };
        state != 0
    }

    /// Waits until it is signaled ("`KeWaitForSingleObject` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn wait(&self, passive: Passive<'_>) {
        wait_for(self, None, passive);
    }

    /// Waits until it is signaled or `interval` has passed.
    ///
    /// IRQL: PASSIVE_LEVEL.
    #[must_use]
    pub fn wait_for(&self, interval: Interval, passive: Passive<'_>) -> Wait {
        wait_for(self, Some(interval), passive)
    }
}

/// Waits until `object` is signaled or `interval`, where there is one, has passed ("`KeWaitForSingleObject` function").
///
/// IRQL: PASSIVE_LEVEL.
pub fn wait_for(object: &impl Waitable, interval: Option<Interval>, _: Passive<'_>) -> Wait {
    let mut due = interval.map(Interval::relative);
    let due = due.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: the object is a live dispatcher object, the interval outlives the call, and PASSIVE_LEVEL by the token
    // allows to wait. Waiting in kernel mode and not alertable keeps the stack resident and ends for no other reason.
    let status =
        unsafe { ntddk::KeWaitForSingleObject(object.object(), _KWAIT_REASON::Executive, KERNEL_MODE, NO, due) };
    if status == STATUS_TIMEOUT { Wait::TimedOut } else { Wait::Satisfied }
}

/// Waits until `first` or `second` is signaled or `interval`, where there is one, has passed
/// ("`KeWaitForMultipleObjects` function").
///
/// IRQL: PASSIVE_LEVEL.
///
/// # Errors
///
/// What the kernel answers beside these three.
pub fn wait_for_either(
    first: &impl Waitable,
    second: &impl Waitable,
    interval: Option<Interval>,
    _: Passive<'_>,
) -> Result<EitherWait> {
    let mut objects = [first.object(), second.object()];
    let mut due = interval.map(Interval::relative);
    let due = due.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: as in `wait_for`; up to THREAD_WAIT_OBJECTS (3) objects need no wait blocks of ours.
    let status = unsafe {
        ntddk::KeWaitForMultipleObjects(
            2,
            objects.as_mut_ptr(),
            _WAIT_TYPE::WaitAny,
            _KWAIT_REASON::Executive,
            KERNEL_MODE,
            NO,
            due,
            ptr::null_mut(),
        )
    };
    match status {
        STATUS_WAIT_0 => Ok(EitherWait::First),
        STATUS_WAIT_1 => Ok(EitherWait::Second),
        STATUS_TIMEOUT => Ok(EitherWait::TimedOut),
        other => Err(NtStatus::new(other)),
    }
}
