//! How functions of the lab differ from Windows: what `ntlab imports` and docs/lab.md say of them.

/// By name.
const NOTES: &[(&str, &str)] = &[
    ("ExFlushLookasideListEx", "nothing is ever kept on a lookaside list"),
    (
        "ExInitializeLookasideListEx",
        "depth 0: every block comes from pool and goes back there; raising on failure is refused",
    ),
    ("ExInitializeNPagedLookasideList", "depth 0: every block comes from pool and goes back there"),
    ("ExInitializePagedLookasideList", "depth 0: every block comes from pool and goes back there"),
    ("ExQueueWorkItem", "every queue is served by the same threads"),
    ("IoAllocateIrp", "no quota"),
    ("IoAllocateMdl", "no quota; at most 32 KiB of list"),
    ("IoBuildAsynchronousFsdRequest", "reads, writes, flushes, shutdowns and PnP requests"),
    ("IoBuildSynchronousFsdRequest", "reads, writes, flushes, shutdowns and PnP requests"),
    ("IoConnectInterrupt", "group 0; the device is the one that has the vector"),
    ("IoGetDeviceObjectPointer", "devices only: there are no file systems"),
    ("IoInvalidateDeviceRelations", "bus relations only"),
    ("IoInvalidateDeviceState", "refuses a change of resource requirements"),
    ("IoQueueWorkItem", "every queue is served by the same threads"),
    ("IoQueueWorkItemEx", "every queue is served by the same threads"),
    ("IoSetStartIoAttributes", "refuses DeferredStartIo and NonCancelable"),
    ("IoWMIRegistrationControl", "registers; nobody asks for WMI data"),
    ("IoWriteErrorLogEntry", "the entry goes to the trace"),
    ("IofCompleteRequest", "the priority boost has no meaning"),
    ("KeInitializeMutex", "the level is ignored"),
    ("KeReleaseMutex", "refuses Wait = TRUE"),
    ("KeReleaseSemaphore", "refuses Wait = TRUE"),
    ("KeSetBasePriorityThread", "kept and told; who runs next is the seed's choice"),
    ("KeSetCoalescableTimer", "goes off in time"),
    ("KeSetEvent", "refuses Wait = TRUE"),
    ("KeSetPriorityThread", "kept and told; who runs next is the seed's choice"),
    ("KeWaitForMultipleObjects", "nothing alerts a thread"),
    ("KeWaitForSingleObject", "nothing alerts a thread"),
    ("MmAllocatePagesForMdl", "all pages or none, zeroed and in a row; refuses a lowest address and skipped bytes"),
    (
        "MmAllocatePagesForMdlEx",
        "all pages or none, zeroed and in a row; refuses a lowest address, skipped bytes and other flags than those of waiting and zeroing",
    ),
    ("MmGetSystemRoutineAddress", "a name that the lab lacks is refused, not taken for one that Windows lacks"),
    ("MmMapIoSpace", "uncached only"),
    ("MmMapLockedPagesSpecifyCache", "the mapping has the address that the pages have; kernel mode only"),
    ("MmProbeAndLockPages", "locked pages are not kept from being freed"),
    ("ObReferenceObjectByHandle", "kernel mode only, without handle information"),
    ("ProbeForRead", "addresses of users lie below MmUserProbeAddress, which is not Windows' own value"),
    ("ProbeForWrite", "addresses of users lie below MmUserProbeAddress, which is not Windows' own value"),
    ("RtlAnsiStringToUnicodeString", "ANSI strings are Latin-1"),
    ("RtlAssert", "a failed assertion is a bug check: there is no debugger"),
    ("RtlQueryRegistryValues", "values by name; refuses lists of strings, expanding and deleting"),
    ("RtlUnicodeStringToAnsiString", "ANSI strings are Latin-1"),
    (
        "__C_specific_handler",
        "filters and termination handlers of C; a handler beyond a kernel function's frame is refused",
    ),
    ("_snprintf", "no floating-point numbers"),
    ("_snwprintf", "no floating-point numbers; formats are Latin-1"),
    ("_vsnprintf", "no floating-point numbers"),
    ("_vsnwprintf", "no floating-point numbers; formats are Latin-1"),
];

/// What there is to say of a function.
pub fn of(name: &str) -> Option<&'static str> {
    NOTES.iter().find(|(known, _)| *known == name).map(|(_, note)| *note)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::NOTES;
    use crate::exports::{documented, find};

    const DOCUMENT: &str = include_str!("../../../../docs/lab.md");

    /// The rows of the document's table: name and note.
    fn rows() -> BTreeMap<&'static str, &'static str> {
        let row = |line: &'static str| {
            let (name, note) = line.strip_prefix("| `")?.split_once("` |")?;
            Some((name, note.strip_suffix('|')?.trim()))
        };
        DOCUMENT.lines().filter_map(row).collect()
    }

    #[test]
    fn the_document_has_a_line_for_every_function_and_no_other_with_what_is_noted() {
        let own: BTreeMap<&str, &str> =
            documented().map(|export| (export.name, super::of(export.name).unwrap_or(""))).collect();
        assert_eq!(rows(), own, "docs/lab.md and the export tables");
    }

    #[test]
    fn notes_are_of_functions_that_the_lab_has() {
        for (name, _) in NOTES {
            assert!(find(name).is_some(), "{name}");
        }
    }
}
