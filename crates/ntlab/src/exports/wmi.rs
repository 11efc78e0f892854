//! WMI registration. Nobody in the lab asks for WMI data: a provider is never sent `IRP_MJ_SYSTEM_CONTROL` requests.

use std::{cell::RefCell, collections::BTreeSet};

use windows_sys::{
    Wdk::Foundation::DEVICE_OBJECT,
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS},
};

use super::Export;
use crate::{
    export,
    finding::Finding,
    io::device,
    irql::{PASSIVE_LEVEL, exactly},
    kernel::Kernel,
    memory::Ptr,
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] =
    &[export!("IoWMIRegistrationControl", exactly(PASSIVE_LEVEL), io_wmi_registration_control)];

const REGISTER: u32 = 1;
const DEREGISTER: u32 = 2;
const REREGISTER: u32 = 3;
const UPDATE_GUIDS: u32 = 4;

/// Devices whose drivers have registered as providers.
#[derive(Debug, Default)]
pub struct Wmi {
    devices: RefCell<BTreeSet<u64>>,
}

/// "`IoWMIRegistrationControl` function".
fn io_wmi_registration_control(k: &Kernel, device: Ptr<DEVICE_OBJECT>, action: u32) -> NTSTATUS {
    if device::number(k, device) == 0 {
        Finding::not_modelled("IoWMIRegistrationControl for something that is no device object").raise();
    }
    let mut devices = k.io.wmi.devices.borrow_mut();
    let accepted = match action {
        REGISTER => {
            devices.insert(device.address());
            k.tracking.made_for(k, Tracked::WmiProvider, device.address(), device::physical(k, device), String::new);
            true
        }
        DEREGISTER => {
            k.tracking.gone(Tracked::WmiProvider, device.address());
            devices.remove(&device.address())
        }
        REREGISTER | UPDATE_GUIDS => devices.contains(&device.address()),
        _ => false,
    };
    if accepted { STATUS_SUCCESS } else { STATUS_INVALID_PARAMETER }
}
