//! What must not be left behind.

use crate::scenario::Scenario;

defects! {
    tracking_pool_left_at_unload => 0xC4, 0x62, Scenario::software().earlier();
}
