//! Resource rebalance: query-stop for all, stop, new resources, start ("Stopping a Device to Rebalance Resources").

use std::rc::Rc;

use windows_sys::Wdk::System::SystemServices::{
    IRP_MN_CANCEL_STOP_DEVICE, IRP_MN_QUERY_STOP_DEVICE, IRP_MN_STOP_DEVICE,
};

use super::{
    bus, configure,
    devnode::{DeviceState, Devnode},
    remove, request,
};
use crate::{finding::Finding, kernel::Kernel, user::Status};

/// How a rebalance ended for a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rebalance {
    /// It was stopped and started again.
    Restarted,
    /// It, or another device that was asked with it, refused to be stopped: the status. The stop was cancelled.
    Refused(Status),
    /// It has no hardware resources: it was asked, and the stop was cancelled.
    NotStopped,
    /// It was stopped, and its restart failed: it is being removed.
    RestartFailed(Status),
    /// It was not working, so that nothing was asked.
    NotStarted,
}

/// The rebalance after a processor was added: of every device that works and takes part.
pub fn after_hot_add(k: &Kernel) {
    let mut devices = k.pnp.devnodes.in_state(DeviceState::Started);
    devices.retain(|devnode| devnode.participates());
    rebalance(k, &devices);
}

/// Rebalances the devices, all together.
pub fn rebalance(k: &Kernel, devices: &[Rc<Devnode>]) -> Vec<Rebalance> {
    let mut refusal = None;
    let mut asked = 0;
    for devnode in devices {
        asked += 1;
        if let Err(status) = request::send(k, devnode, IRP_MN_QUERY_STOP_DEVICE).ok() {
            refusal = Some(status);
            break;
        }
    }
    if let Some(status) = refusal {
        cancel(k, &devices[..asked]);
        return devices.iter().map(|_| Rebalance::Refused(Status(status))).collect();
    }
    let (movable, fixed): (Vec<_>, Vec<_>) = devices.iter().cloned().partition(|devnode| devnode.hardware.is_some());
    cancel(k, &fixed);
    for devnode in &movable {
        if !k.pnp.devnodes.children_of(devnode).is_empty() {
            Finding::not_modelled("a rebalance of the resources of a bus that has devices").raise();
        }
        request::send(k, devnode, IRP_MN_STOP_DEVICE);
        devnode.state.set(DeviceState::Stopped);
    }
    let outcome =
        |devnode: &Rc<Devnode>| if devnode.hardware.is_some() { restart(k, devnode) } else { Rebalance::NotStopped };
    devices.iter().map(outcome).collect()
}

fn cancel(k: &Kernel, devices: &[Rc<Devnode>]) {
    for devnode in devices {
        request::send(k, devnode, IRP_MN_CANCEL_STOP_DEVICE);
    }
}

/// New resources and another start; a device that does not start again is given up. The PnP manager may ask for the requirements again, or keep those it has.
pub fn restart(k: &Kernel, devnode: &Rc<Devnode>) -> Rebalance {
    if k.choices.once_in(2) {
        configure::filter_requirements(k, devnode, &bus::wanted(devnode).to_bytes());
    }
    match configure::arbitrate(k, devnode).and_then(|()| configure::start(k, devnode)) {
        Ok(()) => Rebalance::Restarted,
        Err(status) => {
            remove::fail(k, devnode, status);
            Rebalance::RestartFailed(Status(status))
        }
    }
}
