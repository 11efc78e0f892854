//! From a device that was found to a device that works ("Adding a PnP Device to a Running System").

use std::rc::Rc;

use windows_sys::{
    Wdk::{
        Foundation::DRIVER_OBJECT,
        System::SystemServices::{
            DEVICE_CAPABILITIES, IRP_MN_FILTER_RESOURCE_REQUIREMENTS, IRP_MN_QUERY_CAPABILITIES,
            IRP_MN_QUERY_PNP_DEVICE_STATE, IRP_MN_START_DEVICE,
        },
    },
    Win32::Foundation::{
        NTSTATUS, STATUS_CONFLICTING_ADDRESSES, STATUS_NOT_SUPPORTED, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_UNSUCCESSFUL,
    },
};

use super::{
    assign, bus, children,
    devnode::{DeviceState, Devnode},
    lists, remove,
    request::{self, UNKNOWN_MINOR},
    resources::{self, Assigned},
    spec::DriverPackage,
};
use crate::{
    at,
    events::Kind,
    finding::Finding,
    io::{
        attached, device,
        driver::{self, LoadError},
        layout::DOE_START_PENDING,
        property,
    },
    kernel::Kernel,
    memory::{Owner, Ptr},
    registry::Value,
    rule::Rule,
    sched::VERIFIER,
    user::Status,
};

/// Finds a driver for a device, loads it if it is not loaded, and starts the device.
pub fn configure(k: &Kernel, devnode: &Rc<Devnode>) {
    let Some(package) = k.pnp.package_for(&devnode.ids) else {
        devnode.state.set(DeviceState::NoDriver);
        return;
    };
    if let Err(status) = load_and_add(k, devnode, &package).and_then(|()| first_start(k, devnode)) {
        devnode.state.set(DeviceState::Failed(Status(status)));
        k.pnp.unload_if_unused(k, devnode);
    }
}

/// Has every driver of the stack add itself, the lowest first. Where one fails, those below it are removed.
fn load_and_add(k: &Kernel, devnode: &Rc<Devnode>, package: &DriverPackage) -> Result<(), NTSTATUS> {
    let packages = k.pnp.stack_of(package).map_err(|filter| {
        let note = format!("device {} has the filter {filter}, which is not installed", devnode.id);
        k.record(|| Kind::Note(note.into()));
        STATUS_OBJECT_NAME_NOT_FOUND
    })?;
    note_filters(k, devnode, package);
    for package in packages {
        let added = load(k, &package).and_then(|driver| add(k, devnode, driver));
        if let Err(status) = added {
            if !device::upper(devnode.pdo).is_null() {
                remove::send_remove(k, devnode);
            }
            return Err(status);
        }
    }
    Ok(())
}

/// Tells the registry what the device's INF says.
fn note_filters(k: &Kernel, devnode: &Devnode, package: &DriverPackage) {
    let key = k.registry.create(&property::instance_key(&devnode.instance));
    k.registry.set(key, "Service", Value::text(&package.service));
    for (name, filters) in [("UpperFilters", &package.upper_filters), ("LowerFilters", &package.lower_filters)] {
        if !filters.is_empty() {
            k.registry.set(key, name, Value::list(filters));
        }
    }
}

fn add(k: &Kernel, devnode: &Devnode, driver: Ptr<DRIVER_OBJECT>) -> Result<(), NTSTATUS> {
    devnode.drivers.borrow_mut().push(driver);
    let below = device::top_of_stack(devnode.pdo);
    let status = driver::add_device(k, driver, devnode.pdo).ok_or(STATUS_UNSUCCESSFUL)?;
    if status < 0 {
        if !device::upper(below).is_null() {
            violation(format!("AddDevice returned {status:#010x} and left a device attached to the stack"));
        }
        return Err(status);
    }
    attached::check_added(k, below);
    Ok(())
}

fn load(k: &Kernel, package: &DriverPackage) -> Result<Ptr<DRIVER_OBJECT>, NTSTATUS> {
    if let Some(driver) = k.pnp.loaded(&package.service) {
        return Ok(driver);
    }
    let parameters: Vec<_> = package.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    match driver::load(k, &package.image, &package.service, &parameters) {
        Ok(driver) => {
            k.pnp.set_loaded(&package.service, Some(driver));
            Ok(driver)
        }
        Err(LoadError::DriverEntry(status)) => Err(status),
        Err(LoadError::Image(error)) => Finding::not_modelled(format!("{}: {error}", package.image.display())).raise(),
    }
}

/// Resources and the first start. A device whose start fails is removed.
fn first_start(k: &Kernel, devnode: &Rc<Devnode>) -> Result<(), NTSTATUS> {
    filter_requirements(k, devnode, &bus::wanted(devnode).to_bytes());
    let started = arbitrate(k, devnode).and_then(|()| start(k, devnode));
    if let Err(status) = started {
        remove::send_remove(k, devnode);
        return Err(status);
    }
    ask_started(k, devnode);
    Ok(())
}

/// Lets the driver edit the requirements; keeps what it made of them.
pub fn filter_requirements(k: &Kernel, devnode: &Devnode, list: &[u8]) {
    let list = if devnode.hardware.is_some() { lists::allocate_replaceable(k, list).address() } else { 0 };
    let answer = request::send_with(k, devnode, IRP_MN_FILTER_RESOURCE_REQUIREMENTS, [list, 0, 0, 0], list);
    let filtered = if answer.status >= 0 { answer.information } else { list };
    if answer.status < 0 && answer.status != STATUS_NOT_SUPPORTED && answer.information != list {
        violation("a driver failed IRP_MN_FILTER_RESOURCE_REQUIREMENTS and replaced the list".into());
    }
    if filtered != list {
        check_freed(k, list, filtered);
    }
    let requirements = lists::read_requirements(filtered).unwrap_or_else(|malformed| violation(malformed.to_string()));
    *devnode.requirements.borrow_mut() = requirements;
    lists::free(k, filtered);
}

/// A driver that returns another list than it was given has freed the given one; the new one is freed by the PnP manager.
fn check_freed(k: &Kernel, given: u64, returned: u64) {
    if k.memory.pool.block(given).is_none_or(|block| block.request.owner != Owner::Replaceable) {
        return;
    }
    let sentence =
        "a driver replaced the list of IRP_MN_FILTER_RESOURCE_REQUIREMENTS and did not free the previous one";
    let finding = Rule::RequirementsLeft.broken([given, returned, 0], sentence);
    match k.memory.pool.block(returned) {
        Some(block) => block.allocated(finding),
        None => finding,
    }
    .raise()
}

/// Assigns resources anew.
///
/// # Errors
///
/// `STATUS_CONFLICTING_ADDRESSES`: they cannot be satisfied.
pub fn arbitrate(k: &Kernel, devnode: &Devnode) -> Result<(), NTSTATUS> {
    let requirements = devnode.requirements.borrow().clone();
    let assigned = assign::assign(k, devnode, &requirements).ok_or(STATUS_CONFLICTING_ADDRESSES)?;
    *devnode.assigned.borrow_mut() = assigned;
    Ok(())
}

/// Sends the start request with the resources assigned.
///
/// # Errors
///
/// What the stack failed it with.
pub fn start(k: &Kernel, devnode: &Devnode) -> Result<(), NTSTATUS> {
    let assigned = devnode.assigned.borrow().clone();
    let list = |translated| list_of(k, &assigned, translated);
    let (raw, translated) = (list(false), list(true));
    let answer = request::send_with(k, devnode, IRP_MN_START_DEVICE, [raw, translated, 0, 0], 0);
    lists::free(k, raw);
    lists::free(k, translated);
    answer.ok()?;
    device::change_flags(devnode.pdo, 0, DOE_START_PENDING);
    devnode.state.set(DeviceState::Started);
    Ok(())
}

/// The resource list in memory; null for a device without resources.
fn list_of(k: &Kernel, assigned: &[Assigned], translated: bool) -> u64 {
    if assigned.is_empty() {
        return 0;
    }
    lists::allocate(k, &resources::resource_list(assigned, translated)).address()
}

/// What the PnP manager asks after a start; among it a request that no driver knows.
fn ask_started(k: &Kernel, devnode: &Rc<Devnode>) {
    ask_capabilities(k, devnode);
    request::send(k, devnode, IRP_MN_QUERY_PNP_DEVICE_STATE);
    children::enumerate(k, devnode);
    request::send(k, devnode, UNKNOWN_MINOR);
}

/// Asks for the capabilities of a device: the bits of the structure.
pub fn ask_capabilities(k: &Kernel, devnode: &Devnode) -> u32 {
    let capabilities = k.memory.allocate_object::<DEVICE_CAPABILITIES>();
    capabilities.cast::<u8>().fill(size_of::<DEVICE_CAPABILITIES>(), 0);
    at!(capabilities, Size).write(lists::size_field::<DEVICE_CAPABILITIES>());
    at!(capabilities, Version).write(1);
    at!(capabilities, Address).write(u32::MAX);
    at!(capabilities, UINumber).write(u32::MAX);
    request::send_with(k, devnode, IRP_MN_QUERY_CAPABILITIES, [capabilities.address(), 0, 0, 0], 0);
    let bits = at!(capabilities, _bitfield).read();
    k.memory.free_object(capabilities);
    bits
}

fn violation(sentence: String) -> ! {
    Finding::bug_check(VERIFIER, [0; 4], sentence).raise()
}
