//! The kernel stack.

use crate::scenario::Scenario;

defects! {
    stack_recursion => 0x7F, 8, Scenario::software();
    stack_frame_larger_than_the_stack => 0x7F, 8, Scenario::software();
}
