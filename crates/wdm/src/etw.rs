//! Event tracing ("Adding Event Tracing to Kernel-Mode Drivers"). A driver defines its provider and writes its events
//! with the macros of `tracelogging`; here is the registration.

use core::sync::atomic::{AtomicBool, Ordering};

use tracelogging::Provider;

use crate::irql::Passive;
use crate::status::{NtStatus, Result};

/// Whether the driver's provider is registered: registering twice is not allowed.
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// The registration of the driver's provider; dropping it ends it.
pub struct Registration {
    provider: &'static Provider,
}

impl Registration {
    /// Registers `provider` ("`EtwRegister` function"). A driver has one.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `DEVICE_BUSY` while one is registered, or what the kernel function returns.
    pub fn new(provider: &'static Provider, _: Passive<'_>) -> Result<Self> {
        if REGISTERED.swap(true, Ordering::AcqRel) {
            return Err(NtStatus::DEVICE_BUSY);
        }
        // From here on dropping the value makes room for the next.
        let registration = Self { provider };
        // SAFETY: PASSIVE_LEVEL by the token; the provider is not registered, and `drop` unregisters it before the
        // driver unloads.
        let status = unsafe { provider.register() };
        NtStatus::new(status.cast_signed()).ok()?;
        Ok(registration)
    }
}

impl Drop for Registration {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // It has nothing to report for a provider that is registered, and does nothing for another.
        self.provider.unregister();
        REGISTERED.store(false, Ordering::Release);
    }
}
