//! PnP requests one by one, in any order that Windows may send them in ("State Transitions for PnP Devices").

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use windows_sys::{
    Wdk::System::SystemServices::{IRP_MN_CANCEL_STOP_DEVICE, IRP_MN_QUERY_STOP_DEVICE, IRP_MN_STOP_DEVICE},
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_DEVICE_STATE},
};

use super::{
    Device,
    devnode::{DeviceState, Devnode},
    rebalance::{self, Rebalance},
    remove, request,
};
use crate::{kernel::Kernel, machine::System, user::Status};

/// A request of the PnP manager to a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum PnpRequest {
    /// `IRP_MN_QUERY_STOP_DEVICE`; a refusal is followed by the cancellation.
    QueryStop,
    /// `IRP_MN_CANCEL_STOP_DEVICE`, which may also come unasked.
    CancelStop,
    /// `IRP_MN_STOP_DEVICE`.
    Stop,
    /// `IRP_MN_START_DEVICE` of a stopped device, with new resources; where it fails, the removal follows.
    Restart,
    /// `IRP_MN_QUERY_REMOVE_DEVICE`; a refusal, or an open handle, is followed by the cancellation.
    QueryRemove,
    /// `IRP_MN_CANCEL_REMOVE_DEVICE`, which may also come unasked.
    CancelRemove,
    /// `IRP_MN_REMOVE_DEVICE` of a device that was asked; it is disabled then.
    Remove,
    /// `IRP_MN_SURPRISE_REMOVAL` of a device that was pulled out; the removal follows when the last handle is closed.
    SurpriseRemoval,
}

impl PnpRequest {
    /// Whether Windows sends it to a device in this state.
    #[must_use]
    pub const fn is_sent_in(self, state: DeviceState) -> bool {
        use DeviceState::{RemovePending, Started, StopPending, Stopped};
        match self {
            Self::QueryStop | Self::QueryRemove => matches!(state, Started),
            Self::CancelStop => matches!(state, Started | StopPending),
            Self::Stop => matches!(state, StopPending),
            Self::Restart => matches!(state, Stopped),
            Self::CancelRemove => matches!(state, Started | RemovePending),
            Self::Remove => matches!(state, RemovePending),
            Self::SurpriseRemoval => matches!(state, Started | StopPending | Stopped | RemovePending),
        }
    }
}

impl Device {
    /// Sends the device one request and waits for it; the device is left as the request leaves it, stopped for example.
    ///
    /// # Errors
    ///
    /// What the driver refused it with, or `STATUS_INVALID_DEVICE_STATE` where Windows would not send it now: in this state, or a stop to a
    /// device without hardware resources.
    pub fn send(self, system: &System, request: PnpRequest) -> Result<(), Status> {
        self.act(system, "a PnP request", move |k, devnode| {
            let fixed = devnode.hardware.is_none() && request == PnpRequest::Stop;
            if fixed || !request.is_sent_in(devnode.state.get()) {
                return Err(Status(STATUS_INVALID_DEVICE_STATE));
            }
            send(k, devnode, request).map_err(Status)
        })
    }
}

fn send(k: &Kernel, devnode: &Rc<Devnode>, request: PnpRequest) -> Result<(), NTSTATUS> {
    match request {
        PnpRequest::QueryStop => {
            let answer = request::send(k, devnode, IRP_MN_QUERY_STOP_DEVICE).ok();
            if answer.is_err() {
                request::send(k, devnode, IRP_MN_CANCEL_STOP_DEVICE);
            } else {
                devnode.state.set(DeviceState::StopPending);
            }
            return answer.map(drop);
        }
        PnpRequest::CancelStop => {
            request::send(k, devnode, IRP_MN_CANCEL_STOP_DEVICE);
            devnode.state.set(DeviceState::Started);
        }
        PnpRequest::Stop => {
            request::send(k, devnode, IRP_MN_STOP_DEVICE);
            devnode.state.set(DeviceState::Stopped);
        }
        PnpRequest::Restart => {
            if let Rebalance::RestartFailed(Status(status)) = rebalance::restart(k, devnode) {
                return Err(status);
            }
        }
        PnpRequest::QueryRemove => {
            remove::query(k, devnode)?;
            devnode.state.set(DeviceState::RemovePending);
        }
        PnpRequest::CancelRemove => {
            remove::cancel(k, devnode);
            devnode.state.set(DeviceState::Started);
        }
        PnpRequest::Remove => remove::remove(k, devnode, DeviceState::Disabled),
        PnpRequest::SurpriseRemoval => remove::surprise(k, devnode),
    }
    Ok(())
}
