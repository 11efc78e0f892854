//! DMA by common buffer ("Using Common-Buffer Bus-Master DMA").

use core::ptr::{self, NonNull};

use wdk_sys::{
    _INTERFACE_TYPE, DEVICE_DESCRIPTION, DEVICE_DESCRIPTION_VERSION3, DMA_ADAPTER, DMA_OPERATIONS, LARGE_INTEGER,
    PVOID, ULONG, ntddk,
};

use crate::device::Pdo;
use crate::irp::DirectBuffer;
use crate::irql::Passive;
use crate::kernel::YES;
use crate::pool::{PoolArc, Tag};
use crate::status::{NtStatus, Result};
use crate::time::quad;

/// What a bus-master device can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BusMaster {
    /// How many address bits it drives.
    pub address_bits: u32,
    /// The most bytes of one transfer.
    pub maximum_length: u32,
}

struct Raw(NonNull<DMA_ADAPTER>);

// SAFETY: the operations that are used here may be called from any thread.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Raw {
    const fn operations(&self) -> *const DMA_OPERATIONS {
        // SAFETY: the adapter lives until it is put.
        unsafe { (*self.0.as_ptr()).DmaOperations }
    }
}

impl Drop for Raw {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the adapter has operations.
        if let Some(put) = unsafe { (*self.operations()).PutDmaAdapter } {
            // SAFETY: the adapter is ours and not used any more.
            unsafe { put(self.0.as_ptr()) };
        }
    }
}

/// What a device does DMA through; given back when it and its common buffers are dropped.
pub struct Adapter {
    raw: PoolArc<Raw>,
}

/// Memory that the device and the processors share.
pub struct CommonBuffer {
    adapter: PoolArc<Raw>,
    start: NonNull<u8>,
    length: ULONG,
    logical: LARGE_INTEGER,
}

// SAFETY: the buffer is plain memory; copies in and out need an exclusive borrow where they write.
unsafe impl Send for CommonBuffer {}
// SAFETY: as above.
unsafe impl Sync for CommonBuffer {}

impl Adapter {
    /// The adapter of a device ("`IoGetDmaAdapter` function", "`DEVICE_DESCRIPTION` structure").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is none.
    pub fn get(tag: Tag, pdo: &Pdo, device: BusMaster, _: Passive<'_>) -> Result<Self> {
        let mut description = DEVICE_DESCRIPTION {
            // The version that says how many address bits a device has.
            Version: DEVICE_DESCRIPTION_VERSION3,
            Master: YES,
            ScatterGather: YES,
            InterfaceType: _INTERFACE_TYPE::PCIBus,
            MaximumLength: device.maximum_length,
            DmaAddressWidth: device.address_bits,
            ..DEVICE_DESCRIPTION::default()
        };
        let mut map_registers = 0;
        // SAFETY: PASSIVE_LEVEL by the token; the PDO lives, and both structures outlive the call.
        let adapter =
            unsafe { ntddk::IoGetDmaAdapter(pdo.as_ptr(), (&raw mut description).cast(), &raw mut map_registers) };
        let raw = Raw(NonNull::new(adapter).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?);
        Ok(Self { raw: PoolArc::new(tag, raw)? })
    }

    /// A buffer of `length` bytes, zeroed, at addresses that the device reaches ("`PALLOCATE_COMMON_BUFFER` callback
    /// function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INVALID_PARAMETER` for no bytes; `INSUFFICIENT_RESOURCES` where there is no such memory.
    pub fn common_buffer(&self, length: u32, _: Passive<'_>) -> Result<CommonBuffer> {
        if length == 0 {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        // SAFETY: the adapter has operations.
        let allocate = unsafe { (*self.raw.operations()).AllocateCommonBuffer }.ok_or(NtStatus::NOT_SUPPORTED)?;
        let mut logical = LARGE_INTEGER { QuadPart: 0 };
        // SAFETY: PASSIVE_LEVEL by the token; the address outlives the call. Caches are coherent with DMA on x64.
        let start = unsafe { allocate(self.raw.0.as_ptr(), length, &raw mut logical, YES) };
        let start = NonNull::new(start).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?.cast::<u8>();
        // SAFETY: the kernel gave so many bytes; it does not say that they are zero.
        unsafe { start.write_bytes(0, length as usize) };
        Ok(CommonBuffer { adapter: self.raw.clone(), start, length, logical })
    }
}

impl CommonBuffer {
    /// The address at which the device finds it.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn logical_address(&self) -> u64 {
        quad(self.logical).cast_unsigned()
    }

    /// How many bytes it has.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether it has none; never so.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies bytes out. What the device writes meanwhile is torn.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where the buffer ends before `bytes` are full.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result {
        let place = self.place(offset, bytes.len())?;
        // SAFETY: the range is inside the buffer, and our slice is not.
        unsafe { ptr::copy_nonoverlapping(place.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where the buffer ends before that.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result {
        let place = self.place(offset, bytes.len())?;
        // SAFETY: as in `read`, in the other direction.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies the first `length` bytes out to a caller's buffer. What the device writes meanwhile is torn.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where either ends before that.
    pub fn copy_to(&self, buffer: &DirectBuffer<'_>, length: usize) -> Result {
        let (from, to) = (self.place(0, length)?, buffer.place(0, length)?);
        // SAFETY: both ranges are valid; a common buffer is memory of its own.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), length) };
        Ok(())
    }

    /// Copies the first `length` bytes of a caller's buffer in. What the caller writes meanwhile is torn.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where either ends before that.
    pub fn copy_from(&mut self, buffer: &DirectBuffer<'_>, length: usize) -> Result {
        let (from, to) = (buffer.place(0, length)?, self.place(0, length)?);
        // SAFETY: as in `copy_to`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), length) };
        Ok(())
    }

    const fn place(&self, offset: usize, length: usize) -> Result<NonNull<u8>> {
        match offset.checked_add(length) {
            // SAFETY: inside the buffer.
            Some(end) if end <= self.len() => Ok(unsafe { self.start.add(offset) }),
            _ => Err(NtStatus::BUFFER_TOO_SMALL),
        }
    }
}

impl Drop for CommonBuffer {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the adapter has operations.
        let Some(free) = (unsafe { (*self.adapter.operations()).FreeCommonBuffer }) else {
            return;
        };
        let start: PVOID = self.start.as_ptr().cast();
        // SAFETY: what `common_buffer` allocated, with the same parameters; the device is done with it.
        unsafe { free(self.adapter.0.as_ptr(), self.length, self.logical, start, YES) };
    }
}
