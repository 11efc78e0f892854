//! Pool.

use crate::scenario::Scenario;

defects! {
    pool_freed_with_a_wrong_tag => 0xC2, 0xA, Scenario::software();
}
