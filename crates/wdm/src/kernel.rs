//! Memory that belongs to the kernel while a driver keeps it.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use wdk_sys::{BOOLEAN, KPROCESSOR_MODE};

/// `TRUE` as a BOOLEAN.
pub const YES: BOOLEAN = 1;
/// `FALSE` as a BOOLEAN.
pub const NO: BOOLEAN = 0;
/// `KernelMode` as a `KPROCESSOR_MODE`.
pub const KERNEL_MODE: KPROCESSOR_MODE = 0;

/// A constant of the headers, which the bindings give 32 bits, as the byte that it is used as.
#[expect(clippy::cast_possible_truncation, reason = "flags of one byte")]
pub const fn byte(constant: u32) -> u8 {
    constant as u8
}

/// A constant of the headers, which the bindings give 32 bits, as the word that it is used as.
#[expect(clippy::cast_possible_truncation, reason = "flags of two bytes")]
pub const fn word(constant: u32) -> u16 {
    constant as u16
}

/// A kernel object in memory of ours; only kernel functions reach into it.
///
/// # Invariants
///
/// The object does not move while the kernel knows it.
#[repr(transparent)]
pub struct Kernel<T>(UnsafeCell<MaybeUninit<T>>);

#[expect(clippy::non_send_fields_in_send_ty, reason = "that is what the invariant is for")]
// SAFETY: only kernel functions reach the object, and those that are used here may be called from any thread.
unsafe impl<T> Send for Kernel<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Kernel<T> {}

impl<T> Kernel<T> {
    /// Room for an object, all zero.
    pub(crate) const fn zeroed() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }

    /// Where the object is.
    pub(crate) const fn get(&self) -> *mut T {
        self.0.get().cast()
    }
}
