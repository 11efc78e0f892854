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
    irql_isr_sets_an_event => 0xC4, 0x80, Scenario::edu();
}

fn rebalance(system: &System, device: Device) {
    device.rebalance(system);
}
