//! Device registers in memory space ("Mapping Bus-Relative Addresses to Virtual Addresses").

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, compiler_fence};

use wdk_sys::{LARGE_INTEGER, PAGE_NOCACHE, PAGE_READWRITE, SIZE_T, ntddk};

use crate::irql::Passive;
use crate::status::{NtStatus, Result};

/// A register of type `T` at `OFFSET` of [`Registers`].
#[derive(Clone, Copy)]
pub struct Register<T: Word, const OFFSET: usize>(PhantomData<T>);

impl<T: Word, const OFFSET: usize> Register<T, OFFSET> {
    /// It.
    #[expect(clippy::new_without_default, reason = "a register is a constant")]
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(OFFSET.is_multiple_of(size_of::<T>()), "a register is aligned") };
        Self(PhantomData)
    }
}

/// What a register can hold: what the processor reads and writes in one access.
pub trait Word: Copy + sealed::Word {}

impl Word for u32 {}
impl Word for u64 {}

mod sealed {
    pub trait Word {}

    impl Word for u32 {}
    impl Word for u64 {}
}

/// `LENGTH` bytes of mapped registers; unmapped when dropped. That a register lies inside is checked when the driver is compiled.
///
/// What is written to a DMA buffer before a register is written is there when the device sees the register, and what is
/// read from the buffer after a register was read is no older. The processor keeps this order for uncached memory; a
/// fence makes the compiler keep it.
///
/// # Invariants
///
/// `LENGTH` bytes from `start` on are mapped, and `start` is aligned for every [`Word`].
pub struct Registers<const LENGTH: usize> {
    start: NonNull<c_void>,
}

// SAFETY: the mapping is good on every processor; accesses are volatile and of one instruction each.
unsafe impl<const LENGTH: usize> Send for Registers<LENGTH> {}
// SAFETY: as above.
unsafe impl<const LENGTH: usize> Sync for Registers<LENGTH> {}

impl<const LENGTH: usize> Registers<LENGTH> {
    /// Maps them at the physical address `start`, uncached ("`MmMapIoSpaceEx` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INVALID_PARAMETER` for an address that is none or no multiple of 8; `INSUFFICIENT_RESOURCES` where there are no system
    /// addresses left.
    pub fn map(start: u64, _: Passive<'_>) -> Result<Self> {
        const { assert!(LENGTH > 0, "there are registers") };
        let address = i64::try_from(start).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        if !start.is_multiple_of(align_of::<u64>() as u64) {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let address = LARGE_INTEGER { QuadPart: address };
        // SAFETY: PASSIVE_LEVEL by the token. A caller without a right to the range breaks the machine, not memory of
        // ours.
        let start = unsafe { ntddk::MmMapIoSpaceEx(address, LENGTH as SIZE_T, PAGE_READWRITE | PAGE_NOCACHE) };
        NonNull::new(start).map(|start| Self { start }).ok_or(NtStatus::INSUFFICIENT_RESOURCES)
    }

    /// Where a register is: inside the mapping, aligned.
    #[inline]
    const fn place<T: Word, const OFFSET: usize>(&self, _: Register<T, OFFSET>) -> NonNull<T> {
        const { assert!(OFFSET < LENGTH && size_of::<T>() <= LENGTH - OFFSET, "a register lies inside the mapping") };
        // SAFETY: inside the mapping, as was just checked.
        unsafe { self.start.byte_add(OFFSET) }.cast::<T>()
    }

    /// Reads a register.
    ///
    /// IRQL: any.
    #[inline]
    #[must_use]
    pub fn read<T: Word, const OFFSET: usize>(&self, register: Register<T, OFFSET>) -> T {
        let place = self.place(register);
        // SAFETY: an aligned register inside the mapping.
        let value = unsafe { place.read_volatile() };
        compiler_fence(Ordering::Acquire);
        value
    }

    /// Writes a register.
    ///
    /// IRQL: any.
    #[inline]
    pub fn write<T: Word, const OFFSET: usize>(&self, register: Register<T, OFFSET>, value: T) {
        let place = self.place(register);
        compiler_fence(Ordering::Release);
        // SAFETY: an aligned register inside the mapping.
        unsafe { place.write_volatile(value) };
    }
}

impl<const LENGTH: usize> Drop for Registers<LENGTH> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and not used any more.
        unsafe { ntddk::MmUnmapIoSpace(self.start.as_ptr(), LENGTH as SIZE_T) };
    }
}
