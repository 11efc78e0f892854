//! What kernel functions write of what lies in drivers' memory. Each page says that the function changes the object; which bytes of
//! it is taken to be the whole object. What the I/O manager's own objects get (IRPs, file objects) is not told.

use super::lines::{By, Lines};
use crate::{kernel::Kernel, memory::Ptr};

const SPIN_LOCK: u64 = 8;
const QUEUED_LOCK_HANDLE: u64 = 24;
/// Where `KLOCK_QUEUE_HANDLE` has the address of the lock.
const LOCK_OF_HANDLE: u64 = 8;
const DPC: u64 = 64;
const TIMER: u64 = 64;
const EVENT: u64 = 24;
const MUTEX: u64 = 56;
const SEMAPHORE: u64 = 32;
const FAST_MUTEX: u64 = 56;
const RESOURCE: u64 = 104;
/// What a retail build uses of it.
const REMOVE_LOCK: u64 = 32;
const RUNDOWN: u64 = 8;
const LIST: u64 = 16;
const DEVICE_QUEUE: u64 = 40;
const WORK_ITEM: u64 = 32;
const WORD: u64 = 8;
const CSQ_CONTEXT: u64 = 32;

/// Objects that a function changes: which argument has the address, and how many bytes there are.
type Objects = &'static [(usize, u64)];

/// Functions, and the objects that they change.
const FUNCTIONS: &[(&[&str], Objects)] = &[
    (
        &[
            "KeAcquireSpinLockRaiseToDpc",
            "KeAcquireSpinLockAtDpcLevel",
            "KeReleaseSpinLock",
            "KeReleaseSpinLockFromDpcLevel",
            "KeTryToAcquireSpinLockAtDpcLevel",
            "KeInitializeSpinLock",
        ],
        &[(0, SPIN_LOCK)],
    ),
    (&["KeAcquireInStackQueuedSpinLock"], &[(0, SPIN_LOCK), (1, QUEUED_LOCK_HANDLE)]),
    (
        &[
            "KeInsertQueueDpc",
            "KeRemoveQueueDpc",
            "KeInitializeDpc",
            "KeSetTargetProcessorDpc",
            "KeSetTargetProcessorDpcEx",
            "KeSetImportanceDpc",
        ],
        &[(0, DPC)],
    ),
    (
        &[
            "KeSetTimer",
            "KeSetTimerEx",
            "KeSetCoalescableTimer",
            "KeCancelTimer",
            "KeInitializeTimer",
            "KeInitializeTimerEx",
        ],
        &[(0, TIMER)],
    ),
    (&["KeSetEvent", "KeResetEvent", "KeClearEvent", "KePulseEvent", "KeInitializeEvent"], &[(0, EVENT)]),
    (&["KeWaitForSingleObject"], &[(0, EVENT)]),
    (&["KeReleaseMutex", "KeInitializeMutex"], &[(0, MUTEX)]),
    (&["KeReleaseSemaphore", "KeInitializeSemaphore"], &[(0, SEMAPHORE)]),
    (
        &[
            "ExAcquireFastMutex",
            "ExAcquireFastMutexUnsafe",
            "ExReleaseFastMutex",
            "ExReleaseFastMutexUnsafe",
            "ExTryToAcquireFastMutex",
            "KeAcquireGuardedMutex",
            "KeAcquireGuardedMutexUnsafe",
            "KeReleaseGuardedMutex",
            "KeReleaseGuardedMutexUnsafe",
            "KeTryToAcquireGuardedMutex",
            "KeInitializeGuardedMutex",
        ],
        &[(0, FAST_MUTEX)],
    ),
    (
        &[
            "ExAcquireResourceExclusiveLite",
            "ExAcquireResourceSharedLite",
            "ExReleaseResourceLite",
            "ExInitializeResourceLite",
            "ExReinitializeResourceLite",
        ],
        &[(0, RESOURCE)],
    ),
    (
        &["IoAcquireRemoveLockEx", "IoReleaseRemoveLockEx", "IoReleaseRemoveLockAndWaitEx", "IoInitializeRemoveLockEx"],
        &[(0, REMOVE_LOCK)],
    ),
    (
        &[
            "ExAcquireRundownProtection",
            "ExReleaseRundownProtection",
            "ExWaitForRundownProtectionRelease",
            "ExReInitializeRundownProtection",
            "ExRundownCompleted",
            "ExInitializeRundownProtection",
        ],
        &[(0, RUNDOWN)],
    ),
    // Those of the cache-aware kind have a counter for each processor, on lines of their own; these go over all of them.
    (
        &[
            "ExWaitForRundownProtectionReleaseCacheAware",
            "ExReInitializeRundownProtectionCacheAware",
            "ExRundownCompletedCacheAware",
        ],
        &[(0, RUNDOWN)],
    ),
    (&["ExInterlockedInsertHeadList", "ExInterlockedInsertTailList"], &[(0, LIST), (1, LIST), (2, SPIN_LOCK)]),
    (&["ExInterlockedRemoveHeadList"], &[(0, LIST), (1, SPIN_LOCK)]),
    (&["ExInterlockedPopEntryList"], &[(0, WORD), (1, SPIN_LOCK)]),
    (&["ExInterlockedPushEntryList"], &[(0, WORD), (1, WORD), (2, SPIN_LOCK)]),
    (&["ExpInterlockedPopEntrySList", "ExpInterlockedFlushSList", "InitializeSListHead"], &[(0, LIST)]),
    (&["ExpInterlockedPushEntrySList"], &[(0, LIST), (1, WORD)]),
    (&["ExInterlockedAddLargeInteger"], &[(0, WORD), (2, SPIN_LOCK)]),
    (&["ExInterlockedAddUlong"], &[(0, 4), (2, SPIN_LOCK)]),
    (&["KeInsertDeviceQueue", "KeInsertByKeyDeviceQueue"], &[(0, DEVICE_QUEUE), (1, 24)]),
    (&["KeRemoveDeviceQueue", "KeRemoveByKeyDeviceQueue", "KeRemoveEntryDeviceQueue"], &[(0, DEVICE_QUEUE)]),
    (&["IoQueueWorkItem", "IoQueueWorkItemEx", "ExQueueWorkItem"], &[(0, WORK_ITEM)]),
    (&["IoCsqInsertIrp", "IoCsqInsertIrpEx"], &[(2, CSQ_CONTEXT)]),
    (&["IoCsqRemoveIrp"], &[(1, CSQ_CONTEXT)]),
];

/// Functions that cannot do without reading and writing memory as one, once at least. Giving a spin lock back takes
/// a plain store. What a function does to the I/O manager's own is not told, and what is called back is counted by itself.
const ATOMIC: &[&str] = &[
    "KeAcquireSpinLockRaiseToDpc",
    "KeAcquireSpinLockAtDpcLevel",
    "KeTryToAcquireSpinLockAtDpcLevel",
    "KeAcquireInStackQueuedSpinLock",
    "KeReleaseInStackQueuedSpinLock",
    "KeAcquireInterruptSpinLock",
    "KeSynchronizeExecution",
    "IoAcquireCancelSpinLock",
    "IoAcquireRemoveLockEx",
    "IoReleaseRemoveLockEx",
    "IoReleaseRemoveLockAndWaitEx",
    "ExAcquireRundownProtection",
    "ExReleaseRundownProtection",
    "ExAcquireRundownProtectionCacheAware",
    "ExReleaseRundownProtectionCacheAware",
    "ObfReferenceObject",
    "ObfDereferenceObject",
    "ExAcquireFastMutex",
    "ExAcquireFastMutexUnsafe",
    "ExReleaseFastMutex",
    "ExReleaseFastMutexUnsafe",
    "KeAcquireGuardedMutex",
    "KeReleaseGuardedMutex",
    "ExAcquireResourceExclusiveLite",
    "ExAcquireResourceSharedLite",
    "ExReleaseResourceLite",
    // The queue, timer table or wait list that others reach for too.
    "KeInsertQueueDpc",
    "KeRemoveQueueDpc",
    "KeSetTimer",
    "KeSetTimerEx",
    "KeSetCoalescableTimer",
    "KeCancelTimer",
    "KeSetEvent",
    "KeResetEvent",
    "KeReleaseMutex",
    "KeReleaseSemaphore",
    "KeWaitForSingleObject",
    "KeInsertDeviceQueue",
    "KeInsertByKeyDeviceQueue",
    "KeRemoveDeviceQueue",
    "KeRemoveByKeyDeviceQueue",
    "KeRemoveEntryDeviceQueue",
    "IoQueueWorkItem",
    "IoQueueWorkItemEx",
    "ExQueueWorkItem",
    "ExInterlockedInsertHeadList",
    "ExInterlockedInsertTailList",
    "ExInterlockedRemoveHeadList",
    "ExInterlockedPopEntryList",
    "ExInterlockedPushEntryList",
    "ExInterlockedAddLargeInteger",
    "ExInterlockedAddUlong",
    "ExpInterlockedPopEntrySList",
    "ExpInterlockedPushEntrySList",
    "ExpInterlockedFlushSList",
    // The cancel routine is exchanged.
    "IoCsqInsertIrp",
    "IoCsqInsertIrpEx",
    "IoCsqRemoveIrp",
    "IoCsqRemoveNextIrp",
];

/// Whether a function reads and writes memory as one.
pub fn is_atomic(name: &str) -> bool {
    ATOMIC.contains(&name)
}

/// Notes what a kernel function is about to write for the driver that calls it.
pub fn by_function(k: &Kernel, name: &'static str, arguments: u64, lines: &mut Lines) {
    let argument = |number: usize| Ptr::<u64>::new(arguments).offset(number).read();
    let Some((_, objects)) = FUNCTIONS.iter().find(|(names, _)| names.contains(&name)) else {
        return by_other_function(k, name, argument(0), lines);
    };
    for &(number, bytes) in *objects {
        let object = argument(number);
        if object != 0 {
            lines.write(k, object, bytes, By::Kernel(name));
        }
    }
}

fn by_other_function(k: &Kernel, name: &'static str, first: u64, lines: &mut Lines) {
    match name {
        "KeReleaseInStackQueuedSpinLock" => {
            let lock = Ptr::<u64>::new(first + LOCK_OF_HANDLE).read();
            lines.write(k, lock, SPIN_LOCK, By::Kernel(name));
        }
        "KeAcquireInterruptSpinLock" | "KeReleaseInterruptSpinLock" | "KeSynchronizeExecution" => {
            if let Some((lock, _)) = k.pnp.connections.lock_of(first) {
                lines.write(k, lock.address(), SPIN_LOCK, By::Kernel(name));
            }
        }
        _ => {}
    }
}

/// Notes what the kernel has written when it calls `what`: a DPC that runs was taken out of its queue. Where a queue's lock is
/// taken, the old IRQL is stored in what is a variable of the kernel function, on the thread's own stack.
pub fn before_callback(k: &Kernel, what: &'static str, arguments: &[u64], lines: &mut Lines) {
    match (what, arguments) {
        ("DPC", &[dpc, ..]) => lines.write(k, dpc, DPC, By::Before(what)),
        ("CsqAcquireLock", &[_, irql]) => lines.leave_out(irql),
        _ => {}
    }
}

/// Bytes of pool that a function is asked for.
pub fn allocated(name: &str, arguments: u64) -> u64 {
    match name {
        "ExAllocatePool2" | "ExAllocatePool3" | "ExAllocatePoolWithTag" => Ptr::<u64>::new(arguments).offset(1).read(),
        _ => 0,
    }
}

/// What a C runtime function writes: start and length. `registers` are its first three arguments.
pub fn by_runtime(name: &str, [first, second, third]: [u64; 3]) -> Option<(u64, u64)> {
    match name {
        "memcpy" | "memmove" | "RtlCopyMemory" | "RtlMoveMemory" | "memset" => Some((first, third)),
        "RtlFillMemory" | "RtlZeroMemory" => Some((first, second)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ATOMIC, FUNCTIONS};
    use crate::exports;

    #[test]
    fn the_functions_of_the_tables_are_functions_that_drivers_can_call() {
        let names = FUNCTIONS.iter().flat_map(|(names, _)| *names).chain(ATOMIC);
        for name in names {
            assert!(exports::find(name).is_some(), "{name}");
        }
    }
}
