//! Kernel functions that requests call, declared as what they are: imported.
//!
//! `wdk_sys::ntddk` does not say that they are, so that a call from there goes to a jump through the import table, one for each
//! function. A call from here goes through the table itself.

use wdk_sys::{
    BOOLEAN, CCHAR, KIRQL, KPROCESSOR_MODE, MEMORY_CACHING_TYPE, MM_PAGE_PRIORITY, PEX_RUNDOWN_REF_CACHE_AWARE,
    PIO_CSQ, PIO_REMOVE_LOCK, PIRP, PKSPIN_LOCK, PMDLX, PPROCESSOR_NUMBER, PRKDPC, PULONG64, PVOID, ULONG, ULONG64,
    USHORT, ntddk,
};

/// Declares functions of the kernel, each with the type that it has in `wdk_sys::ntddk`.
macro_rules! imported {
    ($($name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        #[link(name = "ntoskrnl", kind = "dylib")]
        unsafe extern "C" {
            $(pub fn $name($($argument: $kind),*) $(-> $result)?;)*
        }
        $(const _: [unsafe extern "C" fn($($kind),*) $(-> $result)?; 2] = [ntddk::$name, $name];)*
    };
}

imported! {
    ExAcquireRundownProtectionCacheAware(protection: PEX_RUNDOWN_REF_CACHE_AWARE) -> BOOLEAN;
    ExReleaseRundownProtectionCacheAware(protection: PEX_RUNDOWN_REF_CACHE_AWARE);
    IoCsqRemoveNextIrp(csq: PIO_CSQ, context: PVOID) -> PIRP;
    IoReleaseRemoveLockEx(lock: PIO_REMOVE_LOCK, tag: PVOID, size: ULONG);
    IofCompleteRequest(irp: PIRP, boost: CCHAR);
    KeAcquireSpinLockAtDpcLevel(lock: PKSPIN_LOCK);
    KeAcquireSpinLockRaiseToDpc(lock: PKSPIN_LOCK) -> KIRQL;
    KeGetCurrentProcessorNumberEx(number: PPROCESSOR_NUMBER) -> ULONG;
    KeInsertQueueDpc(dpc: PRKDPC, argument1: PVOID, argument2: PVOID) -> BOOLEAN;
    KeQueryActiveProcessorCountEx(group: USHORT) -> ULONG;
    KeQueryInterruptTimePrecise(counter: PULONG64) -> ULONG64;
    KeReleaseSpinLock(lock: PKSPIN_LOCK, irql: KIRQL);
    KeReleaseSpinLockFromDpcLevel(lock: PKSPIN_LOCK);
    MmMapLockedPagesSpecifyCache(
        mdl: PMDLX,
        mode: KPROCESSOR_MODE,
        caching: MEMORY_CACHING_TYPE,
        address: PVOID,
        bug_check: ULONG,
        priority: MM_PAGE_PRIORITY
    ) -> PVOID;
}
