//! Everything that Windows may do to one device, in every order.
//!
//! A sequence is made of PnP requests, power requests and the parts of hot additions, one a step. The device is in use all the time; what
//! must hold is the same after each of them.

mod play;
mod step;
mod visitors;

pub use play::play;
pub use step::{Step, of_length, shorter, up_to};
