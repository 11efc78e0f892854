//! Simulated processors.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::Thread;
use crate::irql::Irql;

/// A simulated processor.
#[derive(Debug)]
pub struct Processor {
    /// System-wide index.
    pub index: u32,
    /// Its group.
    pub group: u16,
    /// Its number in the group.
    pub number: u8,
    /// Its NUMA node.
    pub node: u16,
    pub(super) irql: Cell<Irql>,
    pub(super) thread: RefCell<Option<Rc<Thread>>>,
}

impl Processor {
    /// Its IRQL.
    pub const fn irql(&self) -> Irql {
        self.irql.get()
    }
}
