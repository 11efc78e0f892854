//! What must not be left behind.

use crate::scenario::Scenario;

defects! {
    tracking_pool_left_at_unload => 0xC4, 0x62, Scenario::software().earlier();
    tracking_handle_left_at_unload => 0xC4, 0x1AB_0705, Scenario::software().earlier();
    tracking_work_item_left_at_unload => 0xC4, 0x1AB_0701, Scenario::software().earlier();
    tracking_irp_left_at_unload => 0xC4, 0x1AB_0702, Scenario::software().earlier();
    tracking_symbolic_link_left_at_unload => 0xC4, 0x1AB_0704, Scenario::software().earlier();
    tracking_etw_provider_left_at_unload => 0xC4, 0xDD, Scenario::software().earlier();
    tracking_callback_left_at_unload => 0xCE, _, Scenario::software().earlier();
    tracking_timer_left_at_unload => 0xC7, 0, Scenario::software().earlier();
    tracking_thread_left_at_unload => 0xCE, _, Scenario::software().earlier();
    tracking_mdl_left_at_unload => 0xC4, 0x1AB_0901, Scenario::software().earlier();
    tracking_resource_left_at_unload => 0xC4, 0x1AB_0902, Scenario::software().earlier();
    tracking_notification_left_at_unload => 0xC4, 0x1AB_070C, Scenario::software().earlier();
    tracking_device_left_at_unload => 0xC4, 0x1AB_0703, Scenario::software().earlier();
    tracking_dpc_queued_at_unload => 0xC7, 2, Scenario::software().earlier();
    tracking_dpc_running_at_unload => 0xC7, 2, Scenario::software().earlier();
    tracking_remove_lock_held_at_unload => 0xC4, 0x1AB_070A, Scenario::software().earlier();
    tracking_interface_left_at_remove => 0xC4, 0x1AB_0709, Scenario::software().earlier();
    tracking_mapping_left_at_remove => 0xC4, 0x1AB_0706, Scenario::edu().earlier();
    tracking_device_left_at_remove => 0xC9, 0x21E, Scenario::software().earlier();
    tracking_timer_left_in_a_deleted_device => 0xC7, 0, Scenario::software().earlier();
    tracking_remove_lock_freed_while_held => 0xC4, 0x1AB_070A, Scenario::software().earlier();
    tracking_remove_lock_initialized_again => 0xC4, 0xD7, Scenario::software();
}
