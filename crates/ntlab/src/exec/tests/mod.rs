//! The border, the loader and faults, tested with a driver image made for it.

mod guest;
mod kernel_calls;

pub use guest::{FUNCTIONS, Guest};
