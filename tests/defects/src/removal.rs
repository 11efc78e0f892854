//! What belongs to a device and must be gone when the device is removed.

use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use wdk_sys::{
    _KINTERRUPT, BOOLEAN, CONNECT_LINE_BASED, DEVICE_OBJECT, DEVICE_REGISTRY_PROPERTY, DRIVER_OBJECT, GROUP_AFFINITY,
    HANDLE, IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS, IO_CONNECT_INTERRUPT_PARAMETERS,
    IO_DISCONNECT_INTERRUPT_PARAMETERS, IO_REMOVE_LOCK, IRP, IRP_MJ_PNP, IRP_MN_REMOVE_DEVICE, KDPC, KEY_READ,
    NTSTATUS, PLUGPLAY_REGKEY_DEVICE, PROCESSOR_NUMBER, PVOID, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS,
    UNICODE_STRING, WMIREG_ACTION_DEREGISTER, WMIREG_ACTION_REGISTER,
    ntddk::{
        IoAcquireRemoveLockEx, IoAllocateWorkItem, IoConnectInterruptEx, IoCreateSymbolicLink, IoDeleteSymbolicLink,
        IoDisconnectInterruptEx, IoFreeWorkItem, IoGetDeviceProperty, IoInitializeRemoveLockEx,
        IoOpenDeviceRegistryKey, IoReleaseRemoveLockEx, IoWMIRegistrationControl, KeFlushQueuedDpcs, KeInitializeDpc,
        KeInsertQueueDpc, KeSetSystemGroupAffinityThread, KeSetTargetProcessorDpcEx, KeStallExecutionProcessor,
        ZwClose,
    },
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::{Device, REMOVE_LOCK_SIZE},
    dispatch, dma, irp,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("removal_interrupt_left", &[Hook::Start(connect_again), Hook::Remove(disconnect)]),
    Defect::new("removal_adapter_left", &[Hook::Start(get_adapter), Hook::Remove(put_adapter)]),
    Defect::new("removal_common_buffer_left", &[Hook::Start(get_buffer), Hook::Remove(put_adapter)]),
    Defect::new("removal_work_item_left", &[Hook::Start(keep_a_work_item), Hook::Remove(free_work_item)]),
    Defect::new("removal_handle_left", &[Hook::Start(open_key), Hook::Remove(close_key)]),
    Defect::new("removal_symbolic_link_left", &[Hook::Start(make_link), Hook::Remove(delete_link)]),
    Defect::new("removal_wmi_provider_left", &[Hook::Start(register_provider), Hook::Remove(deregister_provider)]),
    Defect::new("removal_dpc_queued", &[Hook::Delete(delete_with_dpc)]),
    Defect::new("removal_remove_lock_held", &[Hook::Start(acquire_own), Hook::Delete(delete_with_lock)]),
    Defect::new("removal_remove_lock_never_released", &[Hook::Request(acquire)]),
    Defect::new("removal_not_detached", &[Hook::Load(take_pnp_requests)]),
];

/// Remembers what a hook made for the device.
fn keep(device: &Device, what: u64) {
    device.kept[0].store(what, Ordering::Relaxed);
}

fn take(device: &Device) -> u64 {
    device.kept[0].swap(0, Ordering::Relaxed)
}

/// "`KSERVICE_ROUTINE` callback function": the other one serves the interrupt.
const unsafe extern "C" fn not_mine(_: *mut _KINTERRUPT, _: PVOID) -> BOOLEAN {
    0
}

fn connect_again(device: &Device, _: bool) -> NTSTATUS {
    let mut parameters = IO_CONNECT_INTERRUPT_PARAMETERS { Version: CONNECT_LINE_BASED, ..Default::default() };
    parameters.__bindgen_anon_1.LineBased = IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS {
        PhysicalDeviceObject: device.physical,
        InterruptObject: device.kept[0].as_ptr().cast(),
        ServiceRoutine: Some(not_mine),
        ..Default::default()
    };
    // SAFETY: IRQL is PASSIVE_LEVEL; the extension has room for the interrupt object's address.
    unsafe { IoConnectInterruptEx(&raw mut parameters) } // DEFECT removal_interrupt_left
}

fn disconnect(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: all members are integers and pointers, for which zero is a value.
        let mut parameters: IO_DISCONNECT_INTERRUPT_PARAMETERS = unsafe { core::mem::zeroed() };
        parameters.Version = CONNECT_LINE_BASED;
        parameters.ConnectionContext.InterruptObject = take(device) as _;
        // SAFETY: `connect_again` connected it; IRQL is PASSIVE_LEVEL.
        unsafe { IoDisconnectInterruptEx(&raw mut parameters) };
    }
    STATUS_SUCCESS
}

fn get_adapter(device: &Device, _: bool) -> NTSTATUS {
    dma::get_adapter(device) // DEFECT removal_adapter_left
}

fn get_buffer(device: &Device, correct: bool) -> NTSTATUS {
    dma::prepare(device, correct) // DEFECT removal_common_buffer_left
}

fn put_adapter(device: &Device, correct: bool) -> NTSTATUS {
    if correct { dma::release(device, correct) } else { STATUS_SUCCESS }
}

fn keep_a_work_item(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the device is ours.
    let item = unsafe { IoAllocateWorkItem(device.object) }; // DEFECT removal_work_item_left
    keep(device, item as u64);
    if item.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn free_work_item(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        // SAFETY: allocated by `keep_a_work_item`, and never queued.
        unsafe { IoFreeWorkItem(take(device) as _) };
    }
    STATUS_SUCCESS
}

fn open_key(device: &Device, _: bool) -> NTSTATUS {
    let mut key: HANDLE = ptr::null_mut();
    // SAFETY: `key` has room for the handle; IRQL is PASSIVE_LEVEL.
    let status = unsafe { IoOpenDeviceRegistryKey(device.physical, PLUGPLAY_REGKEY_DEVICE, KEY_READ, &raw mut key) }; // DEFECT removal_handle_left
    keep(device, key as u64);
    status
}

fn close_key(device: &Device, correct: bool) -> NTSTATUS {
    if !correct {
        return STATUS_SUCCESS;
    }
    // SAFETY: opened by `open_key` and not used again.
    unsafe { ZwClose(take(device) as HANDLE) }
}

/// `\??\OfADevice`.
const LINK: &[u16] = &[92, 63, 63, 92, 79, 102, 65, 68, 101, 118, 105, 99, 101];

const fn link() -> UNICODE_STRING {
    let bytes = size_of_val(LINK) as u16;
    UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: LINK.as_ptr().cast_mut() }
}

/// A symbolic link to the device's name, which the bus driver gave it.
fn make_link(device: &Device, _: bool) -> NTSTATUS {
    let (mut name, mut bytes) = ([0_u16; 64], 0);
    let property = DEVICE_REGISTRY_PROPERTY::DevicePropertyPhysicalDeviceObjectName;
    let room = size_of_val(&name) as u32;
    let place = name.as_mut_ptr().cast();
    // SAFETY: `name` has the room that is said; IRQL is PASSIVE_LEVEL.
    let status = unsafe { IoGetDeviceProperty(device.physical, property, room, place, &raw mut bytes) };
    if !irp::succeeded(status) {
        return status;
    }
    let length = bytes as u16 - 2;
    let mut target = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: name.as_mut_ptr() };
    let mut link = link();
    // SAFETY: both strings outlive the call; IRQL is PASSIVE_LEVEL.
    unsafe { IoCreateSymbolicLink(&raw mut link, &raw mut target) } // DEFECT removal_symbolic_link_left
}

fn delete_link(_: &Device, correct: bool) -> NTSTATUS {
    if !correct {
        return STATUS_SUCCESS;
    }
    let mut link = link();
    // SAFETY: the string outlives the call; IRQL is PASSIVE_LEVEL.
    unsafe { IoDeleteSymbolicLink(&raw mut link) }
}

fn register_provider(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the device is ours; IRQL is PASSIVE_LEVEL.
    unsafe { IoWMIRegistrationControl(device.object, WMIREG_ACTION_REGISTER) } // DEFECT removal_wmi_provider_left
}

fn deregister_provider(device: &Device, correct: bool) -> NTSTATUS {
    if !correct {
        return STATUS_SUCCESS;
    }
    // SAFETY: `register_provider` registered it.
    unsafe { IoWMIRegistrationControl(device.object, WMIREG_ACTION_DEREGISTER) }
}

/// A DPC in the driver's image.
pub struct OwnDpc(UnsafeCell<KDPC>);
// SAFETY: a DPC is the kernel's, which serializes its users.
unsafe impl Sync for OwnDpc {}

impl OwnDpc {
    /// One that is not initialized.
    pub const fn new() -> Self {
        // SAFETY: all members are integers and pointers, for which zero is a value.
        Self(UnsafeCell::new(unsafe { core::mem::zeroed() }))
    }

    /// Where it is.
    pub const fn get(&self) -> *mut KDPC {
        self.0.get()
    }
}

/// Keeps the second processor busy.
static BUSY: OwnDpc = OwnDpc::new();
static BUSY_RUNS: AtomicU32 = AtomicU32::new(0);
static BUSY_ENDS: AtomicBool = AtomicBool::new(false);

/// Runs until `release_second`.
pub fn stay() {
    BUSY_RUNS.store(1, Ordering::SeqCst);
    while !BUSY_ENDS.load(Ordering::SeqCst) {
        // SAFETY: any IRQL is allowed.
        unsafe { KeStallExecutionProcessor(50) };
    }
}

/// "`KDEFERRED_ROUTINE` callback function".
unsafe extern "C" fn stay_busy(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) {
    stay();
}

/// Queues a DPC to the second processor.
pub fn queue_to_second(dpc: *mut KDPC) {
    let mut second = PROCESSOR_NUMBER { Group: 0, Number: 1, Reserved: 0 };
    // SAFETY: the DPC is initialized, and the processor is active.
    let _ = unsafe { KeSetTargetProcessorDpcEx(dpc, &raw mut second) };
    // SAFETY: as above.
    unsafe { KeInsertQueueDpc(dpc, ptr::null_mut(), ptr::null_mut()) };
}

/// Runs on the first processor from now on, and has the second one run nothing but a DPC until `release_second`.
pub fn keep_second() {
    run_on_second(stay_busy);
}

/// The same, with this routine, which calls `stay`.
pub fn run_on_second(routine: unsafe extern "C" fn(*mut KDPC, PVOID, PVOID, PVOID)) {
    let mut first = GROUP_AFFINITY { Mask: 1, Group: 0, Reserved: [0; 3] };
    // SAFETY: the structure outlives the call.
    unsafe { KeSetSystemGroupAffinityThread(&raw mut first, ptr::null_mut()) };
    // SAFETY: nothing uses the DPC yet.
    unsafe { KeInitializeDpc(BUSY.get(), Some(routine), ptr::null_mut()) };
    queue_to_second(BUSY.get());
    while BUSY_RUNS.load(Ordering::SeqCst) == 0 {
        // SAFETY: any IRQL is allowed.
        unsafe { KeStallExecutionProcessor(1) };
    }
}

/// Lets the second processor go on, and waits until it has run its DPCs.
pub fn release_second() {
    BUSY_ENDS.store(true, Ordering::SeqCst);
    // SAFETY: IRQL is PASSIVE_LEVEL.
    unsafe { KeFlushQueuedDpcs() };
}

/// "`KDEFERRED_ROUTINE` callback function".
const unsafe extern "C" fn nothing(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) {}

fn delete_with_dpc(device: &Device, correct: bool) -> NTSTATUS {
    const { assert!(size_of::<KDPC>() <= size_of::<[AtomicU64; 8]>()) };
    let dpc: *mut KDPC = ptr::from_ref(&device.kept).cast_mut().cast();
    keep_second();
    // SAFETY: the extension has room for it, and is not used for anything else.
    unsafe { KeInitializeDpc(dpc, Some(nothing), ptr::null_mut()) };
    queue_to_second(dpc);
    if correct {
        release_second();
    }
    // SAFETY: the remove lock has let the last user go.
    unsafe { device.detach() };
    // SAFETY: as above, and it is in no stack; that its DPC is queued is the defect.
    unsafe { device.delete_detached() }; // DEFECT removal_dpc_queued
    STATUS_SUCCESS
}

/// Room for a second remove lock in the extension.
const fn own_lock(device: &Device) -> *mut IO_REMOVE_LOCK {
    const { assert!(size_of::<IO_REMOVE_LOCK>() <= size_of::<[AtomicU64; 8]>()) };
    ptr::from_ref(&device.kept).cast_mut().cast()
}

fn acquire_own(device: &Device, _: bool) -> NTSTATUS {
    let lock = own_lock(device);
    // SAFETY: the extension has room for it; IRQL is PASSIVE_LEVEL.
    unsafe { IoInitializeRemoveLockEx(lock, TAG, 0, 0, REMOVE_LOCK_SIZE) };
    // SAFETY: the lock was initialized.
    unsafe { IoAcquireRemoveLockEx(lock, lock.cast(), c"removal".as_ptr(), 1, REMOVE_LOCK_SIZE) } // DEFECT removal_remove_lock_held
}

fn delete_with_lock(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        let lock = own_lock(device);
        // SAFETY: acquired by `acquire_own`.
        unsafe { IoReleaseRemoveLockEx(lock, lock.cast(), REMOVE_LOCK_SIZE) };
    }
    // SAFETY: the remove lock has let the last user go.
    unsafe { device.detach() };
    // SAFETY: as above, and it is in no stack.
    unsafe { device.delete_detached() };
    STATUS_SUCCESS
}

fn acquire(device: &Device, correct: bool) -> NTSTATUS {
    let (lock, tag) = (device.removal.get(), ptr::from_ref(device).cast_mut().cast());
    // SAFETY: the lock was initialized in `attach`.
    let status = unsafe { IoAcquireRemoveLockEx(lock, tag, c"removal".as_ptr(), 1, REMOVE_LOCK_SIZE) }; // DEFECT removal_remove_lock_never_released
    if correct {
        device.done(tag);
    }
    status
}

fn take_pnp_requests(driver: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if !correct {
        driver.MajorFunction[IRP_MJ_PNP as usize] = Some(stay_attached);
    }
    STATUS_SUCCESS
}

#[rustfmt::skip]
unsafe extern "C" fn stay_attached(object: *mut DEVICE_OBJECT, request: *mut IRP) -> NTSTATUS { // DEFECT removal_not_detached
    // SAFETY: the device is ours.
    let device = unsafe { Device::of(object) };
    // SAFETY: the I/O manager gave us the IRP.
    let stack = unsafe { irp::stack_location(request) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &*stack };
    if u32::from(stack.MinorFunction) != IRP_MN_REMOVE_DEVICE {
        // SAFETY: as the I/O manager calls it.
        return unsafe { dispatch(object, request) };
    }
    device.hardware.disconnect();
    device.set_interface(false);
    // SAFETY: the IRP is ours.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: the IRP is ours; that the device stays where it is is the defect.
    unsafe { irp::skip_to(device.lower, request) }
}
