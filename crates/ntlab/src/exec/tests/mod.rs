//! The border, the loader and faults, tested with a driver image made for it.

mod faults;
mod guest;
mod image;
mod kernel_calls;
mod preemption;
mod registers;
mod runtime;
mod stack;

pub use guest::{FUNCTIONS, Guest, build};
