//! Removal: orderly, by surprise, and of devices that failed ("Removing a Device").

use std::rc::Rc;

use windows_sys::{
    Wdk::{
        Foundation::DEVICE_OBJECT,
        System::SystemServices::{
            IRP_MJ_PNP, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_REMOVE_DEVICE,
            IRP_MN_SURPRISE_REMOVAL,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_DEVICE_BUSY, STATUS_INVALID_DEVICE_STATE},
};

use super::{
    children,
    devnode::{DeviceState, Devnode},
    request, worker,
};
use crate::{
    finding::{Cause, Finding},
    io::{
        attached, device, driver, interface,
        irp::IO_MANAGER_VIOLATION,
        layout::{DOE_REMOVE_PENDING, DOE_START_PENDING},
        lost,
    },
    kernel::Kernel,
    memory::Ptr,
    rule::Rule,
    tracking::{self, Made, Tracked},
    user::Status,
};

/// `DRIVER_VERIFIER_IOMANAGER_VIOLATION`: a driver has not detached from the stack below it upon receiving a remove IRP.
const NOT_DETACHED: u64 = 0x21D;
/// The same: it has not deleted its device object.
const NOT_DELETED: u64 = 0x21E;

/// Asks whether a device can be removed, and removes it if so.
///
/// # Errors
///
/// Why not: what a driver answered, `STATUS_DEVICE_BUSY` where it is open, `STATUS_INVALID_DEVICE_STATE` where it does not work.
pub fn query_and_remove(k: &Kernel, devnode: &Rc<Devnode>, then: DeviceState) -> Result<(), NTSTATUS> {
    query(k, devnode)?;
    remove(k, devnode, then);
    Ok(())
}

/// Asks whether a device can be removed, and cancels that.
///
/// # Errors
///
/// As [`query_and_remove`].
pub fn query_and_cancel(k: &Kernel, devnode: &Rc<Devnode>) -> Result<(), NTSTATUS> {
    query(k, devnode)?;
    cancel(k, devnode);
    Ok(())
}

/// Removes a device that was asked, after those that hang below it.
pub fn remove(k: &Kernel, devnode: &Rc<Devnode>, then: DeviceState) {
    remove_children(k, devnode);
    send_remove(k, devnode);
    children::release_all(k, devnode);
    devnode.state.set(then);
    k.pnp.unload_if_unused(k, devnode);
}

fn remove_children(k: &Kernel, devnode: &Devnode) {
    for child in k.pnp.devnodes.children_of(devnode) {
        if child.state.get() != DeviceState::Removed {
            remove(k, &child, DeviceState::NoDriver);
        }
    }
}

/// Asks whether a device can be removed, after those that hang below it; a refusal is followed by the cancellation.
///
/// # Errors
///
/// As [`query_and_remove`].
pub fn query(k: &Kernel, devnode: &Rc<Devnode>) -> Result<(), NTSTATUS> {
    if devnode.state.get() != DeviceState::Started {
        return Err(STATUS_INVALID_DEVICE_STATE);
    }
    let children = k.pnp.devnodes.children_of(devnode);
    if children.iter().any(|child| child.state.get() == DeviceState::SurpriseRemoved) {
        return Err(STATUS_DEVICE_BUSY);
    }
    let started: Vec<_> = children.into_iter().filter(|child| child.state.get() == DeviceState::Started).collect();
    for (asked, child) in started.iter().enumerate() {
        if let Err(status) = query(k, child) {
            started[..asked].iter().for_each(|child| cancel(k, child));
            return Err(status);
        }
    }
    let answer = request::send(k, devnode, IRP_MN_QUERY_REMOVE_DEVICE).ok();
    let open = device::opens_of_stack(devnode.pdo) > 0;
    if let Some(status) = answer.err().or_else(|| open.then_some(STATUS_DEVICE_BUSY)) {
        cancel(k, devnode);
        return Err(status);
    }
    // Nobody opens it any more: drivers are told that it goes only once no handle is open.
    device::change_flags(devnode.pdo, DOE_REMOVE_PENDING, 0);
    Ok(())
}

/// Tells a device that was asked, and those that hang below it, that it is not removed.
pub fn cancel(k: &Kernel, devnode: &Devnode) {
    device::change_flags(devnode.pdo, 0, DOE_REMOVE_PENDING);
    request::send(k, devnode, IRP_MN_CANCEL_REMOVE_DEVICE);
    for child in k.pnp.devnodes.children_of(devnode) {
        if child.state.get() == DeviceState::Started {
            cancel(k, &child);
        }
    }
}

/// A device is pulled out.
pub fn surprise(k: &Kernel, devnode: &Rc<Devnode>) {
    devnode.gone.set(true);
    if let Some(hardware) = &devnode.hardware {
        hardware.unplug(k);
    }
    give_up(k, devnode, DeviceState::Removed);
}

/// A device is pulled out, perhaps one that was before, or that is being removed because it failed.
pub fn lost(k: &Kernel, devnode: &Rc<Devnode>) {
    if !matches!(devnode.state.get(), DeviceState::SurpriseRemoved | DeviceState::Removed) {
        surprise(k, devnode);
        return;
    }
    devnode.gone.set(true);
    if let Some(hardware) = &devnode.hardware {
        hardware.unplug(k);
    }
}

/// A device failed for good.
pub fn fail(k: &Kernel, devnode: &Rc<Devnode>, status: NTSTATUS) {
    give_up(k, devnode, DeviceState::Failed(Status(status)));
}

/// Surprise removal at once, of those that hang below it first; removal when the last handle is closed.
fn give_up(k: &Kernel, devnode: &Rc<Devnode>, then: DeviceState) {
    if device::upper(devnode.pdo).is_null() {
        end(k, devnode, then);
        return;
    }
    for child in k.pnp.devnodes.children_of(devnode) {
        if child.state.get() == DeviceState::Started {
            give_up(k, &child, DeviceState::Removed);
        }
    }
    device::change_flags(devnode.pdo, DOE_START_PENDING, 0);
    attached::surprise(k, devnode.pdo, || {
        request::send(k, devnode, IRP_MN_SURPRISE_REMOVAL);
    });
    devnode.state.set(DeviceState::SurpriseRemoved);
    let devnode = Rc::clone(devnode);
    k.spawn("removal at last close", move |k| {
        k.block_until("the last handle to be closed", |k| !is_held(k, &devnode), None);
        worker::queue(k, move |k| {
            remove_children(k, &devnode);
            send_remove(k, &devnode);
            children::release_all(k, &devnode);
            end(k, &devnode, then);
        });
    });
}

/// Whether a handle keeps a lost device from being removed: one of its own, or of a device that hangs below it.
pub fn is_held(k: &Kernel, devnode: &Devnode) -> bool {
    let children = k.pnp.devnodes.children_of(devnode);
    let lost = children.iter().any(|child| child.state.get() == DeviceState::SurpriseRemoved);
    lost || device::opens_of_stack(devnode.pdo) > 0
}

fn end(k: &Kernel, devnode: &Rc<Devnode>, then: DeviceState) {
    // What failed may have been pulled out since.
    let then = if devnode.gone.get() { DeviceState::Removed } else { then };
    devnode.state.set(then);
    k.pnp.unload_if_unused(k, devnode);
    if devnode.missing.get() {
        children::release(k, devnode);
    } else if then == DeviceState::Removed && devnode.parent.is_none() {
        device::delete(k, devnode.pdo);
    }
}

/// Sends the removal, after which the driver must have left the stack.
pub fn send_remove(k: &Kernel, devnode: &Devnode) {
    device::change_flags(devnode.pdo, DOE_START_PENDING, 0);
    let stack = device::stack_above(devnode.pdo);
    request::send(k, devnode, IRP_MN_REMOVE_DEVICE);
    device::change_flags(devnode.pdo, 0, DOE_REMOVE_PENDING);
    lost::check_devices(k, &stack, "its device was removed");
    let left = left_of(k, devnode, &stack);
    for link in interface::enabled_of(k, devnode.pdo) {
        interface::set_state(k, &link, false);
    }
    devnode.assigned.borrow_mut().clear();
    let attached = device::upper(devnode.pdo);
    if !attached.is_null() {
        let sentence = "a driver completed IRP_MN_REMOVE_DEVICE and is still attached to the stack";
        Finding::bug_check(IO_MANAGER_VIOLATION, [NOT_DETACHED, 0, 0, attached.address()], sentence)
            .with_stack("its dispatch routine", &[driver::routine(attached, IRP_MJ_PNP)])
            .raise();
    }
    let connected = k.pnp.connections.of_device(devnode.pdo);
    if connected != 0 {
        let sentence = format!("a driver completed IRP_MN_REMOVE_DEVICE with {connected} interrupts still connected");
        let finding = Rule::StillConnected.broken([devnode.pdo.address(), 0, 0], sentence);
        tracking::with_stacks(finding, &left).raise();
    }
    if let Some(mut finding) = tracking::finding(&left, "a driver completed IRP_MN_REMOVE_DEVICE") {
        if let Some(device) = left.first().filter(|made| made.kind() == Tracked::Device) {
            let parameters = [NOT_DELETED, 0, 0, device.id()];
            finding.cause = Cause::BugCheck { code: IO_MANAGER_VIOLATION, parameters };
        }
        let detached =
            |finding: Finding, device: &_| finding.with_stack("detached at", &device::detached_at(k, *device));
        stack.iter().fold(finding, detached).raise();
    }
}

/// What the drivers of a removed device have left of it behind.
fn left_of(k: &Kernel, devnode: &Devnode, stack: &[Ptr<DEVICE_OBJECT>]) -> Vec<Made> {
    let left: Vec<_> = stack.iter().copied().filter(|&device| device::is_device(k, device)).collect();
    let mut left = k.tracking.left_for(devnode.pdo, &left);
    if !k.io.work_items.is_quiet() {
        // The routine of a work item may free it, and keeps the device object until it returns.
        left.retain(|made| made.kind() != Tracked::WorkItem);
    }
    left
}
