//! From where in the driver the calls that can fail came.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt,
};

use serde::{Deserialize, Serialize};

use super::table::CanFail;
use crate::kernel::Kernel;

/// A call that can fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// From where it came.
    pub site: Site,
    /// The number of the first such call among the calls of the run that can fail, from 1.
    pub number: u64,
    /// In how many ways it can fail.
    pub failures: usize,
    /// Whether that first one failed.
    pub failed: bool,
}

/// What tells a call apart from others.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Site {
    /// The stage of the scenario.
    pub stage: String,
    /// The function.
    pub function: String,
    /// The driver's stack, innermost first: offsets in its image. What an interrupt or DPC interrupted is not part of it.
    pub stack: Vec<u32>,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} during {}, from", self.function, self.stage)?;
        self.stack.iter().try_for_each(|offset| write!(f, " {offset:#x}"))
    }
}

/// The calls that there were.
#[derive(Debug)]
pub struct Seen {
    pub stage: Cell<&'static str>,
    known: RefCell<BTreeSet<(&'static str, &'static str, Vec<u32>)>>,
    calls: RefCell<Vec<Call>>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { stage: Cell::new("start"), known: RefCell::default(), calls: RefCell::default() }
    }
}

impl Seen {
    /// Notes a call, unless there was such a call before.
    pub fn note(&self, k: &Kernel, number: u64, row: &CanFail, failed: bool) {
        let stack = k.exec.offsets_of(&k.exec.uninterrupted_stack());
        let key = (self.stage.get(), row.name, stack);
        if self.known.borrow().contains(&key) {
            return;
        }
        let site = Site { stage: key.0.to_owned(), function: row.name.to_owned(), stack: key.2.clone() };
        self.calls.borrow_mut().push(Call { site, number, failures: row.failures.len(), failed });
        self.known.borrow_mut().insert(key);
    }

    /// Takes them, in the order of their first time.
    pub fn take(&self) -> Vec<Call> {
        self.known.borrow_mut().clear();
        self.calls.take()
    }
}
