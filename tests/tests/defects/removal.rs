//! What belongs to a device.

use crate::scenario::Scenario;

defects! {
    removal_interrupt_left => 0xC4, 0x1AB_0206, Scenario::line().earlier();
    removal_adapter_left => 0xC4, 0x1AB_0707, Scenario::edu().earlier();
    removal_common_buffer_left => 0xC4, 0x1AB_0708, Scenario::edu().earlier();
    removal_work_item_left => 0xC4, 0x1AB_0701, Scenario::software().earlier();
    removal_handle_left => 0xC4, 0x1AB_0705, Scenario::software().earlier();
    removal_symbolic_link_left => 0xC4, 0x1AB_0704, Scenario::software().earlier();
    removal_wmi_provider_left => 0xC4, 0x1AB_0903, Scenario::software().earlier();
    removal_dpc_queued => 0xC7, 1, Scenario::software();
    removal_remove_lock_held => 0xC4, 0x1AB_070A, Scenario::software().earlier();
    removal_remove_lock_never_released => 0xC4, 0x1AB_0503, Scenario::software().earlier();
    removal_not_detached => 0xC9, 0x21D, Scenario::software().earlier();
}
