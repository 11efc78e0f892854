//! Fast mutexes and guarded mutexes, which are the same thing.

use windows_sys::Wdk::Foundation::FAST_MUTEX;

use super::Export;
use crate::{
    at, export,
    irql::{APC_LEVEL, Irql, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
    sched::{LockKind, Need},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ExAcquireFastMutex", at_most(APC_LEVEL), ex_acquire_fast_mutex),
    export!("ExAcquireFastMutexUnsafe", at_most(APC_LEVEL), ex_acquire_fast_mutex_unsafe),
    export!("ExReleaseFastMutex", exactly(APC_LEVEL), ex_release_fast_mutex),
    export!("ExReleaseFastMutexUnsafe", at_most(APC_LEVEL), ex_release_fast_mutex_unsafe),
    export!("ExTryToAcquireFastMutex", at_most(APC_LEVEL), ex_try_to_acquire_fast_mutex),
    export!("KeAcquireGuardedMutex", at_most(APC_LEVEL), ex_acquire_fast_mutex),
    export!("KeAcquireGuardedMutexUnsafe", at_most(APC_LEVEL), ex_acquire_fast_mutex_unsafe),
    export!("KeInitializeGuardedMutex", at_most(APC_LEVEL), ke_initialize_guarded_mutex),
    export!("KeReleaseGuardedMutex", at_most(APC_LEVEL), ex_release_fast_mutex),
    export!("KeReleaseGuardedMutexUnsafe", at_most(APC_LEVEL), ex_release_fast_mutex_unsafe),
    export!("KeTryToAcquireGuardedMutex", at_most(APC_LEVEL), ex_try_to_acquire_fast_mutex),
];

/// The state of a mutex that nobody has.
const FREE: i32 = 1;

fn take(k: &Kernel, mutex: Ptr<FAST_MUTEX>) -> bool {
    let is_free = at!(mutex, Count).read() == FREE;
    if is_free {
        at!(mutex, Count).write(0);
        at!(mutex, Owner).cast().write(k.current_thread_object());
        k.sched.thread_acquired(k, &k.current_thread(), mutex.address(), LockKind::FastMutex);
    }
    is_free
}

fn wait(k: &Kernel, mutex: Ptr<FAST_MUTEX>) {
    k.sched.thread_acquires(k, mutex.address(), LockKind::FastMutex);
    let waiting = at!(mutex, Contention);
    while !take(k, mutex) {
        waiting.write(waiting.read() + 1);
        k.sched.wait(k, "a fast mutex", &[at!(mutex, Event).cast()], Need::Any, None);
        waiting.write(waiting.read() - 1);
    }
}

fn release(k: &Kernel, mutex: Ptr<FAST_MUTEX>) {
    k.sched.thread_releases(mutex.address());
    at!(mutex, Owner).cast().write(0_u64);
    at!(mutex, Count).write(FREE);
    if at!(mutex, Contention).read() != 0 {
        k.set_event(at!(mutex, Event));
    }
}

/// "`KeInitializeGuardedMutex` function"; "`ExInitializeFastMutex` function" is inlined by the headers.
fn ke_initialize_guarded_mutex(k: &Kernel, mutex: Ptr<FAST_MUTEX>) {
    k.sched.initialize_lock(mutex.address());
    at!(mutex, Count).write(FREE);
    at!(mutex, Owner).cast().write(0_u64);
    at!(mutex, Contention).write(0);
    k.initialize_event(at!(mutex, Event), false, false);
}

/// "`ExAcquireFastMutex` function".
fn ex_acquire_fast_mutex(k: &Kernel, mutex: Ptr<FAST_MUTEX>) {
    let before = k.raise_irql(APC_LEVEL);
    wait(k, mutex);
    at!(mutex, OldIrql).write(before.0.into());
}

/// "`ExAcquireFastMutexUnsafe` function": the caller holds off APCs itself.
fn ex_acquire_fast_mutex_unsafe(k: &Kernel, mutex: Ptr<FAST_MUTEX>) {
    wait(k, mutex);
}

/// "`ExTryToAcquireFastMutex` function".
fn ex_try_to_acquire_fast_mutex(k: &Kernel, mutex: Ptr<FAST_MUTEX>) -> bool {
    let before = k.raise_irql(APC_LEVEL);
    let taken = take(k, mutex);
    if taken {
        at!(mutex, OldIrql).write(before.0.into());
    } else {
        k.lower_irql(before);
    }
    taken
}

/// "`ExReleaseFastMutex` function".
#[allow(clippy::cast_possible_truncation, reason = "the field has a level")]
fn ex_release_fast_mutex(k: &Kernel, mutex: Ptr<FAST_MUTEX>) {
    let before = Irql(at!(mutex, OldIrql).read() as u8);
    release(k, mutex);
    k.lower_irql(before);
}

/// "`ExReleaseFastMutexUnsafe` function".
fn ex_release_fast_mutex_unsafe(k: &Kernel, mutex: Ptr<FAST_MUTEX>) {
    release(k, mutex);
}
