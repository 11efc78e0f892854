//! What a call at a level that a function's contract does not allow is: the code and the first parameter of the bug check.

use super::Export;
use crate::{
    finding::Finding,
    irql::{Irql, IrqlRange},
    kernel::Kernel,
    sched::VERIFIER,
};

/// `DRIVER_VERIFIER_IOMANAGER_VIOLATION`.
const IO_MANAGER: u32 = 0xC9;
/// "A call was made to a Kernel API at the incorrect IRQL."
const WRONG_LEVEL: u64 = 0xE5;
/// "Kernel Zw API was not called at IRQL = `PASSIVE_LEVEL`".
const ZW_AT_WRONG_LEVEL: u64 = 0xE6;

/// Functions for which Driver Verifier has a violation of their own ("Bug Check 0xC4", "Bug Check 0xC9").
const VIOLATIONS: &[(&str, u32, u64)] = &[
    ("ExAcquireFastMutex", VERIFIER, 0x33),
    ("ExAcquireFastMutexUnsafe", VERIFIER, 0x39),
    ("ExReleaseFastMutex", VERIFIER, 0x34),
    ("ExReleaseFastMutexUnsafe", VERIFIER, 0x3A),
    ("ExTryToAcquireFastMutex", VERIFIER, 0x33),
    ("IofCallDriver", IO_MANAGER, 0x10),
    ("IofCompleteRequest", IO_MANAGER, 0x0E),
    ("KeAcquireSpinLockAtDpcLevel", VERIFIER, 0x40),
    ("KeAcquireSpinLockRaiseToDpc", VERIFIER, 0x42),
    ("KeEnterCriticalRegion", VERIFIER, 0x11A),
    ("KeLeaveCriticalRegion", VERIFIER, 0x11B),
    ("KeReleaseSpinLock", VERIFIER, 0x32),
    ("KeReleaseSpinLockFromDpcLevel", VERIFIER, 0x41),
    ("KeSetEvent", VERIFIER, 0x80),
    ("KeWaitForMultipleObjects", VERIFIER, 0x120),
    ("KeWaitForSingleObject", VERIFIER, 0x120),
    ("MmAllocatePagesForMdl", VERIFIER, 0x7E),
    ("MmAllocatePagesForMdlEx", VERIFIER, 0x7E),
    ("MmFreePagesFromMdl", VERIFIER, 0x7E),
    ("MmMapIoSpace", VERIFIER, 0x73),
    ("MmMapIoSpaceEx", VERIFIER, 0x73),
    ("MmMapLockedPagesSpecifyCache", VERIFIER, 0x76),
    ("MmProbeAndLockPages", VERIFIER, 0x70),
    ("MmUnlockPages", VERIFIER, 0x78),
    ("MmUnmapIoSpace", VERIFIER, 0x7B),
    ("MmUnmapLockedPages", VERIFIER, 0x79),
    ("PoCallDriver", IO_MANAGER, 0x10),
];

/// What is found where `export` is called at `irql`.
pub fn wrong_level(k: &Kernel, export: &Export, irql: Irql) -> Finding {
    let IrqlRange { lowest, highest } = export.irql;
    let contract = if lowest == highest { format!("at {lowest}") } else { format!("from {lowest} to {highest}") };
    let sentence = format!("{} called at {irql}; it may be called {contract}", export.name);
    let level = u64::from(irql.0);
    let own = VIOLATIONS.iter().find(|(name, ..)| *name == export.name);
    let (code, parameters) = match own {
        Some(&(_, code, first)) => (code, [first, level, 0, 0]),
        None if export.name.starts_with("Zw") => (VERIFIER, [ZW_AT_WRONG_LEVEL, k.exec.caller(), level, 0]),
        None => (VERIFIER, [WRONG_LEVEL, level, 0, 0]),
    };
    Finding::bug_check(code, parameters, sentence)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        panic::{self, AssertUnwindSafe},
    };

    use super::VIOLATIONS;
    use crate::{
        config::Config,
        exports::{Export, callbacks::CALLBACKS, documented, find},
        finding::Finding,
        irql::{APC_LEVEL, DIRQL_MAX, DISPATCH_LEVEL, HIGH_LEVEL, Irql, IrqlRange, PASSIVE_LEVEL},
        machine::Machine,
    };

    const FUNCTION_FACTS: &str = include_str!("../../data/functions.tsv");
    const CALLBACK_FACTS: &str = include_str!("../../data/callbacks.tsv");

    /// Contracts that are not what the reference's "IRQL" field says, and why.
    const DIFFERENCES: &[(&str, &str)] = &[
        (
            "KeReleaseSpinLockFromDpcLevel",
            "releases what KeAcquireSpinLockAtDpcLevel acquired, which its page allows at any level from DISPATCH_LEVEL",
        ),
        (
            "KeTryToAcquireSpinLockAtDpcLevel",
            "as KeAcquireSpinLockAtDpcLevel, which its page allows at any level from DISPATCH_LEVEL",
        ),
    ];

    /// Contracts of functions whose "IRQL" field says nothing, points to the remarks or contradicts them, and where they come from.
    const FROM_THE_TEXT: &[(&str, &str)] = &[
        ("ExAcquireRundownProtectionCacheAware", "no level on the page; as ExAcquireRundownProtection, any"),
        ("ExReInitializeRundownProtectionCacheAware", "no level on the page; as ExReInitializeRundownProtection, any"),
        ("ExReleaseRundownProtectionCacheAware", "no level on the page; as ExReleaseRundownProtection, any"),
        ("ExRundownCompletedCacheAware", "no level on the page; as ExRundownCompleted, any"),
        (
            "ExWaitForRundownProtectionReleaseCacheAware",
            "no level on the page; it waits, and the wait checks the level",
        ),
        ("ExpInterlockedPopEntrySList", "no level on the page; as ExInterlockedPopEntrySList, any"),
        ("ExpInterlockedPushEntrySList", "no level on the page; as ExInterlockedPushEntrySList, any"),
        ("IoFreeErrorLogEntry", "no level on the page; as IoAllocateErrorLogEntry"),
        ("KeAcquireSpinLockAtDpcLevel", "the page: the caller runs at IRQL >= DISPATCH_LEVEL"),
        ("KeReadStateEvent", "the field; at DIRQL only where an ISR alone uses the event"),
        ("KeReleaseInStackQueuedSpinLockFromDpcLevel", "no level on the page; as the function that acquires the lock"),
        ("KeReleaseInterruptSpinLock", "the function itself checks that the level is the interrupt's"),
        ("KeReleaseSemaphore", "the remarks; Wait = TRUE is not modelled"),
        ("KeSetEvent", "the remarks; Wait = TRUE is not modelled"),
        ("KeTestSpinLock", "no level on the page; it reads one word"),
        ("KeWaitForMultipleObjects", "the remarks; at DISPATCH_LEVEL only without waiting, which the function checks"),
        ("KeWaitForSingleObject", "the remarks; at DISPATCH_LEVEL only without waiting, which the function checks"),
        ("MmAllocatePagesForMdl", "the remarks, since Windows Server 2008"),
        ("MmAllocatePagesForMdlEx", "the remarks"),
        ("MmFreePagesFromMdl", "the remarks, since Windows Server 2008"),
        ("MmMapLockedPagesSpecifyCache", "the remarks, for kernel mode"),
        ("MmProbeAndLockPages", "the remarks, for memory that is not pageable"),
        ("MmUnmapLockedPages", "the remarks, for system space"),
        ("PoCallDriver", "the remarks, for drivers that are not pageable"),
        ("PoSetPowerState", "the remarks, for D0"),
        ("RtlAppendUnicodeStringToString", "the remarks: any level, with resident buffers above APC_LEVEL"),
        ("RtlAppendUnicodeToString", "the remarks: any level, with resident buffers above APC_LEVEL"),
        ("RtlInitAnsiString", "the field: any level, with a resident string above APC_LEVEL"),
        ("RtlInitString", "it computes a length: any level, with a resident string above APC_LEVEL"),
        ("RtlInitUnicodeString", "it computes a length: any level, with a resident string above APC_LEVEL"),
        (
            "ZwWaitForSingleObject",
            "the field; the remarks allow DISPATCH_LEVEL without a wait, with a kernel handle only",
        ),
    ];

    /// Functions that the reference has under another name, or not at all.
    const OTHER_NAMES: &[(&str, Option<&str>)] = &[
        // Called by the lab alone, on behalf of a driver's code.
        ("__C_specific_handler", None),
        // The C runtime's.
        ("_snprintf", None),
        ("_snwprintf", None),
        ("_vsnprintf", None),
        ("_vsnwprintf", None),
        ("ExpInterlockedFlushSList", Some("ExInterlockedFlushSList")),
        // What ASSERT calls; only that macro has a page.
        ("RtlAssert", None),
        ("IoAcquireRemoveLockEx", Some("IoAcquireRemoveLock")),
        ("IoInitializeRemoveLockEx", Some("IoInitializeRemoveLock")),
        ("IoReleaseRemoveLockAndWaitEx", Some("IoReleaseRemoveLockAndWait")),
        ("IoReleaseRemoveLockEx", Some("IoReleaseRemoveLock")),
        ("KfRaiseIrql", Some("KeRaiseIrql")),
        // Only MmGetPhysicalMemoryRangesEx2 has a page.
        ("MmGetPhysicalMemoryRanges", None),
        ("ObfDereferenceObject", Some("ObDereferenceObject")),
    ];

    /// Members of `DMA_OPERATIONS`: documented as callbacks.
    const DMA_OPERATIONS: &[(&str, &str)] = &[
        ("AllocateCommonBuffer", "PALLOCATE_COMMON_BUFFER"),
        ("FreeCommonBuffer", "PFREE_COMMON_BUFFER"),
        ("GetDmaAlignment", "PGET_DMA_ALIGNMENT"),
        ("PutDmaAdapter", "PPUT_DMA_ADAPTER"),
    ];

    /// How a contract and the facts fit.
    #[derive(PartialEq, Eq, Debug)]
    enum Fit {
        Same,
        Different,
        Unknown,
    }

    fn level(text: &str) -> Option<Irql> {
        match text {
            "PASSIVE_LEVEL" => Some(PASSIVE_LEVEL),
            "APC_LEVEL" => Some(APC_LEVEL),
            "DISPATCH_LEVEL" => Some(DISPATCH_LEVEL),
            "DIRQL" => Some(DIRQL_MAX),
            "HIGH_LEVEL" | "ANY" => Some(HIGH_LEVEL),
            "?" => None,
            other => panic!("{other} is no level"),
        }
    }

    /// By name: the lowest and highest level.
    fn facts(text: &'static str) -> BTreeMap<&'static str, Vec<Vec<Option<Irql>>>> {
        let mut facts = BTreeMap::<_, Vec<_>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split('\t');
            let name = fields.next().expect("a line has a name");
            facts.entry(name).or_default().push(fields.map(level).collect());
        }
        facts
    }

    fn fit(own: IrqlRange, lowest: Option<Irql>, highest: Option<Irql>) -> Fit {
        let Some(highest) = highest else { return Fit::Unknown };
        let same = own.highest == highest && lowest.is_none_or(|lowest| own.lowest == lowest);
        if same { Fit::Same } else { Fit::Different }
    }

    /// `None` where there are no facts.
    fn check(export: &Export) -> Option<Fit> {
        if let Some((_, callback)) = DMA_OPERATIONS.iter().find(|(name, _)| *name == export.name) {
            return Some(fit(export.irql, None, facts(CALLBACK_FACTS)[callback][0][0]));
        }
        let other = OTHER_NAMES.iter().find(|(name, _)| *name == export.name);
        let name = other.map_or(Some(export.name), |(_, other)| *other)?;
        let facts = facts(FUNCTION_FACTS);
        let rows = facts.get(name)?;
        let fits: Vec<Fit> = rows.iter().map(|row| fit(export.irql, row[0], row[1])).collect();
        // Headers that differ about a function: one of them has to be right.
        let has = |wanted| fits.contains(&wanted);
        Some(if has(Fit::Same) {
            Fit::Same
        } else if has(Fit::Unknown) {
            Fit::Unknown
        } else {
            Fit::Different
        })
    }

    #[test]
    fn contracts_are_those_of_the_reference_but_for_listed_differences() {
        let named = |list: &[(&'static str, &str)]| list.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>();
        let (mut different, mut unknown, mut missing) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for export in documented() {
            match check(export) {
                Some(Fit::Same) => continue,
                Some(Fit::Different) => different.insert(export.name),
                Some(Fit::Unknown) => unknown.insert(export.name),
                None => missing.insert(export.name),
            };
        }
        assert_eq!(
            different,
            named(DIFFERENCES),
            "functions whose contract differs from data/functions.tsv: DIFFERENCES says why"
        );
        assert_eq!(
            unknown,
            named(FROM_THE_TEXT),
            "functions of which data/functions.tsv knows no level: FROM_THE_TEXT says whence"
        );
        let without: BTreeSet<_> =
            OTHER_NAMES.iter().filter(|(_, other)| other.is_none()).map(|(name, _)| *name).collect();
        assert_eq!(
            missing, without,
            "functions that data/functions.tsv does not have: OTHER_NAMES says what to look for"
        );
    }

    #[test]
    fn every_function_is_refused_at_every_level_outside_its_contract() {
        let outcome = Machine::new(Config::default()).expect("the machine makes sense").run(|system| {
            let k = &system.kernel;
            let is_refused = |export: &'static Export, level: Irql| {
                let before = k.raise_irql(level);
                let refused = panic::catch_unwind(AssertUnwindSafe(|| k.enter(export)));
                k.lower_irql(before);
                let finding = refused.err().map(|thrown| *thrown.downcast::<Finding>().expect("a finding is thrown"));
                finding.is_some_and(|finding| finding.sentence.starts_with(&format!("{} called at", export.name)))
            };
            for export in documented() {
                for level in (PASSIVE_LEVEL.0..=HIGH_LEVEL.0).map(Irql) {
                    let allowed = export.irql.contains(level);
                    assert_ne!(is_refused(export, level), allowed, "{} at {level}", export.name);
                }
            }
        });
        assert!(outcome.result.is_ok(), "{:?}", outcome.result);
    }

    #[test]
    fn callbacks_are_called_at_the_levels_of_the_reference() {
        let facts = facts(CALLBACK_FACTS);
        for callback in CALLBACKS {
            let fact = facts.get(callback.kind).and_then(|rows| rows[0][0]);
            match (fact, callback.source) {
                (Some(highest), None) => {
                    assert_eq!(callback.irql.highest, highest, "{} ({})", callback.name, callback.kind);
                }
                (None, Some(_)) => (),
                (None, None) => {
                    panic!("{}: data/callbacks.tsv has no level for {}; say whence it is", callback.name, callback.kind)
                }
                (Some(_), Some(_)) => {
                    panic!("{}: data/callbacks.tsv has the level of {}", callback.name, callback.kind)
                }
            }
        }
    }

    #[test]
    fn violations_are_of_functions_in_order() {
        assert!(VIOLATIONS.is_sorted_by_key(|(name, ..)| *name));
        let facts = facts(FUNCTION_FACTS);
        let unknown: Vec<_> =
            VIOLATIONS.iter().filter(|(name, ..)| find(name).is_none() && !facts.contains_key(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
