//! Everything that Windows may do to one device, in every order: sequences of PnP requests, power requests and hot additions, one
//! request a step, and what must hold after any of them while the device is in use.

mod play;
mod step;
mod visitors;

pub use play::play;
pub use step::{Step, of_length, up_to};
