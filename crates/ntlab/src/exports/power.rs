//! The power manager's functions.

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, IRP},
        System::SystemServices::{IRP_MN_QUERY_POWER, IRP_MN_SET_POWER},
    },
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_PARAMETER_2, STATUS_PENDING},
};

use super::Export;
use crate::{
    export,
    finding::Finding,
    io::irp,
    irql::{DISPATCH_LEVEL, at_most},
    kernel::Kernel,
    memory::Ptr,
};

/// The functions of this module.
pub(super) const FUNCTIONS: &[Export] = &[
    export!("PoCallDriver", at_most(DISPATCH_LEVEL), po_call_driver),
    export!("PoRequestPowerIrp", at_most(DISPATCH_LEVEL), po_request_power_irp),
    export!("PoSetPowerState", at_most(DISPATCH_LEVEL), po_set_power_state),
    export!("PoStartNextPowerIrp", at_most(DISPATCH_LEVEL), po_start_next_power_irp),
];

/// "`PoCallDriver` function": since Windows Vista the same as `IoCallDriver`.
fn po_call_driver(k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>) -> NTSTATUS {
    irp::call_driver(k, device, packet)
}

/// "`PoRequestPowerIrp` function".
fn po_request_power_irp(
    k: &Kernel,
    device: Ptr<DEVICE_OBJECT>,
    minor: u8,
    state: u32,
    completion: u64,
    context: u64,
    packet: Ptr<u64>,
) -> NTSTATUS {
    match u32::from(minor) {
        IRP_MN_QUERY_POWER | IRP_MN_SET_POWER if packet.is_null() => {}
        IRP_MN_QUERY_POWER | IRP_MN_SET_POWER => {
            Finding::not_modelled("PoRequestPowerIrp: the address of a query- or set-power IRP").raise()
        }
        0 => Finding::not_modelled("PoRequestPowerIrp: IRP_MN_WAIT_WAKE").raise(),
        _ => return STATUS_INVALID_PARAMETER_2,
    }
    k.power.request(k, device, minor, state, (completion, context));
    STATUS_PENDING
}

/// "`PoSetPowerState` function".
fn po_set_power_state(k: &Kernel, device: Ptr<DEVICE_OBJECT>, kind: u32, state: u32) -> u32 {
    k.power.set_state(device.address(), kind.into(), state)
}

/// "`PoStartNextPowerIrp` function": since Windows Vista it does nothing.
const fn po_start_next_power_irp(_: &Kernel, _packet: Ptr<IRP>) {}
