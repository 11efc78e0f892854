//! The buffers of an IRP ("Methods for Accessing Data Buffers").

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use wdk_sys::{
    _MEMORY_CACHING_TYPE, _MM_PAGE_PRIORITY, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL,
    METHOD_BUFFERED, METHOD_NEITHER,
};

use super::{Irp, IrpRef};
use crate::imports;
use crate::kernel::{KERNEL_MODE, NO};
use crate::status::{NtStatus, Result};

/// `MdlMappingNoExecute` ("`MmMapLockedPagesSpecifyCache` function").
const NO_EXECUTE: u32 = 0x4000_0000;

/// The caller's pages, locked and mapped to system space.
///
/// The caller may write to them meanwhile, so bytes are copied out and in, never borrowed.
pub struct DirectBuffer<'a> {
    start: NonNull<u8>,
    length: usize,
    irp: PhantomData<&'a IrpRef>,
}

impl IrpRef {
    /// Copies the start of the input of a buffered or direct control code ("Buffer Descriptions for I/O Control
    /// Codes").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where the caller gave less than `input` takes; `INVALID_DEVICE_REQUEST` for another IRP or
    /// method.
    pub fn read_input(&self, input: &mut [u8]) -> Result {
        let control = self.device_control().ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        if method(control.code) == METHOD_NEITHER {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        if control.input_length < input.len() {
            return Err(NtStatus::BUFFER_TOO_SMALL);
        }
        if input.is_empty() {
            return Ok(());
        }
        let buffer = self.system_buffer().ok_or(NtStatus::INVALID_PARAMETER)?;
        // SAFETY: the system buffer holds at least the input length; it is pool of the I/O manager, so it does not
        // overlap ours.
        unsafe { ptr::copy_nonoverlapping(buffer.as_ptr(), input.as_mut_ptr(), input.len()) };
        Ok(())
    }

    /// Copies `output` to the output buffer of a buffered control code, starting at `offset`. It overwrites the input,
    /// which shares the buffer.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where it does not fit; `INVALID_DEVICE_REQUEST` for another IRP or method. Nothing is written
    /// then.
    pub fn write_output(&self, offset: usize, output: &[u8]) -> Result {
        let place = self.output_place(offset, output.len())?;
        // SAFETY: so many bytes are there; pool of the I/O manager does not overlap ours.
        unsafe { ptr::copy_nonoverlapping(output.as_ptr(), place.as_ptr(), output.len()) };
        Ok(())
    }

    /// Where `length` bytes from `offset` on of the output buffer of a buffered control code are; anywhere for none.
    ///
    /// # Errors
    ///
    /// As for [`IrpRef::write_output`].
    fn output_place(&self, offset: usize, length: usize) -> Result<NonNull<u8>> {
        let control = self.device_control().ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
        if method(control.code) != METHOD_BUFFERED {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        check_range(offset, length, control.output_length)?;
        if length == 0 {
            return Ok(NonNull::dangling());
        }
        let buffer = self.system_buffer().ok_or(NtStatus::INVALID_PARAMETER)?;
        // SAFETY: the system buffer holds at least the output length, and the range lies within that.
        Ok(unsafe { buffer.add(offset) })
    }

    fn system_buffer(&self) -> Option<NonNull<u8>> {
        // SAFETY: the address of a member of an IRP that is ours.
        let place = unsafe { &raw const (*self.as_ptr()).AssociatedIrp.SystemBuffer };
        // SAFETY: for the methods that the callers admit the I/O manager sets this member.
        NonNull::new(unsafe { place.read() }.cast())
    }

    /// The caller's buffer of a direct transfer, mapped ("`MmGetSystemAddressForMdlSafe` macro"). A transfer of no
    /// bytes has an empty one.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there are no system addresses left.
    pub fn direct_buffer(&self) -> Result<DirectBuffer<'_>> {
        let Some(mdl) = self.mdl() else {
            return Ok(DirectBuffer { start: NonNull::dangling(), length: 0, irp: PhantomData });
        };
        let start = mapped_address(mdl).or_else(|| map(mdl)).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        Ok(DirectBuffer { start, length: length_of(mdl), irp: PhantomData })
    }

    /// The same where [`IrpRef::direct_buffer`] has mapped it, for those who cannot fail any more; else none.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn mapped_buffer(&self) -> Option<DirectBuffer<'_>> {
        let mdl = self.mdl()?;
        Some(DirectBuffer { start: mapped_address(mdl)?, length: length_of(mdl), irp: PhantomData })
    }

    fn mdl(&self) -> Option<NonNull<MDL>> {
        // SAFETY: the IRP is ours.
        NonNull::new(unsafe { (*self.as_ptr()).MdlAddress })
    }
}

impl Irp<'_> {
    /// The start of the output buffer of a buffered control code, to be written to in place. It is the input's too, and what it holds
    /// goes to the caller if the IRP is completed with a success.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where the caller takes less; `INVALID_DEVICE_REQUEST` for another IRP or method.
    pub fn output<const BYTES: usize>(&mut self) -> Result<&mut [u8; BYTES]> {
        let mut output = self.inner.output_place(0, BYTES)?.cast::<[u8; BYTES]>();
        // SAFETY: so many bytes of the system buffer, which is the IRP's, that is borrowed exclusively; they were written to by the I/O
        // manager, or are what its pool held.
        Ok(unsafe { output.as_mut() })
    }
}

/// The transfer method of a control code.
const fn method(code: u32) -> u32 {
    code & METHOD_NEITHER
}

/// Whether `length` bytes from `offset` on lie within `available`.
const fn check_range(offset: usize, length: usize, available: usize) -> Result {
    match offset.checked_add(length) {
        Some(end) if end <= available => Ok(()),
        _ => Err(NtStatus::BUFFER_TOO_SMALL),
    }
}

fn length_of(mdl: NonNull<MDL>) -> usize {
    // SAFETY: the MDL belongs to an IRP that is ours.
    unsafe { (*mdl.as_ptr()).ByteCount as usize }
}

/// Where the pages are mapped, if they are.
fn mapped_address(mdl: NonNull<MDL>) -> Option<NonNull<u8>> {
    // SAFETY: the MDL belongs to an IRP that is ours.
    let flags = u32::from(unsafe { (*mdl.as_ptr()).MdlFlags }.cast_unsigned());
    if flags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) == 0 {
        return None;
    }
    // SAFETY: as above; the flags say that the member is valid.
    NonNull::new(unsafe { (*mdl.as_ptr()).MappedSystemVa }.cast())
}

fn map(mdl: NonNull<MDL>) -> Option<NonNull<u8>> {
    let priority = _MM_PAGE_PRIORITY::NormalPagePriority | NO_EXECUTE;
    // SAFETY: the I/O manager has locked the pages; mapping to system space is allowed at DISPATCH_LEVEL, and failure
    // comes back as null.
    let mapped = unsafe {
        imports::MmMapLockedPagesSpecifyCache(
            mdl.as_ptr(),
            KERNEL_MODE,
            _MEMORY_CACHING_TYPE::MmCached,
            ptr::null_mut(),
            u32::from(NO),
            priority,
        )
    };
    NonNull::new(mapped.cast())
}

impl DirectBuffer<'_> {
    /// How many bytes it has.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies the caller's bytes from `offset` on.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where the buffer ends before `bytes` are full; nothing is copied then.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result {
        let place = self.place(offset, bytes.len())?;
        // SAFETY: the range lies within the mapped pages, which do not overlap our slice. A caller that writes to them
        // meanwhile gets torn bytes, as it would from any copy.
        unsafe { ptr::copy_nonoverlapping(place.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `bytes` to the caller, from `offset` on.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `BUFFER_TOO_SMALL` where the buffer ends before that; nothing is copied then.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result {
        let place = self.place(offset, bytes.len())?;
        // SAFETY: as in `read`, in the other direction.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
        Ok(())
    }

    pub(crate) fn place(&self, offset: usize, length: usize) -> Result<NonNull<u8>> {
        check_range(offset, length, self.length)?;
        // SAFETY: the range lies within the mapped pages.
        Ok(unsafe { self.start.add(offset) })
    }
}
