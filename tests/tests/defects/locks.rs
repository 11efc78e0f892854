//! Locks.

defects! {}
