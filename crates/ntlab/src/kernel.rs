//! All state of one machine.

use crate::choices::Choices;

/// One simulated machine: what its kernel knows. Lives on one OS thread; every part has interior mutability, and no part keeps a
/// borrow over a call into the driver or a scheduling point.
#[derive(Debug)]
pub struct Kernel {
    /// Everything that is left to chance.
    pub choices: Choices,
}
