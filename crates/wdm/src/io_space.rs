//! Device registers in memory space ("Mapping Bus-Relative Addresses to Virtual Addresses").

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, compiler_fence};

use wdk_sys::{LARGE_INTEGER, PAGE_NOCACHE, PAGE_READWRITE, SIZE_T, ntddk};

use crate::irql::Passive;
use crate::status::{NtStatus, Result};

/// Mapped registers; unmapped when dropped. Every access is checked against their length.
///
/// What is written to a DMA buffer before a register is written is there when the device sees the register, and what is
/// read from the buffer after a register was read is no older. The processor keeps this order for uncached memory; a
/// fence makes the compiler keep it.
pub struct Registers {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the mapping is good on every processor; accesses are volatile and of one instruction each.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Maps `length` bytes at the physical address `start`, uncached ("`MmMapIoSpaceEx` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INVALID_PARAMETER` for an address or a length that is none; `INSUFFICIENT_RESOURCES` where there are no system
    /// addresses left.
    pub fn map(start: u64, length: u64, _: Passive<'_>) -> Result<Self> {
        let size = usize::try_from(length).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        let address = i64::try_from(start).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        if size == 0 {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let address = LARGE_INTEGER { QuadPart: address };
        // SAFETY: PASSIVE_LEVEL by the token. A caller without a right to the range breaks the machine, not memory of
        // ours.
        let start = unsafe { ntddk::MmMapIoSpaceEx(address, length as SIZE_T, PAGE_READWRITE | PAGE_NOCACHE) };
        let start = NonNull::new(start).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        Ok(Self { start, length: size })
    }

    /// How many bytes are mapped.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether none is; never so.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where an aligned register of type `T` at `offset` is.
    fn register<T>(&self, offset: usize) -> Result<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>()).ok_or(NtStatus::INVALID_PARAMETER)?;
        if end > self.length {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        // SAFETY: inside the mapping.
        let register = unsafe { self.start.byte_add(offset) }.cast::<T>();
        if register.is_aligned() { Ok(register) } else { Err(NtStatus::DATATYPE_MISALIGNMENT) }
    }

    /// Reads 32 bits.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// `INVALID_PARAMETER` outside the mapping, `DATATYPE_MISALIGNMENT` off a multiple of four.
    #[inline]
    pub fn read_u32(&self, offset: usize) -> Result<u32> {
        let register = self.register::<u32>(offset)?;
        // SAFETY: an aligned register inside the mapping.
        let value = unsafe { register.read_volatile() };
        compiler_fence(Ordering::Acquire);
        Ok(value)
    }

    /// Writes 32 bits.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// As for [`Registers::read_u32`].
    #[inline]
    pub fn write_u32(&self, offset: usize, value: u32) -> Result {
        let register = self.register::<u32>(offset)?;
        compiler_fence(Ordering::Release);
        // SAFETY: an aligned register inside the mapping.
        unsafe { register.write_volatile(value) };
        Ok(())
    }

    /// Reads 64 bits.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// `INVALID_PARAMETER` outside the mapping, `DATATYPE_MISALIGNMENT` off a multiple of eight.
    #[inline]
    pub fn read_u64(&self, offset: usize) -> Result<u64> {
        let register = self.register::<u64>(offset)?;
        // SAFETY: an aligned register inside the mapping.
        let value = unsafe { register.read_volatile() };
        compiler_fence(Ordering::Acquire);
        Ok(value)
    }

    /// Writes 64 bits.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// As for [`Registers::read_u64`].
    #[inline]
    pub fn write_u64(&self, offset: usize, value: u64) -> Result {
        let register = self.register::<u64>(offset)?;
        compiler_fence(Ordering::Release);
        // SAFETY: an aligned register inside the mapping.
        unsafe { register.write_volatile(value) };
        Ok(())
    }
}

impl Drop for Registers {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and not used any more.
        unsafe { ntddk::MmUnmapIoSpace(self.start.as_ptr(), self.length as SIZE_T) };
    }
}
