//! At which levels the kernel calls drivers, and what it is if they return at another one.

use crate::{
    finding::Finding,
    irql::{DIRQL_MAX, DIRQL_MIN, DISPATCH_LEVEL, Irql, IrqlRange, PASSIVE_LEVEL, at_most, exactly},
    sched::VERIFIER,
};

/// A kind of call into a driver.
#[derive(Clone, Copy, Debug)]
pub struct Callback {
    /// What [`Kernel::call`](crate::kernel::Kernel::call) is told; for dispatch routines how that begins.
    pub name: &'static str,
    /// Its type in the headers.
    pub kind: &'static str,
    /// The levels it is called at.
    pub irql: IrqlRange,
    /// Where the levels are from, if not from the "IRQL" field of the type's page.
    pub source: Option<&'static str>,
}

const fn documented(name: &'static str, kind: &'static str, irql: IrqlRange) -> Callback {
    Callback { name, kind, irql, source: None }
}

const fn by(name: &'static str, kind: &'static str, irql: IrqlRange, source: &'static str) -> Callback {
    Callback { name, kind, irql, source: Some(source) }
}

const DEVICE_LEVELS: IrqlRange = IrqlRange { lowest: DIRQL_MIN, highest: DIRQL_MAX };
const CSQ: &str = "\"Cancel-Safe IRP Queues\": with the queue's lock held, at the level that acquiring it left";

const CSQ_LOCK: &str = "\"Cancel-Safe IRP Queues\": where the queue's functions are called, and any lock may be used";

/// Every kind of call into a driver.
pub const CALLBACKS: &[Callback] = &[
    documented("DriverEntry", "DRIVER_INITIALIZE", exactly(PASSIVE_LEVEL)),
    documented("DriverUnload", "DRIVER_UNLOAD", exactly(PASSIVE_LEVEL)),
    documented("AddDevice", "DRIVER_ADD_DEVICE", exactly(PASSIVE_LEVEL)),
    by("Dispatch", "DRIVER_DISPATCH", at_most(DISPATCH_LEVEL), "\"Dispatch Routines and IRQLs\""),
    documented("IoTimer", "IO_TIMER_ROUTINE", exactly(DISPATCH_LEVEL)),
    documented("QueryRoutine", "RTL_QUERY_REGISTRY_ROUTINE", exactly(PASSIVE_LEVEL)),
    by(
        "worker routine",
        "WORKER_THREAD_ROUTINE",
        exactly(PASSIVE_LEVEL),
        "\"ExQueueWorkItem function\": a system worker thread calls it at PASSIVE_LEVEL",
    ),
    documented("StartIo", "DRIVER_STARTIO", exactly(DISPATCH_LEVEL)),
    documented("completion routine", "IO_COMPLETION_ROUTINE", at_most(DISPATCH_LEVEL)),
    documented("power completion routine", "REQUEST_POWER_COMPLETE", at_most(DISPATCH_LEVEL)),
    documented("DPC", "KDEFERRED_ROUTINE", exactly(DISPATCH_LEVEL)),
    documented("InterruptService", "KSERVICE_ROUTINE", DEVICE_LEVELS),
    by("InterruptMessageService", "KMESSAGE_SERVICE_ROUTINE", DEVICE_LEVELS, "as a KSERVICE_ROUTINE"),
    documented("SynchCritSection", "KSYNCHRONIZE_ROUTINE", DEVICE_LEVELS),
    documented("AdapterListControl", "DRIVER_LIST_CONTROL", exactly(DISPATCH_LEVEL)),
    documented("system thread", "KSTART_ROUTINE", exactly(PASSIVE_LEVEL)),
    documented("work item", "IO_WORKITEM_ROUTINE", exactly(PASSIVE_LEVEL)),
    documented("ETW enable callback", "ETWENABLECALLBACK", exactly(PASSIVE_LEVEL)),
    by("CsqAcquireLock", "IO_CSQ_ACQUIRE_LOCK", at_most(DISPATCH_LEVEL), CSQ_LOCK),
    by("CsqReleaseLock", "IO_CSQ_RELEASE_LOCK", at_most(DISPATCH_LEVEL), CSQ_LOCK),
    by("CsqInsertIrp", "IO_CSQ_INSERT_IRP", at_most(DISPATCH_LEVEL), CSQ),
    by("CsqInsertIrpEx", "IO_CSQ_INSERT_IRP_EX", at_most(DISPATCH_LEVEL), CSQ),
    by("CsqRemoveIrp", "IO_CSQ_REMOVE_IRP", at_most(DISPATCH_LEVEL), CSQ),
    by("CsqPeekNextIrp", "IO_CSQ_PEEK_NEXT_IRP", at_most(DISPATCH_LEVEL), CSQ),
    by("CsqCompleteCanceledIrp", "IO_CSQ_COMPLETE_CANCELED_IRP", at_most(DISPATCH_LEVEL), CSQ),
    by(
        "PnP notification callback",
        "DRIVER_NOTIFICATION_CALLBACK_ROUTINE",
        exactly(PASSIVE_LEVEL),
        "\"IoRegisterPlugPlayNotification function\": called at PASSIVE_LEVEL",
    ),
    by(
        "processor change callback",
        "PROCESSOR_CALLBACK_FUNCTION",
        exactly(PASSIVE_LEVEL),
        "\"KeRegisterProcessorChangeCallback function\": called at PASSIVE_LEVEL",
    ),
];

/// The kind of call that is called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Callback> {
    CALLBACKS
        .iter()
        .find(|callback| name == callback.name || callback.name == "Dispatch" && name.starts_with("Dispatch"))
}

/// `DRIVER_VERIFIER_IOMANAGER_VIOLATION`, "the IRQL changed during a call to the driver dispatch routine".
const DISPATCH_CHANGED_LEVEL: (u32, u64) = (0xC9, 5);
/// "The IRP completion routine returned at an IRQL that was different from the IRQL the routine was called at".
const COMPLETION_CHANGED_LEVEL: (u32, u64) = (VERIFIER, 0xFA);
/// "The interrupt service routine returned a changed IRQL".
const SERVICE_CHANGED_LEVEL: (u32, u64) = (VERIFIER, 0x111);
/// "The driver violated the DDI compliance rule `IrqlReturn`".
const CHANGED_LEVEL: (u32, u64) = (VERIFIER, 0x2_001D);

/// What is found where the routine at `address`, whose first argument is `first`, was called at `before` and returned at `after`.
#[must_use]
pub fn changed_level(name: &str, address: u64, first: u64, before: Irql, after: Irql) -> Finding {
    let ((code, violation), subject) = match name {
        "completion routine" => (COMPLETION_CHANGED_LEVEL, address),
        "InterruptService" | "InterruptMessageService" => (SERVICE_CHANGED_LEVEL, address),
        _ if name.starts_with("Dispatch") => (DISPATCH_CHANGED_LEVEL, first),
        _ => (CHANGED_LEVEL, address),
    };
    let sentence = format!("{name} was called at {before} and returned at {after}");
    Finding::bug_check(code, [violation, subject, before.0.into(), after.0.into()], sentence)
}

/// What is found where the routine at `address`, which takes a queue's lock or gives it back, left another IRQL than it may: `before` is that at
/// which the lock was to be taken.
#[must_use]
pub fn wrong_level(name: &str, address: u64, before: Irql, after: Irql) -> Finding {
    let (code, violation) = CHANGED_LEVEL;
    let sentence = format!("{name} returned at {after}; CsqAcquireLock was called at {before}");
    Finding::bug_check(code, [violation, address, before.0.into(), after.0.into()], sentence)
        .with_stack("the routine", &[address])
}

/// "A driver dispatch routine has changed the thread's APC disable count."
const DISPATCH_CHANGED_APCS: (u32, u64) = (VERIFIER, 0xC5);
/// "The thread's APC disable count was changed by the driver's IRP completion routine."
const COMPLETION_CHANGED_APCS: (u32, u64) = (VERIFIER, 0xFB);
/// `TIMER_OR_DPC_INVALID`, "the thread's APC disable count was changed during DPC routine execution".
const DPC_CHANGED_APCS: (u32, u64) = (0xC7, 4);
/// "The driver violated the DDI compliance rule `CriticalRegions`".
const CHANGED_APCS: (u32, u64) = (VERIFIER, 0x4_0003);

/// What is found where the routine at `address` was called with APCs held off so many times and returned with another number; `at` is where
/// they were last held off.
#[must_use]
pub fn changed_apcs(name: &str, address: u64, [before, after]: [usize; 2], at: u64) -> Finding {
    let (before, after) = (before as u64, after as u64);
    let ((code, violation), counts) = match name {
        "completion routine" => (COMPLETION_CHANGED_APCS, [after, before]),
        "DPC" => (DPC_CHANGED_APCS, [before, after]),
        _ if name.starts_with("Dispatch") => (DISPATCH_CHANGED_APCS, [after, before]),
        _ => (CHANGED_APCS, [after, before]),
    };
    let sentence =
        format!("{name} was called with {before} critical regions and mutexes of the thread and returned with {after}");
    let finding = Finding::bug_check(code, [violation, address, counts[0], counts[1]], sentence);
    finding.with_stack("the last of them was entered", &[at])
}
