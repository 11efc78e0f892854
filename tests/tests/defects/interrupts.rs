//! Interrupts.

defects! {}
