//! What user mode may do and see.

defects! {}
