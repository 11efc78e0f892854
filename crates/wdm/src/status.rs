//! NTSTATUS values ("Using NTSTATUS Values").

use core::fmt;

use wdk_sys::NTSTATUS;

/// What a fallible operation of this crate ends with.
pub type Result<T = ()> = core::result::Result<T, NtStatus>;

/// An NTSTATUS.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(transparent)]
pub struct NtStatus(NTSTATUS);

/// Names for the values that drivers return, from those of `wdk_sys`.
macro_rules! named {
    ($($name:ident = $value:ident;)*) => {
        impl NtStatus {
            $(
                #[doc = concat!("`", stringify!($value), "`.")]
                pub const $name: Self = Self(wdk_sys::$value);
            )*
        }
    };
}

named! {
    ACCESS_DENIED = STATUS_ACCESS_DENIED;
    BUFFER_OVERFLOW = STATUS_BUFFER_OVERFLOW;
    BUFFER_TOO_SMALL = STATUS_BUFFER_TOO_SMALL;
    CANCELLED = STATUS_CANCELLED;
    DATATYPE_MISALIGNMENT = STATUS_DATATYPE_MISALIGNMENT;
    DELETE_PENDING = STATUS_DELETE_PENDING;
    DEVICE_BUSY = STATUS_DEVICE_BUSY;
    DEVICE_CONFIGURATION_ERROR = STATUS_DEVICE_CONFIGURATION_ERROR;
    DEVICE_DATA_ERROR = STATUS_DEVICE_DATA_ERROR;
    DEVICE_HARDWARE_ERROR = STATUS_DEVICE_HARDWARE_ERROR;
    DEVICE_NOT_READY = STATUS_DEVICE_NOT_READY;
    DEVICE_POWERED_OFF = STATUS_DEVICE_POWERED_OFF;
    DISK_FULL = STATUS_DISK_FULL;
    END_OF_FILE = STATUS_END_OF_FILE;
    INFO_LENGTH_MISMATCH = STATUS_INFO_LENGTH_MISMATCH;
    INSUFFICIENT_RESOURCES = STATUS_INSUFFICIENT_RESOURCES;
    INVALID_BUFFER_SIZE = STATUS_INVALID_BUFFER_SIZE;
    INVALID_DEVICE_REQUEST = STATUS_INVALID_DEVICE_REQUEST;
    INVALID_DEVICE_STATE = STATUS_INVALID_DEVICE_STATE;
    INVALID_PARAMETER = STATUS_INVALID_PARAMETER;
    IO_DEVICE_ERROR = STATUS_IO_DEVICE_ERROR;
    IO_TIMEOUT = STATUS_IO_TIMEOUT;
    NO_SUCH_DEVICE = STATUS_NO_SUCH_DEVICE;
    NOT_FOUND = STATUS_NOT_FOUND;
    NOT_IMPLEMENTED = STATUS_NOT_IMPLEMENTED;
    NOT_SUPPORTED = STATUS_NOT_SUPPORTED;
    OBJECT_NAME_NOT_FOUND = STATUS_OBJECT_NAME_NOT_FOUND;
    OBJECT_TYPE_MISMATCH = STATUS_OBJECT_TYPE_MISMATCH;
    PENDING = STATUS_PENDING;
    SUCCESS = STATUS_SUCCESS;
    TIMEOUT = STATUS_TIMEOUT;
    UNSUCCESSFUL = STATUS_UNSUCCESSFUL;
}

impl NtStatus {
    /// The status with the value `raw`.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn new(raw: NTSTATUS) -> Self {
        Self(raw)
    }

    /// Its value.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn raw(self) -> NTSTATUS {
        self.0
    }

    /// Whether it is a success or informational value (`NT_SUCCESS`).
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn is_success(self) -> bool {
        wdk_sys::NT_SUCCESS(self.0)
    }

    /// `Ok` for a success or informational value.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// The status itself where it is a warning or an error.
    pub const fn ok(self) -> Result {
        if self.is_success() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#010x}", self.0)
    }
}

/// `Ok` where the kernel function that returned `raw` succeeded.
pub(crate) const fn check(raw: NTSTATUS) -> Result {
    NtStatus(raw).ok()
}
