//! Locks, waits that nothing ends, and loops that nothing ends.

use crate::scenario::Scenario;

defects! {
    locks_spin_lock_acquired_twice => 0x0F, _, Scenario::software();
    locks_released_without_being_held => 0x10, _, Scenario::software();
    locks_released_on_another_processor => 0xC4, 0x1004, Scenario::software();
    locks_mutex_released_by_another_thread => 0x1E, 0xC000_0046, Scenario::software();
    locks_acquired_in_both_orders => 0xC4, 0x1001, Scenario::software();
    locks_acquired_in_a_circle => 0xC4, 0x1001, Scenario::software();
    locks_mutexes_acquired_in_both_orders => 0xC4, 0x1001, Scenario::software();
    locks_held_when_a_dpc_returns => 0xC4, 0x4_0009, Scenario::edu().earlier();
    locks_queued_held_when_a_dpc_returns => 0xC4, 0x4_0006, Scenario::edu().earlier();
    locks_held_at_a_lower_level => 0xC4, 0x4_0009, Scenario::software();
    locks_critical_region_left_open => 0xC4, 0xC5, Scenario::software().earlier();
    locks_mutex_held_across_return => 0xC4, 0xC5, Scenario::software().earlier();
    locks_held_too_long => 0xC4, 0x1AB_0501, Scenario::software().earlier();
    locks_queued_acquired_twice => 0x0F, _, Scenario::software();
    locks_queued_held_too_long => 0xC4, 0x1AB_0501, Scenario::software().earlier();
    locks_queued_and_plain_mixed => 0xC4, 0x1008, Scenario::software();
    locks_initialised_while_held => 0xC4, 0x1005, Scenario::software();
    locks_freed_while_held => 0xC4, 0x100B, Scenario::software();
    locks_thread_ends_with_mutex => 0xC4, 0x100A, Scenario::software().earlier();
    locks_all_wait => 0xC4, 0x1AB_0503, Scenario::software().earlier();
    locks_processor_spins => 0xC4, 0x1AB_0502, Scenario::software();
    locks_processor_polls_a_register => 0xC4, 0x1AB_0502, Scenario::edu();
}
