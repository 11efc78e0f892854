//! The kernel stack.

defects! {}
