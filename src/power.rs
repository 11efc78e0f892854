//! Power: the device is on while the system works, else off; requests wait while it is off.

use core::sync::atomic::{AtomicU32, Ordering};

use hotadd_abi::{Event, EventKind, hold};
use hotadd_policy::power::{Action, Device as Wanted, decide, device_for_system};
use wdm::device::{Device, DeviceRef, NewDevice};
use wdm::irp::{DevicePowerState, Disposition, Irp, PendedIrp, Power, SystemPowerState};
use wdm::irql::Passive;
use wdm::lock::SpinLock;
use wdm::status::{NtStatus, Result};
use wdm::work::{WorkItem, WorkRoutine};

use crate::TAG;
use crate::device::Fdo;

/// The numbers of the states in the status structure.
const ON: u32 = 0;
const OFF: u32 = 3;

/// The device's power state, and what turns it on again.
pub struct PowerState {
    state: AtomicU32,
    turn_on: WorkItem<TurnOn>,
}

impl PowerState {
    /// Off, until the device is started.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(device: &NewDevice<Fdo>) -> Result<Self> {
        let turn_on = WorkItem::new(TAG, device, TurnOn(SpinLock::new(None)))?;
        Ok(Self { state: AtomicU32::new(OFF), turn_on })
    }

    /// As a number of the status structure.
    pub fn code(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    fn now(&self) -> Wanted {
        if self.code() == ON { Wanted::D0 } else { Wanted::D3 }
    }

    /// Notes that the device is on: a start does that too.
    pub fn turned_on(&self) {
        self.state.store(ON, Ordering::Relaxed);
    }
}

/// `IRP_MJ_POWER`. Power requests are never held, and a query is never rejected.
///
/// IRQL: PASSIVE_LEVEL.
pub fn dispatch<'a>(device: &Device<Fdo>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
    match irp.power() {
        Some(Power::SetSystem(state)) => set_system(device, irp, state),
        Some(Power::SetDevice(state)) => set_device(device, irp, state, passive),
        Some(Power::QuerySystem(_) | Power::QueryDevice(_)) => {
            irp.set_status(NtStatus::SUCCESS);
            irp.pass_down(device.lower())
        }
        _ => irp.pass_down(device.lower()),
    }
}

/// The function driver owns the power policy: when lower drivers have seen the system's state, it asks for the device's.
fn set_system<'a>(device: &Device<Fdo>, irp: Irp<'a>, state: SystemPowerState) -> Disposition<'a> {
    let wanted = match device_for_system(state == SystemPowerState::Working) {
        Wanted::D0 => DevicePowerState::D0,
        Wanted::D3 => DevicePowerState::D3,
    };
    let held = match device.hold() {
        Ok(held) => held,
        Err(status) => return irp.complete(status),
    };
    match irp.pass_down_then(device.lower(), TAG, (held, wanted), request_device_state) {
        Ok(disposition) => disposition,
        Err((irp, (held, _))) => {
            // Setting the system's state must not fail; the device stays as it is, and the journal tells.
            record(&held, wanted, NtStatus::INSUFFICIENT_RESOURCES);
            irp.pass_down(device.lower())
        }
    }
}

/// IRQL: <= DISPATCH_LEVEL.
fn request_device_state(irp: PendedIrp, (device, wanted): (DeviceRef<Fdo>, DevicePowerState)) {
    if !irp.status().is_success() {
        return irp.complete_as_it_is();
    }
    let held = match device.hold() {
        Ok(held) => held,
        Err(status) => return irp.complete(status),
    };
    let done = |(irp, _held): (PendedIrp, DeviceRef<Fdo>), status: NtStatus| irp.complete(status);
    if let Err((status, (irp, held))) = device.request_power(TAG, wanted, (irp, held), done) {
        record(&held, wanted, status);
        irp.complete(status);
    }
}

fn set_device<'a>(
    device: &Device<Fdo>,
    irp: Irp<'a>,
    state: DevicePowerState,
    passive: Passive<'_>,
) -> Disposition<'a> {
    let asked = if state == DevicePowerState::D0 { Wanted::D0 } else { Wanted::D3 };
    match decide(device.power.now(), asked) {
        Action::PassDown => {}
        Action::TurnOff => {
            device.gate.close(hold::POWER, &device.engines, passive);
            device.engines.sleep(passive);
            device.power.state.store(OFF, Ordering::Relaxed);
            device.report_power(state);
            record(device, state, NtStatus::SUCCESS);
            irp.set_status(NtStatus::SUCCESS);
        }
        Action::TurnOn => return turn_on(device, irp),
    }
    irp.pass_down(device.lower())
}

/// Lower drivers first. They may be done at DISPATCH_LEVEL, so a work item does the rest.
fn turn_on<'a>(device: &Device<Fdo>, irp: Irp<'a>) -> Disposition<'a> {
    let held = match device.hold() {
        Ok(held) => held,
        Err(status) => return irp.complete(status),
    };
    let then = |irp: PendedIrp, held: DeviceRef<Fdo>| {
        if !irp.status().is_success() {
            return irp.complete_as_it_is();
        }
        let device = held.hold();
        match device {
            Err(status) => irp.complete(status),
            Ok(device) => {
                // The power manager sends one of these at a time.
                *held.power.turn_on.0.lock() = Some((irp, device));
                held.power.turn_on.queue();
            }
        }
    };
    match irp.pass_down_then(device.lower(), TAG, held, then) {
        Ok(disposition) => disposition,
        Err((irp, held)) => {
            record(&held, DevicePowerState::D0, NtStatus::INSUFFICIENT_RESOURCES);
            irp.complete(NtStatus::INSUFFICIENT_RESOURCES)
        }
    }
}

/// The IRP that turns the device on, once lower drivers are done with it.
struct TurnOn(SpinLock<Option<(PendedIrp, DeviceRef<Fdo>)>>);

impl WorkRoutine for TurnOn {
    fn run(&self, passive: Passive<'_>) {
        let Some((irp, device)) = self.0.lock().take() else { return };
        let woken = device.engines.wake(passive);
        let status = woken.err().unwrap_or(NtStatus::SUCCESS);
        record(&device, DevicePowerState::D0, status);
        if woken.is_ok() {
            device.power.turned_on();
            device.report_power(DevicePowerState::D0);
            device.gate.open(hold::POWER, &device.engines, passive);
        }
        irp.complete(status);
        // Last, because the device may go now.
        drop(device);
    }
}

fn record(device: &Fdo, state: DevicePowerState, status: NtStatus) {
    let kind = if state == DevicePowerState::D0 { EventKind::PowerUp } else { EventKind::PowerDown };
    device.core.record(kind, Event { status: status.raw(), ..Event::default() });
}
