//! Cache-aware rundown protection ("Run-Down Protection", "`ExAllocateCacheAwareRundownProtection` function").
//!
//! A protection counts users on a cache line for each processor. It is never freed while the driver is loaded: one that has been run down
//! refuses whoever still asks for it, and serves the next owner. So a dispatch routine may ask for it without a reference of its own.

use core::mem;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use wdk_sys::{_EX_RUNDOWN_REF_CACHE_AWARE, _POOL_TYPE, ntddk};

use crate::imports;
use crate::irql::Passive;
use crate::lock::SpinLock;
use crate::pool::{PoolBox, Tag};
use crate::status::{NtStatus, Result};

/// A count of users that costs no shared cache line, and can be closed and waited for.
pub struct Rundown {
    protection: Protection,
    /// One of the three below; written on opening and closing only.
    state: AtomicU8,
    /// What the protection is kept in while nobody has it.
    spare: SpinLock<Option<PoolBox<Spare>>>,
}

#[derive(Clone, Copy)]
struct Protection(NonNull<_EX_RUNDOWN_REF_CACHE_AWARE>);

// SAFETY: the kernel's rundown functions may be called from any thread.
unsafe impl Send for Protection {}
// SAFETY: as above.
unsafe impl Sync for Protection {}

/// A protection that has been run down and waits for its next owner.
struct Spare {
    protection: Protection,
    next: Option<PoolBox<Self>>,
}

/// The protections of this driver that nobody has.
static SPARES: SpinLock<Option<PoolBox<Spare>>> = SpinLock::new(None);

impl Drop for Spare {
    /// IRQL: <= DISPATCH_LEVEL.
    fn drop(&mut self) {
        // SAFETY: nobody holds it or can acquire it: the driver is being unloaded, or it was never given out.
        unsafe { ntddk::ExFreeCacheAwareRundownProtection(self.protection.0.as_ptr()) };
    }
}

const OPEN: u8 = 0;
const CHANGING: u8 = 1;
const CLOSED: u8 = 2;

impl Rundown {
    /// Protection that can be acquired.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, passive: Passive<'_>) -> Result<Self> {
        let spare = take_spare();
        let reused = spare.is_some();
        let spare = spare.map_or_else(|| Spare::allocate(tag), Ok)?;
        let state = AtomicU8::new(if reused { CLOSED } else { OPEN });
        let this = Self { protection: spare.protection, state, spare: SpinLock::new(Some(spare)) };
        this.reinitialize(passive)?;
        Ok(this)
    }

    /// One more user, who is to call [`Rundown::release`] once; none once [`Rundown::wait`] was called, until
    /// [`Rundown::reinitialize`].
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn acquire(&self) -> bool {
        // SAFETY: the protection lives as long as the driver.
        let acquired = unsafe { imports::ExAcquireRundownProtectionCacheAware(self.protection.0.as_ptr()) };
        acquired != 0
    }

    /// One user less. Whatever [`Rundown::wait`] was waited for may be gone when this returns.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Safety
    ///
    /// The caller has acquired it and does not release it again.
    pub unsafe fn release(&self) {
        // SAFETY: acquired, as the caller promises.
        unsafe { imports::ExReleaseRundownProtectionCacheAware(self.protection.0.as_ptr()) };
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
            // SAFETY: the protection lives as long as the driver; it is run down, and the state keeps others from changing
            // it.
            unsafe { ntddk::ExReInitializeRundownProtectionCacheAware(this.protection.0.as_ptr()) };
        })
    }

    /// Refuses users for good, waits until there is none, and leaves the protection to the next owner. Whoever is late may still ask
    /// for it, and must look then whether what it protected is still there: it may be the next owner's.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn retire(&self, passive: Passive<'_>) {
        let Some(mut spare) = self.spare.lock().take() else { return };
        if self.wait(passive).is_err() {
            // Somebody is still opening or closing it: it is lost rather than given to two.
            mem::forget(spare);
            return;
        }
        let mut spares = SPARES.lock();
        spare.next = spares.take();
        *spares = Some(spare);
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
        // SAFETY: the protection lives as long as the driver; at PASSIVE_LEVEL waiting is allowed.
        unsafe { ntddk::ExWaitForRundownProtectionReleaseCacheAware(self.protection.0.as_ptr()) };
    }
}

impl Drop for Rundown {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: where destructors are called, PASSIVE_LEVEL by contract.
        self.retire(unsafe { Passive::assume() });
    }
}

impl Spare {
    fn allocate(tag: Tag) -> Result<PoolBox<Self>> {
        // SAFETY: called by `Rundown::new` at PASSIVE_LEVEL; nonpaged, so that it can be acquired at DISPATCH_LEVEL.
        let protection = unsafe { ntddk::ExAllocateCacheAwareRundownProtection(_POOL_TYPE::NonPagedPoolNx, tag.raw()) };
        let protection = NonNull::new(protection).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        PoolBox::new(tag, Self { protection: Protection(protection), next: None })
    }
}

fn take_spare() -> Option<PoolBox<Spare>> {
    let mut spares = SPARES.lock();
    let mut first = spares.take()?;
    *spares = first.next.take();
    Some(first)
}

/// Frees the protections that nobody has: the driver is being unloaded.
///
/// IRQL: PASSIVE_LEVEL.
pub(crate) fn free_spares(_: Passive<'_>) {
    let mut spares = mem::take(&mut *SPARES.lock());
    // One by one: dropping the first alone would nest as deep as the list is long.
    while let Some(mut spare) = spares {
        spares = spare.next.take();
    }
}
