//! Where imports lead: a few bytes of code for each exported function, in the machine's memory.

use std::{collections::BTreeMap, sync::LazyLock};

use super::{
    crt,
    entry::{stepped_trap_entry, trap_entry},
};
use crate::{
    exports::{self, Export},
    memory::{Arena, PAGE, PageKind, Space},
};

const THUNK: usize = 32;

/// The kernel's code as drivers see it, which does not depend on where it lies: C runtime functions, then a thunk for each function.
#[derive(Debug)]
struct Code {
    bytes: Vec<u8>,
    /// Where the thunks are in it.
    offsets: BTreeMap<&'static str, u64>,
}

/// The code for driver code that runs as it is, and for driver code that is stepped.
static CODE: LazyLock<[Code; 2]> =
    LazyLock::new(|| [Code::leading_to(trap_entry), Code::leading_to(stepped_trap_entry)]);

impl Code {
    /// The code whose thunks lead to `entry`.
    fn leading_to(entry: unsafe extern "win64" fn()) -> Self {
        let mut bytes = crt::code().to_vec();
        let mut offsets = BTreeMap::new();
        for export in exports::all() {
            bytes.resize(bytes.len().next_multiple_of(THUNK), 0);
            let twice = offsets.insert(export.name, bytes.len() as u64);
            assert_eq!(twice, None, "{} is one function", export.name);
            bytes.extend(thunk(export, entry as *const () as u64));
        }
        Self { bytes, offsets }
    }
}

/// `mov rax, export; jmp entry`.
fn thunk(export: &'static Export, entry: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xB8];
    code.extend((&raw const *export as u64).to_le_bytes());
    code.extend([0xFF, 0x25, 0, 0, 0, 0]);
    code.extend(entry.to_le_bytes());
    code
}

/// The kernel's code in one machine.
#[derive(Debug)]
pub struct Thunks {
    base: u64,
    offsets: &'static BTreeMap<&'static str, u64>,
}

impl Thunks {
    /// Puts the code into the machine.
    pub fn new(space: &Space, stepped: bool) -> Self {
        let Code { bytes, offsets } = &CODE[usize::from(stepped)];
        let length = (bytes.len() as u64).next_multiple_of(PAGE);
        let base = space.take(Arena::Kernel, length);
        space.open(base, length, PageKind::Object);
        space.write(base, bytes);
        space.protect(base, length, PageKind::KernelCode);
        Self { base, offsets }
    }

    /// Where the code begins.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The address at which the driver can call `export`.
    pub fn address(&self, export: &Export) -> u64 {
        self.base + self.offsets[export.name]
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
