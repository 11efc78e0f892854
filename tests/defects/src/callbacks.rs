//! Callbacks that return at another IRQL than they were called at. Those of the driver, of dispatch routines and of cancel-safe queues
//! have them elsewhere.
#![expect(
    clippy::inline_always,
    reason = "of an earlier call the report has the innermost frame only, with what is inlined there"
)]

use core::{
    mem, ptr,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

use wdk_sys::{
    _DEVICE_POWER_STATE, _KINTERRUPT, _WORK_QUEUE_TYPE, BOOLEAN, CONNECT_MESSAGE_BASED, DEVICE_OBJECT, DRIVER_OBJECT,
    GUID, HIGH_LEVEL, IO_CONNECT_INTERRUPT_PARAMETERS, IO_DISCONNECT_INTERRUPT_PARAMETERS, IO_STATUS_BLOCK, IRP,
    IRP_MJ_DEVICE_CONTROL, IRP_MN_QUERY_STOP_DEVICE, IRP_MN_SET_POWER, KE_PROCESSOR_CHANGE_ADD_EXISTING, KIRQL,
    LPCGUID, NTSTATUS, PASSIVE_LEVEL, PDEVICE_OBJECT, PEVENT_FILTER_DESCRIPTOR, PIO_WORKITEM,
    PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, PNTSTATUS, POWER_STATE, PSCATTER_GATHER_LIST, PVOID, REGHANDLE,
    SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, STATUS_INSUFFICIENT_RESOURCES, STATUS_PENDING,
    STATUS_SUCCESS, UCHAR, ULONG, ULONGLONG,
    ntddk::{
        EtwRegister, EtwUnregister, IoAllocateWorkItem, IoConnectInterruptEx, IoDisconnectInterruptEx, IoFreeWorkItem,
        IoQueueWorkItem, IoStartNextPacket, IoStartPacket, IofCallDriver, KeDeregisterProcessorChangeCallback,
        KeRegisterProcessorChangeCallback, KeSynchronizeExecution, PoRequestPowerIrp,
    },
};

use crate::{
    defect::{self, Defect, Hook},
    device::Device,
    dma,
    hardware::{self, RAISE},
    hot_add, io, irp, locks,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("callbacks_add_device_returns_raised", &[Hook::Add(add_device)]),
    Defect::new(
        "callbacks_start_io_returns_raised",
        &[Hook::Load(set_start_io), Hook::Irp(IRP_MJ_DEVICE_CONTROL, start_packet)],
    ),
    Defect::new("callbacks_completion_returns_raised", &[Hook::Pnp(IRP_MN_QUERY_STOP_DEVICE, complete_on_the_way)]),
    Defect::new("callbacks_power_completion_returns_raised", &[Hook::Request(request_power)]),
    Defect::new("callbacks_dpc_returns_raised", &[Hook::Request(raise_interrupt), Hook::Dpc(dpc)]),
    Defect::new("callbacks_dpc_lowers", &[Hook::Request(raise_interrupt), Hook::Dpc(lowering_dpc)]),
    Defect::new("callbacks_isr_returns_raised", &[Hook::Request(raise_interrupt), Hook::Isr(isr)]),
    Defect::new("callbacks_isr_returns_lowered", &[Hook::Request(raise_interrupt), Hook::Isr(lowering_isr)]),
    Defect::new("callbacks_message_isr_returns_raised", &[Hook::Request(interrupt_by_message)]),
    Defect::new("callbacks_synchronized_returns_raised", &[Hook::Request(synchronize)]),
    Defect::new(
        "callbacks_list_control_returns_raised",
        &[Hook::Start(dma::prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, get_list), Hook::Remove(dma::release)],
    ),
    Defect::new("callbacks_thread_returns_raised", &[Hook::Request(start_thread)]),
    Defect::new("callbacks_work_item_returns_raised", &[Hook::Request(queue_work)]),
    Defect::new("callbacks_trace_callback_returns_raised", &[Hook::Load(register_trace), Hook::Unload(end_trace)]),
    Defect::new("callbacks_notification_returns_raised", &[Hook::Start(listen), Hook::Remove(hot_add::stop_listening)]),
    Defect::new("callbacks_processor_change_returns_raised", &[Hook::Load(register_change), Hook::Unload(end_change)]),
];

const HIGH: KIRQL = HIGH_LEVEL as KIRQL;
const PASSIVE: KIRQL = PASSIVE_LEVEL as KIRQL;
const INVOKE_ALWAYS: u8 = (SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL) as u8;

unsafe extern "C" {
    // Functions behind macros of the headers.
    fn KfRaiseIrql(to: KIRQL) -> KIRQL;
    fn KeLowerIrql(to: KIRQL);
}

#[inline(always)]
pub fn lower(to: KIRQL) {
    // SAFETY: that the level is one the caller may have is what the defects get wrong.
    unsafe { KeLowerIrql(to) };
}

/// Raises the IRQL where `name` is chosen; who acts correctly lowers it again. The name makes every caller another function, or the linker
/// would take them for one.
#[inline(always)]
pub fn stay_raised(name: &str) {
    if !defect::is_chosen(name) {
        return;
    }
    // SAFETY: no level is higher.
    let before = unsafe { KfRaiseIrql(HIGH) };
    if defect::is_correct() {
        lower(before);
    }
}

/// What a callback gets that is told of a device.
const fn context_of(device: &Device) -> PVOID {
    ptr::from_ref(device).cast_mut().cast()
}

fn add_device(_: &Device, _: bool) -> NTSTATUS {
    stay_raised("callbacks_add_device_returns_raised"); // DEFECT callbacks_add_device_returns_raised
    STATUS_SUCCESS
}

fn set_start_io(driver: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    driver.DriverStartIo = Some(start_io);
    STATUS_SUCCESS
}

fn start_packet(device: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { io::mark_pending(request) };
    // SAFETY: as above; it stays that of the device's queue.
    unsafe { IoStartPacket(device.object, request, ptr::null_mut(), None) };
    STATUS_PENDING
}

/// "`DRIVER_STARTIO` callback function".
unsafe extern "C" fn start_io(object: *mut DEVICE_OBJECT, request: *mut IRP) {
    // SAFETY: the IRP is the current one of the device.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) };
    // SAFETY: IRQL is DISPATCH_LEVEL.
    unsafe { IoStartNextPacket(object, 0) };
    stay_raised("callbacks_start_io_returns_raised"); // DEFECT callbacks_start_io_returns_raised
}

fn complete_on_the_way(device: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as above.
    let current = unsafe { irp::stack_location(request) };
    let next = current.wrapping_sub(1);
    // SAFETY: an IRP has a location for each driver of the stack.
    unsafe { next.copy_from_nonoverlapping(current, 1) };
    // SAFETY: as above.
    let location = unsafe { &mut *next };
    location.CompletionRoutine = Some(completed);
    location.Control = INVOKE_ALWAYS;
    // SAFETY: the IRP is the driver's.
    unsafe { IofCallDriver(device.lower, request) }
}

/// "`IO_COMPLETION_ROUTINE` callback function".
unsafe extern "C" fn completed(_: *mut DEVICE_OBJECT, request: *mut IRP, _: PVOID) -> NTSTATUS {
    // SAFETY: the I/O manager passes the IRP.
    if unsafe { (*request).PendingReturned } != 0 {
        // SAFETY: the IRP is the driver's while the routine runs.
        unsafe { io::mark_pending(request) };
    }
    stay_raised("callbacks_completion_returns_raised"); // DEFECT callbacks_completion_returns_raised
    STATUS_SUCCESS
}

fn request_power(device: &Device, _: bool) -> NTSTATUS {
    let (minor, state) = (IRP_MN_SET_POWER as UCHAR, POWER_STATE { DeviceState: _DEVICE_POWER_STATE::PowerDeviceD0 });
    // SAFETY: the device is started; the routine needs no context.
    let status =
        unsafe { PoRequestPowerIrp(device.object, minor, state, Some(powered), ptr::null_mut(), ptr::null_mut()) };
    if status == STATUS_PENDING { STATUS_SUCCESS } else { status }
}

/// "`REQUEST_POWER_COMPLETE` callback function".
unsafe extern "C" fn powered(_: *mut DEVICE_OBJECT, _: UCHAR, _: POWER_STATE, _: PVOID, _: *mut IO_STATUS_BLOCK) {
    stay_raised("callbacks_power_completion_returns_raised"); // DEFECT callbacks_power_completion_returns_raised
}

/// Has the device interrupt.
fn raise_interrupt(device: &Device, _: bool) -> NTSTATUS {
    device.hardware.write(RAISE, 1);
    STATUS_SUCCESS
}

fn dpc(_: &Device, _: bool) -> NTSTATUS {
    stay_raised("callbacks_dpc_returns_raised"); // DEFECT callbacks_dpc_returns_raised
    STATUS_SUCCESS
}

fn lowering_dpc(_: &Device, correct: bool) -> NTSTATUS {
    if !correct {
        lower(PASSIVE); // DEFECT callbacks_dpc_lowers
    }
    STATUS_SUCCESS
}

fn isr(device: &Device, _: bool) -> bool {
    let raised = hardware::acknowledge(device);
    stay_raised("callbacks_isr_returns_raised"); // DEFECT callbacks_isr_returns_raised
    raised
}

fn lowering_isr(device: &Device, correct: bool) -> bool {
    let raised = hardware::acknowledge(device);
    if !correct {
        // The interrupt spin lock is held: below its level the routine may not go, but for a level of the device's.
        lower(3); // DEFECT callbacks_isr_returns_lowered
    }
    raised
}

/// Connects the interrupt as a message for one interrupt.
fn interrupt_by_message(device: &Device, _: bool) -> NTSTATUS {
    device.hardware.stop_listening();
    let mut table: PVOID = ptr::null_mut();
    // SAFETY: all members are integers and pointers, for which zero is a value.
    let mut parameters: IO_CONNECT_INTERRUPT_PARAMETERS = unsafe { mem::zeroed() };
    parameters.Version = CONNECT_MESSAGE_BASED;
    // SAFETY: every member of the union is plain data.
    let own = unsafe { &mut parameters.__bindgen_anon_1.MessageBased };
    own.PhysicalDeviceObject = device.physical;
    own.ConnectionContext.Generic = &raw mut table;
    own.MessageServiceRoutine = Some(message_service);
    own.ServiceContext = context_of(device);
    // SAFETY: IRQL is PASSIVE_LEVEL; the device outlives the connection.
    let status = unsafe { IoConnectInterruptEx(&raw mut parameters) };
    if status < STATUS_SUCCESS {
        return status;
    }
    device.kept[0].store(0, Ordering::SeqCst);
    device.hardware.write(RAISE, 1);
    while device.kept[0].load(Ordering::SeqCst) == 0 {
        dma::pause();
    }
    // SAFETY: all members are integers and pointers, for which zero is a value.
    let mut parameters: IO_DISCONNECT_INTERRUPT_PARAMETERS = unsafe { mem::zeroed() };
    parameters.Version = CONNECT_MESSAGE_BASED;
    parameters.ConnectionContext.Generic = table;
    // SAFETY: connected above; IRQL is PASSIVE_LEVEL.
    unsafe { IoDisconnectInterruptEx(&raw mut parameters) };
    STATUS_SUCCESS
}

/// "`KMESSAGE_SERVICE_ROUTINE` callback function".
unsafe extern "C" fn message_service(_: *mut _KINTERRUPT, context: PVOID, _: ULONG) -> BOOLEAN {
    // SAFETY: the context is the device that `interrupt_by_message` passed.
    let device = unsafe { &*context.cast::<Device>() };
    let raised = hardware::acknowledge(device);
    device.kept[0].store(1, Ordering::SeqCst);
    stay_raised("callbacks_message_isr_returns_raised"); // DEFECT callbacks_message_isr_returns_raised
    raised.into()
}

fn synchronize(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the interrupt is connected; the level is below its own.
    let done = unsafe { KeSynchronizeExecution(device.hardware.interrupt(), Some(synchronized), ptr::null_mut()) };
    if done == 0 { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

/// "`KSYNCHRONIZE_ROUTINE` callback function".
unsafe extern "C" fn synchronized(_: PVOID) -> BOOLEAN {
    stay_raised("callbacks_synchronized_returns_raised"); // DEFECT callbacks_synchronized_returns_raised
    1
}

fn get_list(device: &Device, request: *mut IRP, _: bool) -> NTSTATUS {
    dma::map(device, request, got_list);
    dma::unmap(device);
    // SAFETY: the IRP is the driver's.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) }
}

/// "`DRIVER_LIST_CONTROL` callback function".
unsafe extern "C" fn got_list(_: *mut DEVICE_OBJECT, _: *mut IRP, list: PSCATTER_GATHER_LIST, context: PVOID) {
    // SAFETY: the context is the device that `dma::map` passed.
    dma::keep(unsafe { &*context.cast::<Device>() }, list);
    stay_raised("callbacks_list_control_returns_raised"); // DEFECT callbacks_list_control_returns_raised
}

fn start_thread(_: &Device, _: bool) -> NTSTATUS {
    locks::run_thread(thread, ptr::null_mut())
}

/// "`KSTART_ROUTINE` callback function".
unsafe extern "C" fn thread(_: PVOID) {
    stay_raised("callbacks_thread_returns_raised"); // DEFECT callbacks_thread_returns_raised
}

fn queue_work(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the device is ours.
    let item = unsafe { IoAllocateWorkItem(device.object) };
    if item.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the item was just made.
    unsafe { IoQueueWorkItem(item, Some(work), _WORK_QUEUE_TYPE::DelayedWorkQueue, item.cast()) };
    STATUS_SUCCESS
}

/// "`IO_WORKITEM_ROUTINE` callback function".
unsafe extern "C" fn work(_: PDEVICE_OBJECT, item: PVOID) {
    let item: PIO_WORKITEM = item.cast();
    // SAFETY: the item is not queued any more.
    unsafe { IoFreeWorkItem(item) };
    stay_raised("callbacks_work_item_returns_raised"); // DEFECT callbacks_work_item_returns_raised
}

/// The provider that the test listens to.
static PROVIDER: GUID =
    GUID { Data1: 0xD5B1_5A3C, Data2: 0x7A44, Data3: 0x4E6B, Data4: [0x8C, 0x21, 0x0F, 0x3A, 0x55, 0xD2, 0x91, 0x6F] };
static TRACE: AtomicU64 = AtomicU64::new(0);

fn register_trace(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    let mut handle: REGHANDLE = 0;
    // SAFETY: IRQL is PASSIVE_LEVEL; there is room for the handle.
    let status = unsafe { EtwRegister(&raw const PROVIDER, Some(traced), ptr::null_mut(), &raw mut handle) };
    TRACE.store(handle, Ordering::Relaxed);
    status
}

fn end_trace(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: registered by `register_trace`.
    unsafe { EtwUnregister(TRACE.load(Ordering::Relaxed)) }
}

/// "`ETWENABLECALLBACK` callback function".
unsafe extern "C" fn traced(
    _: LPCGUID,
    _: ULONG,
    _: UCHAR,
    _: ULONGLONG,
    _: ULONGLONG,
    _: PEVENT_FILTER_DESCRIPTOR,
    _: PVOID,
) {
    stay_raised("callbacks_trace_callback_returns_raised"); // DEFECT callbacks_trace_callback_returns_raised
}

fn listen(device: &Device, _: bool) -> NTSTATUS {
    hot_add::listen_with(device, notified)
}

/// "`DRIVER_NOTIFICATION_CALLBACK_ROUTINE` callback function".
unsafe extern "C" fn notified(_: PVOID, _: PVOID) -> NTSTATUS {
    stay_raised("callbacks_notification_returns_raised"); // DEFECT callbacks_notification_returns_raised
    STATUS_SUCCESS
}

static CHANGE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

fn register_change(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let handle =
        unsafe { KeRegisterProcessorChangeCallback(Some(changed), ptr::null_mut(), KE_PROCESSOR_CHANGE_ADD_EXISTING) };
    CHANGE.store(handle.cast(), Ordering::Relaxed);
    if handle.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn end_change(_: &mut DRIVER_OBJECT, _: bool) -> NTSTATUS {
    // SAFETY: registered by `register_change`; IRQL is PASSIVE_LEVEL.
    unsafe { KeDeregisterProcessorChangeCallback(CHANGE.load(Ordering::Relaxed).cast()) };
    STATUS_SUCCESS
}

/// "`PROCESSOR_CALLBACK_FUNCTION` callback function".
unsafe extern "C" fn changed(_: PVOID, _: PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, _: PNTSTATUS) {
    stay_raised("callbacks_processor_change_returns_raised"); // DEFECT callbacks_processor_change_returns_raised
}
