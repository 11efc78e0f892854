//! The rules of hot-add.

use ntlab::{hot_add::NewProcessor, machine::System, pnp::Device};

use crate::scenario::Scenario;

defects! {
    hot_add_status_outside_add_start => 0xC4, 0x1AB_0401, Scenario::software().with(add_a_processor).earlier();
    hot_add_callback_not_deregistered => 0xCE, _, Scenario::software().earlier();
    hot_add_notification_blocks => 0xC4, 0x1AB_0404, Scenario::software().with(add_a_processor);
    hot_add_notification_fails => 0xC4, 0x1AB_0405, Scenario::software().with(add_a_processor).earlier();
    hot_add_processor_never_active => 0xC4, 0x1AB_0406, Scenario::software();
}

fn add_a_processor(system: &System, _: Device) {
    system.add_processor(NewProcessor::default()).expect("nobody objects");
    system.settle();
}
