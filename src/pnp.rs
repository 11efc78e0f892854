//! PnP: what [`hotadd_policy::pnp`] decides, done in the order that the documents ask for.

use hotadd_abi::{Event, EventKind, hold};
use hotadd_policy::interrupt::{Policy, requested};
use hotadd_policy::pnp::{Action, Request, Transition, decide, usage_forbids};
use wdm::device::Device;
use wdm::irp::{Disposition, Irp, Pnp, Usage};
use wdm::irql::Passive;
use wdm::resources::AffinityPolicy;
use wdm::status::{NtStatus, Result};

use crate::device::Fdo;

/// The reasons for holding requests that a start puts an end to; a device that has just been started is on, too.
const START_ENDS: u32 = hold::NOT_STARTED | hold::PNP_STOP | hold::QUERY_REMOVE | hold::POWER;

/// `IRP_MJ_PNP`, but for `IRP_MN_REMOVE_DEVICE`. PnP requests are never held.
///
/// IRQL: PASSIVE_LEVEL.
pub fn dispatch<'a>(device: &Device<Fdo>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
    let request = match irp.pnp() {
        Some(Pnp::StartDevice { .. }) => Request::Start,
        Some(Pnp::QueryStopDevice) => Request::QueryStop,
        Some(Pnp::CancelStopDevice) => Request::CancelStop,
        Some(Pnp::StopDevice) => Request::Stop,
        Some(Pnp::QueryRemoveDevice) => Request::QueryRemove,
        Some(Pnp::CancelRemoveDevice) => Request::CancelRemove,
        Some(Pnp::SurpriseRemoval) => Request::SurpriseRemoval,
        Some(Pnp::QueryCapabilities) => return query_capabilities(device, irp, passive),
        Some(Pnp::FilterResourceRequirements) => return filter_requirements(device, irp, passive),
        Some(Pnp::UsageNotification { in_path, usage }) => {
            return usage_notification(device, irp, in_path, usage, passive);
        }
        _ => return irp.pass_down(device.lower()),
    };
    let files_in_path = device.pnp.files_in_path();
    let transition = decide(device.pnp.state(), request);
    if usage_forbids(request, files_in_path) && transition.action != Action::PassDown {
        record(device, request, NtStatus::DEVICE_BUSY, files_in_path);
        return irp.complete(NtStatus::DEVICE_BUSY);
    }
    carry_out(device, irp, request, transition, passive)
}

fn carry_out<'a>(
    device: &Device<Fdo>,
    irp: Irp<'a>,
    request: Request,
    transition: Transition,
    passive: Passive<'_>,
) -> Disposition<'a> {
    let fdo: &Fdo = device;
    let (gate, engines) = (&fdo.gate, &fdo.engines);
    match transition.action {
        Action::Reject => return irp.complete(NtStatus::INVALID_DEVICE_STATE),
        Action::Start | Action::Restart => return start(device, irp, transition, passive),
        Action::EndStop => return resume(device, irp, request, transition, hold::PNP_STOP, passive),
        Action::EndRemoval => return resume(device, irp, request, transition, hold::QUERY_REMOVE, passive),
        // The wdm crate hands removal to `remove`.
        Action::PassDown | Action::Remove => {}
        Action::HoldForStop => gate.close(hold::PNP_STOP, device, passive),
        Action::HoldForRemoval => gate.close(hold::QUERY_REMOVE, device, passive),
        Action::Stop => {
            gate.close(hold::PNP_STOP, device, passive);
            engines.stop(true, passive);
        }
        Action::LoseDevice => lose(device, true, passive),
    }
    fdo.pnp.enter(transition.next);
    record(fdo, request, NtStatus::SUCCESS, 0);
    succeed(device, irp)
}

/// Passes the request down as one that we have no objection to.
fn succeed<'a>(device: &Device<Fdo>, irp: Irp<'a>) -> Disposition<'a> {
    irp.set_status(NtStatus::SUCCESS);
    irp.pass_down(device.lower())
}

/// A start, the first or after a stop: lower drivers, the hardware, the interface, then the requests that wait. How
/// those end does not change how the start ends.
fn start<'a>(device: &Device<Fdo>, mut irp: Irp<'a>, transition: Transition, passive: Passive<'_>) -> Disposition<'a> {
    let fdo: &Fdo = device;
    let restart = transition.action == Action::Restart;
    let started = bring_up(device, &mut irp, restart, passive);
    let kind = if restart { EventKind::DeviceRestarted } else { kind(Request::Start) };
    let status = started.err().unwrap_or(NtStatus::SUCCESS);
    if started.is_ok() {
        fdo.pnp.enter(transition.next);
        if restart {
            fdo.core.count_rebalance();
        }
    }
    fdo.core.record(kind, Event { status: status.raw(), ..Event::default() });
    if started.is_ok() {
        fdo.gate.open(START_ENDS, device, passive);
    }
    irp.complete(status)
}

fn bring_up(device: &Device<Fdo>, irp: &mut Irp<'_>, restart: bool, passive: Passive<'_>) -> Result {
    let fdo: &Fdo = device;
    irp.send_and_wait(device.lower(), passive).ok()?;
    let Some(Pnp::StartDevice { translated, .. }) = irp.pnp() else { return Err(NtStatus::INVALID_DEVICE_REQUEST) };
    fdo.engines.start(device, translated, passive)?;
    // A stop leaves the interface enabled.
    if !restart {
        let enabled = fdo.interface.set_enabled(true, passive);
        enabled.inspect_err(|_| fdo.engines.stop(false, passive))?;
    }
    fdo.power.turned_on();
    device.report_power(wdm::irp::DevicePowerState::D0);
    Ok(())
}

/// A stop or removal was cancelled: lower drivers first, then the requests that wait.
fn resume<'a>(
    device: &Device<Fdo>,
    mut irp: Irp<'a>,
    request: Request,
    transition: Transition,
    reason: u32,
    passive: Passive<'_>,
) -> Disposition<'a> {
    let fdo: &Fdo = device;
    // A cancel cannot fail, whatever lower drivers answer.
    irp.send_and_wait(device.lower(), passive);
    fdo.pnp.enter(transition.next);
    record(fdo, request, NtStatus::SUCCESS, 0);
    fdo.gate.open(reason, device, passive);
    irp.complete(NtStatus::SUCCESS)
}

/// Requests that wait fail now, none comes after them, those in flight end, and the hardware is let go. What is in flight on hardware that
/// is there is waited for; the watchdog sees to it that it ends.
#[inline(never)]
fn lose(device: &Device<Fdo>, is_gone: bool, passive: Passive<'_>) {
    let hurry = || {
        if is_gone {
            device.engines.abandon(NtStatus::DELETE_PENDING);
        }
    };
    device.gate.refuse(device, hurry, passive);
    device.engines.stop(false, passive);
    // Fails where it was never enabled, which leaves it as it should be.
    let _disabled = device.interface.set_enabled(false, passive);
}

/// `IRP_MN_REMOVE_DEVICE`.
///
/// IRQL: PASSIVE_LEVEL.
pub fn remove(device: &Device<Fdo>, passive: Passive<'_>) {
    let state = device.pnp.state();
    lose(device, false, passive);
    device.pnp.enter(decide(state, Request::Remove).next);
    record(device, Request::Remove, NtStatus::SUCCESS, 0);
}

wdm::pageable! {
    fn query_capabilities<'a>(device: &Device<Fdo>, mut irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
        if irp.send_and_wait(device.lower(), passive).is_success()
            && let Some(capabilities) = irp.capabilities()
        {
            capabilities.set_surprise_removal_ok();
        }
        irp.complete_as_it_is()
    }
}

fn filter_requirements<'a>(device: &Device<Fdo>, mut irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
    // Where a lower driver has failed, that is the answer.
    let (count, status) = match ask_for_all_processors(device, &mut irp, passive) {
        Ok(edited) => (edited, NtStatus::SUCCESS),
        Err(status) => (0, status),
    };
    let event = Event { count, status: status.raw(), ..Event::default() };
    device.core.record(EventKind::RequirementsFiltered, event);
    irp.complete_as_it_is()
}

wdm::pageable! {
    /// Asks for interrupts on all processors, unless somebody has chosen a policy. Lower drivers make the list first.
    /// Returns how many interrupts had none.
    fn ask_for_all_processors(device: &Device<Fdo>, irp: &mut Irp<'_>, passive: Passive<'_>) -> Result<u64> {
        irp.send_and_wait(device.lower(), passive);
        let mut edited = 0;
        let Some(mut requirements) = irp.requirements(passive)? else { return Ok(edited) };
        requirements.for_each_interrupt(|interrupt| {
            let current = interrupt.policy().map_or(Policy::MACHINE_DEFAULT, Policy);
            let Some(policy) = requested(current, interrupt.is_message()) else { return };
            interrupt.set_policy(if policy == Policy::SPREAD_MESSAGES {
                AffinityPolicy::SpreadMessagesAcrossAllProcessors
            } else {
                AffinityPolicy::AllProcessorsInMachine
            });
            edited += 1;
        });
        Ok(edited)
    }
}

/// Counts the files that keep the device from being stopped; lower drivers have their say first.
fn usage_notification<'a>(
    device: &Device<Fdo>,
    mut irp: Irp<'a>,
    in_path: bool,
    usage: Usage,
    passive: Passive<'_>,
) -> Disposition<'a> {
    if matches!(usage, Usage::Other(_)) {
        return irp.pass_down(device.lower());
    }
    if irp.send_and_wait(device.lower(), passive).is_success() {
        let files = device.pnp.count_file(in_path);
        device.core.record(EventKind::UsageChanged, Event { count: files.into(), ..Event::default() });
    }
    irp.complete_as_it_is()
}

#[inline(never)]
fn record(device: &Fdo, request: Request, status: NtStatus, files_in_path: u32) {
    device.core.record(kind(request), Event { status: status.raw(), count: files_in_path.into(), ..Event::default() });
}

/// What the journal calls a request that was carried out.
const fn kind(request: Request) -> EventKind {
    match request {
        Request::Start => EventKind::DeviceStarted,
        Request::QueryStop => EventKind::QueryStop,
        Request::CancelStop => EventKind::CancelStop,
        Request::Stop => EventKind::DeviceStopped,
        Request::QueryRemove => EventKind::QueryRemove,
        Request::CancelRemove => EventKind::CancelRemove,
        Request::SurpriseRemoval => EventKind::SurpriseRemoved,
        Request::Remove => EventKind::DeviceRemoved,
    }
}
