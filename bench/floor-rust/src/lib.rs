//! `floor_rust.sys`: a function driver that completes every request in its dispatch routine, which is the least that a
//! WDM driver on crates/wdm takes for one. `bench/floor-c` is the same in C.
#![no_std]

extern crate wdk_panic;

use hotadd_abi::{FactorialInput, FactorialOutput, INTERFACE_CLASS, IOCTL_HOTADD_FACTORIAL, Wire, WireError};
use hotadd_policy::work::factorial;
use wdm::device::{Device, FoundDevice, Function, Interface, IoDevice};
use wdm::driver::{Driver, DriverObject};
use wdm::irp::{DeviceControl, Disposition, Irp, IrpRef, Pnp};
use wdm::irql::Passive;
use wdm::pool::Tag;
use wdm::processors;
use wdm::status::{NtStatus, Result};
use wdm::string::UnicodeStr;
use wdm::wdk_sys::GUID;

/// The driver has nothing of its own.
struct Floor;

wdm::driver!(Floor);

impl Driver for Floor {
    type Function = Fdo;
    const TAG: Tag = Tag::new(*b"Floo");

    fn start(_: &DriverObject, _: UnicodeStr<'_>, _: Passive<'_>) -> Result<Self> {
        Ok(Self)
    }

    fn add_device(&self, _: &DriverObject, found: FoundDevice<'_, Fdo>, passive: Passive<'_>) -> Result {
        let (data1, data2, data3, data4) = INTERFACE_CLASS;
        let class = GUID { Data1: data1, Data2: data2, Data3: data3, Data4: data4 };
        let device = found.attach(passive)?;
        let interface = Interface::register(device.pdo(), &class, passive)?;
        device.finish(Fdo { interface }, passive)
    }
}

/// What belongs to a device.
struct Fdo {
    interface: Interface,
}

impl Function for Fdo {
    fn cleanup<'a>(_: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.complete(NtStatus::SUCCESS)
    }

    fn device_control(_: IoDevice<Self>, irp: Irp<'_>, control: DeviceControl) -> Disposition<'_> {
        match answer(&irp, control) {
            Ok(bytes) => irp.complete_with(NtStatus::SUCCESS, bytes),
            Err(status) => irp.complete(status),
        }
    }

    fn pnp<'a>(device: &Device<Self>, mut irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
        match irp.pnp() {
            Some(Pnp::StartDevice { .. }) => {
                let lower = irp.send_and_wait(device.lower(), passive);
                // A stop has left it enabled.
                let started = lower.ok().and_then(|()| device.interface.set_enabled(true, passive));
                return irp.complete(started.err().unwrap_or(NtStatus::SUCCESS));
            }
            Some(Pnp::SurpriseRemoval) => disable(device, passive),
            Some(
                Pnp::QueryStopDevice
                | Pnp::CancelStopDevice
                | Pnp::StopDevice
                | Pnp::QueryRemoveDevice
                | Pnp::CancelRemoveDevice,
            ) => {}
            _ => return irp.pass_down(device.lower()),
        }
        irp.set_status(NtStatus::SUCCESS);
        irp.pass_down(device.lower())
    }

    fn remove(device: &Device<Self>, passive: Passive<'_>) {
        disable(device, passive);
    }
}

fn disable(device: &Fdo, passive: Passive<'_>) {
    // Fails where it was never enabled, which leaves it as it should be.
    let _disabled = device.interface.set_enabled(false, passive);
}

/// Answers a control code; returns how many bytes that are.
fn answer(irp: &IrpRef, control: DeviceControl) -> Result<usize> {
    if control.code == IOCTL_HOTADD_FACTORIAL {
        return answer_factorial(irp, control);
    }
    Err(NtStatus::INVALID_DEVICE_REQUEST)
}

fn answer_factorial(irp: &IrpRef, control: DeviceControl) -> Result<usize> {
    if control.input_length != FactorialInput::SIZE {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let mut bytes = [0; FactorialInput::SIZE];
    irp.read_input(&mut bytes)?;
    let input = FactorialInput::from_bytes(&bytes).map_err(|_: WireError| NtStatus::INVALID_PARAMETER)?;
    let output = FactorialOutput { factorial: factorial(input.number), processor: processors::current() };
    let mut bytes = [0; FactorialOutput::SIZE];
    output.write_to(&mut bytes).ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    irp.write_output(0, &bytes)?;
    Ok(bytes.len())
}
