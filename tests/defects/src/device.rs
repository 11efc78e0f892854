//! The device and its extension.

use core::{cell::UnsafeCell, ptr, sync::atomic::AtomicU64};

use wdk_sys::{
    DEVICE_OBJECT, DO_BUFFERED_IO, DO_DEVICE_INITIALIZING, DRIVER_OBJECT, FILE_DEVICE_SECURE_OPEN, FILE_DEVICE_UNKNOWN,
    GUID, IO_REMOVE_LOCK, NTSTATUS, PDEVICE_OBJECT, PVOID, STATUS_NO_SUCH_DEVICE, STATUS_SUCCESS, ULONG,
    UNICODE_STRING,
    ntddk::{
        IoAcquireRemoveLockEx, IoAttachDeviceToDeviceStack, IoCreateDevice, IoDeleteDevice, IoDetachDevice,
        IoInitializeRemoveLockEx, IoRegisterDeviceInterface, IoReleaseRemoveLockEx, IoSetDeviceInterfaceState,
        RtlFreeUnicodeString,
    },
};

use crate::{
    TAG,
    defect::{self, Hook},
    hardware::Hardware,
};

/// What the remove lock's functions want to know.
pub const REMOVE_LOCK_SIZE: ULONG = size_of::<IO_REMOVE_LOCK>() as ULONG;

/// The class of the interface that users open.
static INTERFACE: GUID =
    GUID { Data1: 0xD5B1_5A3C, Data2: 0x7A44, Data3: 0x4E6B, Data4: [0x8C, 0x21, 0x0F, 0x3A, 0x55, 0xD2, 0x91, 0x6E] };

/// A device's extension.
pub struct Device {
    /// Our device object.
    pub object: PDEVICE_OBJECT,
    /// The bus driver's.
    pub physical: PDEVICE_OBJECT,
    /// The next lower one in the stack.
    pub lower: PDEVICE_OBJECT,
    /// Registers and interrupt of an `edu`.
    pub hardware: Hardware,
    /// What a defect keeps from one hook to the next.
    pub kept: [AtomicU64; 8],
    /// The remove lock.
    pub removal: UnsafeCell<IO_REMOVE_LOCK>,
    interface: UNICODE_STRING,
}

/// "`DRIVER_ADD_DEVICE` callback function".
pub unsafe extern "C" fn add(driver: *mut DRIVER_OBJECT, physical: PDEVICE_OBJECT) -> NTSTATUS {
    let mut object: PDEVICE_OBJECT = ptr::null_mut();
    let size = size_of::<Device>() as ULONG;
    let (kind, flags) = (FILE_DEVICE_UNKNOWN, FILE_DEVICE_SECURE_OPEN);
    // SAFETY: the driver object is ours; `object` has room for the result.
    let status = unsafe { IoCreateDevice(driver, size, ptr::null_mut(), kind, flags, 0, &raw mut object) };
    if status < STATUS_SUCCESS {
        return status;
    }
    // SAFETY: the device was just made.
    let status = unsafe { attach(object, physical) };
    if status < STATUS_SUCCESS {
        // SAFETY: nobody else knows the device.
        unsafe { IoDeleteDevice(object) };
        return status;
    }
    // SAFETY: `attach` made a device in its extension.
    let device = unsafe { Device::of(object) };
    defect::at(|hook, correct| match hook {
        Hook::Add(act) => Some(act(device, correct)),
        _ => None,
    });
    status
}

/// # Safety
/// `object` was just made and is ours alone.
unsafe fn attach(object: PDEVICE_OBJECT, physical: PDEVICE_OBJECT) -> NTSTATUS {
    let mut interface = UNICODE_STRING::default();
    // SAFETY: the PnP manager passes the physical device object; `interface` has room for the name.
    let status =
        unsafe { IoRegisterDeviceInterface(physical, &raw const INTERFACE, ptr::null_mut(), &raw mut interface) };
    if status < STATUS_SUCCESS {
        return status;
    }
    // SAFETY: both devices exist; neither is being removed.
    let lower = unsafe { IoAttachDeviceToDeviceStack(object, physical) };
    if lower.is_null() {
        // SAFETY: registering the interface allocated it.
        unsafe { RtlFreeUnicodeString(&raw mut interface) };
        return STATUS_NO_SUCH_DEVICE;
    }
    // SAFETY: as the caller promises.
    let made = unsafe { &mut *object };
    let place = made.DeviceExtension.cast::<Device>();
    let device = Device {
        object,
        physical,
        lower,
        hardware: Hardware::new(),
        kept: [const { AtomicU64::new(0) }; 8],
        removal: UnsafeCell::new(IO_REMOVE_LOCK::default()),
        interface,
    };
    // SAFETY: the extension has room for a device, and nobody uses it yet.
    unsafe { place.write(device) };
    // SAFETY: the device was just written.
    let device = unsafe { &*place };
    device.hardware.prepare(device);
    // SAFETY: the lock lies in the extension, where it stays.
    unsafe { IoInitializeRemoveLockEx(device.removal.get().cast(), TAG, 0, 0, REMOVE_LOCK_SIZE) };
    made.Flags |= DO_BUFFERED_IO;
    made.Flags &= !DO_DEVICE_INITIALIZING;
    STATUS_SUCCESS
}

impl Device {
    /// The extension of one of our devices.
    ///
    /// # Safety
    /// `object` is one of ours, and not deleted while the reference lives.
    pub unsafe fn of<'d>(object: *mut DEVICE_OBJECT) -> &'d Self {
        // SAFETY: as the caller promises.
        let object = unsafe { &*object };
        // SAFETY: `attach` made a device there before any IRP came.
        unsafe { &*object.DeviceExtension.cast::<Self>() }
    }

    /// Keeps the device from being removed until `done` with the same tag; false if it is being removed.
    pub fn begin(&self, tag: PVOID) -> bool {
        // SAFETY: the lock was initialized in `attach`.
        let status =
            unsafe { IoAcquireRemoveLockEx(self.removal.get().cast(), tag, c"defects".as_ptr(), 1, REMOVE_LOCK_SIZE) };
        status >= STATUS_SUCCESS
    }

    /// Ends what `begin` began.
    pub fn done(&self, tag: PVOID) {
        // SAFETY: every call follows a `begin` that succeeded.
        unsafe { IoReleaseRemoveLockEx(self.removal.get().cast(), tag, REMOVE_LOCK_SIZE) };
    }

    /// Lets users open the device, or no more.
    pub fn set_interface(&self, enabled: bool) -> NTSTATUS {
        let mut name = self.interface;
        // SAFETY: the name is the one that registering the interface returned.
        unsafe { IoSetDeviceInterfaceState(&raw mut name, enabled.into()) }
    }

    /// Takes the device out of its stack.
    ///
    /// # Safety
    /// Nothing uses the device any more.
    pub unsafe fn detach(&self) {
        let mut name = self.interface;
        // SAFETY: registering the interface allocated it; it is freed once.
        unsafe { RtlFreeUnicodeString(&raw mut name) };
        // SAFETY: attached in `attach`.
        unsafe { IoDetachDevice(self.lower) };
    }

    /// Deletes it.
    ///
    /// # Safety
    /// It was detached.
    pub unsafe fn delete_detached(&self) {
        // SAFETY: as the caller promises.
        unsafe { IoDeleteDevice(self.object) };
    }
}
