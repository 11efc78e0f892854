//! The rules of hot-add.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{
    _EVENT_TYPE, _IO_NOTIFICATION_EVENT_CATEGORY, _KE_PROCESSOR_CHANGE_NOTIFY_STATE, _KINTERRUPT, _KWAIT_REASON,
    BOOLEAN, CONNECT_FULLY_SPECIFIED, DRIVER_OBJECT, GROUP_AFFINITY, GUID, IO_DISCONNECT_INTERRUPT_PARAMETERS, KEVENT,
    LARGE_INTEGER, NTSTATUS, PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, PNTSTATUS, PROCESSOR_NUMBER, PVOID,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
    ntddk::{
        IoConnectInterruptEx, IoDisconnectInterruptEx, IoRegisterPlugPlayNotification,
        IoUnregisterPlugPlayNotificationEx, KeDeregisterProcessorChangeCallback, KeInitializeEvent,
        KeRegisterProcessorChangeCallback, KeRevertToUserGroupAffinityThread, KeSetSystemGroupAffinityThread,
        KeSetTargetProcessorDpc, KeSetTargetProcessorDpcEx, KeWaitForSingleObject,
    },
};

use crate::{
    defect::{self, Defect, Hook},
    device::Device,
    irp,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("hot_add_status_outside_add_start", &[Hook::Load(register), Hook::Unload(deregister)]),
    Defect::new("hot_add_callback_not_deregistered", &[Hook::Load(register), Hook::Unload(deregister_if_correct)]),
    Defect::new("hot_add_notification_blocks", &[Hook::Start(listen), Hook::Remove(stop_listening)]),
    Defect::new("hot_add_notification_fails", &[Hook::Start(listen), Hook::Remove(stop_listening)]),
    Defect::new("hot_add_processor_never_active", &[Hook::Request(processor_never_active)]),
    Defect::new("hot_add_dpc_target_never_active", &[Hook::Request(dpc_target_never_active)]),
    Defect::new("hot_add_thread_on_a_processor_never_active", &[Hook::Request(thread_never_active)]),
    Defect::new(
        "hot_add_interrupt_on_a_processor_never_active",
        &[Hook::Start(interrupt_never_active), Hook::Remove(disconnect)],
    ),
    Defect::new("hot_add_status_is_no_error", &[Hook::Load(register), Hook::Unload(deregister)]),
    Defect::new("hot_add_change_context_written", &[Hook::Load(register), Hook::Unload(deregister)]),
    Defect::new("hot_add_callback_deregistered_twice", &[Hook::Load(register), Hook::Unload(deregister_twice)]),
    Defect::new("hot_add_notification_unregistered_twice", &[Hook::Start(listen), Hook::Remove(stop_listening_twice)]),
];

/// The interface class of processors.
static GUID_DEVICE_PROCESSOR: GUID =
    GUID { Data1: 0x97FA_DB10, Data2: 0x4E33, Data3: 0x40AE, Data4: [0x35, 0x9C, 0x8B, 0xEF, 0x02, 0x9D, 0xBD, 0xD0] };

static REGISTRATION: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

fn register(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let handle = unsafe { KeRegisterProcessorChangeCallback(Some(changed), ptr::null_mut(), 0) }; // DEFECT hot_add_callback_not_deregistered
    REGISTRATION.store(handle.cast(), Ordering::Relaxed);
    if handle.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn deregister(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: `register` registered it; IRQL is PASSIVE_LEVEL.
    unsafe { KeDeregisterProcessorChangeCallback(REGISTRATION.load(Ordering::Relaxed).cast()) };
    STATUS_SUCCESS
}

fn deregister_if_correct(driver: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if correct { deregister(driver, correct) } else { STATUS_SUCCESS }
}

/// "`PROCESSOR_CALLBACK_FUNCTION` callback function".
#[rustfmt::skip]
unsafe extern "C" fn changed(_: PVOID, change: PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, status: PNTSTATUS) { // DEFECT hot_add_status_outside_add_start hot_add_status_is_no_error hot_add_change_context_written
    // SAFETY: the kernel passes a change.
    let state = unsafe { (*change).State };
    let complete = state == _KE_PROCESSOR_CHANGE_NOTIFY_STATE::KeProcessorAddCompleteNotify;
    if complete && defect::is_chosen("hot_add_status_outside_add_start") && !defect::is_correct() {
        // SAFETY: the kernel passes a status; that it is written now is the defect.
        unsafe { *status = STATUS_UNSUCCESSFUL };
    }
    if defect::is_chosen("hot_add_status_is_no_error") && !defect::is_correct() {
        // SAFETY: as above; that what is written is no error is the defect.
        unsafe { *status = 1 };
    }
    if defect::is_chosen("hot_add_change_context_written") && !defect::is_correct() {
        // SAFETY: as above; that the system's structure is written to is the defect.
        unsafe { (*change).NtNumber = 0xFFFF };
    }
}

fn listen(device: &Device, _: bool) -> NTSTATUS {
    let blocks = defect::is_chosen("hot_add_notification_blocks");
    listen_with(device, if blocks { arrived_and_wait } else { arrived_and_fail })
}

/// Has a callback notified of processors until [`stop_listening`].
pub fn listen_with(device: &Device, callback: unsafe extern "C" fn(PVOID, PVOID) -> NTSTATUS) -> NTSTATUS {
    // SAFETY: the device is ours.
    let driver = unsafe { (*device.object).DriverObject };
    let mut entry: PVOID = ptr::null_mut();
    let category = _IO_NOTIFICATION_EVENT_CATEGORY::EventCategoryDeviceInterfaceChange;
    let class = (&raw const GUID_DEVICE_PROCESSOR).cast_mut().cast();
    // SAFETY: IRQL is PASSIVE_LEVEL; `entry` has room for the result.
    let status = unsafe {
        IoRegisterPlugPlayNotification(category, 0, class, driver, Some(callback), ptr::null_mut(), &raw mut entry)
    };
    if irp::succeeded(status) {
        device.kept[0].store(entry as u64, Ordering::Relaxed);
    }
    status
}

/// Ends what [`listen_with`] began.
pub fn stop_listening(device: &Device, _: bool) -> NTSTATUS {
    let entry = device.kept[0].load(Ordering::Relaxed) as PVOID;
    // SAFETY: `listen` registered it; IRQL is PASSIVE_LEVEL.
    unsafe { IoUnregisterPlugPlayNotificationEx(entry) }
}

/// "`DRIVER_NOTIFICATION_CALLBACK_ROUTINE` callback function".
unsafe extern "C" fn arrived_and_wait(_: PVOID, _: PVOID) -> NTSTATUS {
    if !defect::is_correct() {
        let (mut event, reason) = (KEVENT::default(), _KWAIT_REASON::Executive);
        // SAFETY: there is room for an event.
        unsafe { KeInitializeEvent(&raw mut event, _EVENT_TYPE::NotificationEvent, 0) };
        let mut time = LARGE_INTEGER { QuadPart: -10_000 };
        // SAFETY: the event was initialized; that the callback waits is the defect.
        let _ = unsafe { KeWaitForSingleObject((&raw mut event).cast(), reason, 0, 0, &raw mut time) }; // DEFECT hot_add_notification_blocks
    }
    STATUS_SUCCESS
}

/// The same.
#[rustfmt::skip]
unsafe extern "C" fn arrived_and_fail(_: PVOID, _: PVOID) -> NTSTATUS { // DEFECT hot_add_notification_fails
    if defect::is_correct() { STATUS_SUCCESS } else { STATUS_UNSUCCESSFUL }
}

fn processor_never_active(device: &Device, correct: bool) -> NTSTATUS {
    let mut number = PROCESSOR_NUMBER { Group: 0, Number: if correct { 0 } else { 7 }, Reserved: 0 };
    // SAFETY: the DPC was initialized in `prepare`; that the processor was never active is the defect.
    unsafe { KeSetTargetProcessorDpcEx(device.hardware.dpc(), &raw mut number) } // DEFECT hot_add_processor_never_active
}

fn dpc_target_never_active(device: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: the DPC was initialized in `prepare`; that the processor was never active is the defect.
    unsafe { KeSetTargetProcessorDpc(device.hardware.dpc(), if correct { 0 } else { 7 }) }; // DEFECT hot_add_dpc_target_never_active
    STATUS_SUCCESS
}

fn thread_never_active(_: &Device, correct: bool) -> NTSTATUS {
    let mut wanted = GROUP_AFFINITY { Mask: if correct { 1 } else { 1 << 7 }, Group: 0, Reserved: [0; 3] };
    let mut before = GROUP_AFFINITY::default();
    // SAFETY: both structures outlive the call; that the processor was never active is the defect.
    unsafe { KeSetSystemGroupAffinityThread(&raw mut wanted, &raw mut before) }; // DEFECT hot_add_thread_on_a_processor_never_active
    // SAFETY: as above.
    unsafe { KeRevertToUserGroupAffinityThread(&raw mut before) };
    STATUS_SUCCESS
}

/// "`KSERVICE_ROUTINE` callback function": the other one serves the interrupt.
const unsafe extern "C" fn not_mine(_: *mut _KINTERRUPT, _: PVOID) -> BOOLEAN {
    0
}

/// Connects the device's line once more.
fn interrupt_never_active(device: &Device, correct: bool) -> NTSTATUS {
    let mut parameters = device.hardware.connection();
    // SAFETY: `connection` filled in this member of the union.
    let own = unsafe { &mut parameters.__bindgen_anon_1.FullySpecified };
    own.InterruptObject = device.kept[0].as_ptr().cast();
    own.ServiceRoutine = Some(not_mine);
    if !correct {
        own.ProcessorEnableMask = 1 << 7;
    }
    // SAFETY: IRQL is PASSIVE_LEVEL; that the processor was never active is the defect.
    unsafe { IoConnectInterruptEx(&raw mut parameters) } // DEFECT hot_add_interrupt_on_a_processor_never_active
}

fn disconnect(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: all members are integers and pointers, for which zero is a value.
    let mut parameters: IO_DISCONNECT_INTERRUPT_PARAMETERS = unsafe { core::mem::zeroed() };
    parameters.Version = CONNECT_FULLY_SPECIFIED;
    parameters.ConnectionContext.InterruptObject = device.kept[0].load(Ordering::Relaxed) as _;
    // SAFETY: `interrupt_never_active` connected it; IRQL is PASSIVE_LEVEL.
    unsafe { IoDisconnectInterruptEx(&raw mut parameters) };
    STATUS_SUCCESS
}

fn deregister_twice(driver: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    deregister(driver, correct);
    if !correct {
        // SAFETY: that it is no registration any more is the defect.
        unsafe { KeDeregisterProcessorChangeCallback(REGISTRATION.load(Ordering::Relaxed).cast()) }; // DEFECT hot_add_callback_deregistered_twice
    }
    STATUS_SUCCESS
}

fn stop_listening_twice(device: &Device, correct: bool) -> NTSTATUS {
    let status = stop_listening(device, correct);
    if correct {
        return status;
    }
    let entry = device.kept[0].load(Ordering::Relaxed) as PVOID;
    // SAFETY: that it is no registration any more is the defect.
    unsafe { IoUnregisterPlugPlayNotificationEx(entry) } // DEFECT hot_add_notification_unregistered_twice
}
