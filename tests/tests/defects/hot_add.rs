//! The rules of hot-add.

use ntlab::{hot_add::NewProcessor, machine::System, pnp::Device};

use crate::scenario::Scenario;

defects! {
    hot_add_status_outside_add_start => 0xC4, 0x1AB_0401, Scenario::software().with(add_a_processor).earlier();
    hot_add_callback_not_deregistered => 0xCE, _, Scenario::software().earlier();
    hot_add_notification_blocks => 0xC4, 0x1AB_0404, Scenario::software().with(add_a_processor);
    hot_add_notification_fails => 0xC4, 0x1AB_0405, Scenario::software().with(add_a_processor).earlier();
    hot_add_processor_never_active => 0xC4, 0x1AB_0406, Scenario::software();
    hot_add_dpc_target_never_active => 0xC4, 0x1AB_0406, Scenario::software();
    hot_add_thread_on_a_processor_never_active => 0xC4, 0x1AB_0406, Scenario::software();
    hot_add_interrupt_on_a_processor_never_active => 0xC4, 0x1AB_0406, Scenario::line();
    hot_add_status_is_no_error => 0xC4, 0x1AB_0401, Scenario::software().with(add_a_processor).earlier();
    hot_add_change_context_written => 0xC4, 0x1AB_0402, Scenario::software().with(add_a_processor).earlier();
    hot_add_callback_deregistered_twice => 0xC4, 0x1AB_0403, Scenario::software();
    hot_add_notification_unregistered_twice => 0xC4, 0x1AB_0403, Scenario::software();
}

fn add_a_processor(system: &System, _: Device) {
    system.add_processor(NewProcessor::default()).expect("nobody objects");
    system.settle();
}
