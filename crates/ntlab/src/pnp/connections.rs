//! Interrupts that drivers have connected (`IoConnectInterruptEx`, `IoDisconnectInterruptEx`).

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, KDPC},
        System::SystemServices::{
            CONNECT_FULLY_SPECIFIED, CONNECT_FULLY_SPECIFIED_GROUP, CONNECT_LINE_BASED, CONNECT_MESSAGE_BASED,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_NOT_FOUND},
};

use super::{Devnode, resources::AssignedInterrupt};
use crate::{
    at,
    hw::{
        PciDevice,
        interrupts::{Connected, MESSAGE_ADDRESS, Source},
        pci::{self, Message},
    },
    irql::Irql,
    kernel::Kernel,
    memory::Ptr,
    rule::Rule,
    sched::LockKind,
    tracking::{self, Tracked},
};

/// The size of what stands for a `KINTERRUPT`.
const KINTERRUPT_BYTES: usize = 0x100;

/// The service routine of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its address.
    pub routine: u64,
    /// What it is passed.
    pub context: u64,
    /// The message it is passed, where it serves messages.
    pub message: Option<u32>,
    /// The lock it is called under; null has one made.
    pub lock: Ptr<usize>,
    /// The level it is called at, if that is higher than the interrupt's.
    pub synchronize: Irql,
}

/// Who may serve an interrupt, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The interrupt, as it was assigned.
    pub interrupt: AssignedInterrupt,
    /// Processor group.
    pub group: u16,
    /// Processors in the group.
    pub affinity: u64,
}

/// An interrupt object.
#[derive(Debug)]
struct InterruptObject {
    connected: Rc<Connected>,
    lock: Ptr<usize>,
    own_lock: bool,
    level: Irql,
}

/// One call of `IoConnectInterruptEx`, by the context it returned.
#[derive(Debug)]
struct Connection {
    version: u32,
    pdo: Ptr<DEVICE_OBJECT>,
    hardware: Option<Rc<dyn PciDevice>>,
    object: Ptr<u8>,
}

/// Every connected interrupt.
#[derive(Debug, Default)]
pub struct Connections {
    by_context: RefCell<BTreeMap<u64, Connection>>,
    objects: RefCell<BTreeMap<u64, InterruptObject>>,
    /// Deliveries of interrupts that are not connected any more, by device and processor.
    past: RefCell<BTreeMap<(u64, u32), u64>>,
    /// The devices whose service routines run now, by processor, the innermost last.
    serving: RefCell<Vec<(u32, Ptr<DEVICE_OBJECT>)>>,
    /// DPCs that service routines have queued, by address: the device, and the DPC's routine.
    dpcs: RefCell<BTreeMap<u64, (Ptr<DEVICE_OBJECT>, u64)>>,
}

impl Connections {
    /// Connects an interrupt of a device. The interrupt object, which is also the connection's context until [`Connections::rename`].
    ///
    /// # Errors
    ///
    /// `STATUS_INVALID_PARAMETER`: no active processor may serve it, or it is connected already. `STATUS_NOT_FOUND`: no hardware.
    pub fn connect(
        &self,
        k: &Kernel,
        devnode: &Devnode,
        version: u32,
        target: Target,
        service: Service,
    ) -> Result<Ptr<u8>, NTSTATUS> {
        let interrupt = target.interrupt;
        let hardware = devnode.hardware.clone().ok_or(STATUS_NOT_FOUND)?;
        let active = k.sched.topology.active_mask(target.group) & target.affinity;
        if active == 0 || interrupt.message && self.is_connected(interrupt.vector) {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let object = k.memory.allocate_object_bytes(KINTERRUPT_BYTES);
        let own_lock = service.lock.is_null();
        let lock = if own_lock { k.memory.allocate_object::<usize>() } else { service.lock };
        if own_lock {
            lock.write(0);
        }
        let source = if interrupt.message { Source::Message(interrupt.vector) } else { Source::Line(interrupt.line) };
        let level = Irql(interrupt.irql).max(service.synchronize);
        let served = Served { pdo: devnode.pdo, hardware: Rc::clone(&hardware), source, object, lock, level };
        let serve = Box::new(move |k: &Kernel| serve(k, &served, service));
        let about = [service.routine, service.context, object.address()];
        let irql = Irql(interrupt.irql);
        let connected = Connected::new(source, interrupt.vector, irql, (target.group, active), serve, about);
        let connected = k.hardware.interrupts.connect(k, connected);
        if interrupt.message {
            hardware.set_message(k, message_of(interrupt));
        }
        self.objects.borrow_mut().insert(object.address(), InterruptObject { connected, lock, own_lock, level });
        let connection = Connection { version, pdo: devnode.pdo, hardware: Some(hardware), object };
        self.by_context.borrow_mut().insert(object.address(), connection);
        k.tracking.made_for(k, Tracked::Interrupt, object.address(), devnode.pdo, String::new);
        Ok(object)
    }

    /// Has the connection with the interrupt object `object` known by `context` from now on.
    pub fn rename(&self, object: Ptr<u8>, context: u64) {
        let mut connections = self.by_context.borrow_mut();
        if let Some(connection) = connections.remove(&object.address()) {
            connections.insert(context, connection);
        }
    }

    /// Disconnects what `context` stands for, and waits until its service routine does not run any more. The interrupt object's
    /// connection must have been made by the same version of the call.
    pub fn disconnect(&self, k: &Kernel, version: u32, context: u64) {
        let known = self.by_context.borrow_mut().remove(&context);
        let Some(connection) = known else {
            violation("IoDisconnectInterruptEx was called for something that is not connected".into())
        };
        if connection.version != version {
            let (made, asked) = (name_of(connection.version), name_of(version));
            violation(format!("an interrupt that was connected as {made} is disconnected as {asked}"));
        }
        let Some(object) = self.objects.borrow_mut().remove(&connection.object.address()) else {
            unreachable!("a connection has an object");
        };
        if let (Some(hardware), Source::Message(_)) = (&connection.hardware, object.connected.source) {
            hardware.set_message(k, None);
        }
        k.hardware.interrupts.disconnect(k, &object.connected);
        k.tracking.gone(Tracked::Interrupt, connection.object.address());
        for (&processor, &count) in object.connected.counts.borrow().iter() {
            *self.past.borrow_mut().entry((connection.pdo.address(), processor)).or_default() += count;
        }
        if object.own_lock {
            k.memory.free_object(object.lock);
        }
        k.memory.free_object(connection.object);
    }

    /// The lock of an interrupt object and the level it is acquired at.
    pub fn lock_of(&self, object: u64) -> Option<(Ptr<usize>, Irql)> {
        self.objects.borrow().get(&object).map(|object| (object.lock, object.level))
    }

    /// How many interrupts of a device are connected.
    pub fn of_device(&self, pdo: Ptr<DEVICE_OBJECT>) -> usize {
        self.by_context.borrow().values().filter(|connection| connection.pdo == pdo).count()
    }

    /// How often a device's interrupts were delivered to each processor.
    pub fn counts_of(&self, pdo: Ptr<DEVICE_OBJECT>) -> BTreeMap<u32, u64> {
        let past = self.past.borrow();
        let mut counts: BTreeMap<u32, u64> = past
            .iter()
            .filter(|((device, _), _)| *device == pdo.address())
            .map(|((_, processor), count)| (*processor, *count))
            .collect();
        let objects = self.objects.borrow();
        for connection in self.by_context.borrow().values().filter(|connection| connection.pdo == pdo) {
            let Some(object) = objects.get(&connection.object.address()) else { continue };
            for (&processor, &count) in object.connected.counts.borrow().iter() {
                *counts.entry(processor).or_default() += count;
            }
        }
        counts
    }

    /// Notes that a DPC is queued, in case a service routine does it.
    pub fn note_dpc(&self, k: &Kernel, dpc: Ptr<KDPC>) {
        let serving = self.serving.borrow();
        if serving.is_empty() {
            return;
        }
        let here = k.processor_index();
        if let Some((_, pdo)) = serving.iter().rev().find(|(processor, _)| *processor == here) {
            let routine = at!(dpc, DeferredRoutine).cast::<u64>().read();
            self.dpcs.borrow_mut().insert(dpc.address(), (*pdo, routine));
        }
    }

    /// The driver of a device has passed down a request after which it must not touch the device: stops the run if a DPC of its interrupt
    /// is still to run, or running.
    pub fn check_dpcs(&self, k: &Kernel, pdo: Ptr<DEVICE_OBJECT>) {
        let mut dpcs = self.dpcs.borrow_mut();
        let left = dpcs.iter().find(|(dpc, (device, _))| *device == pdo && k.sched.has_dpc(Ptr::new(**dpc)));
        if let Some((&dpc, &(_, routine))) = left {
            drop(dpcs);
            let sentence =
                "a driver has stopped its device, and a DPC that its interrupt service routine queued is still to run";
            Rule::DpcAfterStop.broken([dpc, routine, 0], sentence).with_stack("its routine", &[routine]).raise();
        }
        dpcs.retain(|_, (device, _)| *device != pdo);
    }

    /// The driver of a device has stopped it: stops the run if its interrupt is still connected.
    pub fn check_disconnected(&self, k: &Kernel, pdo: Ptr<DEVICE_OBJECT>) {
        let connected = self.of_device(pdo);
        if connected != 0 {
            let sentence =
                format!("a driver passed IRP_MN_STOP_DEVICE down with {connected} interrupts still connected");
            let finding = Rule::StillConnected.broken([pdo.address(), 0, 0], sentence);
            tracking::with_stacks(finding, &k.tracking.of_kind_for(Tracked::Interrupt, pdo)).raise();
        }
    }

    fn is_connected(&self, vector: u32) -> bool {
        self.objects.borrow().values().any(|object| object.connected.vector == vector)
    }
}

fn message_of(interrupt: AssignedInterrupt) -> Option<Message> {
    let data = u16::try_from(interrupt.vector).ok()?;
    Some(Message { address: MESSAGE_ADDRESS, data })
}

/// What is served.
struct Served {
    pdo: Ptr<DEVICE_OBJECT>,
    hardware: Rc<dyn PciDevice>,
    source: Source,
    object: Ptr<u8>,
    lock: Ptr<usize>,
    level: Irql,
}

/// Calls a service routine: at its level, under its lock.
fn serve(k: &Kernel, served: &Served, service: Service) {
    let before = k.raise_irql(served.level);
    k.sched.acquire(k, served.lock, LockKind::SpinLock);
    let connections = &k.pnp.connections;
    let here = (k.processor_index(), served.pdo);
    connections.serving.borrow_mut().push(here);
    match (service.message, served.source) {
        (Some(message), _) => {
            let arguments = [served.object.address(), service.context, message.into()];
            k.call("InterruptMessageService", service.routine, &arguments);
        }
        (None, Source::Line(line)) => serve_line(k, served, service, line),
        (None, Source::Message(_)) => {
            call_service(k, served, service);
        }
    }
    let mut serving = connections.serving.borrow_mut();
    let place = serving.iter().rposition(|other| *other == here);
    place.map(|place| serving.remove(place));
    drop(serving);
    k.sched.release(served.lock);
    k.lower_irql(before);
}

/// Whether the routine claims the interrupt.
fn call_service(k: &Kernel, served: &Served, service: Service) -> bool {
    k.call("InterruptService", service.routine, &[served.object.address(), service.context]) & 0xFF != 0
}

/// Calls a service routine for a line, which others may share: it must claim what its own device raised only.
fn serve_line(k: &Kernel, served: &Served, service: Service, line: u32) {
    let asserted = pci::is_asserted(k, served.hardware.as_ref());
    let raised = k.hardware.interrupts.raised(line);
    let claimed = call_service(k, served, service);
    if claimed && !asserted && raised == k.hardware.interrupts.raised(line) {
        let sentence = "an interrupt service routine claimed an interrupt that its device did not raise";
        let parameters = [service.routine, service.context, served.object.address()];
        Rule::FalseClaim.broken(parameters, sentence).with_stack("the service routine", &[service.routine]).raise();
    }
}

/// What a version of the call is called.
#[must_use]
pub const fn name_of(version: u32) -> &'static str {
    match version {
        CONNECT_FULLY_SPECIFIED => "CONNECT_FULLY_SPECIFIED",
        CONNECT_LINE_BASED => "CONNECT_LINE_BASED",
        CONNECT_MESSAGE_BASED => "CONNECT_MESSAGE_BASED",
        CONNECT_FULLY_SPECIFIED_GROUP => "CONNECT_FULLY_SPECIFIED_GROUP",
        _ => "an unknown version",
    }
}

fn violation(sentence: String) -> ! {
    Rule::InterruptMisused.broken([0; 3], sentence).raise()
}
