//! Interrupts.

use core::sync::atomic::Ordering;

use wdk_sys::{
    _DEVICE_POWER_STATE, _EVENT_TYPE, _KINTERRUPT, _KINTERRUPT_MODE, _KWAIT_REASON, _POWER_STATE_TYPE, BOOLEAN,
    CONNECT_FULLY_SPECIFIED, CONNECT_LINE_BASED, DEVICE_OBJECT, IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS,
    IO_DISCONNECT_INTERRUPT_PARAMETERS, IO_STATUS_BLOCK, IRP, IRP_MJ_POWER, IRP_MN_SET_POWER, IRP_MN_STOP_DEVICE,
    KEVENT, NTSTATUS, POWER_STATE, PVOID, STATUS_SUCCESS, UCHAR,
    ntddk::{
        IoConnectInterruptEx, IoDisconnectInterruptEx, KeAcquireInterruptSpinLock, KeInitializeEvent,
        KeReleaseInterruptSpinLock, KeSetEvent, KeStallExecutionProcessor, KeWaitForSingleObject, PoRequestPowerIrp,
    },
};

use crate::{
    defect::{self, Defect, Hook},
    device::Device,
    hardware::{self, INTERRUPT_STATUS, RAISE},
    irp,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("interrupts_storm", &[Hook::Service(never_acknowledges), Hook::Request(raise_interrupt)]),
    Defect::new("interrupts_false_claim", &[Hook::Service(claims_all), Hook::Request(raise_interrupt)]),
    Defect::new(
        "interrupts_dpc_after_stop",
        &[Hook::Request(raise_interrupt), Hook::Dpc(take_long), Hook::Pnp(IRP_MN_STOP_DEVICE, stop_without_flush)],
    ),
    Defect::new("interrupts_registers_after_stop", &[Hook::Pnp(IRP_MN_STOP_DEVICE, read_after_stop)]),
    Defect::new("interrupts_registers_after_unmap", &[Hook::Pnp(IRP_MN_STOP_DEVICE, read_after_unmap)]),
    Defect::new("interrupts_connected_after_stop", &[Hook::Pnp(IRP_MN_STOP_DEVICE, stop_connected)]),
    Defect::new("interrupts_disconnected_as_another", &[Hook::Pnp(IRP_MN_STOP_DEVICE, disconnect_as_another)]),
    Defect::new("interrupts_connected_at_another_level", &[Hook::Request(connect_at_another_level)]),
    Defect::new("interrupts_connected_in_another_mode", &[Hook::Request(connect_in_another_mode)]),
    Defect::new("interrupts_lock_of_none", &[Hook::Pnp(IRP_MN_STOP_DEVICE, lock_of_none)]),
    Defect::new(
        "interrupts_registers_powered_down",
        &[Hook::Request(to_d3_and_back), Hook::Irp(IRP_MJ_POWER, read_after_power_down)],
    ),
];

/// Has the device interrupt.
fn raise_interrupt(device: &Device, _: bool) -> NTSTATUS {
    device.hardware.write(RAISE, 1);
    STATUS_SUCCESS
}

/// "`KSERVICE_ROUTINE` callback function".
#[rustfmt::skip]
unsafe extern "C" fn never_acknowledges(_: *mut _KINTERRUPT, context: PVOID) -> BOOLEAN { // DEFECT interrupts_storm
    // SAFETY: the context is the device, which disconnects before it goes.
    let device = unsafe { &*context.cast::<Device>() };
    if defect::is_correct() {
        return hardware::acknowledge(device).into();
    }
    u8::from(device.hardware.read(INTERRUPT_STATUS) != 0)
}

/// The same.
#[rustfmt::skip]
unsafe extern "C" fn claims_all(_: *mut _KINTERRUPT, context: PVOID) -> BOOLEAN { // DEFECT interrupts_false_claim
    // SAFETY: as above.
    let device = unsafe { &*context.cast::<Device>() };
    let raised = hardware::acknowledge(device);
    (raised || !defect::is_correct()).into()
}

/// Takes 100 milliseconds.
fn take_long(_: &Device, _: bool) -> NTSTATUS {
    for _ in 0..2000 {
        // SAFETY: any IRQL is allowed.
        unsafe { KeStallExecutionProcessor(50) };
    }
    STATUS_SUCCESS
}

/// Passes a stop down.
///
/// # Safety
/// The IRP is the driver's, and is not after.
unsafe fn pass_down(device: &Device, request: *mut IRP) -> NTSTATUS {
    // SAFETY: as the caller promises.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as the caller promises.
    unsafe { irp::skip_to(device.lower, request) }
}

fn stop_without_flush(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        device.hardware.disconnect();
    } else {
        device.hardware.disconnect_interrupt();
        device.hardware.unmap();
    }
    // SAFETY: the IRP is the driver's; that the DPC is not over is the defect.
    unsafe { pass_down(device, request) } // DEFECT interrupts_dpc_after_stop
}

fn read_after_stop(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        let _ = device.hardware.read(INTERRUPT_STATUS);
        device.hardware.disconnect();
        // SAFETY: the IRP is the driver's.
        return unsafe { pass_down(device, request) };
    }
    device.hardware.stop_listening();
    // SAFETY: the IRP is the driver's.
    unsafe { irp::set_status(request, STATUS_SUCCESS) };
    // SAFETY: as above; IRQL is PASSIVE_LEVEL.
    let status = unsafe { irp::forward_and_wait(device.lower, request) };
    let _ = device.hardware.read(INTERRUPT_STATUS); // DEFECT interrupts_registers_after_stop
    // SAFETY: the lower drivers have given the IRP back.
    unsafe { irp::complete_with(request, status) }
}

fn read_after_unmap(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let register = device.hardware.registers().wrapping_byte_add(INTERRUPT_STATUS);
    if correct {
        // SAFETY: the registers are mapped.
        let _ = unsafe { register.read_volatile() };
    }
    device.hardware.disconnect();
    if !correct {
        // SAFETY: that the registers are not mapped any more is the defect.
        let _ = unsafe { register.read_volatile() }; // DEFECT interrupts_registers_after_unmap
    }
    // SAFETY: the IRP is the driver's.
    unsafe { pass_down(device, request) }
}

/// The device stays connected; its registers are not touched any more.
fn stop_connected(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if correct {
        device.hardware.disconnect();
    } else {
        device.hardware.unmap();
    }
    // SAFETY: the IRP is the driver's; that the interrupt is connected is the defect.
    unsafe { pass_down(device, request) } // DEFECT interrupts_connected_after_stop
}

fn disconnect_as_another(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    if !correct {
        // SAFETY: all members are integers and pointers, for which zero is a value.
        let mut parameters: IO_DISCONNECT_INTERRUPT_PARAMETERS = unsafe { core::mem::zeroed() };
        parameters.Version = CONNECT_LINE_BASED;
        parameters.ConnectionContext.InterruptObject = device.hardware.interrupt();
        // SAFETY: IRQL is PASSIVE_LEVEL; that the interrupt was connected as another version is the defect.
        unsafe { IoDisconnectInterruptEx(&raw mut parameters) }; // DEFECT interrupts_disconnected_as_another
    }
    device.hardware.disconnect();
    // SAFETY: the IRP is the driver's.
    unsafe { pass_down(device, request) }
}

/// Connects the device's line a second time, with what `change` makes of its parameters, and disconnects it.
fn connect_again(
    device: &Device,
    change: impl FnOnce(&mut IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS),
) -> NTSTATUS {
    let mut parameters = device.hardware.connection();
    // SAFETY: `connection` filled in this member of the union.
    let own = unsafe { &mut parameters.__bindgen_anon_1.FullySpecified };
    own.InterruptObject = device.kept[0].as_ptr().cast();
    change(own);
    // SAFETY: IRQL is PASSIVE_LEVEL; what is wrong with the parameters is the defects'.
    let status = unsafe { IoConnectInterruptEx(&raw mut parameters) }; // DEFECT interrupts_connected_at_another_level interrupts_connected_in_another_mode
    if irp::succeeded(status) {
        // SAFETY: all members are integers and pointers, for which zero is a value.
        let mut parameters: IO_DISCONNECT_INTERRUPT_PARAMETERS = unsafe { core::mem::zeroed() };
        parameters.Version = CONNECT_FULLY_SPECIFIED;
        parameters.ConnectionContext.InterruptObject = device.kept[0].load(Ordering::Relaxed) as _;
        // SAFETY: connected above; IRQL is PASSIVE_LEVEL.
        unsafe { IoDisconnectInterruptEx(&raw mut parameters) };
    }
    status
}

fn connect_at_another_level(device: &Device, correct: bool) -> NTSTATUS {
    connect_again(device, |parameters| {
        if !correct {
            parameters.Irql += 1;
            parameters.SynchronizeIrql += 1;
        }
    })
}

fn connect_in_another_mode(device: &Device, correct: bool) -> NTSTATUS {
    connect_again(device, |parameters| {
        if !correct {
            parameters.InterruptMode = _KINTERRUPT_MODE::Latched;
        }
    })
}

fn lock_of_none(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    let interrupt = device.hardware.interrupt();
    if !correct {
        device.hardware.stop_listening();
    }
    // SAFETY: that the interrupt is not connected any more is the defect.
    let before = unsafe { KeAcquireInterruptSpinLock(interrupt) }; // DEFECT interrupts_lock_of_none
    // SAFETY: acquired above.
    unsafe { KeReleaseInterruptSpinLock(interrupt, before) };
    device.hardware.disconnect();
    // SAFETY: the IRP is the driver's.
    unsafe { pass_down(device, request) }
}

/// "`REQUEST_POWER_COMPLETE` callback function".
unsafe extern "C" fn done(_: *mut DEVICE_OBJECT, _: UCHAR, _: POWER_STATE, event: PVOID, _: *mut IO_STATUS_BLOCK) {
    // SAFETY: the context is the event of `set_device_state`, which waits for it.
    unsafe { KeSetEvent(event.cast(), 0, 0) };
}

/// Has the device put into a state, and waits for that.
fn set_device_state(device: &Device, to: _DEVICE_POWER_STATE::Type) {
    let mut event = KEVENT::default();
    // SAFETY: there is room for an event.
    unsafe { KeInitializeEvent(&raw mut event, _EVENT_TYPE::NotificationEvent, 0) };
    let (minor, state) = (IRP_MN_SET_POWER as UCHAR, POWER_STATE { DeviceState: to });
    let context = (&raw mut event).cast();
    // SAFETY: the device is started; the event outlives the request.
    let _ = unsafe { PoRequestPowerIrp(device.object, minor, state, Some(done), context, core::ptr::null_mut()) };
    // SAFETY: the event was initialized; IRQL is PASSIVE_LEVEL.
    let _ = unsafe { KeWaitForSingleObject(context, _KWAIT_REASON::Executive, 0, 0, core::ptr::null_mut()) };
}

fn to_d3_and_back(device: &Device, _: bool) -> NTSTATUS {
    set_device_state(device, _DEVICE_POWER_STATE::PowerDeviceD3);
    set_device_state(device, _DEVICE_POWER_STATE::PowerDeviceD0);
    STATUS_SUCCESS
}

/// Whether a power request puts the device into a state below D0.
///
/// # Safety
/// The IRP is the driver's, an `IRP_MJ_POWER`.
unsafe fn is_power_down(request: *mut IRP) -> bool {
    // SAFETY: as the caller promises.
    let stack = unsafe { irp::stack_location(request) };
    // SAFETY: it has a location for us.
    let stack = unsafe { &*stack };
    // SAFETY: as the caller promises.
    let power = unsafe { stack.Parameters.Power };
    // SAFETY: every bit pattern is a state's number.
    let state = unsafe { power.State.DeviceState };
    u32::from(stack.MinorFunction) == IRP_MN_SET_POWER
        && power.Type == _POWER_STATE_TYPE::DevicePowerState
        && state != _DEVICE_POWER_STATE::PowerDeviceD0
}

fn read_after_power_down(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the hook is for power requests.
    if !unsafe { is_power_down(request) } {
        // SAFETY: the IRP is the driver's.
        return unsafe { irp::skip_to(device.lower, request) };
    }
    if correct {
        device.kept[0].store(device.hardware.read(INTERRUPT_STATUS).into(), Ordering::Relaxed);
    }
    // SAFETY: the IRP is the driver's; IRQL is PASSIVE_LEVEL.
    let status = unsafe { irp::forward_and_wait(device.lower, request) };
    if !correct {
        let _ = device.hardware.read(INTERRUPT_STATUS); // DEFECT interrupts_registers_powered_down
    }
    // SAFETY: the lower drivers have given the IRP back.
    unsafe { irp::complete_with(request, status) }
}
