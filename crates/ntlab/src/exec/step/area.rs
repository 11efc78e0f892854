//! Where translations lie.

use std::{cell::Cell, rc::Rc};

use crate::memory::{Arena, PageKind, Space};

/// How much is taken from the machine's addresses at a time.
const CHUNK: u64 = 256 << 10;

/// Memory of one kind that only grows; what lies in it has ascending addresses.
#[derive(Debug)]
pub struct Area {
    space: Rc<Space>,
    kind: PageKind,
    next: Cell<u64>,
    end: Cell<u64>,
}

impl Area {
    /// Nothing yet.
    pub fn new(space: &Rc<Space>, kind: PageKind) -> Self {
        Self { space: Rc::clone(space), kind, next: Cell::new(0), end: Cell::new(0) }
    }

    /// An address at which `room` bytes are free, at most [`CHUNK`].
    pub fn free(&self, room: u64) -> u64 {
        if self.end.get() - self.next.get() < room {
            let chunk = self.space.take(Arena::Kernel, CHUNK);
            self.space.open(chunk, CHUNK, self.kind);
            self.space.protect(chunk, CHUNK, self.kind);
            self.next.set(chunk);
            self.end.set(chunk + CHUNK);
        }
        self.next.get()
    }

    /// Writes at the address that [`Area::free`] returned last.
    pub fn push(&self, bytes: &[u8]) -> u64 {
        let address = self.free(bytes.len() as u64);
        self.space.write(address, bytes);
        self.next.set(address + bytes.len() as u64);
        address
    }

    /// Writes a value to where one was pushed.
    pub fn set(&self, address: u64, value: u64) {
        self.space.write(address, &value.to_le_bytes());
    }
}
