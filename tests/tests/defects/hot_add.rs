//! The rules of hot-add.

defects! {}
