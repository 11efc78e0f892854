//! Simulated threads.

use std::{cell::Cell, rc::Rc};

use crate::irql::{Irql, PASSIVE_LEVEL};

/// A thread's number, from 1 in the order they were made; 0 is no thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ThreadId(pub u32);

/// A simulated thread.
#[derive(Debug)]
pub struct Thread {
    /// Its number.
    pub id: ThreadId,
    /// What reports call it.
    pub name: Rc<str>,
    /// The level it goes on at.
    pub(super) irql: Cell<Irql>,
}

impl Thread {
    pub(super) fn new(id: ThreadId, name: &str) -> Self {
        Self { id, name: name.into(), irql: Cell::new(PASSIVE_LEVEL) }
    }
}
