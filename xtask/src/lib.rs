//! What a developer of hotadd runs, as a library.

pub mod bench;
pub mod campaign;
mod command;
pub mod demo;
pub mod docs;
pub mod drivers;
pub mod fuzz;
pub mod metadata;
pub mod package;
pub mod setup;
pub mod test;

pub use kit::{Artifacts, driver};
