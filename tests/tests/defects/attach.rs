//! Devices in a stack.

use ntlab::{machine::System, pnp::Device};

use crate::scenario::Scenario;

defects! {
    attach_still_initializing => 0xC9, 0x243, Scenario::software().earlier();
    attach_both_kinds_of_buffers => 0xC9, 0x245, Scenario::software().earlier();
    attach_buffers_not_copied => 0xC9, 0x244, Scenario::software().earlier();
    attach_type_not_copied => 0xC9, 0x246, Scenario::software().earlier();
    attach_power_flag_not_copied => 0xC9, 0x23F, Scenario::software().earlier();
    attach_detached_at_surprise_removal => 0xC9, 0x241, Scenario::software().with(pull_out).earlier();
    attach_deleted_at_surprise_removal => 0xC9, 0x242, Scenario::software().with(pull_out).earlier();
}

fn pull_out(system: &System, device: Device) {
    device.surprise_remove(system);
}
