//! `foreign.sys`: a mailbox. A write leaves a message in the device, a read gets a copy of the last one.
//!
//! It is written straight on wdk-sys, and uses the kernel in other ways than the project's own driver: the lab that runs it must not have been
//! made for one driver.
//!
//! With the feature `racy` it is `racy.sys`: the same mailbox, without a lock.
#![no_std]

extern crate wdk_panic;

mod irp;
#[cfg_attr(feature = "racy", path = "racy.rs")]
mod messages;
mod pnp;

use core::{cell::UnsafeCell, ptr};

use messages::Messages;
use wdk_sys::{
    DEVICE_OBJECT, DO_BUFFERED_IO, DO_DEVICE_INITIALIZING, DRIVER_OBJECT, FILE_DEVICE_SECURE_OPEN, FILE_DEVICE_UNKNOWN,
    GUID, IO_REMOVE_LOCK, IRP, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_PNP, IRP_MJ_POWER, IRP_MJ_READ,
    IRP_MJ_SYSTEM_CONTROL, IRP_MJ_WRITE, NTSTATUS, PCUNICODE_STRING, PDEVICE_OBJECT, PVOID,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_BUFFER_SIZE, STATUS_NO_SUCH_DEVICE, STATUS_SUCCESS, UNICODE_STRING,
    ntddk::{
        ExAllocatePool2, ExFreePoolWithTag, IoAcquireRemoveLockEx, IoAttachDeviceToDeviceStack, IoCreateDevice,
        IoDeleteDevice, IoDetachDevice, IoInitializeRemoveLockEx, IoRegisterDeviceInterface, IoReleaseRemoveLockEx,
    },
};

/// `Mail`: the tag of the driver's pool blocks and of its remove lock.
const TAG: u32 = u32::from_le_bytes(*b"Mail");
const POOL_FLAG_NON_PAGED: u64 = 0x40;
/// The longest message.
const LONGEST: usize = 4096;
#[expect(clippy::cast_possible_truncation, reason = "the structure is small")]
const REMOVE_LOCK_SIZE: u32 = size_of::<IO_REMOVE_LOCK>() as u32;

/// The class of the interface that users open.
static INTERFACE: GUID =
    GUID { Data1: 0xF04E_1617, Data2: 0x0CA5, Data3: 0x4D07, Data4: [0x9A, 0x1B, 0x3C, 0x5D, 0x7E, 0x8F, 0x90, 0xA1] };

/// A device's extension.
struct Mailbox {
    lower: PDEVICE_OBJECT,
    interface: UNICODE_STRING,
    removal: UnsafeCell<IO_REMOVE_LOCK>,
    messages: Messages,
}

/// A pool block; null while there is no message.
#[derive(Clone, Copy)]
struct Message {
    bytes: *mut u8,
    length: usize,
}

const NO_MESSAGE: Message = Message { bytes: ptr::null_mut(), length: 0 };

impl Message {
    /// A copy of a buffer's contents.
    fn new(contents: &[u8]) -> Result<Self, NTSTATUS> {
        let length = contents.len();
        if !(1..=LONGEST).contains(&length) {
            return Err(STATUS_INVALID_BUFFER_SIZE);
        }
        // SAFETY: length and tag are not 0; IRQL is below DISPATCH_LEVEL in a dispatch routine for writes.
        let bytes = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, length as u64, TAG) }.cast::<u8>();
        if bytes.is_null() {
            return Err(STATUS_INSUFFICIENT_RESOURCES);
        }
        // SAFETY: both have `length` bytes, and the block is new.
        unsafe { bytes.copy_from_nonoverlapping(contents.as_ptr(), length) };
        Ok(Self { bytes, length })
    }

    /// Copies as much as there is room for; how much.
    fn copy_to(self, buffer: &mut [u8]) -> usize {
        let copied = self.length.min(buffer.len());
        if copied > 0 {
            // SAFETY: the message has `length` bytes; the buffer is another block.
            unsafe { buffer.as_mut_ptr().copy_from_nonoverlapping(self.bytes, copied) };
        }
        copied
    }

    fn free(self) {
        if !self.bytes.is_null() {
            // SAFETY: allocated in `new`, and taken out of where it was.
            unsafe { ExFreePoolWithTag(self.bytes.cast(), TAG) };
        }
    }
}

/// "`DRIVER_INITIALIZE` callback function".
///
/// # Safety
/// Called by the I/O manager only.
#[unsafe(export_name = "DriverEntry")]
#[unsafe(link_section = "INIT")]
pub unsafe extern "system" fn driver_entry(driver: &mut DRIVER_OBJECT, _path: PCUNICODE_STRING) -> NTSTATUS {
    driver.DriverUnload = Some(unload);
    for major in [IRP_MJ_CREATE, IRP_MJ_CLEANUP, IRP_MJ_CLOSE] {
        driver.MajorFunction[major as usize] = Some(succeed);
    }
    driver.MajorFunction[IRP_MJ_READ as usize] = Some(read);
    driver.MajorFunction[IRP_MJ_WRITE as usize] = Some(write);
    driver.MajorFunction[IRP_MJ_PNP as usize] = Some(pnp::dispatch);
    driver.MajorFunction[IRP_MJ_POWER as usize] = Some(pass_down);
    driver.MajorFunction[IRP_MJ_SYSTEM_CONTROL as usize] = Some(pass_down);
    // SAFETY: the I/O manager makes a driver object with its extension.
    let extension = unsafe { &mut *driver.DriverExtension };
    extension.AddDevice = Some(add_device);
    STATUS_SUCCESS
}

const unsafe extern "C" fn unload(_driver: *mut DRIVER_OBJECT) {}

/// "`DRIVER_ADD_DEVICE` callback function".
unsafe extern "C" fn add_device(driver: *mut DRIVER_OBJECT, physical: PDEVICE_OBJECT) -> NTSTATUS {
    let mut device: PDEVICE_OBJECT = ptr::null_mut();
    #[expect(clippy::cast_possible_truncation, reason = "the extension is small")]
    let size = size_of::<Mailbox>() as u32;
    let (kind, flags) = (FILE_DEVICE_UNKNOWN, FILE_DEVICE_SECURE_OPEN);
    // SAFETY: the driver object is ours; `device` has room for the result.
    let status = unsafe { IoCreateDevice(driver, size, ptr::null_mut(), kind, flags, 0, &raw mut device) };
    if status < STATUS_SUCCESS {
        return status;
    }
    // SAFETY: the device was just made.
    let status = unsafe { attach(device, physical) };
    if status < STATUS_SUCCESS {
        // SAFETY: nobody else knows the device.
        unsafe { IoDeleteDevice(device) };
    }
    status
}

/// # Safety
/// `device` was just made and is ours alone.
unsafe fn attach(device: PDEVICE_OBJECT, physical: PDEVICE_OBJECT) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let object = unsafe { &mut *device };
    let mut mailbox = Mailbox {
        lower: ptr::null_mut(),
        interface: UNICODE_STRING::default(),
        removal: UnsafeCell::new(IO_REMOVE_LOCK::default()),
        messages: Messages::new(),
    };
    // SAFETY: the PnP manager passes the physical device object; `interface` has room for the name.
    let status = unsafe {
        IoRegisterDeviceInterface(physical, &raw const INTERFACE, ptr::null_mut(), &raw mut mailbox.interface)
    };
    if status < STATUS_SUCCESS {
        return status;
    }
    // SAFETY: both devices exist; neither is being removed.
    mailbox.lower = unsafe { IoAttachDeviceToDeviceStack(device, physical) };
    if mailbox.lower.is_null() {
        pnp::free_name(&mut mailbox.interface);
        return STATUS_NO_SUCH_DEVICE;
    }
    let place = object.DeviceExtension.cast::<Mailbox>();
    // SAFETY: the extension has room for a mailbox, and nobody uses it yet.
    unsafe { place.write(mailbox) };
    // SAFETY: the mailbox was just written.
    let mailbox = unsafe { &*place };
    // SAFETY: the lock lies in the extension, where it stays.
    unsafe { IoInitializeRemoveLockEx(mailbox.removal.get().cast(), TAG, 0, 0, REMOVE_LOCK_SIZE) };
    object.Flags |= DO_BUFFERED_IO;
    object.Flags &= !DO_DEVICE_INITIALIZING;
    STATUS_SUCCESS
}

impl Mailbox {
    /// The extension of one of our devices.
    ///
    /// # Safety
    /// `device` is one of ours, and not deleted while the reference lives.
    unsafe fn of<'d>(device: *mut DEVICE_OBJECT) -> &'d Self {
        // SAFETY: as the caller promises.
        let object = unsafe { &*device };
        // SAFETY: `attach` made a mailbox there before any IRP came.
        unsafe { &*object.DeviceExtension.cast::<Self>() }
    }

    /// Keeps the device from being removed until `done` with the same tag; false if it is being removed.
    fn begin(&self, tag: PVOID) -> bool {
        // SAFETY: the lock was initialized in `attach`.
        let status =
            unsafe { IoAcquireRemoveLockEx(self.removal.get().cast(), tag, c"foreign".as_ptr(), 1, REMOVE_LOCK_SIZE) };
        status >= STATUS_SUCCESS
    }

    fn done(&self, tag: PVOID) {
        // SAFETY: every call follows a `begin` that succeeded.
        unsafe { IoReleaseRemoveLockEx(self.removal.get().cast(), tag, REMOVE_LOCK_SIZE) };
    }

    /// Takes the device out of its stack and deletes it.
    ///
    /// # Safety
    /// `device` is the mailbox's, and nothing uses it any more.
    unsafe fn delete(&self, device: PDEVICE_OBJECT) {
        self.messages.empty();
        // SAFETY: attached in `attach`.
        unsafe { IoDetachDevice(self.lower) };
        // SAFETY: as the caller promises.
        unsafe { IoDeleteDevice(device) };
    }
}

unsafe extern "C" fn succeed(_device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: the I/O manager gave us the IRP.
    unsafe { irp::complete(irp, STATUS_SUCCESS, 0) }
}

unsafe extern "C" fn pass_down(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: the device is ours; PnP removes it after its last IRP.
    let mailbox = unsafe { Mailbox::of(device) };
    // SAFETY: the I/O manager gave us the IRP.
    unsafe { irp::skip_to(mailbox.lower, irp) }
}

unsafe extern "C" fn read(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: the I/O manager gave us the IRP, and its buffer is the system buffer.
    unsafe { transfer(device, irp, Messages::copy_to) }
}

unsafe extern "C" fn write(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: as in `read`.
    unsafe { transfer(device, irp, Messages::copy_from) }
}

/// # Safety
/// The device is ours and the IRP is a read or write that the I/O manager gave us.
unsafe fn transfer(
    device: *mut DEVICE_OBJECT,
    irp: *mut IRP,
    act: impl FnOnce(&Messages, &mut [u8], i64) -> Result<usize, NTSTATUS>,
) -> NTSTATUS {
    // SAFETY: the remove lock, taken below, keeps the device from being deleted.
    let mailbox = unsafe { Mailbox::of(device) };
    if !mailbox.begin(irp.cast()) {
        // SAFETY: as the caller promises.
        return unsafe { irp::complete(irp, STATUS_NO_SUCH_DEVICE, 0) };
    }
    // SAFETY: as the caller promises.
    let (buffer, length) = unsafe { irp::system_buffer(irp) };
    let bytes = if length == 0 {
        &mut []
    } else {
        // SAFETY: the system buffer has `length` bytes and is the request's alone.
        unsafe { core::slice::from_raw_parts_mut(buffer, length) }
    };
    // SAFETY: as the caller promises.
    let offset = unsafe { irp::byte_offset(irp) };
    let (status, information) = match act(&mailbox.messages, bytes, offset) {
        Ok(information) => (STATUS_SUCCESS, information),
        Err(status) => (status, 0),
    };
    // SAFETY: as the caller promises.
    let status = unsafe { irp::complete(irp, status, information) };
    mailbox.done(irp.cast());
    status
}
