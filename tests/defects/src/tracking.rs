//! What must not be left behind.

use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};

use wdk_sys::{
    _IO_NOTIFICATION_EVENT_CATEGORY, DRIVER_OBJECT, ERESOURCE, FILE_DEVICE_UNKNOWN, GUID, HANDLE, IO_REMOVE_LOCK, KDPC,
    KEY_READ, KTIMER, LARGE_INTEGER, MDL, NTSTATUS, OBJ_CASE_INSENSITIVE, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES,
    PAGE_NOCACHE, PAGE_READWRITE, PDEVICE_OBJECT, PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, PVOID,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, ULONG, UNICODE_STRING,
    ntddk::{
        EtwRegister, EtwUnregister, ExAllocatePool2, ExDeleteResourceLite, ExFreePoolWithTag, ExInitializeResourceLite,
        IoAcquireRemoveLockEx, IoAllocateIrp, IoAllocateMdl, IoAllocateWorkItem, IoCreateDevice, IoCreateSymbolicLink,
        IoDeleteDevice, IoDeleteSymbolicLink, IoFreeIrp, IoFreeMdl, IoFreeWorkItem, IoInitializeRemoveLockEx,
        IoRegisterPlugPlayNotification, IoReleaseRemoveLockEx, IoUnregisterPlugPlayNotificationEx, KeCancelTimer,
        KeDelayExecutionThread, KeDeregisterProcessorChangeCallback, KeInitializeDpc, KeInitializeTimer,
        KeRegisterProcessorChangeCallback, KeSetTimer, MmMapIoSpaceEx, MmUnmapIoSpace, PsCreateSystemThread,
        PsTerminateSystemThread, ZwClose, ZwOpenKey, ZwWaitForSingleObject,
    },
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::{Device, REMOVE_LOCK_SIZE},
    removal::{self, OwnDpc},
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("tracking_pool_left_at_unload", &[Hook::Start(keep_a_block), Hook::Remove(free_the_block)]),
    Defect::new("tracking_handle_left_at_unload", &[Hook::Load(open_key), Hook::Unload(close_key)]),
    Defect::new("tracking_work_item_left_at_unload", &[Hook::Load(keep_a_work_item), Hook::Unload(free_work_item)]),
    Defect::new("tracking_irp_left_at_unload", &[Hook::Start(keep_an_irp), Hook::Remove(free_irp)]),
    Defect::new("tracking_symbolic_link_left_at_unload", &[Hook::Load(make_link), Hook::Unload(delete_link)]),
    Defect::new("tracking_etw_provider_left_at_unload", &[Hook::Load(register_provider), Hook::Unload(unregister)]),
    Defect::new("tracking_callback_left_at_unload", &[Hook::Load(register_callback), Hook::Unload(deregister)]),
    Defect::new("tracking_timer_left_at_unload", &[Hook::Load(set_timer), Hook::Unload(cancel_timer)]),
    Defect::new("tracking_thread_left_at_unload", &[Hook::Load(start_thread), Hook::Unload(end_thread)]),
    Defect::new("tracking_mdl_left_at_unload", &[Hook::Start(keep_a_list), Hook::Remove(free_list)]),
    Defect::new("tracking_resource_left_at_unload", &[Hook::Load(make_resource), Hook::Unload(delete_resource)]),
    Defect::new("tracking_notification_left_at_unload", &[Hook::Start(listen), Hook::Remove(stop_listening)]),
    Defect::new("tracking_device_left_at_unload", &[Hook::Start(make_device), Hook::Remove(delete_device)]),
    Defect::new("tracking_dpc_queued_at_unload", &[Hook::Unload(leave_dpc)]),
    Defect::new("tracking_dpc_running_at_unload", &[Hook::Unload(leave_running_dpc)]),
    Defect::new("tracking_remove_lock_held_at_unload", &[Hook::Load(acquire_static), Hook::Unload(release_static)]),
    Defect::new("tracking_interface_left_at_remove", &[Hook::Remove(enable_interface)]),
    Defect::new("tracking_mapping_left_at_remove", &[Hook::Start(map_again), Hook::Remove(unmap)]),
    Defect::new("tracking_device_left_at_remove", &[Hook::Delete(forget)]),
    Defect::new("tracking_timer_left_in_a_deleted_device", &[Hook::Start(set_own_timer), Hook::Remove(cancel_own)]),
    Defect::new("tracking_remove_lock_freed_while_held", &[Hook::Request(free_remove_lock)]),
    Defect::new("tracking_remove_lock_initialized_again", &[Hook::Request(initialize_again)]),
];

const POOL_FLAG_NON_PAGED: u64 = 0x40;
/// Ten seconds from now.
const LATER: LARGE_INTEGER = LARGE_INTEGER { QuadPart: -100_000_000 };

fn keep_a_block(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 128, TAG) }; // DEFECT tracking_pool_left_at_unload
    device.kept[0].store(block as u64, Ordering::Relaxed);
    if block.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn free_the_block(device: &Device, correct: bool) -> NTSTATUS {
    let block = device.kept[0].swap(0, Ordering::Relaxed);
    if correct {
        // SAFETY: allocated by `keep_a_block` and not used any more.
        unsafe { ExFreePoolWithTag(block as PVOID, TAG) };
    }
    STATUS_SUCCESS
}

/// What a defect keeps from load to unload: a handle of some kind.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// A string of the kernel's.
const fn string(units: &'static [u16]) -> UNICODE_STRING {
    let bytes = size_of_val(units) as u16;
    UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: units.as_ptr().cast_mut() }
}

/// `\Registry\Machine`.
const MACHINE: &[u16] = &[92, 82, 101, 103, 105, 115, 116, 114, 121, 92, 77, 97, 99, 104, 105, 110, 101];
/// `\??\Defects`.
const LINK: &[u16] = &[92, 63, 63, 92, 68, 101, 102, 101, 99, 116, 115];

fn open_key(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let (mut name, mut key): (_, HANDLE) = (string(MACHINE), ptr::null_mut());
    let mut attributes = OBJECT_ATTRIBUTES {
        Length: size_of::<OBJECT_ATTRIBUTES>() as ULONG,
        ObjectName: &raw mut name,
        Attributes: OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE,
        ..OBJECT_ATTRIBUTES::default()
    };
    // SAFETY: everything outlives the call; DriverEntry runs at PASSIVE_LEVEL.
    let status = unsafe { ZwOpenKey(&raw mut key, KEY_READ, &raw mut attributes) }; // DEFECT tracking_handle_left_at_unload
    KEPT.store(key as u64, Ordering::Relaxed);
    status
}

fn close_key(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if !correct {
        return STATUS_SUCCESS;
    }
    // SAFETY: opened by `open_key` and not used again.
    unsafe { ZwClose(KEPT.swap(0, Ordering::Relaxed) as HANDLE) }
}

fn keep_a_work_item(driver: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: the driver object is ours, which is as good as a device object.
    let item = unsafe { IoAllocateWorkItem(ptr::from_mut(driver).cast()) }; // DEFECT tracking_work_item_left_at_unload
    KEPT.store(item as u64, Ordering::Relaxed);
    if item.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn free_work_item(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    let item = KEPT.swap(0, Ordering::Relaxed);
    if correct {
        // SAFETY: allocated by `keep_a_work_item`, and never queued.
        unsafe { IoFreeWorkItem(item as _) };
    }
    STATUS_SUCCESS
}

fn keep_an_irp(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let irp = unsafe { IoAllocateIrp(2, 0) }; // DEFECT tracking_irp_left_at_unload
    device.kept[0].store(irp as u64, Ordering::Relaxed);
    if irp.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn free_irp(device: &Device, correct: bool) -> NTSTATUS {
    let irp = device.kept[0].swap(0, Ordering::Relaxed);
    if correct {
        // SAFETY: allocated by `keep_an_irp`, and never sent.
        unsafe { IoFreeIrp(irp as _) };
    }
    STATUS_SUCCESS
}

fn make_link(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let (mut link, mut target) = (string(LINK), string(MACHINE));
    // SAFETY: both strings outlive the call; IRQL is PASSIVE_LEVEL.
    unsafe { IoCreateSymbolicLink(&raw mut link, &raw mut target) } // DEFECT tracking_symbolic_link_left_at_unload
}

fn delete_link(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    let mut link = string(LINK);
    if !correct {
        return STATUS_SUCCESS;
    }
    // SAFETY: the string outlives the call; IRQL is PASSIVE_LEVEL.
    unsafe { IoDeleteSymbolicLink(&raw mut link) }
}

static PROVIDER: GUID =
    GUID { Data1: 0x8A6B_2C11, Data2: 0x5E0F, Data3: 0x4B7A, Data4: [0x91, 0x3D, 0x6C, 0x20, 0xE4, 0x58, 0xB7, 0x02] };

fn register_provider(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let mut handle = 0;
    // SAFETY: the provider has no callback; IRQL is PASSIVE_LEVEL.
    let status = unsafe { EtwRegister(&raw const PROVIDER, None, ptr::null_mut(), &raw mut handle) }; // DEFECT tracking_etw_provider_left_at_unload
    KEPT.store(handle, Ordering::Relaxed);
    status
}

fn unregister(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if !correct {
        return STATUS_SUCCESS;
    }
    // SAFETY: registered by `register_provider`.
    unsafe { EtwUnregister(KEPT.swap(0, Ordering::Relaxed)) }
}

const unsafe extern "C" fn changed(_: PVOID, _: PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, _: *mut NTSTATUS) {}

fn register_callback(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: the callback needs no context; IRQL is PASSIVE_LEVEL.
    let handle = unsafe { KeRegisterProcessorChangeCallback(Some(changed), ptr::null_mut(), 0) }; // DEFECT tracking_callback_left_at_unload
    KEPT.store(handle as u64, Ordering::Relaxed);
    if handle.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn deregister(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: registered by `register_callback`.
        unsafe { KeDeregisterProcessorChangeCallback(KEPT.swap(0, Ordering::Relaxed) as PVOID) };
    }
    STATUS_SUCCESS
}

/// A timer in the driver's image.
struct Timer(UnsafeCell<KTIMER>);
// SAFETY: a timer is the kernel's, which serializes its users.
unsafe impl Sync for Timer {}
static TIMER: Timer = Timer(UnsafeCell::new(
    // SAFETY: all members are integers and pointers, for which zero is a value.
    unsafe { core::mem::zeroed() },
));

fn set_timer(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let timer = TIMER.0.get();
    // SAFETY: it has room for a timer, and is not set.
    unsafe { KeInitializeTimer(timer) };
    // SAFETY: the timer was initialized; it has no DPC.
    unsafe { KeSetTimer(timer, LATER, ptr::null_mut()) }; // DEFECT tracking_timer_left_at_unload
    STATUS_SUCCESS
}

fn cancel_timer(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: the timer was initialized by `set_timer`.
        unsafe { KeCancelTimer(TIMER.0.get()) };
    }
    STATUS_SUCCESS
}

static END: AtomicBool = AtomicBool::new(false);

/// Sleeps until it is told to end.
unsafe extern "C" fn sleep(_: PVOID) {
    let mut interval = LARGE_INTEGER { QuadPart: -10_000 };
    while !END.load(Ordering::Relaxed) {
        // SAFETY: system threads run at PASSIVE_LEVEL.
        let _ = unsafe { KeDelayExecutionThread(0, 0, &raw mut interval) };
    }
    // SAFETY: this is a system thread.
    let _ = unsafe { PsTerminateSystemThread(STATUS_SUCCESS) };
}

fn start_thread(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let mut attributes = OBJECT_ATTRIBUTES {
        Length: size_of::<OBJECT_ATTRIBUTES>() as ULONG,
        Attributes: OBJ_KERNEL_HANDLE,
        ..OBJECT_ATTRIBUTES::default()
    };
    let (mut thread, process): (HANDLE, HANDLE) = (ptr::null_mut(), ptr::null_mut());
    let (attributes, none) = (&raw mut attributes, ptr::null_mut());
    // SAFETY: everything outlives the call; IRQL is PASSIVE_LEVEL.
    let status =
        unsafe { PsCreateSystemThread(&raw mut thread, 0, attributes, process, ptr::null_mut(), Some(sleep), none) }; // DEFECT tracking_thread_left_at_unload
    KEPT.store(thread as u64, Ordering::Relaxed);
    status
}

fn end_thread(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    let thread = KEPT.swap(0, Ordering::Relaxed) as HANDLE;
    if correct {
        END.store(true, Ordering::Relaxed);
        // SAFETY: the handle is open; IRQL is PASSIVE_LEVEL.
        let _ = unsafe { ZwWaitForSingleObject(thread, 0, ptr::null_mut()) };
    }
    // SAFETY: the handle is not used again.
    unsafe { ZwClose(thread) }
}

fn keep_a_list(device: &Device, _: bool) -> NTSTATUS {
    let place = ptr::from_ref(device).cast_mut().cast();
    // SAFETY: the list belongs to no IRP.
    let list = unsafe { IoAllocateMdl(place, 64, 0, 0, ptr::null_mut()) }; // DEFECT tracking_mdl_left_at_unload
    device.kept[0].store(list as u64, Ordering::Relaxed);
    if list.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn free_list(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: allocated by `keep_a_list`.
        unsafe { IoFreeMdl(device.kept[0].load(Ordering::Relaxed) as *mut MDL) };
    }
    STATUS_SUCCESS
}

/// An ERESOURCE in the driver's image.
#[repr(align(16))]
struct Resource(UnsafeCell<ERESOURCE>);
// SAFETY: a resource is the kernel's, which serializes its users.
unsafe impl Sync for Resource {}
static RESOURCE: Resource = Resource(UnsafeCell::new(
    // SAFETY: all members are integers and pointers, for which zero is a value.
    unsafe { core::mem::zeroed() },
));

fn make_resource(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: it has room for a resource, and is not initialized.
    unsafe { ExInitializeResourceLite(RESOURCE.0.get()) } // DEFECT tracking_resource_left_at_unload
}

fn delete_resource(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if !correct {
        return STATUS_SUCCESS;
    }
    // SAFETY: initialized by `make_resource`.
    unsafe { ExDeleteResourceLite(RESOURCE.0.get()) }
}

/// "`DRIVER_NOTIFICATION_CALLBACK_ROUTINE` callback function".
const unsafe extern "C" fn arrived(_: PVOID, _: PVOID) -> NTSTATUS {
    STATUS_SUCCESS
}

/// The registration keeps the driver loaded: one that is let go in `DriverUnload` only would stay for ever.
fn listen(device: &Device, _: bool) -> NTSTATUS {
    let category = _IO_NOTIFICATION_EVENT_CATEGORY::EventCategoryDeviceInterfaceChange;
    let (class, entry) = ((&raw const PROVIDER).cast_mut().cast(), device.kept[0].as_ptr().cast());
    // SAFETY: the device is ours.
    let driver = unsafe { (*device.object).DriverObject };
    // SAFETY: IRQL is PASSIVE_LEVEL; the extension has room for the result.
    unsafe { IoRegisterPlugPlayNotification(category, 0, class, driver, Some(arrived), ptr::null_mut(), entry) } // DEFECT tracking_notification_left_at_unload
}

fn stop_listening(device: &Device, correct: bool) -> NTSTATUS {
    if !correct {
        return STATUS_SUCCESS;
    }
    // SAFETY: `listen` registered it; IRQL is PASSIVE_LEVEL.
    unsafe { IoUnregisterPlugPlayNotificationEx(device.kept[0].load(Ordering::Relaxed) as PVOID) }
}

/// A second device, which is in no stack.
fn make_device(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the device is ours.
    let driver = unsafe { (*device.object).DriverObject };
    let made = device.kept[0].as_ptr().cast();
    // SAFETY: the driver object is ours; the extension has room for the result.
    unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), FILE_DEVICE_UNKNOWN, 0, 0, made) } // DEFECT tracking_device_left_at_unload
}

fn delete_device(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: made by `make_device`, and nobody knows it.
        unsafe { IoDeleteDevice(device.kept[0].load(Ordering::Relaxed) as PDEVICE_OBJECT) };
    }
    STATUS_SUCCESS
}

static DPC: OwnDpc = OwnDpc::new();

/// "`KDEFERRED_ROUTINE` callback function".
#[rustfmt::skip]
unsafe extern "C" fn deferred(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) { // DEFECT tracking_dpc_queued_at_unload
    END.store(true, Ordering::Relaxed);
}

fn leave_dpc(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    removal::keep_second();
    // SAFETY: nothing uses the DPC yet.
    unsafe { KeInitializeDpc(DPC.get(), Some(deferred), ptr::null_mut()) };
    removal::queue_to_second(DPC.get());
    if correct {
        removal::release_second();
    }
    STATUS_SUCCESS
}

/// "`KDEFERRED_ROUTINE` callback function".
#[rustfmt::skip]
unsafe extern "C" fn stay(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) { // DEFECT tracking_dpc_running_at_unload
    // A body of its own, or the linker makes one of this and another.
    END.store(false, Ordering::Relaxed);
    removal::stay();
}

fn leave_running_dpc(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    removal::run_on_second(stay);
    if correct {
        removal::release_second();
    }
    STATUS_SUCCESS
}

/// A remove lock in the driver's image.
struct Lock(UnsafeCell<IO_REMOVE_LOCK>);
// SAFETY: a remove lock is the kernel's, which serializes its users.
unsafe impl Sync for Lock {}
static LOCK: Lock = Lock(UnsafeCell::new(
    // SAFETY: all members are integers and pointers, for which zero is a value.
    unsafe { core::mem::zeroed() },
));

fn acquire_static(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let lock = LOCK.0.get();
    // SAFETY: it has room for a lock, and IRQL is PASSIVE_LEVEL.
    unsafe { IoInitializeRemoveLockEx(lock, TAG, 0, 0, REMOVE_LOCK_SIZE) };
    // SAFETY: the lock was initialized.
    unsafe { IoAcquireRemoveLockEx(lock, lock.cast(), c"tracking".as_ptr(), 1, REMOVE_LOCK_SIZE) } // DEFECT tracking_remove_lock_held_at_unload
}

fn release_static(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if correct {
        let lock = LOCK.0.get();
        // SAFETY: acquired by `acquire_static`.
        unsafe { IoReleaseRemoveLockEx(lock, lock.cast(), REMOVE_LOCK_SIZE) };
    }
    STATUS_SUCCESS
}

fn enable_interface(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        return STATUS_SUCCESS;
    }
    device.set_interface(true) // DEFECT tracking_interface_left_at_remove
}

static MAPPED: AtomicPtr<core::ffi::c_void> = AtomicPtr::new(ptr::null_mut());
const REGISTERS: u64 = 4096;

fn map_again(device: &Device, _: bool) -> NTSTATUS {
    let start = LARGE_INTEGER { QuadPart: device.hardware.physical() };
    // SAFETY: the registers are ours; IRQL is PASSIVE_LEVEL.
    let mapped = unsafe { MmMapIoSpaceEx(start, REGISTERS, PAGE_READWRITE | PAGE_NOCACHE) }; // DEFECT tracking_mapping_left_at_remove
    MAPPED.store(mapped, Ordering::Relaxed);
    if mapped.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn unmap(_: &Device, correct: bool) -> NTSTATUS {
    let mapped = MAPPED.swap(ptr::null_mut(), Ordering::Relaxed);
    if correct {
        // SAFETY: mapped by `map_again`, and not used any more.
        unsafe { MmUnmapIoSpace(mapped, REGISTERS) };
    }
    STATUS_SUCCESS
}

/// The device object is only taken out of its stack.
fn forget(device: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: the remove lock has let the last user go.
    unsafe { device.detach() }; // DEFECT tracking_device_left_at_remove
    if correct {
        // SAFETY: as above, and it is in no stack.
        unsafe { device.delete_detached() };
    }
    STATUS_SUCCESS
}

/// Room for a timer in the extension.
const fn own_timer(device: &Device) -> *mut KTIMER {
    const { assert!(size_of::<KTIMER>() <= size_of::<[AtomicU64; 8]>()) };
    ptr::from_ref(&device.kept).cast_mut().cast()
}

fn set_own_timer(device: &Device, _: bool) -> NTSTATUS {
    let timer = own_timer(device);
    // SAFETY: the extension has room for it, and is not used for anything else.
    unsafe { KeInitializeTimer(timer) };
    // SAFETY: the timer was initialized; it has no DPC.
    unsafe { KeSetTimer(timer, LATER, ptr::null_mut()) }; // DEFECT tracking_timer_left_in_a_deleted_device
    STATUS_SUCCESS
}

fn cancel_own(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: initialized by `set_own_timer`.
        unsafe { KeCancelTimer(own_timer(device)) };
    }
    STATUS_SUCCESS
}

/// Does `act` with a remove lock in a block of pool, which is freed then.
fn with_remove_lock(act: impl FnOnce(*mut IO_REMOVE_LOCK)) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, REMOVE_LOCK_SIZE.into(), TAG) };
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let lock = block.cast::<IO_REMOVE_LOCK>();
    // SAFETY: the block has room for a lock, and IRQL is PASSIVE_LEVEL.
    unsafe { IoInitializeRemoveLockEx(lock, TAG, 0, 0, REMOVE_LOCK_SIZE) };
    act(lock);
    // SAFETY: the block is not used again.
    unsafe { ExFreePoolWithTag(block, TAG) };
    STATUS_SUCCESS
}

fn free_remove_lock(_: &Device, correct: bool) -> NTSTATUS {
    with_remove_lock(|lock| {
        let file = c"tracking".as_ptr();
        // SAFETY: the lock was initialized.
        let _ = unsafe { IoAcquireRemoveLockEx(lock, lock.cast(), file, 1, REMOVE_LOCK_SIZE) }; // DEFECT tracking_remove_lock_freed_while_held
        if correct {
            // SAFETY: acquired with that tag.
            unsafe { IoReleaseRemoveLockEx(lock, lock.cast(), REMOVE_LOCK_SIZE) };
        }
    })
}

fn initialize_again(_: &Device, correct: bool) -> NTSTATUS {
    with_remove_lock(|lock| {
        if !correct {
            // SAFETY: that it was not initialized yet is what the defect gets wrong.
            unsafe { IoInitializeRemoveLockEx(lock, TAG, 0, 0, REMOVE_LOCK_SIZE) }; // DEFECT tracking_remove_lock_initialized_again
        }
    })
}
