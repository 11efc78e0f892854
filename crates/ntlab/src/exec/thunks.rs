//! Where imports lead: a few bytes of code for each exported function, in the machine's memory.

use std::collections::BTreeMap;

use super::{
    crt,
    entry::{stepped_trap_entry, trap_entry},
};
use crate::{
    exports::Export,
    finding::Finding,
    memory::{Arena, PAGE, PageKind, Space},
};

/// Room for all thunks.
const ROOM: u64 = 64 * PAGE;
const THUNK: u64 = 32;

/// The kernel's code as the driver sees it: C runtime functions, then a thunk for each function that was asked for.
#[derive(Debug)]
pub struct Thunks {
    base: u64,
    next: u64,
    /// What they all lead to.
    entry: u64,
    by_name: BTreeMap<&'static str, u64>,
}

impl Thunks {
    /// Makes room, and copies the C runtime functions.
    pub fn new(space: &Space, stepped: bool) -> Self {
        let base = space.take(Arena::Kernel, ROOM);
        space.open(base, ROOM, PageKind::KernelCode);
        let code = crt::code();
        write(space, base, code);
        let next = base + (code.len() as u64).next_multiple_of(THUNK);
        let entry = if stepped { stepped_trap_entry } else { trap_entry } as unsafe extern "win64" fn();
        Self { base, next, entry: entry as *const () as u64, by_name: BTreeMap::new() }
    }

    /// The address at which the driver can call `export`.
    pub fn address(&mut self, space: &Space, export: &'static Export) -> u64 {
        if let Some(address) = self.by_name.get(export.name) {
            return *address;
        }
        let address = self.next;
        if address + THUNK > self.base + ROOM {
            Finding::not_modelled("more exported functions than there is room for thunks").raise();
        }
        self.next += THUNK;
        write(space, address, &self.thunk(export));
        self.by_name.insert(export.name, address);
        address
    }

    /// `mov rax, export; jmp entry`.
    fn thunk(&self, export: &'static Export) -> Vec<u8> {
        let mut code = vec![0x48, 0xB8];
        code.extend((&raw const *export as u64).to_le_bytes());
        code.extend([0xFF, 0x25, 0, 0, 0, 0]);
        code.extend(self.entry.to_le_bytes());
        code
    }

    /// The address of a C runtime function.
    pub fn runtime_function(&self, name: &str) -> Option<u64> {
        crt::offset(name).map(|offset| self.base + offset)
    }

    /// The offset of an address in the C runtime functions' code.
    pub fn runtime_offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.base).filter(|offset| *offset < crt::code().len() as u64)
    }
}

fn write(space: &Space, address: u64, code: &[u8]) {
    let page = address / PAGE * PAGE;
    let length = (address + code.len() as u64).next_multiple_of(PAGE) - page;
    space.protect(page, length, PageKind::Object);
    space.write(address, code);
    space.protect(page, length, PageKind::KernelCode);
}
