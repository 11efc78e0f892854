//! Completion routines, and IRPs that lower drivers have.

use ntlab::{
    machine::System,
    pnp::{BusManner, BusRequest, Device},
    power::SystemState,
};

use crate::scenario::Scenario;

defects! {
    completion_routine_copied => 0xC9, 0x207, Scenario::software();
    completion_routine_missing => 0xC9, 0x212, Scenario::software();
    completion_taken_back_and_forgotten => 0xC9, 0x226, Scenario::software().earlier();
    completion_not_taken_back => 0x44, _, Scenario::software();
    completion_own_irp_not_kept => 0xC9, 0x20B, Scenario::software();
    completion_own_irp_freed_and_not_kept => 0xC9, 0x20B, Scenario::software();
    completion_routine_fails => 0xC9, 0x247, Scenario::software().with(sleep).earlier();
    completion_cancel_routine_passed_down => 0xC9, 0x203, Scenario::software();
    completion_cancel_routine_set_below => 0xC9, 0x229, Scenario::software().with(rebalance_slowly).earlier();
    completion_passed_down_twice => 0xC9, 0x205, Scenario::software().with(rebalance_slowly);
    completion_while_below => 0xC9, 0x209, Scenario::software().with(rebalance_slowly);
    completion_freed_while_kept => 0xC9, 0x20B, Scenario::software();
    completion_reused_while_kept => 0xC9, 0x310, Scenario::software();
    completion_without_locations => 0x35, _, Scenario::software();
    completion_without_a_device => 0xC9, 0x204, Scenario::software();
}

fn sleep(system: &System, _: Device) {
    system.sleep_system(SystemState::S3).expect("the driver does not mind");
}

/// The bus driver pends the query.
fn rebalance_slowly(system: &System, device: Device) {
    device.set_bus_manner(system, BusRequest::QueryStop, Some(BusManner::Pends(1_000_000)));
    device.rebalance(system);
}
