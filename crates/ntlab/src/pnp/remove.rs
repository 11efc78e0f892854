//! Removal: orderly, by surprise, and of devices that failed ("Removing a Device").

use std::rc::Rc;

use windows_sys::{
    Wdk::{
        Foundation::DEVICE_OBJECT,
        System::SystemServices::{
            IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_REMOVE_DEVICE, IRP_MN_SURPRISE_REMOVAL,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_DEVICE_BUSY, STATUS_INVALID_DEVICE_STATE},
};

use super::{
    devnode::{DeviceState, Devnode},
    request, worker,
};
use crate::{
    finding::{Cause, Finding},
    io::{device, driver, interface, irp::IO_MANAGER_VIOLATION, layout::DOE_START_PENDING, lost},
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
    request::send(k, devnode, IRP_MN_CANCEL_REMOVE_DEVICE);
    Ok(())
}

/// Removes a device that was asked.
pub fn remove(k: &Kernel, devnode: &Rc<Devnode>, then: DeviceState) {
    send_remove(k, devnode);
    devnode.state.set(then);
    k.pnp.unload_if_unused(k, devnode);
}

/// Asks whether a device can be removed; a refusal is followed by the cancellation.
///
/// # Errors
///
/// As [`query_and_remove`].
pub fn query(k: &Kernel, devnode: &Devnode) -> Result<(), NTSTATUS> {
    if devnode.state.get() != DeviceState::Started {
        return Err(STATUS_INVALID_DEVICE_STATE);
    }
    let answer = request::send(k, devnode, IRP_MN_QUERY_REMOVE_DEVICE).ok();
    let open = device::opens_of_stack(devnode.pdo) > 0;
    let refusal = answer.err().or_else(|| open.then_some(STATUS_DEVICE_BUSY));
    refusal.map_or(Ok(()), |status| {
        request::send(k, devnode, IRP_MN_CANCEL_REMOVE_DEVICE);
        Err(status)
    })
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

/// Surprise removal at once, removal when the last handle is closed.
fn give_up(k: &Kernel, devnode: &Rc<Devnode>, then: DeviceState) {
    if device::upper(devnode.pdo).is_null() {
        end(k, devnode, then);
        return;
    }
    device::change_flags(devnode.pdo, DOE_START_PENDING, 0);
    request::send(k, devnode, IRP_MN_SURPRISE_REMOVAL);
    devnode.state.set(DeviceState::SurpriseRemoved);
    let devnode = Rc::clone(devnode);
    k.spawn("removal at last close", move |k| {
        k.block_until("the last handle to be closed", |_| device::opens_of_stack(devnode.pdo) == 0, None);
        worker::queue(k, move |k| {
            send_remove(k, &devnode);
            end(k, &devnode, then);
        });
    });
}

fn end(k: &Kernel, devnode: &Rc<Devnode>, then: DeviceState) {
    // What failed may have been pulled out since.
    let then = if devnode.gone.get() { DeviceState::Removed } else { then };
    devnode.state.set(then);
    k.pnp.unload_if_unused(k, devnode);
    if then == DeviceState::Removed {
        device::delete(k, devnode.pdo);
    }
}

/// Sends the removal, after which the driver must have left the stack.
pub fn send_remove(k: &Kernel, devnode: &Devnode) {
    device::change_flags(devnode.pdo, DOE_START_PENDING, 0);
    let stack = device::stack_above(devnode.pdo);
    request::send(k, devnode, IRP_MN_REMOVE_DEVICE);
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
            .with_stack("its dispatch routine", &[driver::pnp_routine(attached)])
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
