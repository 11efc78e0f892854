//! Remove locks ("Using Remove Locks").

use core::ffi::c_void;

use wdk_sys::{IO_REMOVE_LOCK, ntddk};

use crate::imports;
use crate::irql::Passive;
use crate::kernel::Kernel;
use crate::status::{Result, check};

/// What the kernel's functions want to know about the lock's size.
const SIZE: u32 = {
    assert!(size_of::<IO_REMOVE_LOCK>() <= 0x1000, "fits");
    #[expect(clippy::cast_possible_truncation, reason = "asserted")]
    let size = size_of::<IO_REMOVE_LOCK>() as u32;
    size
};

/// A count of what still needs a device; removing waits for it.
#[repr(transparent)]
pub struct RemoveLock(Kernel<IO_REMOVE_LOCK>);

impl RemoveLock {
    /// Room for a lock.
    pub(crate) const fn zeroed() -> Self {
        Self(Kernel::zeroed())
    }

    /// Makes a lock at `place` ("`IoInitializeRemoveLock` macro").
    ///
    /// # Safety
    ///
    /// `place` is memory for a lock in nonpaged pool, where it stays.
    pub(crate) unsafe fn initialize(place: *mut Self, tag: u32, _: Passive<'_>) {
        // SAFETY: the memory is large enough, as the caller promises; no limits on time or count.
        unsafe { ntddk::IoInitializeRemoveLockEx(place.cast(), tag, 0, 0, SIZE) };
    }

    /// Takes the lock once more ("`IoAcquireRemoveLock` macro"); every success is followed by one release with the same
    /// tag.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `DELETE_PENDING` once the device is being removed.
    pub(crate) fn acquire(&self, tag: *mut c_void) -> Result {
        // SAFETY: the lock was initialised where it is; the tag is a number to the kernel.
        check(unsafe { ntddk::IoAcquireRemoveLockEx(self.0.get(), tag, c"".as_ptr(), 0, SIZE) })
    }

    /// Gives it back ("`IoReleaseRemoveLock` macro").
    ///
    /// # Safety
    ///
    /// An `acquire` with this tag has succeeded and was not released yet.
    pub(crate) unsafe fn release(&self, tag: *mut c_void) {
        // SAFETY: as the caller promises.
        unsafe { imports::IoReleaseRemoveLockEx(self.0.get(), tag, SIZE) };
    }

    /// Gives it back, refuses it to others from now on and waits until nobody has it ("`IoReleaseRemoveLockAndWait`
    /// macro").
    ///
    /// # Safety
    ///
    /// As for [`RemoveLock::release`]; called once in the life of the lock.
    pub(crate) unsafe fn release_and_wait(&self, tag: *mut c_void, _: Passive<'_>) {
        // SAFETY: as the caller promises; PASSIVE_LEVEL by the token.
        unsafe { ntddk::IoReleaseRemoveLockAndWaitEx(self.0.get(), tag, SIZE) };
    }
}
