//! Physical memory, and the event that says that there is plenty.

use core::ffi::c_void;
use core::ptr::{self, NonNull};

use wdk_sys::{HANDLE, KEVENT, PHYSICAL_MEMORY_RANGE, ntddk};

use crate::event::Waitable;
use crate::irql::Passive;
use crate::status::{NtStatus, Result};
use crate::time::quad;
use crate::unicode;

/// How many bytes of physical memory the system uses ("`MmGetPhysicalMemoryRanges` function").
///
/// IRQL: PASSIVE_LEVEL.
///
/// # Errors
///
/// `INSUFFICIENT_RESOURCES` where there is no memory for the list.
pub fn physical_bytes(_: Passive<'_>) -> Result<u64> {
    // SAFETY: PASSIVE_LEVEL by the token.
    let ranges = unsafe { ntddk::MmGetPhysicalMemoryRanges() };
    let ranges = NonNull::new(ranges).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let total = sum(ranges.as_ptr());
    // SAFETY: the list was allocated for us to free, with a tag of the kernel's.
    unsafe { ntddk::ExFreePoolWithTag(ranges.as_ptr().cast(), 0) };
    Ok(total)
}

/// The bytes of a list that ends with an empty range.
const fn sum(mut next: *const PHYSICAL_MEMORY_RANGE) -> u64 {
    let mut total = 0_u64;
    loop {
        // SAFETY: the end was not reached yet.
        let range = unsafe { next.read() };
        let (start, bytes) = (quad(range.BaseAddress), quad(range.NumberOfBytes).cast_unsigned());
        if start == 0 && bytes == 0 {
            return total;
        }
        total = total.saturating_add(bytes);
        // SAFETY: another range or the end follows.
        next = unsafe { next.add(1) };
    }
}

/// `\KernelObjects\HighMemoryCondition`: signaled while much memory is free ("Standard Event Objects"). A hint, no
/// more.
pub struct HighMemoryCondition {
    event: NonNull<KEVENT>,
    handle: HANDLE,
}

// SAFETY: a kernel handle and its event are good in every thread.
unsafe impl Send for HighMemoryCondition {}
// SAFETY: as above.
unsafe impl Sync for HighMemoryCondition {}

// SAFETY: the handle keeps the event alive for as long as `self` lives.
unsafe impl Waitable for HighMemoryCondition {
    fn object(&self) -> *mut c_void {
        self.event.as_ptr().cast()
    }
}

impl HighMemoryCondition {
    /// Opens the event ("`IoCreateNotificationEvent` function"). The handle is the system process's: opened in
    /// DriverEntry or a system thread, and dropped in one.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` where it cannot be opened.
    pub fn open(_: Passive<'_>) -> Result<Self> {
        let mut name = unicode!("\\KernelObjects\\HighMemoryCondition").raw();
        let mut handle = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token; name and handle outlive the call.
        let event = unsafe { ntddk::IoCreateNotificationEvent(&raw mut name, &raw mut handle) };
        let event = NonNull::new(event).ok_or(NtStatus::NOT_FOUND)?;
        Ok(Self { event, handle })
    }
}

impl Drop for HighMemoryCondition {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used again.
        let _ = unsafe { ntddk::ZwClose(self.handle) };
    }
}
