//! The Plug and Play manager, its buses and its arbiter.

pub mod arbiter;
pub mod resources;
