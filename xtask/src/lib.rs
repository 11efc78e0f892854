//! What a developer of hotadd runs, as a library.

pub use kit::{Artifacts, driver};
