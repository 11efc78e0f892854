//! What requests end with.

use std::fmt;

use windows_sys::Win32::Foundation;

/// An NTSTATUS that prints as its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NtStatus(pub i32);

macro_rules! statuses {
    ($($name:ident = $status:ident,)*) => {
        impl NtStatus {
            $(
                #[doc = concat!("`", stringify!($status), "`.")]
                pub const $name: Self = Self(Foundation::$status);
            )*
        }
    };
}
statuses! {
    SUCCESS = STATUS_SUCCESS,
    ACCESS_DENIED = STATUS_ACCESS_DENIED,
    BUFFER_TOO_SMALL = STATUS_BUFFER_TOO_SMALL,
    CANCELLED = STATUS_CANCELLED,
    DELETE_PENDING = STATUS_DELETE_PENDING,
    DISK_FULL = STATUS_DISK_FULL,
    END_OF_FILE = STATUS_END_OF_FILE,
    INFO_LENGTH_MISMATCH = STATUS_INFO_LENGTH_MISMATCH,
    INVALID_BUFFER_SIZE = STATUS_INVALID_BUFFER_SIZE,
    INVALID_DEVICE_REQUEST = STATUS_INVALID_DEVICE_REQUEST,
    INVALID_PARAMETER = STATUS_INVALID_PARAMETER,
    IO_TIMEOUT = STATUS_IO_TIMEOUT,
    NO_SUCH_DEVICE = STATUS_NO_SUCH_DEVICE,
}

impl NtStatus {
    /// Whether it is a success or information, as `NT_SUCCESS`.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 >= 0
    }
}

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&recording::words::status(self.0))
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
