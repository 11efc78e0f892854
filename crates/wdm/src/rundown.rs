//! Cache-aware rundown protection ("Run-Down Protection", "`ExAllocateCacheAwareRundownProtection` function").

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use wdk_sys::{_EX_RUNDOWN_REF_CACHE_AWARE, _POOL_TYPE, ntddk};

use crate::irql::Passive;
use crate::pool::Tag;
use crate::status::{NtStatus, Result};

/// A count of users that costs no shared cache line, and can be closed and waited for.
pub struct Rundown {
    protection: NonNull<_EX_RUNDOWN_REF_CACHE_AWARE>,
    /// One of the three below; written on opening and closing only.
    state: AtomicU8,
}

const OPEN: u8 = 0;
const CHANGING: u8 = 1;
const CLOSED: u8 = 2;

// SAFETY: the kernel's rundown functions may be called from any thread.
unsafe impl Send for Rundown {}
// SAFETY: as above.
unsafe impl Sync for Rundown {}

/// One user of a [`Rundown`]; dropping it gives the protection back.
///
/// It borrows nothing: a `Rundown` that is dropped waits for its guards first, so the protection outlives them.
pub struct RundownGuard {
    protection: NonNull<_EX_RUNDOWN_REF_CACHE_AWARE>,
}

// SAFETY: protection may be given back by another thread than took it.
unsafe impl Send for RundownGuard {}
// SAFETY: a shared guard does nothing.
unsafe impl Sync for RundownGuard {}

impl Rundown {
    /// Protection that can be acquired.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, _: Passive<'_>) -> Result<Self> {
        // SAFETY: PASSIVE_LEVEL by the token; nonpaged, so that it can be acquired at DISPATCH_LEVEL.
        let protection = unsafe { ntddk::ExAllocateCacheAwareRundownProtection(_POOL_TYPE::NonPagedPoolNx, tag.raw()) };
        let protection = NonNull::new(protection).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        Ok(Self { protection, state: AtomicU8::new(OPEN) })
    }

    /// One more user; none once [`Rundown::wait`] was called, until [`Rundown::reinitialize`].
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn acquire(&self) -> Option<RundownGuard> {
        // SAFETY: the protection lives as long as `self`.
        let acquired = unsafe { ntddk::ExAcquireRundownProtectionCacheAware(self.protection.as_ptr()) };
        // Not `then_some`: a guard that is made and dropped gives back what was not acquired.
        (acquired != 0).then(|| RundownGuard { protection: self.protection })
    }

    /// Refuses new users and waits until there is none; nothing to do where that has been done.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `DEVICE_BUSY` while another thread is inside this function or [`Rundown::reinitialize`].
    pub fn wait(&self, _: Passive<'_>) -> Result {
        self.change(OPEN, CLOSED, Self::run_down)
    }

    /// Admits users again after [`Rundown::wait`]; nothing to do where it admits them.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `DEVICE_BUSY` while another thread is inside this function or [`Rundown::wait`].
    pub fn reinitialize(&self, _: Passive<'_>) -> Result {
        self.change(CLOSED, OPEN, |this| {
            // SAFETY: the protection lives as long as `self`; it is run down, and the state keeps others from changing
            // it.
            unsafe { ntddk::ExReInitializeRundownProtectionCacheAware(this.protection.as_ptr()) };
        })
    }

    /// Goes from one state to the other by `step`, one thread at a time.
    fn change(&self, from: u8, to: u8, step: impl FnOnce(&Self)) -> Result {
        match self.state.compare_exchange(from, CHANGING, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                step(self);
                self.state.store(to, Ordering::Release);
                Ok(())
            }
            Err(state) if state == to => Ok(()),
            Err(_) => Err(NtStatus::DEVICE_BUSY),
        }
    }

    fn run_down(&self) {
        // SAFETY: the protection lives as long as `self`; at PASSIVE_LEVEL waiting is allowed.
        unsafe { ntddk::ExWaitForRundownProtectionReleaseCacheAware(self.protection.as_ptr()) };
    }
}

impl Drop for Rundown {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        if *self.state.get_mut() != CLOSED {
            self.run_down();
        }
        // SAFETY: nobody holds protection any more, and nobody can acquire it.
        unsafe { ntddk::ExFreeCacheAwareRundownProtection(self.protection.as_ptr()) };
    }
}

impl Drop for RundownGuard {
    /// IRQL: <= DISPATCH_LEVEL.
    fn drop(&mut self) {
        // SAFETY: this guard acquired the protection once, and `Rundown` waits for it before the memory goes.
        unsafe { ntddk::ExReleaseRundownProtectionCacheAware(self.protection.as_ptr()) };
    }
}
