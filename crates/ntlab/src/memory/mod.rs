//! The machine's memory: one reserved range of addresses, and who may touch which page of it.

pub(crate) mod current;
pub(crate) mod fault;
pub(crate) mod host;
mod object;
mod page;
mod pointer;
mod pool;
mod space;

use std::rc::Rc;

use self::object::ObjectStore;
pub use self::{
    host::PAGE,
    page::{Access, PageKind},
    pointer::{Ptr, placeholder},
    pool::{Block, Owner, Pool, PoolKind, Request, Tag, TagUse},
    space::{Arena, GuardMethod, Space},
};

/// All memory of one machine.
#[derive(Debug)]
pub struct Memory {
    /// The addresses, and what each page is.
    pub space: Rc<Space>,
    /// Pool.
    pub pool: Pool,
    objects: ObjectStore,
}

impl Memory {
    /// The memory of a new machine.
    ///
    /// # Panics
    /// Where the host has no address space for one.
    #[must_use]
    pub fn new() -> Self {
        let space = Space::new().unwrap_or_else(|error| panic!("the host has no address space for a machine: {error}"));
        let space = Rc::new(space);
        Self { pool: Pool::new(&space), objects: ObjectStore::new(&space), space }
    }

    /// Makes a zeroed structure of the kernel's.
    #[must_use]
    pub fn allocate_object<T>(&self) -> Ptr<T> {
        self.allocate_object_bytes(size_of::<T>()).cast()
    }

    /// Makes a zeroed structure of the kernel's with `bytes` bytes, at most 64 KiB.
    #[must_use]
    pub fn allocate_object_bytes(&self, bytes: usize) -> Ptr<u8> {
        Ptr::new(self.objects.allocate(bytes as u64))
    }

    /// Frees a structure; false if none is at that address.
    #[must_use]
    pub fn free_object<T>(&self, object: Ptr<T>) -> bool {
        self.objects.free(object.address())
    }

    /// Whether the pointer is that of a structure that was made and not freed.
    #[must_use]
    pub fn is_object<T>(&self, object: Ptr<T>) -> bool {
        self.objects.is_live(object)
    }

    /// How many structures there are.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects.live()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}
