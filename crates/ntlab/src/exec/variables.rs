//! What the kernel exports besides functions: variables.

use std::collections::BTreeMap;

use crate::memory::{Arena, PAGE, PageKind, Space};

/// The variables that hold the address of an object type.
const OBJECT_TYPES: [&str; 7] = [
    "CmKeyObjectType",
    "ExEventObjectType",
    "ExSemaphoreObjectType",
    "IoFileObjectType",
    "PsProcessType",
    "PsThreadType",
    "SeTokenObjectType",
];
/// The others.
const PLAIN: [&str; 7] = [
    "MmHighestUserAddress",
    "MmSystemRangeStart",
    "MmUserProbeAddress",
    "InitSafeBootMode",
    "KdDebuggerEnabled",
    "KdDebuggerNotPresent",
    "NtBuildNumber",
];

/// Whether the kernel exports a variable of this name.
pub fn is_variable(name: &str) -> bool {
    PLAIN.contains(&name) || OBJECT_TYPES.contains(&name)
}

/// The kernel's variables in the machine's memory.
#[derive(Debug)]
pub struct Variables {
    base: u64,
    by_name: BTreeMap<&'static str, u64>,
}

impl Variables {
    /// Makes them.
    pub fn new(space: &Space) -> Self {
        let base = space.take(Arena::Kernel, PAGE);
        space.open(base, PAGE, PageKind::Object);
        let end = space.user_end();
        let values = [end - 1, end, end, 0, 0, 1, 0xF000_4F7C];
        let plain = PLAIN.into_iter().zip(values);
        let types = base + PAGE / 2;
        // An object type begins with its own address, so that a driver gets it whether its headers declare the variable as Windows' do
        // or, as those of MinGW-w64, with one indirection more.
        let type_of = |index: usize| types + 16 * index as u64;
        let of_types = OBJECT_TYPES.into_iter().enumerate().map(|(index, name)| (name, type_of(index)));
        let place = |index: usize| base + 8 * index as u64;
        let all: Vec<(&str, u64)> = plain.chain(of_types.clone()).collect();
        for (index, (_, value)) in all.iter().enumerate() {
            space.write(place(index), &value.to_le_bytes());
        }
        for (_, object) in of_types {
            space.write(object, &object.to_le_bytes());
        }
        Self { base, by_name: all.iter().enumerate().map(|(index, (name, _))| (*name, place(index))).collect() }
    }

    /// Where they begin.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The address of a variable.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).copied()
    }
}
