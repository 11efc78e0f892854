//! Parameters in the registry ("Using the Registry in a Driver").

use core::ptr;

use wdk_sys::{
    _KEY_VALUE_INFORMATION_CLASS, HANDLE, KEY_QUERY_VALUE, KEY_VALUE_PARTIAL_INFORMATION, OBJECT_ATTRIBUTES, REG_DWORD,
    STATUS_BUFFER_OVERFLOW, ntddk,
};

use crate::irql::Passive;
use crate::status::{NtStatus, Result, check};
use crate::string::UnicodeStr;
use crate::thread::kernel_attributes;
use crate::unicode;

/// An open registry key.
pub struct Key {
    handle: HANDLE,
}

/// Room for a `KEY_VALUE_PARTIAL_INFORMATION` with four bytes of data.
#[derive(Default)]
#[repr(C, align(8))]
struct DwordValue {
    title: u32,
    kind: u32,
    length: u32,
    data: u32,
}

const _: () = assert!(size_of::<KEY_VALUE_PARTIAL_INFORMATION>() <= size_of::<DwordValue>());

impl Key {
    /// The `Parameters` key below the service's key, whose path is that of DriverEntry.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `OBJECT_NAME_NOT_FOUND` where there is none, or what `ZwOpenKey` returns.
    pub fn open_parameters(service: UnicodeStr<'_>, passive: Passive<'_>) -> Result<Self> {
        let service = Self::open(ptr::null_mut(), service, passive)?;
        Self::open(service.handle, unicode!("Parameters"), passive)
    }

    /// "`ZwOpenKey` function".
    fn open(root: HANDLE, name: UnicodeStr<'_>, _: Passive<'_>) -> Result<Self> {
        let mut name = name.raw();
        let mut attributes: OBJECT_ATTRIBUTES = kernel_attributes(&raw mut name);
        attributes.RootDirectory = root;
        let mut handle = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token; handle, attributes and name outlive the call.
        check(unsafe { ntddk::ZwOpenKey(&raw mut handle, KEY_QUERY_VALUE, &raw mut attributes) })?;
        Ok(Self { handle })
    }

    /// A `REG_DWORD` value ("`ZwQueryValueKey` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `OBJECT_NAME_NOT_FOUND` where there is none, `OBJECT_TYPE_MISMATCH` where it is of another type, or what the
    /// kernel function returns.
    pub fn read_u32(&self, name: UnicodeStr<'_>, _: Passive<'_>) -> Result<u32> {
        const ROOM: u32 = 16;
        const { assert!(size_of::<DwordValue>() == ROOM as usize) };
        let mut name = name.raw();
        let mut value = DwordValue::default();
        let mut needed = 0;
        // SAFETY: PASSIVE_LEVEL by the token; the value has the room that is said, and everything outlives the call.
        let status = unsafe {
            ntddk::ZwQueryValueKey(
                self.handle,
                &raw mut name,
                _KEY_VALUE_INFORMATION_CLASS::KeyValuePartialInformation,
                (&raw mut value).cast(),
                ROOM,
                &raw mut needed,
            )
        };
        if status == STATUS_BUFFER_OVERFLOW {
            return Err(NtStatus::OBJECT_TYPE_MISMATCH);
        }
        check(status)?;
        if value.kind == REG_DWORD && value.length == 4 { Ok(value.data) } else { Err(NtStatus::OBJECT_TYPE_MISMATCH) }
    }
}

impl Drop for Key {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used again.
        let _ = unsafe { ntddk::ZwClose(self.handle) };
    }
}
