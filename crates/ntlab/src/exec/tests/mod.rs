//! The border, the loader and faults, tested with a driver image made for it.

mod counting;
mod faults;
mod generated;
mod guest;
mod image;
mod kernel_calls;
mod preemption;
mod registers;
mod runtime;
mod stack;

pub use generated::note_trap;
pub use guest::{FUNCTIONS, Guest, build};
