//! Fast mutexes and `ERESOURCE`s.

use crate::scenario::Scenario;

defects! {
    mutexes_fast_acquired_twice => 0xC4, 0x1000, Scenario::software();
    mutexes_fast_released_by_another_thread => 0xC4, 0x1004, Scenario::software();
    mutexes_fast_released_without_being_owned => 0xC4, 0x1007, Scenario::software();
    mutexes_fast_acquired_in_both_orders => 0xC4, 0x1001, Scenario::software();
    mutexes_fast_held_across_return => 0xC4, 0xC5, Scenario::software().earlier();
    mutexes_fast_acquired_at_dispatch_level => 0xC4, 0x33, Scenario::software();
    mutexes_fast_released_below_apc_level => 0xC4, 0x34, Scenario::software();
    mutexes_resource_acquired_with_apcs => 0xC4, 0x37, Scenario::software();
    mutexes_resource_released_by_another_thread => 0xE3, _, Scenario::software();
    mutexes_resources_acquired_in_both_orders => 0xC4, 0x1001, Scenario::software();
    mutexes_resource_held_across_return => 0xC4, 0xC5, Scenario::software().earlier();
    mutexes_resource_shared_and_then_exclusive => 0xC4, 0x1000, Scenario::software();
    mutexes_fast_and_resource_in_both_orders => 0xC4, 0x1001, Scenario::software();
}
