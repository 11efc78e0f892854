//! The physical device object: what the bus driver and the PnP manager know about a device.

use core::ptr::NonNull;

use wdk_sys::{DEVICE_OBJECT, DEVPROP_TYPE_UINT32, DEVPROPKEY, GUID, PDEVICE_OBJECT, STATUS_BUFFER_TOO_SMALL, ntddk};

use crate::irql::Passive;
use crate::status::{NtStatus, Result, check};

/// Whether the device takes part in the rebalance after a processor was added
/// ("`DEVPKEY_Device_DHP_Rebalance_Policy`").
pub const DEVICE_DHP_REBALANCE_POLICY: DEVPROPKEY = DEVPROPKEY { fmtid: DEVICE_PROPERTIES, pid: 2 };

/// The NUMA node that the device is near to ("`DEVPKEY_Device_Numa_Node`").
pub const DEVICE_NUMA_NODE: DEVPROPKEY = DEVPROPKEY { fmtid: DEVICE_PROPERTIES, pid: 3 };

const DEVICE_PROPERTIES: GUID =
    GUID { Data1: 0x540b_947e, Data2: 0x8b40, Data3: 0x45bc, Data4: [0xa8, 0xa2, 0x6a, 0x0b, 0x89, 0x4c, 0xbd, 0xa2] };

/// `LOCALE_NEUTRAL`: the properties here are numbers.
const ANY_LOCALE: u32 = 0;

/// The physical device object of a stack.
#[repr(transparent)]
pub struct Pdo(NonNull<DEVICE_OBJECT>);

// SAFETY: the kernel's functions on a device object may be called from any thread.
unsafe impl Send for Pdo {}
// SAFETY: as above.
unsafe impl Sync for Pdo {}

impl Pdo {
    /// The PDO that AddDevice is called with.
    ///
    /// # Safety
    ///
    /// It outlives the value: a PDO lives until the drivers above it are gone.
    pub(crate) const unsafe fn from_raw(raw: NonNull<DEVICE_OBJECT>) -> Self {
        Self(raw)
    }

    /// The device object for kernel functions.
    pub(crate) const fn as_ptr(&self) -> PDEVICE_OBJECT {
        self.0.as_ptr()
    }

    /// A number among the properties of the device ("`IoGetDevicePropertyData` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `OBJECT_NAME_NOT_FOUND` where it is not set, `OBJECT_TYPE_MISMATCH` where it is no 32-bit number.
    pub fn property_u32(&self, key: &DEVPROPKEY, _: Passive<'_>) -> Result<u32> {
        let (mut value, mut size, mut kind) = (0_u32, 0, 0);
        // SAFETY: PASSIVE_LEVEL by the token; the value has the four bytes that are said, and everything outlives the
        // call.
        let status = unsafe {
            ntddk::IoGetDevicePropertyData(
                self.as_ptr(),
                key,
                ANY_LOCALE,
                0,
                4,
                (&raw mut value).cast(),
                &raw mut size,
                &raw mut kind,
            )
        };
        if status == STATUS_BUFFER_TOO_SMALL {
            return Err(NtStatus::OBJECT_TYPE_MISMATCH);
        }
        check(status)?;
        if kind == DEVPROP_TYPE_UINT32 && size == 4 { Ok(value) } else { Err(NtStatus::OBJECT_TYPE_MISMATCH) }
    }
}
