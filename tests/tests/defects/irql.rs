//! IRQL.

use ntlab::{machine::System, pnp::Device};

use crate::scenario::Scenario;

defects! {
    irql_raised_to_a_lower_level => 0xC4, 0x30, Scenario::software();
    irql_lowered_to_a_higher_level => 0xC4, 0x31, Scenario::software();
    irql_load_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    irql_unload_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    irql_pnp_returns_raised => 0xC9, 5, Scenario::software().with(rebalance).earlier();
    irql_dpc_waits => 0xC4, 0x122, Scenario::edu();
    irql_wait_without_end_at_dispatch_level => 0xC4, 0x121, Scenario::software();
    irql_wait_for_several_at_dispatch_level => 0xC4, 0x122, Scenario::software();
    irql_delay_at_dispatch_level => 0xC4, 0xE5, Scenario::software();
    irql_zw_function_at_dispatch_level => 0xC4, 0xE6, Scenario::software();
    irql_spin_lock_acquired_at_dpc_level_below_it => 0xC4, 0x40, Scenario::software();
    irql_spin_lock_released_from_dpc_level_below_it => 0xC4, 0x41, Scenario::software();
    irql_spin_lock_released_at_another_level => 0xC4, 0x32, Scenario::software();
    irql_isr_acquires_a_spin_lock => 0xC4, 0x42, Scenario::edu();
    irql_next_packet_started_below_dispatch_level => 0xC4, 0xE5, Scenario::software();
    irql_isr_sets_an_event => 0xC4, 0x80, Scenario::edu();
}

fn rebalance(system: &System, device: Device) {
    device.rebalance(system);
}
