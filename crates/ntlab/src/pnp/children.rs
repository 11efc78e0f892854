//! Devices that a driver reports: a bus driver's children ("Adding a PnP Device to a Running System", "Removing a Device in a Bus Driver").

use std::rc::Rc;

use windows_sys::{
    Wdk::{
        Foundation::DEVICE_OBJECT,
        System::SystemServices::{
            BusQueryCompatibleIDs, BusQueryDeviceID, BusQueryHardwareIDs, BusQueryInstanceID, BusRelations,
            DEVICE_RELATION_TYPE, DeviceTextDescription, DeviceTextLocationInformation, IRP_MN_EJECT,
            IRP_MN_QUERY_BUS_INFORMATION, IRP_MN_QUERY_DEVICE_RELATIONS, IRP_MN_QUERY_DEVICE_TEXT, IRP_MN_QUERY_ID,
            IRP_MN_QUERY_PNP_DEVICE_STATE, IRP_MN_QUERY_RESOURCE_REQUIREMENTS, IRP_MN_QUERY_RESOURCES,
            PNP_DEVICE_FAILED, PNP_DEVICE_REMOVED, PNP_DEVICE_RESOURCE_REQUIREMENTS_CHANGED,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_UNSUCCESSFUL},
};

use super::{
    configure,
    devnode::{DeviceState, Devnode},
    lists, remove, request,
    spec::DeviceSpec,
    worker,
};
use crate::{
    finding::Finding,
    io::{
        device,
        layout::{DOE_DELETE_PENDING, DOE_START_PENDING},
        property::{self, DeviceNode},
    },
    kernel::Kernel,
    memory::Ptr,
    rule::Rule,
    user::Status,
};

/// `PNP_DETECTED_FATAL_ERROR`, and its first parameters.
const PNP_FATAL: u32 = 0xCA;
const DUPLICATE: u64 = 1;
const NO_PDO: u64 = 2;
const INVALID_ID: u64 = 3;
const DELETED: u64 = 4;
const NOT_REFERENCED: u64 = 5;
const NULL: u64 = 8;
/// `UniqueID` among the bits of `DEVICE_CAPABILITIES`.
const UNIQUE_ID: u32 = 1 << 6;
/// `MAX_DEVICE_ID_LEN`.
const LONGEST_ID: usize = 200;

/// Asks a device's drivers for its children: new ones are configured, those that are left out are removed.
pub fn enumerate(k: &Kernel, bus: &Rc<Devnode>) {
    let Some(reported) = ask_relations(k, bus) else { return };
    let known = k.pnp.devnodes.children_of(bus);
    check(k, bus, &reported, &known);
    for child in known.iter().filter(|child| !reported.contains(&child.pdo)) {
        if !child.missing.replace(true) {
            go(k, child);
        }
    }
    for &pdo in &reported {
        if known.iter().any(|child| child.pdo == pdo) {
            device::dereference(k, pdo);
        } else {
            let child = add(k, bus, pdo);
            if child.state.get() == DeviceState::NoDriver {
                configure::configure(k, &child);
            }
        }
    }
}

/// The physical device objects of the children; none if no driver says anything.
fn ask_relations(k: &Kernel, bus: &Devnode) -> Option<Vec<Ptr<DEVICE_OBJECT>>> {
    let which = [u64::from(BusRelations.cast_unsigned()), 0, 0, 0];
    let answer = request::send_with(k, bus, IRP_MN_QUERY_DEVICE_RELATIONS, which, 0);
    if answer.status < 0 || answer.information == 0 {
        return None;
    }
    let count = Ptr::<u32>::new(answer.information).read() as usize;
    let objects = Ptr::<u64>::new(answer.information + 8);
    let reported = (0..count).map(|index| Ptr::new(objects.offset(index).read())).collect();
    lists::free(k, answer.information);
    Some(reported)
}

/// What a bus driver may report: physical device objects, none of them deleted, each with a reference for the PnP manager.
fn check(k: &Kernel, bus: &Devnode, reported: &[Ptr<DEVICE_OBJECT>], known: &[Rc<Devnode>]) {
    let fatal = |parameters: [u64; 4], sentence: &str| -> ! {
        Finding::bug_check(PNP_FATAL, parameters, format!("the driver of device {} {sentence}", bus.id)).raise()
    };
    for (index, &pdo) in reported.iter().enumerate() {
        if pdo.is_null() {
            fatal([NULL, bus.pdo.address(), reported.len() as u64, index as u64], "reported a null pointer as a child");
        }
        let Some(references) = device::references(k, pdo) else {
            fatal([NO_PDO, pdo.address(), 0, 0], "reported a child that is no device object");
        };
        if device::flags(pdo) & DOE_DELETE_PENDING != 0 {
            fatal([DELETED, pdo.address(), 0, 0], "reported a child whose device object it has deleted");
        }
        let linked = u32::from(known.iter().any(|child| child.pdo == pdo));
        if references <= linked {
            fatal([NOT_REFERENCED, pdo.address(), 0, 0], "reported a child without referencing its device object");
        }
    }
}

/// Makes the device node of a new child and asks what it is.
fn add(k: &Kernel, bus: &Rc<Devnode>, pdo: Ptr<DEVICE_OBJECT>) -> Rc<Devnode> {
    device::change_flags(pdo, DOE_START_PENDING, 0);
    let bare = bare(k, bus, pdo);
    let identity = identify(k, &bare);
    let (ids, instance, failed) = match identity {
        Ok((ids, instance)) => (ids, instance, None),
        Err(status) => (Vec::new(), format!("UNKNOWN\\{}", bare.id), Some(status)),
    };
    check_unique(k, bus, pdo, &instance);
    property::set_node(k, pdo, DeviceNode::of(k, pdo, &instance, &ids));
    let state = failed.map_or(DeviceState::NoDriver, |status| DeviceState::Failed(Status(status)));
    let spec = DeviceSpec::software(ids.first().map_or("", String::as_str));
    let devnode = Rc::new(Devnode { ids, instance, spec, state: state.into(), ..bare });
    k.pnp.devnodes.add(&devnode);
    ask_resources(k, &devnode);
    devnode
}

fn bare(k: &Kernel, bus: &Rc<Devnode>, pdo: Ptr<DEVICE_OBJECT>) -> Devnode {
    Devnode { parent: Some(Rc::clone(bus)), linked: true.into(), ..Devnode::new(k.pnp.devnodes.next_id(), pdo) }
}

/// Hardware and compatible IDs, and the instance path.
fn identify(k: &Kernel, child: &Devnode) -> Result<(Vec<String>, String), NTSTATUS> {
    let device = first(ask_id(k, child, BusQueryDeviceID, 1)?)?;
    let instance = first(ask_id(k, child, BusQueryInstanceID, 2)?)?;
    let mut ids = ask_id(k, child, BusQueryHardwareIDs, 3).unwrap_or_default();
    ids.extend(ask_id(k, child, BusQueryCompatibleIDs, 4).unwrap_or_default());
    let unique = configure::ask_capabilities(k, child) & UNIQUE_ID != 0;
    let parent = child.parent.as_ref().map_or(0, |parent| parent.id);
    let instance = if unique { instance } else { format!("{parent}&{instance}") };
    for text in [DeviceTextDescription, DeviceTextLocationInformation] {
        ask_and_free(k, child, IRP_MN_QUERY_DEVICE_TEXT, u64::from(text.cast_unsigned()));
    }
    ask_and_free(k, child, IRP_MN_QUERY_BUS_INFORMATION, 0);
    Ok((ids, format!("{device}\\{instance}")))
}

fn first(ids: Vec<String>) -> Result<String, NTSTATUS> {
    ids.into_iter().next().ok_or(STATUS_UNSUCCESSFUL)
}

/// An ID of a child, or a list of them; `kind` is what a bug check calls it.
fn ask_id(k: &Kernel, child: &Devnode, which: i32, kind: u64) -> Result<Vec<String>, NTSTATUS> {
    let which = [u64::from(which.cast_unsigned()), 0, 0, 0];
    let buffer = request::send_with(k, child, IRP_MN_QUERY_ID, which, 0).ok()?;
    if buffer == 0 {
        return Err(STATUS_UNSUCCESSFUL);
    }
    let ids = read_ids(buffer, kind >= 3).unwrap_or_else(|what| {
        let sentence = format!("the bus driver of device {} returned {what}", child.id);
        Finding::bug_check(PNP_FATAL, [INVALID_ID, child.pdo.address(), buffer, kind], sentence).raise()
    });
    lists::free(k, buffer);
    Ok(ids)
}

/// The strings at `buffer`: one, or several up to an empty one.
fn read_ids(buffer: u64, several: bool) -> Result<Vec<String>, String> {
    let mut next = Ptr::<u16>::new(buffer);
    let mut ids = Vec::new();
    loop {
        let mut text = Vec::new();
        while let unit @ 1.. = next.read() {
            text.push(unit);
            next = next.offset(1);
        }
        let id = String::from_utf16_lossy(&text);
        if let Some(bad) = text.iter().find(|&&unit| matches!(unit, 0..=0x20 | 0x2C | 0x80..)) {
            return Err(format!("the ID {id:?} with the character {bad:#06x}, which none may have"));
        }
        if text.len() >= LONGEST_ID {
            return Err(format!("an ID of {} characters, which is too long", text.len()));
        }
        if text.is_empty() {
            return Ok(ids);
        }
        ids.push(id);
        if !several {
            return Ok(ids);
        }
        next = next.offset(1);
    }
}

fn ask_and_free(k: &Kernel, child: &Devnode, minor: u32, which: u64) {
    let answer = request::send_with(k, child, minor, [which, 0, 0, 0], 0);
    if answer.status >= 0 {
        lists::free(k, answer.information);
    }
}

fn ask_resources(k: &Kernel, child: &Devnode) {
    for minor in [IRP_MN_QUERY_RESOURCES, IRP_MN_QUERY_RESOURCE_REQUIREMENTS] {
        let answer = request::send(k, child, minor);
        if answer.status >= 0 && answer.information != 0 {
            Finding::not_modelled("a child device with hardware resources").raise();
        }
    }
}

/// No two devices have the same path.
fn check_unique(k: &Kernel, bus: &Devnode, pdo: Ptr<DEVICE_OBJECT>, instance: &str) {
    let siblings = k.pnp.devnodes.children_of(bus);
    let same = |child: &&Rc<Devnode>| !child.missing.get() && child.instance.eq_ignore_ascii_case(instance);
    if let Some(older) = siblings.iter().find(same) {
        let sentence =
            format!("the driver of device {} reported two children with the instance path {instance}", bus.id);
        Finding::bug_check(PNP_FATAL, [DUPLICATE, pdo.address(), older.pdo.address(), 0], sentence).raise();
    }
}

/// A child is gone without a word: so are those below it.
fn go(k: &Kernel, child: &Rc<Devnode>) {
    match child.state.get() {
        DeviceState::SurpriseRemoved => {}
        DeviceState::NoDriver | DeviceState::Disabled | DeviceState::Failed(_) => {
            remove::send_remove(k, child);
            release(k, child);
        }
        _ => remove::surprise(k, child),
    }
}

/// The PnP manager lets a child go: its bus driver must have deleted its device object.
pub fn release(k: &Kernel, child: &Devnode) {
    child.state.set(DeviceState::Removed);
    if !child.linked.replace(false) {
        return;
    }
    if device::is_device(k, child.pdo) {
        let sentence = format!("device {} is gone, but its bus driver has not deleted its device object", child.id);
        Rule::DeviceLeft.broken([child.pdo.address(), 1, 0], sentence).raise();
    }
    device::dereference(k, child.pdo);
}

/// What the children of a removed device are to the PnP manager: gone with it.
pub fn release_all(k: &Kernel, bus: &Devnode) {
    for child in k.pnp.devnodes.children_of(bus) {
        release(k, &child);
    }
}

/// Removes a device and has its bus driver eject it.
///
/// # Errors
///
/// What a driver refused it with.
pub fn eject(k: &Kernel, devnode: &Rc<Devnode>) -> Result<(), NTSTATUS> {
    remove::query_and_remove(k, devnode, DeviceState::Disabled)?;
    let answer = request::send(k, devnode, IRP_MN_EJECT).ok();
    if let Some(bus) = &devnode.parent {
        enumerate(k, bus);
    }
    answer.map(drop)
}

/// The device node of what a driver gave as a physical device object; anything else is a finding.
fn of_pdo(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, function: &str) -> Rc<Devnode> {
    k.pnp.devnodes.of(pdo).unwrap_or_else(|| {
        let sentence =
            format!("{function} was called with something that is no physical device object of the PnP manager's");
        Finding::bug_check(PNP_FATAL, [NO_PDO, pdo.address(), 0, 0], sentence).raise()
    })
}

/// "`IoInvalidateDeviceRelations` function": of bus relations.
pub fn invalidate_relations(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, kind: DEVICE_RELATION_TYPE) {
    let bus = of_pdo(k, pdo, "IoInvalidateDeviceRelations");
    if kind != BusRelations {
        Finding::not_modelled(format!("IoInvalidateDeviceRelations: relations of type {kind}")).raise();
    }
    worker::queue(k, move |k| {
        if bus.state.get() == DeviceState::Started {
            enumerate(k, &bus);
        }
    });
}

/// "`IoRequestDeviceEject` function".
pub fn request_eject(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>) {
    let child = of_pdo(k, pdo, "IoRequestDeviceEject");
    worker::queue(k, move |k| {
        // A driver that refuses has the user told; nobody else.
        let _refused = eject(k, &child);
    });
}

/// "`IoInvalidateDeviceState` function": the device is asked for its state, and removed if it has failed.
pub fn invalidate_state(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>) {
    let devnode = of_pdo(k, pdo, "IoInvalidateDeviceState");
    worker::queue(k, move |k| {
        if devnode.state.get() != DeviceState::Started {
            return;
        }
        let answer = request::send(k, &devnode, IRP_MN_QUERY_PNP_DEVICE_STATE);
        let state = if answer.status < 0 { 0 } else { answer.information };
        if state & u64::from(PNP_DEVICE_RESOURCE_REQUIREMENTS_CHANGED) != 0 {
            Finding::not_modelled("PNP_DEVICE_RESOURCE_REQUIREMENTS_CHANGED").raise();
        }
        if state & u64::from(PNP_DEVICE_FAILED | PNP_DEVICE_REMOVED) != 0 {
            remove::fail(k, &devnode, STATUS_UNSUCCESSFUL);
        }
    });
}
