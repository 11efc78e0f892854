//! Spin locks that hold their data ("Introduction to Spin Locks").

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use wdk_sys::{KIRQL, KSPIN_LOCK};

use crate::imports;
use crate::irql::Dispatch;

/// Data that is reached only while its spin lock is held.
///
/// No call out of the driver and no wait while it is held: a guard is short-lived.
#[derive(Default)]
pub struct SpinLock<T> {
    lock: UnsafeCell<KSPIN_LOCK>,
    data: UnsafeCell<T>,
}

// SAFETY: the data moves from one holder to the next, one at a time.
unsafe impl<T: Send> Send for SpinLock<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A lock that nobody holds ("`KeInitializeSpinLock` function": it stores zero).
    ///
    /// IRQL: any.
    pub const fn new(data: T) -> Self {
        Self { lock: UnsafeCell::new(0), data: UnsafeCell::new(data) }
    }

    /// Takes the lock; the guard gives it back and restores the IRQL ("`KeAcquireSpinLock` macro").
    ///
    /// IRQL: <= DISPATCH_LEVEL; raised to DISPATCH_LEVEL while the guard lives. Guards of two locks are dropped in the
    /// reverse order, or the IRQL falls too early.
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        // SAFETY: at DISPATCH_LEVEL or below; the lock stays where it is while the guard borrows it, and starts as
        // zero.
        let before = unsafe { imports::KeAcquireSpinLockRaiseToDpc(self.lock.get()) };
        SpinLockGuard { lock: self, before, thread: PhantomData }
    }

    /// Takes the lock without a change of IRQL ("`KeAcquireSpinLockAtDpcLevel` macro").
    ///
    /// IRQL: DISPATCH_LEVEL.
    pub fn lock_at_dispatch(&self, _: Dispatch<'_>) -> DispatchGuard<'_, T> {
        // SAFETY: DISPATCH_LEVEL by the token; otherwise as in `lock`.
        unsafe { imports::KeAcquireSpinLockAtDpcLevel(self.lock.get()) };
        DispatchGuard { lock: self, thread: PhantomData }
    }

    /// The data, for which the exclusive borrow serves as lock.
    ///
    /// IRQL: any.
    pub const fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    fn data(&self) -> &T {
        // SAFETY: called by guards only: the lock is held, so nobody else reaches the data.
        unsafe { &*self.data.get() }
    }

    #[expect(clippy::mut_from_ref, reason = "the lock is what makes it exclusive")]
    fn data_mut(&self) -> &mut T {
        // SAFETY: called by guards that are borrowed exclusively, while the lock is held.
        unsafe { &mut *self.data.get() }
    }
}

/// A held [`SpinLock`]; IRQL is DISPATCH_LEVEL while it lives.
pub struct SpinLockGuard<'a, T> {
    lock: &'a SpinLock<T>,
    before: KIRQL,
    /// The IRQL is that of a processor: the guard stays with its thread.
    thread: PhantomData<*const ()>,
}

impl<T> SpinLockGuard<'_, T> {
    /// The token for functions that need DISPATCH_LEVEL.
    ///
    /// IRQL: DISPATCH_LEVEL, as the guard lives.
    #[must_use]
    pub const fn dispatch(&self) -> Dispatch<'_> {
        // SAFETY: a held spin lock keeps the IRQL at DISPATCH_LEVEL, and the token borrows the guard.
        unsafe { Dispatch::assume() }
    }
}

impl<T> Deref for SpinLockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.lock.data()
    }
}

impl<T> DerefMut for SpinLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.lock.data_mut()
    }
}

impl<T> Drop for SpinLockGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard took the lock and noted the IRQL from before.
        unsafe { imports::KeReleaseSpinLock(self.lock.lock.get(), self.before) };
    }
}

/// A [`SpinLock`] held by a routine that runs at DISPATCH_LEVEL anyway.
pub struct DispatchGuard<'a, T> {
    lock: &'a SpinLock<T>,
    thread: PhantomData<*const ()>,
}

impl<T> Deref for DispatchGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.lock.data()
    }
}

impl<T> DerefMut for DispatchGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.lock.data_mut()
    }
}

impl<T> Drop for DispatchGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard took the lock at DISPATCH_LEVEL, where it still is.
        unsafe { imports::KeReleaseSpinLockFromDpcLevel(self.lock.lock.get()) };
    }
}
