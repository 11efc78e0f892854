//! Interrupts: connecting, disconnecting, their locks.

use windows_sys::{
    Wdk::{
        Foundation::DEVICE_OBJECT,
        System::SystemServices::{
            CONNECT_FULLY_SPECIFIED, CONNECT_FULLY_SPECIFIED_GROUP, CONNECT_LINE_BASED, CONNECT_MESSAGE_BASED,
            CONNECT_MESSAGE_BASED_PASSIVE, IO_CONNECT_INTERRUPT_PARAMETERS, IO_DISCONNECT_INTERRUPT_PARAMETERS,
            IO_INTERRUPT_MESSAGE_INFO, Latched, LevelSensitive,
        },
    },
    Win32::Foundation::{
        NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_INVALID_PARAMETER_1, STATUS_INVALID_PARAMETER_10, STATUS_NOT_FOUND,
        STATUS_SUCCESS,
    },
};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    hot_add,
    hw::interrupts::MESSAGE_ADDRESS,
    irql::{DIRQL_MAX, Irql, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
    pnp::{
        AssignedInterrupt, Devnode,
        connections::{Service, Target},
    },
    rule::Rule,
    sched::LockKind,
};

/// The functions of this module.
pub(super) const FUNCTIONS: &[Export] = &[
    export!("IoConnectInterruptEx", exactly(PASSIVE_LEVEL), io_connect_interrupt_ex),
    export!("IoDisconnectInterruptEx", exactly(PASSIVE_LEVEL), io_disconnect_interrupt_ex),
    export!("IoConnectInterrupt", exactly(PASSIVE_LEVEL), io_connect_interrupt),
    export!("IoDisconnectInterrupt", exactly(PASSIVE_LEVEL), io_disconnect_interrupt),
    export!("KeSynchronizeExecution", at_most(DIRQL_MAX), ke_synchronize_execution),
    export!("KeAcquireInterruptSpinLock", at_most(DIRQL_MAX), ke_acquire_interrupt_spin_lock),
    export!("KeReleaseInterruptSpinLock", any_level(), ke_release_interrupt_spin_lock),
];

type Parameters = Ptr<IO_CONNECT_INTERRUPT_PARAMETERS>;

/// "`WdmlibIoConnectInterruptEx` function", "`IO_CONNECT_INTERRUPT_PARAMETERS` structure".
fn io_connect_interrupt_ex(k: &Kernel, parameters: Parameters) -> NTSTATUS {
    let connected = match at!(parameters, Version).read() {
        version @ (CONNECT_FULLY_SPECIFIED | CONNECT_FULLY_SPECIFIED_GROUP) => fully_specified(k, parameters, version),
        CONNECT_LINE_BASED => line_based(k, parameters),
        CONNECT_MESSAGE_BASED => message_based(k, parameters),
        CONNECT_MESSAGE_BASED_PASSIVE => {
            Finding::not_modelled("IoConnectInterruptEx: CONNECT_MESSAGE_BASED_PASSIVE").raise()
        }
        _ => Err(STATUS_INVALID_PARAMETER_1),
    };
    connected.err().unwrap_or(STATUS_SUCCESS)
}

fn fully_specified(k: &Kernel, parameters: Parameters, version: u32) -> Result<(), NTSTATUS> {
    let own = at!(parameters, Anonymous.FullySpecified);
    let devnode = device(k, at!(own, PhysicalDeviceObject).cast())?;
    let vector = at!(own, Vector).read();
    let assigned =
        devnode.interrupts().into_iter().find(|interrupt| interrupt.vector == vector).ok_or(STATUS_NOT_FOUND)?;
    let affinity = at!(own, ProcessorEnableMask).cast::<u64>().read();
    if affinity == 0 {
        return Err(STATUS_INVALID_PARAMETER_10);
    }
    check_level_and_mode(
        assigned,
        at!(own, Irql).read(),
        at!(own, SynchronizeIrql).read(),
        at!(own, InterruptMode).read(),
    );
    let group = if version == CONNECT_FULLY_SPECIFIED_GROUP { at!(own, Group).read() } else { 0 };
    if k.sched.topology.active_mask(group) & affinity == 0 && !k.hot_add.is_busy() {
        hot_add::inactive_processors("IoConnectInterruptEx", group, affinity).raise();
    }
    let service = Service {
        routine: at!(own, ServiceRoutine).cast::<u64>().read(),
        context: at!(own, ServiceContext).cast::<u64>().read(),
        message: None,
        lock: Ptr::new(at!(own, SpinLock).cast::<u64>().read()),
        synchronize: Irql(at!(own, SynchronizeIrql).read()),
    };
    let object =
        k.pnp.connections.connect(k, &devnode, version, Target { interrupt: assigned, group, affinity }, service)?;
    Ptr::<u64>::new(at!(own, InterruptObject).cast::<u64>().read()).write(object.address());
    Ok(())
}

/// What the driver says of the interrupt must be what it was assigned.
fn check_level_and_mode(assigned: AssignedInterrupt, irql: u8, synchronize: u8, mode: i32) {
    if irql != assigned.irql || synchronize < irql {
        let sentence = format!(
            "IoConnectInterruptEx with Irql {irql} and SynchronizeIrql {synchronize} for an interrupt of DIRQL {}",
            assigned.irql
        );
        violation(sentence);
    }
    if mode != if assigned.message { Latched } else { LevelSensitive } {
        violation(format!("IoConnectInterruptEx with interrupt mode {mode} for an interrupt of the other mode"));
    }
}

fn line_based(k: &Kernel, parameters: Parameters) -> Result<(), NTSTATUS> {
    let own = at!(parameters, Anonymous.LineBased);
    let devnode = device(k, at!(own, PhysicalDeviceObject).cast())?;
    let interrupt = devnode.interrupts().first().copied().ok_or(STATUS_NOT_FOUND)?;
    let service = Service {
        routine: at!(own, ServiceRoutine).cast::<u64>().read(),
        context: at!(own, ServiceContext).cast::<u64>().read(),
        message: None,
        lock: Ptr::new(at!(own, SpinLock).cast::<u64>().read()),
        synchronize: Irql(at!(own, SynchronizeIrql).read()),
    };
    let object = k.pnp.connections.connect(k, &devnode, CONNECT_LINE_BASED, as_assigned(interrupt), service)?;
    Ptr::<u64>::new(at!(own, InterruptObject).cast::<u64>().read()).write(object.address());
    Ok(())
}

/// Messages if the device has them, else its line with the fallback routine.
fn message_based(k: &Kernel, parameters: Parameters) -> Result<(), NTSTATUS> {
    let own = at!(parameters, Anonymous.MessageBased);
    let devnode = device(k, at!(own, PhysicalDeviceObject).cast())?;
    let interrupt = devnode.interrupts().first().copied().ok_or(STATUS_NOT_FOUND)?;
    let fallback = at!(own, FallBackServiceRoutine).cast::<u64>().read();
    let result = Ptr::<u64>::new(at!(own, ConnectionContext).cast::<u64>().read());
    let mut service = Service {
        routine: at!(own, MessageServiceRoutine).cast::<u64>().read(),
        context: at!(own, ServiceContext).cast::<u64>().read(),
        message: Some(0),
        lock: Ptr::new(at!(own, SpinLock).cast::<u64>().read()),
        synchronize: Irql(at!(own, SynchronizeIrql).read()),
    };
    if interrupt.message {
        let object = k.pnp.connections.connect(k, &devnode, CONNECT_MESSAGE_BASED, as_assigned(interrupt), service)?;
        let table = message_table(k, interrupt, object);
        k.pnp.connections.rename(object, table.address());
        result.write(table.address());
        return Ok(());
    }
    if fallback == 0 {
        return Err(STATUS_NOT_FOUND);
    }
    service = Service { routine: fallback, message: None, ..service };
    let object = k.pnp.connections.connect(k, &devnode, CONNECT_LINE_BASED, as_assigned(interrupt), service)?;
    result.write(object.address());
    at!(parameters, Version).write(CONNECT_LINE_BASED);
    Ok(())
}

fn message_table(k: &Kernel, interrupt: AssignedInterrupt, object: Ptr<u8>) -> Ptr<IO_INTERRUPT_MESSAGE_INFO> {
    let table = k.memory.allocate_object::<IO_INTERRUPT_MESSAGE_INFO>();
    at!(table, UnifiedIrql).write(interrupt.irql);
    at!(table, MessageCount).write(1);
    let entry = at!(table, MessageInfo[0]);
    at!(entry, MessageAddress).cast::<u64>().write(MESSAGE_ADDRESS);
    at!(entry, TargetProcessorSet).cast::<u64>().write(interrupt.affinity);
    at!(entry, InterruptObject).cast::<u64>().write(object.address());
    at!(entry, MessageData).write(interrupt.vector);
    at!(entry, Vector).write(interrupt.vector);
    at!(entry, Irql).write(interrupt.irql);
    at!(entry, Mode).write(Latched);
    table
}

/// "`WdmlibIoDisconnectInterruptEx` function".
fn io_disconnect_interrupt_ex(k: &Kernel, parameters: Ptr<IO_DISCONNECT_INTERRUPT_PARAMETERS>) {
    let version = at!(parameters, Version).read();
    let context = at!(parameters, ConnectionContext).cast::<u64>().read();
    k.pnp.connections.disconnect(k, version, context);
    if version == CONNECT_MESSAGE_BASED {
        k.memory.free_object(Ptr::<IO_INTERRUPT_MESSAGE_INFO>::new(context));
    }
}

/// "`IoConnectInterrupt` function": the device is the one that has the vector.
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_connect_interrupt(
    k: &Kernel,
    result: Ptr<u64>,
    routine: u64,
    context: u64,
    lock: Ptr<usize>,
    vector: u32,
    irql: u8,
    synchronize: u8,
    mode: i32,
    _share: bool,
    affinity: u64,
    _save_floating: bool,
) -> NTSTATUS {
    result.write(0);
    let has_vector = |interrupt: &AssignedInterrupt| interrupt.vector == vector;
    let found = k.pnp.devnodes.all().into_iter().find_map(|devnode| {
        let interrupt = devnode.interrupts().into_iter().find(has_vector)?;
        Some((devnode, interrupt))
    });
    let Some((devnode, assigned)) = found else { return STATUS_INVALID_PARAMETER };
    check_level_and_mode(assigned, irql, synchronize, mode);
    let service = Service { routine, context, message: None, lock, synchronize: Irql(synchronize) };
    let target = Target { interrupt: assigned, group: 0, affinity };
    match k.pnp.connections.connect(k, &devnode, CONNECT_FULLY_SPECIFIED, target, service) {
        Ok(object) => {
            result.write(object.address());
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// "`IoDisconnectInterrupt` function".
fn io_disconnect_interrupt(k: &Kernel, object: u64) {
    k.pnp.connections.disconnect(k, CONNECT_FULLY_SPECIFIED, object);
}

/// "`KeSynchronizeExecution` function".
fn ke_synchronize_execution(k: &Kernel, interrupt: u64, routine: u64, context: u64) -> bool {
    let before = ke_acquire_interrupt_spin_lock(k, interrupt);
    let result = k.call("SynchCritSection", routine, &[context]);
    ke_release_interrupt_spin_lock(k, interrupt, before);
    result & 0xFF != 0
}

/// "`KeAcquireInterruptSpinLock` function".
fn ke_acquire_interrupt_spin_lock(k: &Kernel, interrupt: u64) -> u8 {
    let (lock, level) = lock_of(k, interrupt);
    let before = k.raise_irql(level);
    k.sched.acquire(k, lock, LockKind::SpinLock);
    before.0
}

/// "`KeReleaseInterruptSpinLock` function".
fn ke_release_interrupt_spin_lock(k: &Kernel, interrupt: u64, before: u8) {
    let (lock, _) = lock_of(k, interrupt);
    k.sched.release(lock);
    k.lower_irql(Irql(before));
}

fn lock_of(k: &Kernel, interrupt: u64) -> (Ptr<usize>, Irql) {
    k.pnp.connections.lock_of(interrupt).unwrap_or_else(|| {
        violation("an interrupt lock was used whose interrupt is not connected".into());
    })
}

fn device(k: &Kernel, place: Ptr<u64>) -> Result<std::rc::Rc<Devnode>, NTSTATUS> {
    let pdo = Ptr::<DEVICE_OBJECT>::new(place.read());
    k.pnp.devnodes.of(pdo).ok_or(STATUS_INVALID_PARAMETER)
}

const fn as_assigned(interrupt: AssignedInterrupt) -> Target {
    Target { interrupt, group: interrupt.group, affinity: interrupt.affinity }
}

fn violation(sentence: String) -> ! {
    Rule::InterruptMisused.broken([0; 3], sentence).raise()
}
