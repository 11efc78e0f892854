//! IRQL, spin locks and critical regions.

use windows_sys::Wdk::System::SystemServices::KLOCK_QUEUE_HANDLE;

use super::Export;
use crate::{
    at, export,
    irql::{APC_LEVEL, DISPATCH_LEVEL, Irql, any_level, at_least, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
    sched::LockKind,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("KeGetCurrentIrql", any_level(), ke_get_current_irql),
    export!("KfRaiseIrql", any_level(), kf_raise_irql),
    export!("KeRaiseIrqlToDpcLevel", at_most(DISPATCH_LEVEL), ke_raise_irql_to_dpc_level),
    export!("KeLowerIrql", any_level(), ke_lower_irql),
    export!("KeInitializeSpinLock", any_level(), ke_initialize_spin_lock),
    export!("KeAcquireSpinLockRaiseToDpc", at_most(DISPATCH_LEVEL), ke_acquire_spin_lock_raise_to_dpc),
    export!("KeReleaseSpinLock", exactly(DISPATCH_LEVEL), ke_release_spin_lock),
    export!("KeAcquireSpinLockAtDpcLevel", at_least(DISPATCH_LEVEL), ke_acquire_spin_lock_at_dpc_level),
    export!("KeReleaseSpinLockFromDpcLevel", at_least(DISPATCH_LEVEL), ke_release_spin_lock_from_dpc_level),
    export!("KeTryToAcquireSpinLockAtDpcLevel", at_least(DISPATCH_LEVEL), ke_try_to_acquire_spin_lock_at_dpc_level),
    export!("KeTestSpinLock", any_level(), ke_test_spin_lock),
    export!("KeAcquireInStackQueuedSpinLock", at_most(DISPATCH_LEVEL), ke_acquire_in_stack_queued_spin_lock),
    export!("KeReleaseInStackQueuedSpinLock", exactly(DISPATCH_LEVEL), ke_release_in_stack_queued_spin_lock),
    export!(
        "KeAcquireInStackQueuedSpinLockAtDpcLevel",
        at_least(DISPATCH_LEVEL),
        ke_acquire_in_stack_queued_spin_lock_at_dpc_level
    ),
    export!(
        "KeReleaseInStackQueuedSpinLockFromDpcLevel",
        at_least(DISPATCH_LEVEL),
        ke_release_in_stack_queued_spin_lock_from_dpc_level
    ),
    export!("KeEnterCriticalRegion", at_most(APC_LEVEL), ke_enter_critical_region),
    export!("KeLeaveCriticalRegion", at_most(APC_LEVEL), ke_leave_critical_region),
    export!("KeAreApcsDisabled", at_most(DISPATCH_LEVEL), ke_are_apcs_disabled),
];

/// "`KeGetCurrentIrql` function".
const fn ke_get_current_irql(k: &Kernel) -> u8 {
    k.irql().0
}

/// "`KeRaiseIrql` macro": the function behind it.
fn kf_raise_irql(k: &Kernel, to: u8) -> u8 {
    k.raise_irql(Irql(to)).0
}

/// "`KeRaiseIrqlToDpcLevel` function".
fn ke_raise_irql_to_dpc_level(k: &Kernel) -> u8 {
    k.raise_irql(DISPATCH_LEVEL).0
}

/// "`KeLowerIrql` function".
fn ke_lower_irql(k: &Kernel, to: u8) {
    k.lower_irql(Irql(to));
}

/// "`KeInitializeSpinLock` function".
fn ke_initialize_spin_lock(k: &Kernel, lock: Ptr<usize>) {
    k.sched.initialize_lock(lock.address());
    lock.write(0);
}

/// "`KeAcquireSpinLockRaiseToDpc` function".
fn ke_acquire_spin_lock_raise_to_dpc(k: &Kernel, lock: Ptr<usize>) -> u8 {
    let before = k.raise_irql(DISPATCH_LEVEL);
    k.sched.acquire(k, lock, LockKind::SpinLock);
    before.0
}

/// "`KeReleaseSpinLock` macro".
fn ke_release_spin_lock(k: &Kernel, lock: Ptr<usize>, to: u8) {
    k.sched.release(lock);
    k.lower_irql(Irql(to));
}

/// "`KeAcquireSpinLockAtDpcLevel` macro".
fn ke_acquire_spin_lock_at_dpc_level(k: &Kernel, lock: Ptr<usize>) {
    k.sched.acquire(k, lock, LockKind::SpinLock);
}

/// "`KeReleaseSpinLockFromDpcLevel` macro".
fn ke_release_spin_lock_from_dpc_level(k: &Kernel, lock: Ptr<usize>) {
    k.sched.release(lock);
}

/// "`KeTryToAcquireSpinLockAtDpcLevel` function".
fn ke_try_to_acquire_spin_lock_at_dpc_level(k: &Kernel, lock: Ptr<usize>) -> bool {
    k.sched.try_acquire(k, lock)
}

/// "`KeTestSpinLock` function": whether the lock is free.
fn ke_test_spin_lock(_: &Kernel, lock: Ptr<usize>) -> bool {
    lock.read() == 0
}

/// "`KeAcquireInStackQueuedSpinLock` function". Waiters get it in any order here: the order is nothing a driver may count on.
fn ke_acquire_in_stack_queued_spin_lock(k: &Kernel, lock: Ptr<usize>, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
    let before = k.raise_irql(DISPATCH_LEVEL);
    at!(handle, OldIrql).write(before.0);
    ke_acquire_in_stack_queued_spin_lock_at_dpc_level(k, lock, handle);
}

/// "`KeReleaseInStackQueuedSpinLock` function".
fn ke_release_in_stack_queued_spin_lock(k: &Kernel, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
    ke_release_in_stack_queued_spin_lock_from_dpc_level(k, handle);
    k.lower_irql(Irql(at!(handle, OldIrql).read()));
}

/// "`KeAcquireInStackQueuedSpinLockAtDpcLevel` function".
fn ke_acquire_in_stack_queued_spin_lock_at_dpc_level(k: &Kernel, lock: Ptr<usize>, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
    at!(handle, LockQueue.Lock).cast().write(lock.address());
    k.sched.acquire(k, lock, LockKind::QueuedSpinLock);
}

/// "`KeReleaseInStackQueuedSpinLockFromDpcLevel` function".
fn ke_release_in_stack_queued_spin_lock_from_dpc_level(k: &Kernel, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
    k.sched.release(Ptr::new(at!(handle, LockQueue.Lock).cast().read()));
}

/// "`KeEnterCriticalRegion` function".
fn ke_enter_critical_region(k: &Kernel) {
    k.sched.enter_critical_region(k);
}

/// "`KeLeaveCriticalRegion` function".
fn ke_leave_critical_region(k: &Kernel) {
    k.sched.leave_critical_region();
}

/// "`KeAreApcsDisabled` function".
fn ke_are_apcs_disabled(k: &Kernel) -> bool {
    k.sched.in_critical_region() || k.irql() >= APC_LEVEL
}
