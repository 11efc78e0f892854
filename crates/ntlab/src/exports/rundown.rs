//! Run-down protection.

use super::Export;
use crate::{
    export,
    finding::Finding,
    irql::{APC_LEVEL, DISPATCH_LEVEL, any_level, at_most},
    kernel::Kernel,
    memory::{Owner, PoolKind, Ptr, Request, Tag},
    sched::VERIFIER,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ExInitializeRundownProtection", at_most(APC_LEVEL), ex_initialize_rundown_protection),
    export!("ExReInitializeRundownProtection", at_most(APC_LEVEL), ex_re_initialize_rundown_protection),
    export!("ExAcquireRundownProtection", at_most(DISPATCH_LEVEL), ex_acquire_rundown_protection),
    export!("ExReleaseRundownProtection", at_most(DISPATCH_LEVEL), ex_release_rundown_protection),
    export!("ExWaitForRundownProtectionRelease", at_most(APC_LEVEL), ex_wait_for_rundown_protection_release),
    export!("ExRundownCompleted", at_most(APC_LEVEL), ex_rundown_completed),
    export!("ExAllocateCacheAwareRundownProtection", at_most(APC_LEVEL), ex_allocate_cache_aware_rundown_protection),
    export!("ExFreeCacheAwareRundownProtection", at_most(APC_LEVEL), ex_free_cache_aware_rundown_protection),
    export!("ExReInitializeRundownProtectionCacheAware", any_level(), ex_re_initialize_rundown_protection),
    export!("ExAcquireRundownProtectionCacheAware", any_level(), ex_acquire_rundown_protection),
    export!("ExReleaseRundownProtectionCacheAware", any_level(), ex_release_rundown_protection),
    export!("ExWaitForRundownProtectionReleaseCacheAware", any_level(), ex_wait_for_rundown_protection_release),
    export!("ExRundownCompletedCacheAware", any_level(), ex_rundown_completed),
];

/// Bit 0 of `EX_RUNDOWN_REF.Count`: the run-down has begun, no more is acquired.
const RUNDOWN: u64 = 1;
/// One acquisition.
const ONE: u64 = 2;

/// "`ExInitializeRundownProtection` function".
fn ex_initialize_rundown_protection(_: &Kernel, reference: Ptr<u64>) {
    reference.write(0);
}

/// "`ExReInitializeRundownProtection` function", "`ExReInitializeRundownProtectionCacheAware` function": only after the run-down.
fn ex_re_initialize_rundown_protection(_: &Kernel, reference: Ptr<u64>) {
    if reference.replace(0) != RUNDOWN {
        misuse(reference, "run-down protection is initialised again before it was run down").raise();
    }
}

/// "`ExAcquireRundownProtection` function", "`ExAcquireRundownProtectionCacheAware` function".
fn ex_acquire_rundown_protection(_: &Kernel, reference: Ptr<u64>) -> bool {
    let count = reference.read();
    let free = count & RUNDOWN == 0;
    if free {
        reference.write(count + ONE);
    }
    free
}

/// "`ExReleaseRundownProtection` function", "`ExReleaseRundownProtectionCacheAware` function".
fn ex_release_rundown_protection(_: &Kernel, reference: Ptr<u64>) {
    match reference.read().checked_sub(ONE) {
        Some(count) => reference.write(count),
        None => misuse(reference, "run-down protection is released that was not acquired").raise(),
    }
}

/// "`ExWaitForRundownProtectionRelease` function", "`ExWaitForRundownProtectionReleaseCacheAware` function".
fn ex_wait_for_rundown_protection_release(k: &Kernel, reference: Ptr<u64>) {
    reference.write(reference.read() | RUNDOWN);
    k.block_until("the release of run-down protection", |_| reference.read() == RUNDOWN, None);
}

/// "`ExRundownCompleted` function", "`ExRundownCompletedCacheAware` function".
fn ex_rundown_completed(_: &Kernel, reference: Ptr<u64>) {
    reference.write(RUNDOWN);
}

/// "`ExAllocateCacheAwareRundownProtection` function". What is in the structure is the system's own affair: here it is one count.
fn ex_allocate_cache_aware_rundown_protection(k: &Kernel, kind: i32, tag: u32) -> Ptr<u64> {
    // POOL_TYPE: NonPagedPool, PagedPool, NonPagedPoolNx.
    let kind = match kind {
        0 => PoolKind::NonPagedExecute,
        1 => PoolKind::Paged,
        512 => PoolKind::NonPaged,
        _ => Finding::not_modelled(format!("ExAllocateCacheAwareRundownProtection: pool type {kind}")).raise(),
    };
    let request =
        Request { kind, bytes: 8, tag: Tag(tag), zeroed: true, alignment: 8, node: None, owner: Owner::Driver };
    k.memory.pool.allocate(request, k.exec.driver_stack()).cast()
}

/// "`ExFreeCacheAwareRundownProtection` function".
fn ex_free_cache_aware_rundown_protection(k: &Kernel, reference: Ptr<u64>) {
    if reference.read() >= ONE {
        misuse(reference, "run-down protection is freed while it is acquired").raise();
    }
    k.memory.pool.free(reference.address(), None, k.exec.driver_stack());
}

fn misuse(reference: Ptr<u64>, sentence: &str) -> Finding {
    Finding::bug_check(VERIFIER, [0, reference.address(), 0, 0], sentence)
}
