//! Kernel calls that fail although the driver did nothing wrong, as any of them may where resources run out.

use std::cell::Cell;

use crate::{events::Kind, kernel::Kernel, machine::System};

/// `STATUS_INSUFFICIENT_RESOURCES` in rax.
const INSUFFICIENT: u64 = 0xC000_009A;
/// A null pointer in rax.
const NULL: u64 = 0;

/// The functions that can fail for want of resources, and what they return then. Those of `DMA_OPERATIONS` are among them.
const CAN_FAIL: &[(&str, u64)] = &[
    ("AllocateCommonBuffer", NULL),
    ("EtwRegister", INSUFFICIENT),
    ("ExAllocateCacheAwareRundownProtection", NULL),
    ("ExAllocatePool2", NULL),
    ("ExAllocatePool3", NULL),
    ("ExAllocatePoolWithTag", NULL),
    ("IoAllocateIrp", NULL),
    ("IoAllocateWorkItem", NULL),
    ("IoConnectInterruptEx", INSUFFICIENT),
    ("IoCreateDevice", INSUFFICIENT),
    ("IoCreateNotificationEvent", NULL),
    ("IoGetDmaAdapter", NULL),
    ("IoRegisterDeviceInterface", INSUFFICIENT),
    ("IoRegisterPlugPlayNotification", INSUFFICIENT),
    ("IoSetDeviceInterfaceState", INSUFFICIENT),
    ("KeRegisterProcessorChangeCallback", NULL),
    ("MmGetPhysicalMemoryRanges", NULL),
    ("MmMapIoSpace", NULL),
    ("MmMapIoSpaceEx", NULL),
    ("MmMapLockedPagesSpecifyCache", NULL),
    ("PoRequestPowerIrp", INSUFFICIENT),
    ("PsCreateSystemThread", INSUFFICIENT),
    ("ZwOpenKey", INSUFFICIENT),
    ("ZwQueryValueKey", INSUFFICIENT),
];

/// Which call is to fail.
#[derive(Debug, Default)]
pub struct Faults {
    /// Calls that can fail until the one that does; 0 for none.
    until: Cell<u64>,
    failed: Cell<Option<&'static str>>,
}

impl Faults {
    /// What the call of `name` returns instead of being made; `None` for all but the one that is to fail.
    pub(crate) fn strike(&self, k: &Kernel, name: &'static str) -> Option<u64> {
        let until = self.until.get();
        if until == 0 {
            return None;
        }
        let (_, returned) = CAN_FAIL.iter().find(|(function, _)| *function == name)?;
        self.until.set(until - 1);
        (until == 1).then(|| {
            self.failed.set(Some(name));
            k.record(Kind::Note(format!("{name} fails: the scenario asked for it").into()));
            *returned
        })
    }
}

impl System {
    /// Makes the `n`-th of the kernel calls from now on that can fail for want of resources fail so; none for 0. Later ones succeed again.
    pub fn fail_call(&self, n: u64) {
        self.kernel.faults.until.set(n);
        self.kernel.faults.failed.set(None);
    }

    /// The function that [`System::fail_call`] made fail; `None` while its turn has not come.
    #[must_use]
    pub const fn failed_call(&self) -> Option<&'static str> {
        self.kernel.faults.failed.get()
    }
}
