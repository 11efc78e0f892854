//! Pageable code and data.

defects! {}
