//! Interrupts.

use ntlab::{
    machine::System,
    pnp::{Device, DeviceSpec, DeviceState},
};

use crate::scenario::{Scenario, request};

defects! {
    interrupts_storm => 0xF2, _, Scenario::line().with(request_and_wait).earlier();
    interrupts_false_claim => 0xC4, 0x1AB_0201, Scenario::line().with(share_the_line).earlier();
    interrupts_dpc_after_stop => 0xC4, 0x1AB_0202, Scenario::edu().with(rebalance_during_a_dpc);
    interrupts_registers_after_stop => 0xC4, 0x1AB_0203, Scenario::edu().with(rebalance);
    interrupts_registers_after_unmap => 0x50, _, Scenario::edu().with(rebalance);
    interrupts_connected_after_stop => 0xC4, 0x1AB_0206, Scenario::edu().with(rebalance);
    interrupts_disconnected_as_another => 0xC4, 0x1AB_0205, Scenario::edu().with(rebalance);
    interrupts_connected_at_another_level => 0xC4, 0x1AB_0205, Scenario::line();
    interrupts_connected_in_another_mode => 0xC4, 0x1AB_0205, Scenario::line();
    interrupts_lock_of_none => 0xC4, 0x1AB_0205, Scenario::edu().with(rebalance);
    interrupts_registers_powered_down => 0xC4, 0x1AB_0204, Scenario::edu();
}

/// A storm takes its time.
fn request_and_wait(system: &System, device: Device) {
    request(system, device);
    system.sleep(1_000_000_000);
}

/// How many lines PCI functions share.
const LINES: usize = 8;

/// A second device with the same line.
fn share_the_line(system: &System, device: Device) {
    for _ in 1..LINES {
        system.plug(DeviceSpec::software(r"ROOT\NOBODY"));
    }
    let second = system.plug(hotadd_tests::quick_edu().with_line_interrupts_only());
    assert_eq!(second.state(system), DeviceState::Started, "the device starts");
    request(system, device);
}

fn rebalance(system: &System, device: Device) {
    device.rebalance(system);
}

/// The DPC of the request's interrupt takes long enough to run when the device is stopped.
fn rebalance_during_a_dpc(system: &System, device: Device) {
    system.spawn("user", move |system| request(system, device));
    system.sleep(10_000_000);
    device.rebalance(system);
}
