//! Packets that no driver will complete any more.
//!
//! A request may wait for good only where it can be cancelled ("Canceling IRPs"): one without a cancel routine that drivers have kept
//! for [`PATIENCE`], or that is still there when nothing can happen any more or its device is gone, is lost.

use windows_sys::Wdk::{Foundation::DEVICE_OBJECT, System::SystemServices::FO_CLEANUP_COMPLETE};

use super::{device, driver, layout, packet::UnderWay, remove_lock};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr, rule::Rule};

/// How long drivers may keep a request that cannot be cancelled, or whose handle is closed, in virtual nanoseconds: 2 minutes.
pub const PATIENCE: u64 = 120_000_000_000;

/// Why a request counts as lost unless it is completed soon.
fn rule_of(packet: &UnderWay) -> Option<Rule> {
    if !packet.is_users {
        return None;
    }
    let file = layout::load(at!(packet.irp, Tail.Overlay.OriginalFileObject));
    if !file.is_null() && at!(file, Flags).read() & FO_CLEANUP_COMPLETE != 0 {
        return Some(Rule::LeftAfterCleanup);
    }
    (at!(packet.irp, CancelRoutine).cast::<u64>().read() == 0).then_some(Rule::LostIrp)
}

/// Whether none of the packets up to number `last` is a request that would be lost if it stayed with drivers.
pub fn none(k: &Kernel, last: u64) -> bool {
    k.io.irps.under_way(last).iter().all(|packet| rule_of(packet).is_none())
}

/// Stops the run if one of the packets up to number `last` is a request that is lost; `when` says since when nothing could be expected of
/// the drivers any more.
pub fn check(k: &Kernel, last: u64, when: &str) {
    if let Some(finding) = find(k, last, when) {
        finding.raise();
    }
}

/// The first request, of the packets up to number `last`, that is lost.
pub fn find(k: &Kernel, last: u64, when: &str) -> Option<Finding> {
    let packets = k.io.irps.under_way(last);
    packets.iter().find_map(|packet| Some(finding(k, rule_of(packet)?, packet, when)))
}

/// Stops the run if a packet is still with the driver of one of these devices.
pub fn check_devices(k: &Kernel, devices: &[Ptr<DEVICE_OBJECT>], when: &str) {
    let packets = k.io.irps.under_way(u64::MAX);
    let has_one = |packet: &&UnderWay| packet.devices.iter().any(|device| devices.contains(device));
    if let Some(packet) = packets.iter().find(has_one) {
        finding(k, Rule::LostIrp, packet, when).raise();
    }
}

fn finding(k: &Kernel, rule: Rule, packet: &UnderWay, when: &str) -> Finding {
    let what = match rule {
        Rule::LeftAfterCleanup => "was not completed though its handle is closed",
        _ => "was never completed",
    };
    let (seen, routine) = last_seen(k, packet);
    let sentence = format!("{} {what}: {when}; {seen}", packet.title);
    rule.broken([packet.irp.address(), 0, 0], sentence).with_stack("the dispatch routine that has it", &routine)
}

/// What is found where drivers kept a packet of the system's for too long.
pub fn kept(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, code: u32, parameters: [u64; 4], sentence: &str) -> Finding {
    let packets = k.io.irps.under_way(u64::MAX);
    let stack = device::stack_above(pdo);
    let is_it = |packet: &&UnderWay| !packet.is_users && packet.devices.iter().any(|device| stack.contains(device));
    let Some(packet) = packets.iter().find(is_it) else { return Finding::bug_check(code, parameters, sentence) };
    let (seen, routine) = last_seen(k, packet);
    let [first, .., fourth] = parameters;
    let parameters = if fourth == 0 { [first, pdo.address(), 0, packet.irp.address()] } else { parameters };
    let finding = Finding::bug_check(code, parameters, format!("{sentence}: {}, {seen}", packet.title))
        .with_stack("the dispatch routine that has it", &routine);
    remove_lock::with_holders(k, finding)
}

/// Where a packet was last seen, and the dispatch routine that it was given to there.
fn last_seen(k: &Kernel, packet: &UnderWay) -> (String, Vec<u64>) {
    let since = packet.sent / 1000;
    let routine = if driver::at_address(k, packet.routine).is_some() { vec![packet.routine] } else { Vec::new() };
    let Some(&lowest) = packet.devices.last() else { return (format!("last sent at {since} us"), routine) };
    if device::number(k, lowest) == 0 {
        return (format!("last seen at {since} us with a device that is deleted"), routine);
    }
    let driver = device::driver_of(lowest);
    let number = device::number(k, lowest);
    let place =
        format!("last seen with driver {}, device {number}, which got it at {since} us", driver::name_of(k, driver));
    (place, routine)
}
