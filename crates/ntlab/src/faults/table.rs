//! The functions that can fail although the driver did nothing wrong, and how: the failures that their pages document.
//!
//! A page that names no status, or only says "an appropriate error status", allows any; `STATUS_INSUFFICIENT_RESOURCES` stands for them.
//! What only a wrong argument leads to, or only a state that the driver itself brought about, is not here.

use crate::{exports::Arguments, memory::Ptr};

const NULL: u64 = 0;
const UNSUCCESSFUL: u64 = 0xC000_0001;
const INFO_LENGTH_MISMATCH: u64 = 0xC000_0004;
const INVALID_PARAMETER: u64 = 0xC000_000D;
const NO_SUCH_DEVICE: u64 = 0xC000_000E;
const INVALID_DEVICE_REQUEST: u64 = 0xC000_0010;
const NO_MEMORY: u64 = 0xC000_0017;
const ACCESS_DENIED: u64 = 0xC000_0022;
const BUFFER_TOO_SMALL: u64 = 0xC000_0023;
const OBJECT_NAME_NOT_FOUND: u64 = 0xC000_0034;
const INSUFFICIENT_RESOURCES: u64 = 0xC000_009A;
const NOT_SUPPORTED: u64 = 0xC000_00BB;
const NOT_FOUND: u64 = 0xC000_0225;
const BUFFER_OVERFLOW: u64 = 0x8000_0005;

/// `CONNECT_FULLY_SPECIFIED`.
const FULLY_SPECIFIED: u64 = 1;

/// A way in which a function fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What it returns, in rax.
    pub returned: u64,
    /// Whether the reason is that there is no memory.
    pub is_memory: bool,
    /// What it leaves in an out parameter.
    out: Option<Out>,
}

/// What a call that fails writes: a value where a pointer among its arguments points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Out {
    argument: usize,
    value: u64,
    bytes: u8,
}

impl Failure {
    const fn memory(returned: u64) -> Self {
        Self { returned, is_memory: true, out: None }
    }

    const fn other(returned: u64) -> Self {
        Self { returned, is_memory: false, out: None }
    }

    /// It writes 32 bits where its argument number `argument`, from 0, points, if that is not null.
    const fn with_u32(self, argument: usize, value: u64) -> Self {
        Self { out: Some(Out { argument, value, bytes: 4 }), ..self }
    }

    const fn with_null(self, argument: usize) -> Self {
        Self { out: Some(Out { argument, value: 0, bytes: 8 }), ..self }
    }

    /// Does what the call does where it fails so, and returns what it returns.
    pub(super) fn carry_out(&self, mut arguments: Arguments) -> u64 {
        if let Some(Out { argument, value, bytes }) = self.out {
            let target = (0..=argument).map(|_| arguments.take()).last().unwrap_or(0);
            match bytes {
                _ if target == 0 => {}
                4 => Ptr::<u32>::new(target).write(u32::try_from(value).unwrap_or(u32::MAX)),
                _ => Ptr::<u64>::new(target).write(value),
            }
        }
        self.returned
    }
}

/// A function that can fail.
pub struct CanFail {
    /// Its name.
    pub name: &'static str,
    /// How it does; the first way is the one of a run in which nothing else is said.
    pub failures: &'static [Failure],
    /// It fails only where this argument, from 0, is true.
    only_if: Option<usize>,
}

impl CanFail {
    const fn only_if(self, argument: usize) -> Self {
        Self { only_if: Some(argument), ..self }
    }

    /// Whether a call with these arguments can fail.
    pub(super) fn concerns(&self, mut arguments: Arguments) -> bool {
        let is_true =
            |argument: usize| (0..=argument).map(|_| arguments.take()).last().is_some_and(|value| value & 0xFF != 0);
        self.only_if.is_none_or(is_true)
    }
}

const fn row(name: &'static str, failures: &'static [Failure]) -> CanFail {
    CanFail { name, failures, only_if: None }
}

const NULL_WITHOUT_MEMORY: &[Failure] = &[Failure::memory(NULL)];
const ANY_STATUS: &[Failure] = &[Failure::memory(INSUFFICIENT_RESOURCES)];

/// Every function that can fail, by name. Those of `DMA_OPERATIONS` are among them.
pub static CAN_FAIL: &[CanFail] = &[
    row("AllocateCommonBuffer", NULL_WITHOUT_MEMORY),
    row("EtwRegister", ANY_STATUS),
    row("EtwSetInformation", &[Failure::other(INVALID_DEVICE_REQUEST)]),
    row("EtwWrite", &[Failure::memory(NO_MEMORY)]),
    row("EtwWriteTransfer", &[Failure::memory(NO_MEMORY)]),
    row("ExAllocateCacheAwareRundownProtection", NULL_WITHOUT_MEMORY),
    row("ExAllocatePool2", NULL_WITHOUT_MEMORY),
    row("ExAllocatePool3", NULL_WITHOUT_MEMORY),
    row("ExAllocatePoolWithTag", NULL_WITHOUT_MEMORY),
    row("GetScatterGatherList", ANY_STATUS),
    row("IoAllocateErrorLogEntry", NULL_WITHOUT_MEMORY),
    row("IoAllocateIrp", NULL_WITHOUT_MEMORY),
    row("IoAllocateMdl", NULL_WITHOUT_MEMORY),
    row("IoAllocateWorkItem", NULL_WITHOUT_MEMORY),
    row("IoAttachDeviceToDeviceStack", &[Failure::other(NULL)]),
    row("IoAttachDeviceToDeviceStackSafe", &[Failure::other(NO_SUCH_DEVICE).with_null(2)]),
    row("IoBuildAsynchronousFsdRequest", NULL_WITHOUT_MEMORY),
    row("IoBuildDeviceIoControlRequest", NULL_WITHOUT_MEMORY),
    row("IoBuildSynchronousFsdRequest", NULL_WITHOUT_MEMORY),
    row("IoConnectInterrupt", &[Failure::memory(INSUFFICIENT_RESOURCES), Failure::other(INVALID_PARAMETER)]),
    row(
        "IoConnectInterruptEx",
        &[
            Failure::memory(INSUFFICIENT_RESOURCES),
            Failure::other(INVALID_DEVICE_REQUEST),
            Failure::other(INVALID_PARAMETER),
            Failure::other(NOT_FOUND),
            // "Using IoConnectInterruptEx Prior to Windows Vista": the version that there is.
            Failure::other(NOT_SUPPORTED).with_u32(0, FULLY_SPECIFIED),
        ],
    ),
    row("IoCreateDevice", ANY_STATUS),
    row("IoCreateNotificationEvent", NULL_WITHOUT_MEMORY),
    row("IoCreateSymbolicLink", ANY_STATUS),
    row("IoCreateSynchronizationEvent", NULL_WITHOUT_MEMORY),
    row("IoCsqInitialize", ANY_STATUS),
    row("IoCsqInitializeEx", ANY_STATUS),
    row("IoGetDeviceObjectPointer", &[Failure::memory(INSUFFICIENT_RESOURCES), Failure::other(OBJECT_NAME_NOT_FOUND)]),
    row("IoGetDevicePropertyData", &[Failure::other(OBJECT_NAME_NOT_FOUND)]),
    row("IoGetDmaAdapter", NULL_WITHOUT_MEMORY),
    row("IoInitializeTimer", ANY_STATUS),
    row("IoOpenDeviceRegistryKey", ANY_STATUS),
    row("IoOpenDriverRegistryKey", ANY_STATUS),
    row(
        "IoRegisterDeviceInterface",
        &[Failure::memory(INSUFFICIENT_RESOURCES), Failure::other(INVALID_DEVICE_REQUEST)],
    ),
    row("IoRegisterPlugPlayNotification", &[Failure::memory(INSUFFICIENT_RESOURCES), Failure::other(UNSUCCESSFUL)]),
    row("IoSetCompletionRoutineEx", ANY_STATUS),
    // An interface that is enabled can always be disabled.
    row("IoSetDeviceInterfaceState", ANY_STATUS).only_if(1),
    row("IoSetDevicePropertyData", ANY_STATUS),
    row(
        "KeQueryLogicalProcessorRelationship",
        &[Failure::other(INVALID_PARAMETER), Failure::other(INFO_LENGTH_MISMATCH).with_u32(3, 4096)],
    ),
    row("KeRegisterProcessorChangeCallback", NULL_WITHOUT_MEMORY),
    row("KeSetTargetProcessorDpcEx", &[Failure::other(INVALID_PARAMETER)]),
    row("MmAllocatePagesForMdl", NULL_WITHOUT_MEMORY),
    row("MmAllocatePagesForMdlEx", NULL_WITHOUT_MEMORY),
    row("MmGetPhysicalMemoryRanges", NULL_WITHOUT_MEMORY),
    row("MmGetSystemRoutineAddress", &[Failure::other(NULL)]),
    row("MmMapIoSpace", NULL_WITHOUT_MEMORY),
    row("MmMapIoSpaceEx", NULL_WITHOUT_MEMORY),
    row("MmMapLockedPagesSpecifyCache", NULL_WITHOUT_MEMORY),
    row("PoRequestPowerIrp", ANY_STATUS),
    row("PsCreateSystemThread", ANY_STATUS),
    row("RtlAnsiStringToUnicodeString", &[Failure::memory(NO_MEMORY)]).only_if(2),
    row("RtlQueryRegistryValues", &[Failure::memory(INSUFFICIENT_RESOURCES), Failure::other(OBJECT_NAME_NOT_FOUND)]),
    row("RtlStringFromGUID", ANY_STATUS),
    row("RtlUnicodeStringToAnsiString", &[Failure::memory(NO_MEMORY)]).only_if(2),
    row("RtlUpcaseUnicodeString", &[Failure::memory(NO_MEMORY)]).only_if(2),
    row("RtlWriteRegistryValue", ANY_STATUS),
    row("ZwCreateEvent", ANY_STATUS),
    row("ZwCreateKey", ANY_STATUS),
    row("ZwDeleteValueKey", ANY_STATUS),
    row("ZwOpenEvent", &[Failure::memory(INSUFFICIENT_RESOURCES), Failure::other(OBJECT_NAME_NOT_FOUND)]),
    row(
        "ZwOpenKey",
        &[
            Failure::memory(INSUFFICIENT_RESOURCES),
            Failure::other(ACCESS_DENIED),
            Failure::other(OBJECT_NAME_NOT_FOUND),
        ],
    ),
    row(
        "ZwQueryValueKey",
        &[
            Failure::memory(INSUFFICIENT_RESOURCES),
            Failure::other(OBJECT_NAME_NOT_FOUND),
            Failure::other(BUFFER_TOO_SMALL).with_u32(5, 4096),
            Failure::other(BUFFER_OVERFLOW).with_u32(5, 4096),
        ],
    ),
    row("ZwSetValueKey", &[Failure::memory(INSUFFICIENT_RESOURCES), Failure::other(ACCESS_DENIED)]),
];

/// The function called `name`, if it can fail.
pub fn find(name: &str) -> Option<&'static CanFail> {
    CAN_FAIL.binary_search_by(|row| row.name.cmp(name)).ok().map(|place| &CAN_FAIL[place])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports;

    #[test]
    fn rows_are_in_order_and_each_is_a_function_of_the_lab() {
        assert!(CAN_FAIL.is_sorted_by(|one, next| one.name < next.name), "the look-up needs them in order");
        let unknown: Vec<_> =
            CAN_FAIL.iter().map(|row| row.name).filter(|name| exports::find(name).is_none()).collect();
        assert_eq!(unknown, ["AllocateCommonBuffer", "GetScatterGatherList"], "which are of DMA_OPERATIONS");
    }

    #[test]
    fn every_function_fails_in_some_way_and_never_with_what_means_success() {
        for row in CAN_FAIL {
            assert!(!row.failures.is_empty(), "{}", row.name);
            for failure in row.failures {
                assert!(failure.returned == NULL || failure.returned & 0x8000_0000 != 0, "{} {failure:?}", row.name);
            }
        }
    }
}
