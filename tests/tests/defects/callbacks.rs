//! Callbacks that return at another IRQL.

use ntlab::{hot_add::NewProcessor, machine::System, pnp::Device, user::Access};

use crate::scenario::{CLASS, CONTROL, Scenario};

defects! {
    callbacks_add_device_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    callbacks_start_io_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    callbacks_completion_returns_raised => 0xC4, 0xFA, Scenario::software().with(rebalance).earlier();
    callbacks_power_completion_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    callbacks_dpc_returns_raised => 0xC4, 0x2_001D, Scenario::edu().earlier();
    callbacks_dpc_lowers => 0xC4, 0x31, Scenario::edu();
    callbacks_isr_returns_raised => 0xC4, 0x111, Scenario::edu().earlier();
    callbacks_isr_returns_lowered => 0xC4, 0x111, Scenario::edu().earlier();
    callbacks_message_isr_returns_raised => 0xC4, 0x111, Scenario::edu().earlier();
    callbacks_synchronized_returns_raised => 0xC4, 0x2_001D, Scenario::edu().earlier();
    callbacks_list_control_returns_raised => 0xC4, 0x2_001D, Scenario::edu().with(read_directly).earlier();
    callbacks_thread_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    callbacks_work_item_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    callbacks_trace_callback_returns_raised => 0xC4, 0x2_001D, Scenario::software().with(trace).earlier();
    callbacks_notification_returns_raised => 0xC4, 0x2_001D, Scenario::software().with(add_a_processor).earlier();
    callbacks_processor_change_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
}

const METHOD_OUT_DIRECT: u32 = 2;
const PROVIDER: (u32, u16, u16, [u8; 8]) =
    (0xD5B1_5A3C, 0x7A44, 0x4E6B, [0x8C, 0x21, 0x0F, 0x3A, 0x55, 0xD2, 0x91, 0x6F]);

fn rebalance(system: &System, device: Device) {
    device.rebalance(system);
}

fn read_directly(system: &System, _: Device) {
    let handle = system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled");
    handle.device_control(CONTROL | METHOD_OUT_DIRECT, &[], 64).expect("the driver takes any request");
    handle.close();
}

fn trace(system: &System, _: Device) {
    system.trace(PROVIDER, 5);
}

fn add_a_processor(system: &System, _: Device) {
    system.add_processor(NewProcessor::default()).expect("nobody objects");
    system.settle();
}
