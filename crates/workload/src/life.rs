//! The driver's whole life as one scenario, in which anything may fail.
//!
//! It is loaded, its devices are started and used, processors and memory are added, resources rebalanced, the system sleeps, devices are
//! disabled, enabled and pulled out, and the driver is unloaded.
//!
//! Whatever fails, every request ends with the right answer or an error that stands for a failure, nothing is left behind at unload, which
//! the lab looks at, and unload succeeds. Where nothing fails any more everything works again.

use std::path::Path;

use hotadd_abi::{INTERFACE_CLASS, TRACE_PROVIDER};
use ntlab::{
    hot_add::NewProcessor,
    machine::System,
    pnp::{Device, DeviceState},
    power::SystemState,
    registry::Value,
    user::{self, Access, Handle, Pending, Request},
};

use crate::{Load, Manner, Plan, SERVICE, Target, client};

/// Informational.
const LEVEL: u8 = 4;
/// Virtual nanoseconds in which a request must have ended.
const PATIENCE: u64 = 120_000_000_000;
/// A processor that does not start.
const DOES_NOT_START: user::Status = error(0xC000_0001);

/// The number of the device with hardware among those that are plugged in.
pub const EDU: u32 = 1;

/// The status of an error.
#[must_use]
pub const fn error(code: u32) -> user::Status {
    user::Status(code.cast_signed())
}

/// How a request may end where something failed.
pub const EXPECTED: &[user::Status] = &[
    // STATUS_NO_SUCH_DEVICE, STATUS_DELETE_PENDING, STATUS_INSUFFICIENT_RESOURCES, STATUS_DEVICE_NOT_READY, STATUS_IO_TIMEOUT
    error(0xC000_000E),
    error(0xC000_0056),
    error(0xC000_009A),
    error(0xC000_00A3),
    error(0xC000_00B5),
];

/// Lives the life of the driver in the file `sys`. Its parts are stages of the system
/// ([`begin_stage`](ntlab::machine::System::begin_stage)).
///
/// # Panics
///
/// Where a promise is broken.
pub fn live(system: &System, sys: &Path) {
    live_with(system, sys, || {});
}

/// The same with something that is done before the driver is unloaded.
///
/// # Panics
///
/// As [`live`].
pub fn live_with(system: &System, sys: &Path, before_unload: impl FnOnce()) {
    let stage = |name| system.begin_stage(name);
    stage("load");
    system.trace(TRACE_PROVIDER, LEVEL);
    system.install(crate::package(sys).with_parameter("HighMemoryNotification", Value::dword(1)));
    stage("first start");
    let devices = [system.plug(crate::quick_edu()), system.plug(crate::software())];
    stage("requests");
    use_all(system);
    under_load(system, || {
        stage("hot add");
        add(system);
        stage("rebalance");
        system.rebalance();
        stage("sleep");
        let _asleep = system.sleep_system(SystemState::S4);
    });
    stage("removal");
    for device in devices {
        let _answer = device.query_remove(system);
        let _disabled = device.disable(system);
    }
    stage("second start");
    for device in devices {
        let _enabled = device.enable(system);
    }
    use_all(system);
    if !system.is_failing() {
        system.without_faults(|| recover(system, devices));
    }
    stage("surprise removal");
    pull_out(system, devices[0]);
    before_unload();
    stage("unload");
    end(system);
}

/// What every scenario ends with: nothing of the driver's is under way, and it is unloaded, which stops the machine if it leaves anything
/// behind.
///
/// # Panics
///
/// Where a request has not ended, or the driver cannot be unloaded.
pub fn end(system: &System) {
    system.settle();
    assert_eq!(system.outstanding_requests(), Vec::<String>::new(), "every request has ended");
    // A driver whose last device went may have been unloaded then.
    if system.is_loaded(SERVICE) {
        system.unload(SERVICE).expect("a driver without devices is unloaded");
    }
    assert!(!system.is_loaded(SERVICE), "nothing is left of the driver");
}

/// Every device of the driver's that can be opened.
fn open_all(system: &System) -> Vec<Handle<'_>> {
    let links = system.interfaces(INTERFACE_CLASS);
    links.iter().filter_map(|link| system.open(link, Access::ReadWrite).ok()).collect()
}

/// Uses what there is, in every way; any of it may fail.
fn use_all(system: &System) {
    for device in open_all(system) {
        let pending = [
            device.submit(Request::Write { offset: 8, data: vec![1; 32] }),
            device.submit(Request::Read { offset: 8, length: 32 }),
            device.submit(client::journal(u64::from(u32::MAX)).0),
        ];
        let (wait, _) = client::journal(client::status(&device).map_or(0, |status| status.journal_next));
        let waiting = device.submit(wait);
        let _processors = client::processors(&device);
        let _events = client::journal_from(&device, 0);
        if let Ok(answer) = client::factorial(&device, 10) {
            assert_eq!(answer.factorial, 3_628_800, "a factorial is right or fails");
        }
        let _ends = pending.map(Pending::wait);
        // Closing ends the wait.
        device.close();
        drop(waiting.wait());
    }
}

/// Does something while requests are under way, each of which must end with the right answer or because something failed.
fn under_load(system: &System, action: impl FnOnce()) {
    let targets: Vec<_> = open_all(system).into_iter().map(Target::new).collect();
    if targets.is_empty() {
        return action();
    }
    let manner = Manner { expected: EXPECTED, pause: 200_000, ..Manner::default() };
    let load = Load::start_with(system, &targets, Plan { lanes: 4, seed: 1, cancel_one_in: 8 }, manner);
    drop(targets);
    action();
    check(load);
}

fn check(load: Load<'_>) {
    let (counts, broken) = load.stop(PATIENCE);
    assert_eq!(broken, Vec::<String>::new(), "every answer is right, or an error that stands for a failure");
    assert_eq!(counts.lost, 0, "no request is lost");
}

/// A processor, one that does not start, and memory; a processor may be refused.
fn add(system: &System) {
    let _added = system.add_processor(NewProcessor::default());
    let _failed = system.add_processor(NewProcessor { fails: Some(DOES_NOT_START), ..NewProcessor::default() });
    assert_eq!(system.add_memory(256 << 20, 0), Ok(()), "what the driver lacks is nothing to the machine");
    system.settle();
}

/// Now that nothing fails any more, everything works again but what was pulled out.
fn recover(system: &System, devices: [Device; 2]) {
    system.settle();
    let is_there = |device: &Device| !device.is_gone(system);
    for device in &devices {
        let enabled = if device.state(system) == DeviceState::Started { Ok(()) } else { device.enable(system) };
        assert!(enabled.is_ok() || !is_there(device), "a second attempt succeeds, not {enabled:?}");
    }
    let open = open_all(system);
    let answers = open.iter().filter(|device| client::factorial(device, 5).is_ok_and(|answer| answer.factorial == 120));
    let answers = answers.count();
    let there = devices.iter().filter(|device| is_there(device)).count();
    assert!((there..=devices.len()).contains(&answers), "{answers} of {there} devices work");
    drop(open);
    assert!(system.add_processor(NewProcessor::default()).is_ok(), "a processor is welcome again");
}

/// Pulls a device out that has requests.
fn pull_out(system: &System, device: Device) {
    if device.state(system) != DeviceState::Started {
        return;
    }
    under_load(system, || device.surprise_remove(system));
    system.settle();
}
