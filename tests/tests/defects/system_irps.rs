//! PnP and power IRPs.

use ntlab::{machine::System, pnp::Device, power::SystemState};

use crate::scenario::Scenario;

defects! {
    system_irps_sent_with_another_status => 0xC9, 0x20E, Scenario::software();
    system_irps_power_sent_with_another_status => 0xC9, 0x20F, Scenario::software();
    system_irps_unknown_information => 0xC9, 0x214, Scenario::software();
    system_irps_unknown_status_on_the_way_up => 0xC9, 0x213, Scenario::software();
    system_irps_reserved_status => 0xC9, 0x216, Scenario::software();
    system_irps_power_reserved_status => 0xC9, 0x21A, Scenario::software();
    system_irps_failed_power_passed_down => 0xC9, 0x219, Scenario::software().with(sleep);
    system_irps_completed_untouched => 0xC9, 0x22F, Scenario::software();
    system_irps_power_completed_untouched => 0xC9, 0x232, Scenario::software().with(sleep);
    system_irps_power_not_passed_down => 0xC9, 0x231, Scenario::software().with(sleep);
    system_irps_stop_failed => 0xC9, 0x247, Scenario::edu().with(rebalance);
    system_irps_removal_failed => 0xC9, 0x306, Scenario::software();
    system_irps_set_power_failed => 0xC9, 0x247, Scenario::software().with(sleep);
    system_irps_set_power_failed_later => 0xC9, 0x247, Scenario::software().with(sleep);
    system_irps_device_skipped => 0xC9, 0x211, Scenario::software();
    system_irps_requirements_not_freed => 0xC4, 0x1AB_070D, Scenario::edu().earlier();
}

fn rebalance(system: &System, device: Device) {
    device.rebalance(system);
}

fn sleep(system: &System, _: Device) {
    system.sleep_system(SystemState::S3).expect("the driver does not mind");
}
