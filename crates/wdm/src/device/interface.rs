//! Device interfaces ("Registering a Device Interface").

use core::ptr;

use wdk_sys::{GUID, UNICODE_STRING, ntddk};

use super::Pdo;
use crate::irql::Passive;
use crate::kernel::{NO, YES};
use crate::status::{Result, check};

/// A registered interface of a device; disabled when it is dropped.
pub struct Interface {
    link: UNICODE_STRING,
}

// SAFETY: the string is memory of ours that nobody writes to.
unsafe impl Send for Interface {}
// SAFETY: as above.
unsafe impl Sync for Interface {}

impl Interface {
    /// Registers an interface of class `class`; it is not enabled yet ("`IoRegisterDeviceInterface` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What the kernel function returns.
    pub fn register(pdo: &Pdo, class: &GUID, _: Passive<'_>) -> Result<Self> {
        let mut link = UNICODE_STRING { Length: 0, MaximumLength: 0, Buffer: ptr::null_mut() };
        // SAFETY: PASSIVE_LEVEL by the token; the PDO lives, and the kernel allocates the name of the link.
        check(unsafe { ntddk::IoRegisterDeviceInterface(pdo.as_ptr(), class, ptr::null_mut(), &raw mut link) })?;
        Ok(Self { link })
    }

    /// Makes it visible to user mode, or not ("`IoSetDeviceInterfaceState` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What the kernel function returns: for one that is not enabled, disabling fails.
    pub fn set_enabled(&self, enabled: bool, _: Passive<'_>) -> Result {
        self.set_state(if enabled { YES } else { NO })
    }

    fn set_state(&self, state: u8) -> Result {
        let mut link = self.link;
        // SAFETY: the name is the one that the registration gave; at PASSIVE_LEVEL, and it is only read.
        check(unsafe { ntddk::IoSetDeviceInterfaceState(&raw mut link, state) })
    }
}

impl Drop for Interface {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // Fails where it is not enabled, which is what is wanted.
        let _ = self.set_state(NO);
        // SAFETY: the kernel allocated the name for us to free.
        unsafe { ntddk::RtlFreeUnicodeString(&raw mut self.link) };
    }
}
