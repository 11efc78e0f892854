//! IRPs.

use crate::scenario::Scenario;

defects! {
    io_completed_twice => 0x44, _, Scenario::software();
}
