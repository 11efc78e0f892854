//! Which code followed which on another processor or thread: what of the possible interleavings a run, or many, have seen.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashSet},
};

use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;

/// A place in a driver: where it called a kernel function, or where a function starts that the kernel called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct Site {
    /// The number of the image, in the order in which they were loaded; an image that is loaded again keeps its number.
    pub image: u32,
    /// The offset in it.
    pub offset: u32,
}

impl From<(u32, u32)> for Site {
    fn from((image, offset): (u32, u32)) -> Self {
        Self { image, offset }
    }
}

impl From<Site> for (u32, u32) {
    fn from(site: Site) -> Self {
        (site.image, site.offset)
    }
}

/// Two places that were passed one directly after the other, on different processors or threads.
pub type Pair = (Site, Site);

/// Who passed a place.
type Who = (u32, u32);

/// The pairs of a run.
#[derive(Debug)]
pub struct Interleavings {
    keeps: bool,
    last: Cell<(Who, u64)>,
    seen: RefCell<HashSet<(u64, u64)>>,
}

impl Interleavings {
    /// None so far; none ever where they are not to be kept.
    #[must_use]
    pub fn new(keeps: bool) -> Self {
        Self { keeps, last: Cell::new(((0, 0), 0)), seen: RefCell::default() }
    }

    /// The thread that runs passes a place of a driver.
    #[inline]
    pub fn pass(&self, k: &Kernel, address: u64) {
        if self.keeps {
            self.note(k, address);
        }
    }

    #[cold]
    fn note(&self, k: &Kernel, address: u64) {
        let who = (k.processor_index(), k.thread_id().0);
        let (before, last) = self.last.replace((who, address));
        if before != who && last != 0 {
            self.seen.borrow_mut().insert((last, address));
        }
    }

    /// What was seen, by places in images.
    pub fn take(&self, k: &Kernel) -> BTreeSet<Pair> {
        let site = |address: u64| k.exec.site(address);
        let seen = self.seen.take();
        seen.into_iter().filter_map(|(first, second)| Some((site(first)?, site(second)?))).collect()
    }
}
