//! The driver as a whole: DriverEntry, AddDevice and Unload ("Writing a DriverEntry Routine", "Writing an Unload
//! Routine").

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, PDEVICE_OBJECT, PDRIVER_OBJECT, STATUS_INVALID_PARAMETER};

use crate::device::{FoundDevice, Function, IO_FUNCTIONS, MAJOR_FUNCTIONS, Pdo, dispatch, dispatch_io};
use crate::irp::Irp;
use crate::irql::Passive;
use crate::pool::{PoolBox, Tag};
use crate::rundown;
use crate::status::{NtStatus, Result};
use crate::string::UnicodeStr;

/// A driver: what it sets up in DriverEntry, which is dropped in Unload.
pub trait Driver: Send + Sync + Sized + 'static {
    /// What its devices do.
    type Function: Function;

    /// The tag of its pool blocks.
    const TAG: Tag;

    /// DriverEntry: what it returns lives until the driver is unloaded. Steps that came before one that fails are
    /// undone by dropping. IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What DriverEntry is to return.
    fn start(driver: &DriverObject, registry_path: UnicodeStr<'_>, passive: Passive<'_>) -> Result<Self>;

    /// AddDevice: attaches a device of ours to the stack of `found` and makes its function. IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What AddDevice is to return.
    fn add_device(&self, driver: &DriverObject, found: FoundDevice<'_, Self::Function>, passive: Passive<'_>)
    -> Result;
}

/// The driver object.
#[repr(transparent)]
pub struct DriverObject(NonNull<DRIVER_OBJECT>);

// SAFETY: the kernel's functions on a driver object may be called from any thread.
unsafe impl Send for DriverObject {}
// SAFETY: as above.
unsafe impl Sync for DriverObject {}

impl DriverObject {
    /// The driver object for kernel functions.
    pub(crate) const fn as_ptr(&self) -> PDRIVER_OBJECT {
        self.0.as_ptr()
    }
}

/// Where a driver that has started is. One for each driver, made by [`driver!`](crate::driver!).
#[doc(hidden)]
pub struct Instance<D>(AtomicPtr<D>);

impl<D: Driver> Instance<D> {
    /// None has started.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn get(&self) -> Option<&D> {
        // SAFETY: set by `entry` to a boxed driver; neither AddDevice nor a dispatch routine runs when `unload` takes it.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}

impl<D: Driver> Default for Instance<D> {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`Driver`] with its [`Instance`], made by [`driver!`](crate::driver!).
pub trait Registered: Driver {
    /// Where it is.
    #[doc(hidden)]
    fn instance() -> &'static Instance<Self>;

    /// The driver, in a dispatch routine: it is not unloaded before that returns ("Writing an Unload Routine"). Other than what belongs
    /// to the device, it may be used when the IRP has been completed.
    ///
    /// IRQL: any.
    #[must_use]
    fn running<'a>(_: &Irp<'a>) -> Option<&'a Self> {
        Self::instance().get()
    }
}

/// DriverEntry.
///
/// # Safety
///
/// Called once by the I/O manager with the driver object and the registry path, at PASSIVE_LEVEL.
#[doc(hidden)]
#[unsafe(link_section = "INIT")]
pub unsafe fn entry<D: Registered>(object: PDRIVER_OBJECT, registry_path: PCUNICODE_STRING) -> NTSTATUS {
    let Some(object) = NonNull::new(object) else {
        return STATUS_INVALID_PARAMETER;
    };
    // SAFETY: the I/O manager passes a string that lives for this call.
    let path = unsafe { registry_path.read() };
    // SAFETY: as above.
    let path = unsafe { UnicodeStr::from_raw(path) };
    // SAFETY: DriverEntry is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    let driver = match D::start(&DriverObject(object), path, passive).and_then(|driver| PoolBox::new(D::TAG, driver)) {
        Ok(driver) => driver,
        Err(status) => return status.raw(),
    };
    D::instance().0.store(driver.into_raw(), Ordering::Release);
    install::<D>(object);
    NtStatus::SUCCESS.raw()
}

/// Enters our routines in the driver object.
#[unsafe(link_section = "INIT")]
fn install<D: Registered>(object: NonNull<DRIVER_OBJECT>) {
    // SAFETY: DriverEntry may write to its driver object, and nobody else does meanwhile.
    let object = unsafe { &mut *object.as_ptr() };
    object.DriverUnload = Some(unload::<D>);
    for major in MAJOR_FUNCTIONS {
        if let Some(routine) = object.MajorFunction.get_mut(major as usize) {
            *routine = Some(dispatch::<D::Function>);
        }
    }
    for major in IO_FUNCTIONS {
        if let Some(routine) = object.MajorFunction.get_mut(major as usize) {
            *routine = Some(dispatch_io::<D::Function>);
        }
    }
    // SAFETY: every driver object has an extension.
    unsafe { (*object.DriverExtension).AddDevice = Some(add_device::<D>) };
}

/// IRQL: PASSIVE_LEVEL.
unsafe extern "C" fn add_device<D: Registered>(object: PDRIVER_OBJECT, pdo: PDEVICE_OBJECT) -> NTSTATUS {
    let (Some(object), Some(pdo)) = (NonNull::new(object), NonNull::new(pdo)) else {
        return STATUS_INVALID_PARAMETER;
    };
    // SAFETY: AddDevice is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    // SAFETY: the PnP manager's PDO outlives the device that is attached to it.
    let pdo = unsafe { Pdo::from_raw(pdo) };
    let driver = DriverObject(object);
    let found = FoundDevice::new(&driver, pdo, D::TAG);
    let instance = D::instance().get().ok_or(NtStatus::DEVICE_NOT_READY);
    let added = instance.and_then(|instance| instance.add_device(&driver, found, passive));
    added.map_or_else(NtStatus::raw, |()| NtStatus::SUCCESS.raw())
}

/// IRQL: PASSIVE_LEVEL.
unsafe extern "C" fn unload<D: Registered>(_: PDRIVER_OBJECT) {
    let Some(driver) = NonNull::new(D::instance().0.swap(ptr::null_mut(), Ordering::AcqRel)) else {
        return;
    };
    // SAFETY: `entry` gave it up with this tag; no device is left, so nobody uses it any more.
    drop(unsafe { PoolBox::from_raw(D::TAG, driver) });
    // SAFETY: Unload is called at PASSIVE_LEVEL.
    rundown::free_spares(unsafe { Passive::assume() });
}

/// Makes `$driver`, a [`Driver`], the driver of this image: exports DriverEntry.
#[macro_export]
macro_rules! driver {
    ($driver:ty) => {
        impl $crate::driver::Registered for $driver {
            fn instance() -> &'static $crate::driver::Instance<Self> {
                static INSTANCE: $crate::driver::Instance<$driver> = $crate::driver::Instance::new();
                &INSTANCE
            }
        }

        /// DriverEntry.
        ///
        /// # Safety
        ///
        /// Called once by the I/O manager with the driver object and the registry path, at PASSIVE_LEVEL.
        // SAFETY: no other function of this image has the name; the section is discarded after DriverEntry, which runs
        // once.
        #[unsafe(export_name = "DriverEntry")]
        #[unsafe(link_section = "INIT")]
        pub unsafe extern "system" fn driver_entry(
            object: $crate::wdk_sys::PDRIVER_OBJECT,
            registry_path: $crate::wdk_sys::PCUNICODE_STRING,
        ) -> $crate::wdk_sys::NTSTATUS {
            // SAFETY: the I/O manager calls DriverEntry as `entry` asks.
            unsafe { $crate::driver::entry::<$driver>(object, registry_path) }
        }
    };
}

/// Puts a function that runs at PASSIVE_LEVEL only into the pageable section ("Making Drivers Pageable"). It must not
/// take a spin lock.
#[macro_export]
macro_rules! pageable {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])*
        // SAFETY: the section is known to the loader, and holds code only.
        #[unsafe(link_section = "PAGE")]
        #[inline(never)]
        $visibility fn $($rest)*
    };
}

/// Puts a function that runs in DriverEntry only into the section that is discarded after it.
#[macro_export]
macro_rules! init {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])*
        // SAFETY: the section is known to the loader, and holds code only.
        #[unsafe(link_section = "INIT")]
        #[inline(never)]
        $visibility fn $($rest)*
    };
}
