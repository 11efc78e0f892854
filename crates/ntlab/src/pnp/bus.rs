//! The bus drivers: what the physical device objects of PCI functions and root-enumerated devices answer.

use std::rc::Rc;

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, IRP},
        System::SystemServices::{
            BusQueryDeviceID, BusQueryHardwareIDs, BusQueryInstanceID, DEVICE_CAPABILITIES, IRP_MJ_PNP, IRP_MJ_POWER,
            IRP_MJ_SYSTEM_CONTROL, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_CANCEL_STOP_DEVICE,
            IRP_MN_DEVICE_USAGE_NOTIFICATION, IRP_MN_FILTER_RESOURCE_REQUIREMENTS, IRP_MN_QUERY_CAPABILITIES,
            IRP_MN_QUERY_DEVICE_RELATIONS, IRP_MN_QUERY_ID, IRP_MN_QUERY_INTERFACE, IRP_MN_QUERY_POWER,
            IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_QUERY_RESOURCE_REQUIREMENTS, IRP_MN_QUERY_STOP_DEVICE,
            IRP_MN_READ_CONFIG, IRP_MN_REMOVE_DEVICE, IRP_MN_SET_POWER, IRP_MN_START_DEVICE, IRP_MN_STOP_DEVICE,
            IRP_MN_SURPRISE_REMOVAL, IRP_MN_WRITE_CONFIG, TargetDeviceRelation,
        },
    },
    Win32::{
        Foundation::{
            NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_REQUEST, STATUS_NO_SUCH_DEVICE,
            STATUS_PENDING, STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
        },
        System::Power::{PowerDeviceD0, PowerDeviceD3},
    },
};

use super::{
    bus_manner::{self, BusManner},
    devnode::Devnode,
    lists,
    resources::{Assigned, InterruptWanted, Requirements, Wanted, alternative, only, preferred},
    spec::Messages,
};
use crate::{
    at,
    finding::Finding,
    hw::{
        DEVICE_MEMORY, PciDevice,
        pci::{COMMAND_BUS_MASTER, COMMAND_MEMORY},
    },
    io::{
        device,
        driver::HostDriver,
        irp,
        layout::{self, Words},
    },
    irql::{DISPATCH_LEVEL, Irql, PASSIVE_LEVEL},
    kernel::Kernel,
    memory::Ptr,
    user::Status,
};

/// `PCI_WHICHSPACE_CONFIG`.
const CONFIGURATION_SPACE: u64 = 0;
/// `SystemPowerState` of `POWER_STATE_TYPE`.
const SYSTEM_STATE: u64 = 0;
/// `UniqueID` among the bits of `DEVICE_CAPABILITIES`.
const UNIQUE_ID: u32 = 1 << 6;

/// The bus driver of every device: PCI's for functions, the PnP manager's own for root-enumerated devices.
#[derive(Debug)]
pub struct Bus;

impl HostDriver for Bus {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn dispatch(&self, k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>) -> NTSTATUS {
        let location = irp::current_location(packet);
        let (major, minor) = (at!(location, MajorFunction).read(), at!(location, MinorFunction).read());
        let words = layout::words(location).read();
        let devnode = k.pnp.devnodes.of(device);
        match devnode.as_ref().and_then(|devnode| bus_manner::manner_of(devnode, major, minor, words)) {
            None => finish(k, devnode.as_ref(), packet),
            Some(BusManner::Fails(Status(status))) => {
                // The list that is to be filtered is the PnP manager's: whoever fails the request leaves it where it is.
                let keeps = u32::from(major) == IRP_MJ_PNP && u32::from(minor) == IRP_MN_FILTER_RESOURCE_REQUIREMENTS;
                let information = if keeps { at!(packet, IoStatus.Information).cast::<u64>().read() } else { 0 };
                irp::set_status(packet, status, information);
                irp::complete(k, packet);
                status
            }
            Some(BusManner::Pends(ns)) => pend(k, devnode, packet, (ns, PASSIVE_LEVEL)),
            Some(BusManner::PendsForDpc(ns)) => pend(k, devnode, packet, (ns, DISPATCH_LEVEL)),
        }
    }
}

/// Completes a request later, at this level.
fn pend(k: &Kernel, devnode: Option<Rc<Devnode>>, packet: Ptr<IRP>, (ns, level): (u64, Irql)) -> NTSTATUS {
    irp::mark_pending(packet);
    k.spawn("bus driver", move |k| {
        k.sleep(ns);
        let before = k.raise_irql(level);
        finish(k, devnode.as_ref(), packet);
        k.lower_irql(before);
    });
    STATUS_PENDING
}

/// Does what a request asks for, and completes it.
fn finish(k: &Kernel, devnode: Option<&Rc<Devnode>>, packet: Ptr<IRP>) -> NTSTATUS {
    let location = irp::current_location(packet);
    let (major, minor) = (at!(location, MajorFunction).read(), at!(location, MinorFunction).read());
    let words = layout::words(location).read();
    let answer = match (u32::from(major), devnode) {
        (IRP_MJ_PNP, Some(devnode)) => pnp(k, devnode, minor.into(), words),
        (IRP_MJ_POWER, Some(devnode)) => power(k, devnode, minor.into(), words),
        (IRP_MJ_SYSTEM_CONTROL, _) => None,
        (IRP_MJ_PNP | IRP_MJ_POWER, None) => Some(Err(STATUS_NO_SUCH_DEVICE)),
        _ => Some(Err(STATUS_INVALID_DEVICE_REQUEST)),
    };
    match answer {
        Some(Ok(information)) => irp::set_status(packet, STATUS_SUCCESS, information),
        Some(Err(status)) => irp::set_status(packet, status, 0),
        None => {}
    }
    let status = irp::status(packet);
    complete(k, packet);
    status
}

/// Completes a request. Completion routines may be called at any level up to `DISPATCH_LEVEL` ("Implementing an `IoCompletion` Routine"),
/// and here they are.
fn complete(k: &Kernel, packet: Ptr<IRP>) {
    let before = k.choices.once_in(2).then(|| k.raise_irql(DISPATCH_LEVEL));
    irp::complete(k, packet);
    if let Some(before) = before {
        k.lower_irql(before);
    }
}

/// The information or error a request ends with; none if it is completed as it came.
type BusAnswer = Option<Result<u64, NTSTATUS>>;

fn pnp(k: &Kernel, devnode: &Rc<Devnode>, minor: u32, words: Words) -> BusAnswer {
    let done = Some(Ok(0));
    match minor {
        IRP_MN_START_DEVICE => Some(start(k, devnode)),
        IRP_MN_STOP_DEVICE | IRP_MN_SURPRISE_REMOVAL | IRP_MN_REMOVE_DEVICE => {
            if let Some(hardware) = &devnode.hardware {
                hardware.set_command(k, 0);
                k.pnp.connections.check_dpcs(k, devnode.pdo);
                if minor == IRP_MN_STOP_DEVICE {
                    k.pnp.connections.check_disconnected(k, devnode.pdo);
                }
            }
            done
        }
        IRP_MN_QUERY_STOP_DEVICE
        | IRP_MN_CANCEL_STOP_DEVICE
        | IRP_MN_QUERY_REMOVE_DEVICE
        | IRP_MN_CANCEL_REMOVE_DEVICE
        | IRP_MN_DEVICE_USAGE_NOTIFICATION => done,
        IRP_MN_QUERY_CAPABILITIES => {
            capabilities(devnode, Ptr::new(words[0]));
            done
        }
        IRP_MN_QUERY_RESOURCE_REQUIREMENTS => {
            devnode.hardware.as_ref().map(|_| Ok(pool(k, &wanted(devnode).to_bytes())))
        }
        IRP_MN_QUERY_ID => id(k, devnode, words[0]),
        IRP_MN_QUERY_DEVICE_RELATIONS => relations(k, devnode, words[0]),
        IRP_MN_READ_CONFIG | IRP_MN_WRITE_CONFIG => {
            devnode.hardware.as_ref().map(|hardware| config(k, hardware.as_ref(), minor == IRP_MN_WRITE_CONFIG, words))
        }
        IRP_MN_QUERY_INTERFACE if devnode.hardware.is_some() => {
            Finding::not_modelled("IRP_MN_QUERY_INTERFACE to a PCI device: its interfaces").raise()
        }
        _ => None,
    }
}

/// Gives the function its resources, and access to memory.
fn start(k: &Kernel, devnode: &Devnode) -> Result<u64, NTSTATUS> {
    if devnode.fail_next_start.take() {
        return Err(STATUS_UNSUCCESSFUL);
    }
    let Some(hardware) = &devnode.hardware else { return Ok(0) };
    let bar = devnode.assigned.borrow().iter().find_map(|assigned| match assigned {
        Assigned::Memory { start, .. } => u32::try_from(*start).ok(),
        Assigned::Interrupt(_) => None,
    });
    let bar = bar.ok_or(STATUS_INSUFFICIENT_RESOURCES)?;
    // The bus powers on what it starts ("Powering Up a Device").
    hardware.power_up(k);
    hardware.set_bar(k, bar);
    hardware.set_command(k, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    Ok(0)
}

fn capabilities(devnode: &Devnode, capabilities: Ptr<DEVICE_CAPABILITIES>) {
    let bits = at!(capabilities, _bitfield);
    bits.write(bits.read() | UNIQUE_ID);
    at!(capabilities, Address).write(devnode.id << 16);
    at!(capabilities, UINumber).write(devnode.id);
    let states = [0, PowerDeviceD0, PowerDeviceD3, PowerDeviceD3, PowerDeviceD3, PowerDeviceD3, PowerDeviceD3];
    at!(capabilities, DeviceState).write(states);
}

/// What a function asks for.
pub fn wanted(devnode: &Devnode) -> Requirements {
    let (Some(hardware), Some((length, messages))) = (&devnode.hardware, devnode.spec.kind.resources()) else {
        return Requirements::default();
    };
    let bar = u32::try_from(DEVICE_MEMORY.start).unwrap_or(0)..u32::try_from(DEVICE_MEMORY.end).unwrap_or(u32::MAX);
    let memory =
        Wanted::Memory { length, alignment: length, lowest: bar.start.into(), highest: u64::from(bar.end) - 1 };
    let line = Wanted::Interrupt(with_policy(devnode, InterruptWanted::line(hardware.line())));
    let message = Wanted::Interrupt(with_policy(devnode, InterruptWanted::message()));
    let list = if messages == Messages::Never {
        vec![only(memory), only(line)]
    } else {
        vec![only(memory), preferred(message), alternative(line)]
    };
    Requirements { slot: devnode.id, lists: vec![list] }
}

/// What the registry says of the device's interrupts.
const fn with_policy(devnode: &Devnode, wanted: InterruptWanted) -> InterruptWanted {
    let spec = &devnode.spec;
    InterruptWanted { policy: spec.affinity_policy, targeted: spec.affinity_mask, group: spec.group, ..wanted }
}

fn id(k: &Kernel, devnode: &Devnode, which: u64) -> BusAnswer {
    let which = i32::try_from(which).unwrap_or(-1);
    let mut text: Vec<u16> = if which == BusQueryHardwareIDs {
        devnode.ids.iter().flat_map(|id| id.encode_utf16().chain([0])).collect()
    } else if which == BusQueryDeviceID {
        devnode.ids.first()?.encode_utf16().collect()
    } else if which == BusQueryInstanceID {
        devnode.instance.rsplit('\\').next()?.encode_utf16().collect()
    } else {
        return None;
    };
    text.push(0);
    let bytes: Vec<u8> = text.into_iter().flat_map(u16::to_le_bytes).collect();
    Some(Ok(pool(k, &bytes)))
}

/// `DEVICE_RELATIONS` with the device itself, which the caller dereferences.
fn relations(k: &Kernel, devnode: &Devnode, which: u64) -> BusAnswer {
    if which != u64::from(TargetDeviceRelation.cast_unsigned()) {
        return None;
    }
    device::reference(k, devnode.pdo);
    let mut bytes = 1u64.to_le_bytes().to_vec();
    bytes.extend(devnode.pdo.address().to_le_bytes());
    Some(Ok(pool(k, &bytes)))
}

/// Reads or writes configuration space: which space, buffer, offset, length.
fn config(k: &Kernel, hardware: &dyn PciDevice, write: bool, words: Words) -> Result<u64, NTSTATUS> {
    let [space, buffer, offset, length] = words;
    let (Ok(offset), Ok(length)) = (usize::try_from(offset), usize::try_from(length)) else {
        return Err(STATUS_INVALID_DEVICE_REQUEST);
    };
    if space != CONFIGURATION_SPACE || offset.checked_add(length).is_none_or(|end| end > 256) {
        return Err(STATUS_INVALID_DEVICE_REQUEST);
    }
    let buffer = Ptr::<u8>::new(buffer);
    let mut bytes = vec![0; length];
    if write {
        buffer.read_into(&mut bytes);
        hardware.write_config(k, offset, &bytes);
    } else {
        hardware.read_config(k, offset, &mut bytes);
        buffer.write_bytes(&bytes);
    }
    Ok(length as u64)
}

fn power(k: &Kernel, devnode: &Devnode, minor: u32, words: Words) -> BusAnswer {
    match minor {
        IRP_MN_QUERY_POWER => Some(Ok(0)),
        IRP_MN_SET_POWER => {
            let [_, kind, state, _] = words;
            if kind != SYSTEM_STATE {
                set_device_state(k, devnode, state);
            }
            Some(Ok(0))
        }
        _ => None,
    }
}

/// Takes the hardware out of D0 or back; what the bus keeps for it is restored.
fn set_device_state(k: &Kernel, devnode: &Devnode, state: u64) {
    let Some(hardware) = &devnode.hardware else { return };
    if state != u64::from(PowerDeviceD0.cast_unsigned()) {
        hardware.power_down(k, k.choices.once_in(2));
        return;
    }
    hardware.power_up(k);
}

/// Bytes in paged pool that whoever asked frees.
fn pool(k: &Kernel, bytes: &[u8]) -> u64 {
    lists::allocate(k, bytes).address()
}
