//! Events, semaphores, mutexes and waits.

use windows_sys::{
    Wdk::{
        Foundation::{DISPATCHER_HEADER, KEVENT, KMUTANT},
        System::SystemServices::KSEMAPHORE,
    },
    Win32::Foundation::{STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH},
};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    io::handle::Target,
    irql::{APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
    sched::{Need, Object, VERIFIER},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("KeInitializeEvent", any_level(), ke_initialize_event),
    export!("KeSetEvent", at_most(DISPATCH_LEVEL), ke_set_event),
    export!("KeResetEvent", at_most(DISPATCH_LEVEL), ke_reset_event),
    export!("KeClearEvent", at_most(DISPATCH_LEVEL), ke_clear_event),
    export!("KePulseEvent", at_most(DISPATCH_LEVEL), ke_pulse_event),
    export!("KeReadStateEvent", at_most(DISPATCH_LEVEL), ke_read_state_event),
    export!("KeInitializeSemaphore", exactly(PASSIVE_LEVEL), ke_initialize_semaphore),
    export!("KeReleaseSemaphore", at_most(DISPATCH_LEVEL), ke_release_semaphore),
    export!("KeReadStateSemaphore", any_level(), ke_read_state_semaphore),
    export!("KeInitializeMutex", any_level(), ke_initialize_mutex),
    export!("KeReleaseMutex", at_most(DISPATCH_LEVEL), ke_release_mutex),
    export!("KeReadStateMutex", at_most(DISPATCH_LEVEL), ke_read_state_mutex),
    export!("KeWaitForSingleObject", at_most(DISPATCH_LEVEL), ke_wait_for_single_object),
    export!("KeWaitForMultipleObjects", at_most(DISPATCH_LEVEL), ke_wait_for_multiple_objects),
    export!("ZwWaitForSingleObject", exactly(PASSIVE_LEVEL), zw_wait_for_single_object),
    export!("KeDelayExecutionThread", at_most(APC_LEVEL), ke_delay_execution_thread),
];

/// `MAXIMUM_WAIT_OBJECTS_EXCEEDED`.
const TOO_MANY_OBJECTS: u32 = 0xC;
/// "The thread waits at IRQL equals `DISPATCH_LEVEL` and the Timeout is NULL."
const WAIT_WITHOUT_TIMEOUT: u64 = 0x121;
/// "The thread waits at `DISPATCH_LEVEL` and Timeout value is not equal to zero."
const WAIT_WITH_TIMEOUT: u64 = 0x122;
/// `THREAD_WAIT_OBJECTS`: as many wait blocks a thread brings along.
const THREAD_WAIT_OBJECTS: usize = 3;
/// `MAXIMUM_WAIT_OBJECTS`.
const MAXIMUM_WAIT_OBJECTS: usize = 64;

/// "`KeInitializeEvent` function".
fn ke_initialize_event(k: &Kernel, event: Ptr<KEVENT>, kind: i32, state: bool) {
    let notification = match kind {
        0 => true,
        1 => false,
        _ => Finding::not_modelled(format!("KeInitializeEvent: event type {kind}")).raise(),
    };
    k.initialize_event(event, notification, state);
}

/// "`KeSetEvent` function".
fn ke_set_event(k: &Kernel, event: Ptr<KEVENT>, _increment: i32, wait: bool) -> i32 {
    refuse_wait("KeSetEvent", wait);
    k.set_event(event)
}

/// "`KeResetEvent` function".
fn ke_reset_event(_: &Kernel, event: Ptr<KEVENT>) -> i32 {
    at!(event, Header.SignalState).replace(0)
}

/// "`KeClearEvent` function".
fn ke_clear_event(_: &Kernel, event: Ptr<KEVENT>) {
    at!(event, Header.SignalState).write(0);
}

/// "`KePulseEvent` function".
fn ke_pulse_event(k: &Kernel, event: Ptr<KEVENT>, _increment: i32, wait: bool) -> i32 {
    refuse_wait("KePulseEvent", wait);
    k.sched.pulse_event(k, event)
}

/// "`KeReadStateEvent` function".
fn ke_read_state_event(_: &Kernel, event: Ptr<KEVENT>) -> i32 {
    at!(event, Header.SignalState).read()
}

/// "`KeInitializeSemaphore` function".
fn ke_initialize_semaphore(k: &Kernel, semaphore: Ptr<KSEMAPHORE>, count: i32, limit: i32) {
    k.sched.initialize_semaphore(semaphore, count, limit);
}

/// "`KeReleaseSemaphore` function".
fn ke_release_semaphore(k: &Kernel, semaphore: Ptr<KSEMAPHORE>, _increment: i32, adjustment: i32, wait: bool) -> i32 {
    refuse_wait("KeReleaseSemaphore", wait);
    k.sched.release_semaphore(k, semaphore, adjustment)
}

/// "`KeReadStateSemaphore` function".
fn ke_read_state_semaphore(_: &Kernel, semaphore: Ptr<KSEMAPHORE>) -> i32 {
    at!(semaphore, Header.SignalState).read()
}

/// "`KeInitializeMutex` function".
fn ke_initialize_mutex(k: &Kernel, mutex: Ptr<KMUTANT>, _level: u32) {
    k.sched.initialize_mutex(mutex);
}

/// "`KeReleaseMutex` function".
fn ke_release_mutex(k: &Kernel, mutex: Ptr<KMUTANT>, wait: bool) -> i32 {
    refuse_wait("KeReleaseMutex", wait);
    k.sched.release_mutex(k, mutex)
}

/// "`KeReadStateMutex` function".
fn ke_read_state_mutex(_: &Kernel, mutex: Ptr<KMUTANT>) -> i32 {
    at!(mutex, Header.SignalState).read()
}

/// "`KeWaitForSingleObject` function". Nothing alerts threads here, so that an alertable wait is like any other.
fn ke_wait_for_single_object(
    k: &Kernel,
    object: Ptr<DISPATCHER_HEADER>,
    _reason: i32,
    _mode: i8,
    _alertable: bool,
    timeout: Ptr<i64>,
) -> i32 {
    check_level(k, "KeWaitForSingleObject", object.address(), timeout);
    k.sched.wait(k, "KeWaitForSingleObject", &[object], Need::Any, deadline(k, timeout))
}

/// "`KeWaitForMultipleObjects` function".
#[allow(clippy::too_many_arguments, reason = "it has so many")]
fn ke_wait_for_multiple_objects(
    k: &Kernel,
    count: u32,
    objects: Ptr<u64>,
    wait_type: i32,
    _reason: i32,
    _mode: i8,
    _alertable: bool,
    timeout: Ptr<i64>,
    wait_blocks: Ptr<u8>,
) -> i32 {
    check_level(k, "KeWaitForMultipleObjects", objects.address(), timeout);
    let count = count as usize;
    let most = if wait_blocks.is_null() { THREAD_WAIT_OBJECTS } else { MAXIMUM_WAIT_OBJECTS };
    if count > most {
        let sentence = format!("KeWaitForMultipleObjects: {count} objects, at most {most} with these wait blocks");
        Finding::bug_check(TOO_MANY_OBJECTS, [0; 4], sentence).raise();
    }
    let need = match wait_type {
        0 => Need::All,
        1 => Need::Any,
        _ => Finding::not_modelled(format!("KeWaitForMultipleObjects: wait type {wait_type}")).raise(),
    };
    let objects: Vec<Object> = (0..count).map(|position| Object::new(objects.offset(position).read())).collect();
    k.sched.wait(k, "KeWaitForMultipleObjects", &objects, need, deadline(k, timeout))
}

/// "`ZwWaitForSingleObject` function".
fn zw_wait_for_single_object(k: &Kernel, handle: u64, _alertable: bool, timeout: Ptr<i64>) -> i32 {
    let object = match k.io.handles.get(handle).map(|open| open.target) {
        Some(Target::Event(event)) => event.cast(),
        Some(Target::Object(object)) => Object::new(object),
        Some(Target::Key(_)) => return STATUS_OBJECT_TYPE_MISMATCH,
        None => return STATUS_INVALID_HANDLE,
    };
    k.sched.wait(k, "ZwWaitForSingleObject", &[object], Need::Any, deadline(k, timeout))
}

/// "`KeDelayExecutionThread` function".
fn ke_delay_execution_thread(k: &Kernel, _mode: i8, _alertable: bool, interval: Ptr<i64>) -> i32 {
    k.sched.delay(k, "KeDelayExecutionThread", k.sched.due(interval.read()));
    0
}

/// Stops the run where a wait that could last is asked for at `DISPATCH_LEVEL`, also if it would not last this time.
fn check_level(k: &Kernel, function: &str, objects: u64, timeout: Ptr<i64>) {
    let irql = k.irql();
    if irql < DISPATCH_LEVEL {
        return;
    }
    let (violation, lasts) = match timeout.is_null() {
        true => (WAIT_WITHOUT_TIMEOUT, "without a time-out"),
        false if timeout.read() != 0 => (WAIT_WITH_TIMEOUT, "with a time-out that is not 0"),
        false => return,
    };
    let sentence = format!("{function} at {irql} {lasts}; threads may wait below DISPATCH_LEVEL only");
    Finding::bug_check(VERIFIER, [violation, irql.0.into(), objects, timeout.address()], sentence).raise();
}

/// The virtual time at which a wait ends; none for a null pointer, 0 for a wait that is none.
fn deadline(k: &Kernel, timeout: Ptr<i64>) -> Option<u64> {
    if timeout.is_null() {
        return None;
    }
    match timeout.read() {
        0 => Some(0),
        timeout => Some(k.sched.due(timeout)),
    }
}

/// With `Wait` a call hands the dispatcher lock over to the wait that follows, at raised IRQL.
fn refuse_wait(function: &str, wait: bool) {
    if wait {
        Finding::not_modelled(format!("{function}: Wait = TRUE")).raise();
    }
}
