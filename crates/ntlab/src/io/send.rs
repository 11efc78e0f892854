//! Packets that the lab itself sends: PnP, power, and whatever else a part of the system asks drivers for.

use std::{cell::Cell, rc::Rc};

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, FILE_OBJECT, IRP},
        System::SystemServices::{IRP_MJ_PNP, IRP_MJ_POWER, IRP_MJ_SYSTEM_CONTROL},
    },
    Win32::Foundation::{NTSTATUS, STATUS_NOT_SUPPORTED},
};

use super::{
    device,
    irp::{self, Owner},
    layout::{self, Words},
};
use crate::{at, kernel::Kernel, memory::Ptr};

/// What a packet asks for: its first stack location and what is in the packet.
#[derive(Clone, Copy, Debug)]
pub struct IrpParameters {
    /// Major function.
    pub major: u8,
    /// Minor function.
    pub minor: u8,
    /// Parameters of the stack location.
    pub words: Words,
    /// The file it is about.
    pub file: Ptr<FILE_OBJECT>,
    /// The status it starts with.
    pub status: NTSTATUS,
    /// The information it starts with.
    pub information: u64,
}

impl IrpParameters {
    /// A PnP request: its status starts as `STATUS_NOT_SUPPORTED`.
    #[must_use]
    pub const fn pnp(minor: u32, words: Words) -> Self {
        Self::unsupported(IRP_MJ_PNP, minor, words)
    }

    /// A power request; words as [`Words`] says.
    #[must_use]
    pub const fn power(minor: u32, words: Words) -> Self {
        Self::unsupported(IRP_MJ_POWER, minor, words)
    }

    /// A WMI request.
    #[must_use]
    pub const fn system_control(minor: u32, words: Words) -> Self {
        Self::unsupported(IRP_MJ_SYSTEM_CONTROL, minor, words)
    }

    #[allow(clippy::cast_possible_truncation, reason = "function codes fit a byte")]
    const fn unsupported(major: u32, minor: u32, words: Words) -> Self {
        Self {
            major: major as u8,
            minor: minor as u8,
            words,
            file: Ptr::null(),
            status: STATUS_NOT_SUPPORTED,
            information: 0,
        }
    }
}

/// Sends a packet to the top of the stack that `device` is in. `then` runs when every driver is done with it, on whatever thread and IRQL
/// completes it; it must not wait, and the packet is freed after it.
pub fn send_then(
    k: &Kernel,
    device: Ptr<DEVICE_OBJECT>,
    parameters: &IrpParameters,
    then: impl FnOnce(&Kernel, Ptr<IRP>) + 'static,
) -> NTSTATUS {
    let top = device::top_of_stack(device);
    let owner = Owner::Lab(Box::new(move |k, irp| {
        then(k, irp);
        irp::free(k, irp);
    }));
    let packet = irp::allocate(k, at!(top, StackSize).read(), owner);
    irp::set_status(packet, parameters.status, parameters.information);
    let location = irp::next_location(packet);
    at!(location, MajorFunction).write(parameters.major);
    at!(location, MinorFunction).write(parameters.minor);
    layout::words(location).write(parameters.words);
    layout::store(at!(location, FileObject), parameters.file);
    irp::call_driver(k, top, packet)
}

/// Sends a packet to the top of the stack that `device` is in and waits for it: its status and information.
pub fn send_and_wait(k: &Kernel, device: Ptr<DEVICE_OBJECT>, parameters: &IrpParameters) -> (NTSTATUS, u64) {
    let result = Rc::new(Cell::new(None));
    let written = Rc::clone(&result);
    let thread = k.thread_id();
    send_then(k, device, parameters, move |k, irp| {
        written.set(Some((irp::status(irp), at!(irp, IoStatus.Information).read() as u64)));
        k.wake(thread);
    });
    loop {
        if let Some(result) = result.get() {
            return result;
        }
        k.park("an IRP of the system", None);
    }
}
