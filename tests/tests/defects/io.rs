//! IRPs.

use ntlab::{
    machine::System,
    pnp::{Device, DeviceState},
    power::SystemState,
    user::{Access, Handle, Pending, Request},
};

use crate::scenario::{CLASS, CONTROL, Scenario};

defects! {
    io_completed_twice => 0x44, _, Scenario::software();
    io_completed_with_cancel_routine => 0xC9, 0x07, Scenario::software();
    io_completed_with_pending => 0xC9, 0x06, Scenario::software();
    io_pending_not_marked => 0xC9, 0x23D, Scenario::software().earlier();
    io_mark_without_pending => 0xC9, 0x23E, Scenario::software().earlier();
    io_other_status_returned => 0xC9, 0x224, Scenario::software().earlier();
    io_neither_completed_nor_pending => 0xC9, 0x226, Scenario::software().earlier();
    io_location_not_set_up => 0xC9, 0x212, Scenario::software().with(rebalance);
    io_marked_and_skipped => 0xC9, 0x206, Scenario::software().with(rebalance);
    io_forwarded_after_completion => 0xC9, 0x03, Scenario::software();
    io_lost => 0xC4, 0x1AB_0101, Scenario::software().with(submit).earlier();
    io_left_after_cleanup => 0xC4, 0x1AB_0102, Scenario::software().with(submit_and_close).earlier();
    io_lost_at_removal => 0xC4, 0x1AB_0101, Scenario::software().with(remove).earlier();
    io_touched_after_completion => 0xCC, _, Scenario::software();
    io_buffer_touched_after_error => 0xCC, _, Scenario::software().with(direct_request);
    io_unknown_pnp_status => 0xC9, 0x213, Scenario::software();
    io_unknown_pnp_completed => 0xC9, 0x22D, Scenario::software();
    io_failed_pnp_passed_down => 0xC9, 0x215, Scenario::software().with(rebalance);
    io_pnp_not_passed_down => 0xC9, 0x22E, Scenario::software().with(rebalance);
    io_pnp_held => 0x1D5, _, Scenario::software().with(rebalance).earlier();
    io_power_held => 0x9F, 0x3, Scenario::software().patient().with(sleep).earlier();
    io_completed_above_dispatch => 0xC9, 0x0E, Scenario::edu();
    io_completion_drops_the_mark => 0xC9, 0x228, Scenario::software();
}

fn rebalance(system: &System, device: Device) {
    device.rebalance(system);
}

fn sleep(system: &System, _: Device) {
    system.sleep_system(SystemState::S3).expect("the driver does not mind");
}

fn remove(system: &System, device: Device) {
    device.disable(system).expect("nothing is open");
    assert_eq!(device.state(system), DeviceState::Disabled);
}

fn open(system: &System) -> Handle<'_> {
    system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled")
}

fn send<'k>(handle: &Handle<'k>) -> Pending<'k> {
    handle.submit(Request::Control { code: CONTROL, input: vec![], output: 0 })
}

/// A request that nobody waits for.
fn submit(system: &System, _: Device) {
    let handle = open(system);
    let pending = send(&handle);
    system.settle();
    drop(pending);
    handle.close();
}

fn submit_and_close(system: &System, _: Device) {
    let handle = open(system);
    let pending = send(&handle);
    handle.close();
    system.settle();
    drop(pending);
}

/// A request with a locked buffer, which fails.
fn direct_request(system: &System, _: Device) {
    /// `METHOD_OUT_DIRECT`.
    const OUT_DIRECT: u32 = 2;
    let handle = open(system);
    handle.device_control(CONTROL | OUT_DIRECT, &[], 16).expect_err("the driver fails it");
    handle.close();
}
