//! Asynchronous notification of device interfaces ("Using PnP Device Interface Change Notification").

use core::ops::Deref;
use core::ptr::{self, NonNull};

use wdk_sys::{
    _IO_NOTIFICATION_EVENT_CATEGORY, DEVICE_INTERFACE_CHANGE_NOTIFICATION, GUID, NTSTATUS,
    PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES, PVOID, STATUS_SUCCESS, ntddk,
};

use crate::driver::DriverObject;
use crate::irql::Passive;
use crate::pool::{PoolBox, Tag};
use crate::status::{NtStatus, Result, check};

/// `GUID_DEVICE_PROCESSOR`: an added processor is announced as an interface of this class, asynchronously.
pub const GUID_DEVICE_PROCESSOR: GUID =
    GUID { Data1: 0x97fa_db10, Data2: 0x4e33, Data3: 0x40ae, Data4: [0x35, 0x9c, 0x8b, 0xef, 0x02, 0x9d, 0xbd, 0xd0] };

/// `GUID_DEVICE_MEMORY`: added memory is announced as an interface of this class, asynchronously.
pub const GUID_DEVICE_MEMORY: GUID =
    GUID { Data1: 0x3fd0_f03d, Data2: 0x92e0, Data3: 0x45fb, Data4: [0xb7, 0x5c, 0x5e, 0xd8, 0xff, 0xb0, 0x10, 0x21] };

/// `GUID_DEVICE_INTERFACE_ARRIVAL`.
const ARRIVAL: GUID =
    GUID { Data1: 0xcb3a_4004, Data2: 0x46f0, Data3: 0x11d0, Data4: [0xb0, 0x8f, 0x00, 0x60, 0x97, 0x13, 0x05, 0x3f] };

/// `GUID_DEVICE_INTERFACE_REMOVAL`.
const REMOVAL: GUID =
    GUID { Data1: 0xcb3a_4005, Data2: 0x46f0, Data3: 0x11d0, Data4: [0xb0, 0x8f, 0x00, 0x60, 0x97, 0x13, 0x05, 0x3f] };

/// What a driver does when an interface comes or goes. It must be quick: work goes to a work item. The same arrival may
/// come twice.
pub trait InterfaceChange: Send + Sync + 'static {
    /// An interface arrived. IRQL: PASSIVE_LEVEL.
    fn arrived(&self, passive: Passive<'_>);

    /// An interface was removed. IRQL: PASSIVE_LEVEL.
    fn removed(&self, _: Passive<'_>) {}
}

/// A registration for one class of interfaces. Dropping it ends it and waits for the callback.
///
/// It holds a reference to the driver object: while one lives, the driver is not unloaded.
pub struct InterfaceNotification<C: InterfaceChange> {
    context: PoolBox<C>,
    entry: NonNull<core::ffi::c_void>,
}

// SAFETY: the registration may be ended by any thread.
unsafe impl<C: InterfaceChange> Send for InterfaceNotification<C> {}
// SAFETY: a shared registration gives out nothing but `&C`.
unsafe impl<C: InterfaceChange> Sync for InterfaceNotification<C> {}

impl<C: InterfaceChange> InterfaceNotification<C> {
    /// Registers for interfaces of `class`, those that are there already too if `existing`
    /// ("`IoRegisterPlugPlayNotification` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, or what the kernel function returns.
    pub fn register(
        tag: Tag,
        driver: &DriverObject,
        class: &GUID,
        existing: bool,
        context: C,
        _: Passive<'_>,
    ) -> Result<Self> {
        let context = PoolBox::new(tag, context)?;
        let flags = if existing { PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES } else { 0 };
        let mut entry = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token; the class is only read, and the context lives until the registration has
        // ended.
        check(unsafe {
            ntddk::IoRegisterPlugPlayNotification(
                _IO_NOTIFICATION_EVENT_CATEGORY::EventCategoryDeviceInterfaceChange,
                flags,
                ptr::from_ref(class).cast_mut().cast(),
                driver.as_ptr(),
                Some(changed::<C>),
                context.as_ptr().cast(),
                &raw mut entry,
            )
        })?;
        let entry = NonNull::new(entry).ok_or(NtStatus::UNSUCCESSFUL)?;
        Ok(Self { context, entry })
    }
}

impl<C: InterfaceChange> Deref for InterfaceNotification<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.context
    }
}

impl<C: InterfaceChange> Drop for InterfaceNotification<C> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the entry is this registration's; no callback runs once the function has returned
        // ("`IoUnregisterPlugPlayNotificationEx` function"). It has nothing to report for a valid entry.
        let _ = unsafe { ntddk::IoUnregisterPlugPlayNotificationEx(self.entry.as_ptr()) };
    }
}

/// IRQL: PASSIVE_LEVEL.
unsafe extern "C" fn changed<C: InterfaceChange>(notification: PVOID, context: PVOID) -> NTSTATUS {
    // SAFETY: `register` passed the context, which lives until the registration has ended.
    let context = unsafe { &*context.cast::<C>() };
    // SAFETY: for this category the kernel passes this structure, which lives for this call.
    let event = unsafe { (*notification.cast::<DEVICE_INTERFACE_CHANGE_NOTIFICATION>()).Event };
    // SAFETY: the callback is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    if same(&event, &ARRIVAL) {
        context.arrived(passive);
    } else if same(&event, &REMOVAL) {
        context.removed(passive);
    }
    STATUS_SUCCESS
}

fn same(one: &GUID, other: &GUID) -> bool {
    (one.Data1, one.Data2, one.Data3, one.Data4) == (other.Data1, other.Data2, other.Data3, other.Data4)
}
