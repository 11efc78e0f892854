//! Pageable code and data.

use crate::scenario::Scenario;

defects! {
    paging_pool_touched_at_dispatch_level => 0xD1, _, Scenario::software();
    paging_section_of_code_run_at_dispatch_level => 0xD1, _, Scenario::software();
    paging_section_of_data_touched_at_dispatch_level => 0xD1, _, Scenario::software();
    paging_event_in_paged_pool_set_at_dispatch_level => 0x0A, _, Scenario::software();
    paging_pool_touched_by_a_dpc => 0xD1, _, Scenario::edu();
    paging_pool_touched_by_an_isr => 0xD1, _, Scenario::edu();
    paging_pool_touched_at_a_late_raise => 0xD1, _, Scenario::software();
    paging_dpc_in_a_pageable_section => 0xD1, _, Scenario::software().earlier();
    paging_init_section_read_after_load => 0x50, _, Scenario::software();
    paging_init_section_run_after_load => 0x50, _, Scenario::software();
}
