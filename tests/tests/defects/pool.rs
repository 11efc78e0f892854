//! Pool.

use crate::scenario::Scenario;

defects! {
    pool_freed_with_a_wrong_tag => 0xC2, 0xA, Scenario::software();
    pool_written_beyond_the_end => 0xD6, _, Scenario::software().verify_end();
    pool_written_far_beyond_the_end => 0xD6, _, Scenario::software().verify_end();
    pool_end_given_to_the_kernel => 0xCD, _, Scenario::software().verify_end();
    pool_written_behind_an_odd_end => 0xC1, _, Scenario::software();
    pool_written_before_the_start => 0xC1, _, Scenario::software().verify_end();
    pool_underrun => 0xD6, _, Scenario::software().verify_start();
    pool_read_before_the_start => 0xD6, _, Scenario::software().verify_start();
    pool_page_read_before_the_start => 0xD6, _, Scenario::software();
    pool_read_after_it_was_freed => 0xD5, _, Scenario::software();
    pool_written_after_it_was_freed => 0xD5, _, Scenario::software();
    pool_freed_and_given_to_the_kernel => 0xCC, _, Scenario::software();
    pool_freed_twice => 0xC4, 0x13, Scenario::software();
    pool_freed_in_the_middle => 0xC4, 0x13E, Scenario::software();
    pool_freed_that_is_none => 0xC4, 0x10, Scenario::software();
    pool_of_no_bytes => 0xC4, 0, Scenario::software();
    pool_paged_allocated_at_dispatch_level => 0xC4, 1, Scenario::software();
    pool_paged_freed_at_dispatch_level => 0xC4, 0x11, Scenario::software();
    pool_freed_with_a_timer_that_is_set => 0xC7, 0, Scenario::software();
    pool_freed_with_a_dpc_that_is_queued => 0xC7, 1, Scenario::software();
    pool_freed_with_a_lock_that_is_held => 0xC4, 0x100B, Scenario::software();
    pool_freed_with_a_work_item_that_is_queued => 0xC4, 0x1AB_070B, Scenario::software().on_one_processor();
}
