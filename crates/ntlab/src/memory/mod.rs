//! The machine's memory: one reserved range of addresses, and who may touch which page of it.

pub(crate) mod current;
pub(crate) mod fault;
pub(crate) mod host;
mod page;
mod pointer;
mod space;

use std::rc::Rc;

pub use host::PAGE;
pub use page::{Access, PageKind};
pub use pointer::{Ptr, placeholder};
pub use space::{Arena, GuardMethod, Space};

/// All memory of one machine.
#[derive(Debug)]
pub struct Memory {
    /// The addresses, and what each page is.
    pub space: Rc<Space>,
}

impl Memory {
    /// The memory of a new machine.
    ///
    /// # Panics
    /// Where the host has no address space for one.
    #[must_use]
    pub fn new() -> Self {
        let space = Space::new().unwrap_or_else(|error| panic!("the host has no address space for a machine: {error}"));
        Self { space: Rc::new(space) }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}
