//! Rules of the documents that Driver Verifier does not check, or has no code for.
//!
//! What breaks one is `DRIVER_VERIFIER_DETECTED_VIOLATION` like the rest, with a first parameter of the lab's own: the numbers from
//! `0x1AB_0000` on, which "Bug Check 0xC4" does not use.

use crate::{finding::Finding, sched::VERIFIER};

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// A rule, by its number: the first parameter of the bug check.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u64)]
        pub enum Rule {
            $($(#[$doc])* $name = $number,)*
        }

        impl Rule {
            /// Every rule, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

rules! {
    /// An IRP that no driver will complete any more ("Completing IRPs"). Parameter 2: the IRP.
    LostIrp = 0x1AB_0101,
    /// An IRP that outlives the cleanup of its handle ("`DispatchCleanup` Routines"). Parameter 2: the IRP.
    LeftAfterCleanup = 0x1AB_0102,
    /// An interrupt service routine claims an interrupt that its device did not raise ("Writing an ISR"). Parameter 2: the routine.
    FalseClaim = 0x1AB_0201,
    /// A DPC that an interrupt queued is still to run when the driver has stopped its device ("Handling an `IRP_MN_STOP_DEVICE` Request").
    /// Parameter 2: the DPC.
    DpcAfterStop = 0x1AB_0202,
    /// Device registers touched while the device is stopped or removed ("Handling an `IRP_MN_STOP_DEVICE` Request"). Parameter 2: the
    /// physical address.
    RegistersAfterStop = 0x1AB_0203,
    /// Device registers touched while the device is not in D0 ("Device Low-Power States"). Parameter 2: the physical address.
    RegistersPoweredDown = 0x1AB_0204,
    /// An interrupt is connected, disconnected or used against its documents ("`IO_CONNECT_INTERRUPT_PARAMETERS` structure").
    InterruptMisused = 0x1AB_0205,
    /// An interrupt is still connected when a driver has let go of its device ("Handling an `IRP_MN_STOP_DEVICE` Request").
    StillConnected = 0x1AB_0206,
    /// `OperationStatus` written outside `KeProcessorAddStartNotify`, or with no error ("`PROCESSOR_CALLBACK_FUNCTION` callback function").
    /// Parameter 2: what was written.
    OperationStatus = 0x1AB_0401,
    /// The change context of a processor change callback was written to. It is the system's.
    ChangeContext = 0x1AB_0402,
    /// A registration is ended that is none, or no longer one.
    NoRegistration = 0x1AB_0403,
    /// A wait in a notification callback ("Guidelines for Writing PnP Notification Callback Routines").
    NotificationBlocks = 0x1AB_0404,
    /// Other than success returned from a notification callback ("`DRIVER_NOTIFICATION_CALLBACK_ROUTINE` callback function"). Parameter 2:
    /// what was returned.
    NotificationStatus = 0x1AB_0405,
    /// A processor number that was never active is used as if it were. Parameters 2 and 3: group and number.
    InactiveProcessor = 0x1AB_0406,
    /// A spin lock held far longer than the 25 microseconds of "`KeAcquireSpinLock` macro". Parameters 2 to 4: the lock, for how long in
    /// virtual nanoseconds, and how long would have passed.
    LockHeldTooLong = 0x1AB_0501,
    /// A processor that runs driver code without end and without a kernel call. Parameter 2: the IRQL; 3: the instructions, where they are
    /// counted.
    Spins = 0x1AB_0502,
    /// Every thread and processor waits, and nothing is due that would end a wait.
    AllWait = 0x1AB_0503,
    /// A scenario that does not end in the virtual time that it has.
    TimeLimit = 0x1AB_0504,
    /// A work item that was not freed ("`IoAllocateWorkItem` function"). Parameter 2: the work item; 3: how much was left behind in all, as
    /// for all of these.
    WorkItemLeft = 0x1AB_0701,
    /// An IRP that a driver allocated and did not free ("`IoAllocateIrp` function"). Parameter 2: the IRP.
    IrpLeft = 0x1AB_0702,
    /// A device object that is there when its driver has left the device, or is unloaded ("Handling an `IRP_MN_REMOVE_DEVICE` Request").
    /// Parameter 2: the device object.
    DeviceLeft = 0x1AB_0703,
    /// A symbolic link whose driver is unloaded ("`IoCreateSymbolicLink` function").
    SymbolicLinkLeft = 0x1AB_0704,
    /// A handle that was not closed ("Object Handles"). Parameter 2: the handle.
    HandleLeft = 0x1AB_0705,
    /// Device registers that were not unmapped ("`MmMapIoSpaceEx` function"). Parameter 2: their address.
    MappingLeft = 0x1AB_0706,
    /// A DMA adapter that was not put ("`IoGetDmaAdapter` function"). Parameter 2: the adapter.
    AdapterLeft = 0x1AB_0707,
    /// A common buffer that was not freed ("`PALLOCATE_COMMON_BUFFER` callback function"). Parameter 2: the buffer.
    CommonBufferLeft = 0x1AB_0708,
    /// A device interface that is enabled when its driver has left the device ("`IoSetDeviceInterfaceState` function"). Parameter 2: the
    /// physical device object.
    InterfaceLeft = 0x1AB_0709,
    /// Memory is freed, or a device object deleted, that holds a remove lock which is acquired ("Using Remove Locks"). Parameter 2: the
    /// lock; 3: how often.
    RemoveLockHeld = 0x1AB_070A,
    /// Memory is freed, or a device object deleted, that holds a work item which is queued ("`IoInitializeWorkItem` function"). Parameter
    /// 2: the work item.
    WorkItemQueued = 0x1AB_070B,
    /// A registration for PnP notification that keeps a driver loaded which is to be unloaded ("`IoRegisterPlugPlayNotification`
    /// function"). Parameter 2: the registration.
    NotificationLeft = 0x1AB_070C,
    /// A list of resource requirements that a driver replaced and did not free ("`IRP_MN_FILTER_RESOURCE_REQUIREMENTS`"). Parameter 2: the
    /// list; 3: the one in its place.
    RequirementsLeft = 0x1AB_070D,
    /// A request that returns bytes to user mode which nobody has written: what was in memory before, perhaps another's ("Failure to
    /// Initialize Output Buffers"). Parameter 2: the IRP; 3: the offset in the output.
    UnwrittenOutput = 0x1AB_0801,
    /// A request completed with more output than its buffer has room for ("`IO_STATUS_BLOCK` structure"). Parameter 2: the IRP; 3: the
    /// length claimed; 4: the length of the buffer.
    OutputTooLong = 0x1AB_0802,
    /// A driver's own access to a user's address that it has not probed for that ("Failure to Check the Validity of User-Mode
    /// Addresses"), or of which it has not even been told for that. Parameter 2: the address; 3: 0 read, 1 write; 4: the instruction.
    UserAddressUnprobed = 0x1AB_0803,
    /// A write to pages that were locked for reading, by a driver or a device ("`MmProbeAndLockPages` function"). Parameter 2: the address;
    /// 3: the instruction, 0 where a kernel function or a device did it.
    LockedForReading = 0x1AB_0804,
    /// A memory descriptor list that was not freed ("`IoAllocateMdl` function"). Parameter 2: the list.
    MdlLeft = 0x1AB_0901,
    /// An ERESOURCE that was not deleted ("`ExInitializeResourceLite` function"). Parameter 2: the resource.
    ResourceLeft = 0x1AB_0902,
    /// A device that is still registered with WMI ("`IoWMIRegistrationControl` function"). Parameter 2: the device.
    WmiProviderLeft = 0x1AB_0903,
    /// A remove lock acquired more often at a time than its driver allows ("`IoInitializeRemoveLock` macro"). Parameter 2: the lock; 3: how
    /// often.
    RemoveLockCount = 0x1AB_0904,
    /// A remove lock held longer than its driver allows ("`IoInitializeRemoveLock` macro"). Parameter 2: the lock; 3: for how long, in
    /// virtual nanoseconds.
    RemoveLockTime = 0x1AB_0905,
    /// A remove lock of a driver built with `DBG` that is given back with a tag it was not acquired with ("`IoReleaseRemoveLock` macro").
    /// Parameter 2: the lock; 3: the tag.
    RemoveLockTag = 0x1AB_0906,
}

impl Rule {
    /// What is found where a driver breaks the rule.
    #[must_use]
    pub fn broken(self, [second, third, fourth]: [u64; 3], sentence: impl Into<String>) -> Finding {
        Finding::bug_check(VERIFIER, [self as u64, second, third, fourth], sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_number_of_its_own_that_the_documents_do_not_use() {
        assert!(Rule::ALL.is_sorted_by(|a, b| a < b), "{:?}", Rule::ALL);
        assert!(Rule::ALL.iter().all(|&rule| rule as u64 >> 16 == 0x1AB));
    }
}
