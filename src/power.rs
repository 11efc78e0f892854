//! Power: the device is on while the system works, else off; requests wait while it is off.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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

/// The device's power state, and the work item that changes it.
pub struct PowerState {
    state: AtomicU32,
    /// Lower drivers have turned the device off, and not on again.
    off_below: AtomicBool,
    work: WorkItem<Work>,
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
        let work = WorkItem::new(TAG, device, Work(SpinLock::new(None)))?;
        Ok(Self { state: AtomicU32::new(OFF), off_below: AtomicBool::new(false), work })
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
        self.turned_on_below();
        self.state.store(ON, Ordering::Relaxed);
    }

    fn turned_on_below(&self) {
        self.off_below.store(false, Ordering::Relaxed);
    }
}

/// `IRP_MJ_POWER`. Power requests are never held, and a query is never rejected.
///
/// IRQL: PASSIVE_LEVEL.
pub fn dispatch<'a>(device: &Device<Fdo>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
    match irp.power() {
        Some(Power::SetSystem(state)) => set_system(device, irp, state, passive),
        Some(Power::SetDevice(state)) => set_device(device, irp, state, passive),
        Some(Power::QuerySystem(_) | Power::QueryDevice(_)) => {
            irp.set_status(NtStatus::SUCCESS);
            irp.pass_down(device.lower())
        }
        _ => irp.pass_down(device.lower()),
    }
}

/// The function driver owns the power policy: when lower drivers have seen the system's state, it asks for the
/// device's. Where there is no memory to ask with, the device changes its state all the same, because setting the
/// system's state must not fail.
fn set_system<'a>(
    device: &Device<Fdo>,
    irp: Irp<'a>,
    state: SystemPowerState,
    passive: Passive<'_>,
) -> Disposition<'a> {
    let wanted = device_for_system(state == SystemPowerState::Working);
    // Once it is being removed there is nothing left to change.
    let Ok(held) = device.hold() else { return irp.pass_down(device.lower()) };
    match irp.pass_down_then(device.lower(), TAG, (held, wanted), request_device_state) {
        Ok(disposition) => disposition,
        Err((irp, _)) if wanted == Wanted::D0 => turn_on_now(device, irp, || {}, passive),
        Err((irp, _)) => {
            turn_off(device, passive);
            irp.pass_down(device.lower())
        }
    }
}

/// IRQL: <= DISPATCH_LEVEL.
fn request_device_state(irp: PendedIrp, (device, wanted): (DeviceRef<Fdo>, Wanted)) {
    if !irp.status().is_success() {
        return irp.complete_as_it_is();
    }
    let state = match wanted {
        Wanted::D0 => DevicePowerState::D0,
        Wanted::D3 => DevicePowerState::D3,
    };
    // Whatever became of the device: setting the system's state must not fail.
    let done = |(irp, _device): (PendedIrp, DeviceRef<Fdo>), _: NtStatus| irp.complete_as_it_is();
    let Ok(held) = device.hold() else { return irp.complete_as_it_is() };
    if let Err((_, (irp, held))) = device.request_power(TAG, state, (irp, held), done) {
        device.power.work.later(irp, held, wanted);
        device.power.work.queue();
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
            turn_off(device, passive);
            irp.set_status(NtStatus::SUCCESS);
        }
        Action::TurnOn => return turn_on(device, irp, passive),
    }
    if asked == Wanted::D3 {
        // One that was turned on and did not come back is off already, as far as we are concerned.
        device.engines.fall_asleep(passive);
        device.power.off_below.store(true, Ordering::Relaxed);
    }
    irp.pass_down(device.lower())
}

/// Lower drivers first. They may be done at DISPATCH_LEVEL, so a work item does the rest.
fn turn_on<'a>(device: &Device<Fdo>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
    let Ok(held) = device.hold() else { return irp.pass_down(device.lower()) };
    let then = |irp: PendedIrp, held: DeviceRef<Fdo>| {
        if !irp.status().is_success() {
            held.gate.fail();
            return irp.complete_as_it_is();
        }
        held.power.turned_on_below();
        match held.hold() {
            Err(_) => irp.complete_as_it_is(),
            Ok(device) => {
                held.power.work.later(irp, device, Wanted::D0);
                held.power.work.queue();
            }
        }
    };
    match irp.pass_down_then(device.lower(), TAG, held, then) {
        Ok(disposition) => disposition,
        Err((irp, _)) => turn_on_now(device, irp, || device.power.turned_on_below(), passive),
    }
}

/// The same without memory for a completion routine. A power request should not be waited for; here it is that or a
/// device that stays off.
fn turn_on_now<'a>(
    device: &Device<Fdo>,
    mut irp: Irp<'a>,
    lower_did: impl FnOnce(),
    passive: Passive<'_>,
) -> Disposition<'a> {
    if irp.send_and_wait(device.lower(), passive).is_success() {
        lower_did();
        wake(device, passive);
    } else {
        device.gate.fail();
    }
    irp.complete_as_it_is()
}

/// What is left to do at PASSIVE_LEVEL for a power IRP that lower drivers are done with.
struct Work(SpinLock<Option<(PendedIrp, DeviceRef<Fdo>, Wanted)>>);

impl Work {
    /// The power manager sends a device one of these at a time.
    fn later(&self, irp: PendedIrp, device: DeviceRef<Fdo>, wanted: Wanted) {
        *self.0.lock() = Some((irp, device, wanted));
    }
}

impl WorkRoutine for Work {
    fn run(&self, passive: Passive<'_>) {
        let Some((irp, device, wanted)) = self.0.lock().take() else { return };
        match wanted {
            Wanted::D0 => wake(&device, passive),
            Wanted::D3 => turn_off(&device, passive),
        }
        irp.complete_as_it_is();
        // Last, because the device may go now.
        drop(device);
    }
}

/// Holds requests, lets those in flight finish, saves the device's state; nothing for a device that is off.
fn turn_off(device: &Device<Fdo>, passive: Passive<'_>) {
    if device.power.now() == Wanted::D3 {
        return;
    }
    device.gate.close(hold::POWER, device, passive);
    device.engines.sleep(passive);
    device.power.state.store(OFF, Ordering::Relaxed);
    device.report_power(DevicePowerState::D3);
    record(device, EventKind::PowerDown, NtStatus::SUCCESS);
}

/// Restores the device's state and lets requests through; where that fails, they fail too, but not the power request: a
/// function driver must not. Nothing for a device that is on; one that lower drivers have left off, because there was no memory to ask
/// them for more, does not come back.
fn wake(device: &Device<Fdo>, passive: Passive<'_>) {
    if device.power.now() == Wanted::D0 {
        return;
    }
    let off_below = device.power.off_below.load(Ordering::Relaxed);
    let woken = if off_below { Err(NtStatus::DEVICE_NOT_READY) } else { device.engines.wake(passive) };
    let status = woken.err().unwrap_or(NtStatus::SUCCESS);
    record(device, EventKind::PowerUp, status);
    if woken.is_ok() {
        device.power.turned_on();
        device.report_power(DevicePowerState::D0);
        device.gate.open(hold::POWER, device, passive);
    } else {
        device.gate.fail();
    }
}

fn record(device: &Fdo, kind: EventKind, status: NtStatus) {
    device.core.record(kind, Event { status: status.raw(), ..Event::default() });
}
