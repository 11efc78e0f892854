//! The bindings that the driver is built with on Linux come from the public-domain headers. What the driver uses of them is held
//! here against Microsoft's own metadata, which windows-sys carries, so that those headers cannot lie unnoticed.

mod generated;
mod layout;
mod metadata;
mod rust;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use generated::Generated;
use layout::{Definitions, Field};
use metadata::Metadata;

/// The sources whose use of the bindings counts.
const SOURCES: &[&str] = &["src", "crates/wdm/src"];

/// Structures that windows-sys has in another shape, and what is known of them.
const STRUCTURES_KNOWN_OTHERWISE: &[(&str, &str)] = &[
    ("_GUID", "in the core of windows-sys, and the same everywhere"),
    ("_LARGE_INTEGER", "i64 in windows-sys; the page of LARGE_INTEGER: QuadPart is all of it"),
];

/// Structures without a field for drivers, or beside the one that is used in a union: only the size counts.
const OPAQUE: &[&str] = &["_KDPC", "_KTIMER", "_PROCESSOR_RELATIONSHIP"];

/// Fields behind one that wdm.h aligns to a pointer, which windows-sys has lost; debuggers show `IO_STACK_LOCATION` so.
const FIELDS_KNOWN_OTHERWISE: &[(&str, &str, usize)] = &[
    ("_IO_STACK_LOCATION", "Parameters.DeviceIoControl.InputBufferLength", 16),
    ("_IO_STACK_LOCATION", "Parameters.DeviceIoControl.IoControlCode", 24),
    ("_IO_STACK_LOCATION", "Parameters.Power.State", 24),
    ("_IO_STACK_LOCATION", "Parameters.Power.Type", 16),
    ("_IO_STACK_LOCATION", "Parameters.Read.ByteOffset", 24),
    ("_IO_STACK_LOCATION", "Parameters.Read.Flags", 20),
    ("_IO_STACK_LOCATION", "Parameters.Read.Key", 16),
    ("_IO_STACK_LOCATION", "Parameters.UsageNotification.Type", 16),
    ("_IO_STACK_LOCATION", "Parameters.Write.ByteOffset", 24),
    ("_IO_STACK_LOCATION", "Parameters.Write.Flags", 20),
    ("_IO_STACK_LOCATION", "Parameters.Write.Key", 16),
];

/// Structures that Windows made longer, and why a driver that knows the shorter one works.
const SHORTER: &[(&str, &str)] = &[("_DMA_OPERATIONS", "made by the system; what is new comes after what is used")];

/// Constants that windows-sys lacks, with their value in wdm.h.
const CONSTANTS_KNOWN_OTHERWISE: &[(&str, i128)] =
    &[("MDL_MAPPED_TO_SYSTEM_VA", 1), ("MDL_SOURCE_IS_NONPAGED_POOL", 4)];

struct World {
    generated: Generated,
    metadata: Metadata,
    /// Every identifier in the driver's sources.
    used: BTreeSet<String>,
}

impl World {
    fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| Self {
            generated: Generated::read(&kit::bindings("hotadd").expect("the driver builds")),
            metadata: Metadata::find(),
            used: SOURCES.iter().flat_map(|source| sources::identifiers(&kit::root().join(source))).collect(),
        })
    }

    /// The structures that the driver names.
    fn named_structures(&self) -> BTreeSet<String> {
        self.used.iter().flat_map(|name| self.generated.structures_behind(name)).collect()
    }

    /// Those, and the ones it reaches from them through fields that it mentions.
    fn used_structures(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open: Vec<String> = self.named_structures().into_iter().collect();
        while let Some(name) = open.pop() {
            if found.insert(name.clone()) {
                let fields = self.used_fields(&name);
                open.extend(fields.iter().flat_map(|field| self.generated.structures_in(&field.ty)));
            }
        }
        found
    }

    /// The fields of `structure` that the driver mentions.
    fn used_fields(&self, structure: &str) -> Vec<Field> {
        let mut fields = self.generated.fields_of(structure);
        fields.retain(|field| {
            !field.path.ends_with(|last: char| last.is_ascii_digit()) || !field.path.contains("_bitfield")
        });
        fields.retain(|field| field.names().next().is_some() && field.names().all(|name| self.used.contains(name)));
        fields
    }
}

fn is_known_otherwise(structure: &str) -> bool {
    STRUCTURES_KNOWN_OTHERWISE.iter().any(|(name, _)| *name == structure)
}

/// The name that windows-sys has for the structure that the headers tag `structure`.
fn known_name(structure: &str) -> &str {
    structure.trim_start_matches('_')
}

/// What is wrong with the generated `field` of `structure`, given where windows-sys has its fields.
fn fault(structure: &str, field: &Field, known: &BTreeMap<String, usize>) -> Option<String> {
    let Field { path, offset, .. } = field;
    let otherwise = FIELDS_KNOWN_OTHERWISE.iter().find(|(of, name, _)| *of == structure && name == path);
    match otherwise.map(|(.., offset)| offset).or_else(|| known.get(path)) {
        Some(known) if known == offset => None,
        Some(known) => Some(format!("{structure}.{path}: at {offset}, on Windows at {known}")),
        None => Some(format!("{structure}.{path}: at {offset}, not in windows-sys")),
    }
}

#[test]
fn every_field_the_driver_uses_is_where_windows_has_it() {
    let world = World::get();
    let structures = world.used_structures();
    assert!(!structures.is_empty());
    let mut wrong = Vec::new();

    for structure in structures.iter().filter(|structure| !is_known_otherwise(structure)) {
        let used = world.used_fields(structure);
        if used.is_empty() || OPAQUE.contains(&structure.as_str()) {
            continue;
        }
        let Some(known) = world.metadata.fields_of(known_name(structure)) else {
            wrong.push(format!("{structure}: not in windows-sys"));
            continue;
        };
        let known = known.into_iter().map(|field| (field.path, field.offset)).collect();
        wrong.extend(used.iter().filter_map(|field| fault(structure, field, &known)));
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_structure_the_driver_names_has_the_size_it_has_on_windows() {
    let world = World::get();
    let mut wrong = Vec::new();

    for structure in world.named_structures().iter().filter(|structure| !is_known_otherwise(structure)) {
        let size = world.generated.sizes[structure];
        match world.metadata.size(known_name(structure)) {
            Some(known) if known == size => {}
            Some(known) if known > size && SHORTER.iter().any(|(name, _)| name == structure) => {}
            known => wrong.push(format!("{structure}: {size} bytes, on Windows {known:?}")),
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_constant_the_driver_uses_has_the_value_it_has_on_windows() {
    let world = World::get();
    let used: Vec<_> = world.generated.constants(&world.used).collect();
    assert!(!used.is_empty());
    let mut wrong = Vec::new();

    for (name, value) in used {
        let otherwise = CONSTANTS_KNOWN_OTHERWISE.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        match otherwise.or_else(|| world.metadata.constant(name)) {
            // A type that is signed on one side only makes another number of the same 32 bits.
            Some(known) if [0, 1 << 32].contains(&(known - value).abs()) => {}
            Some(known) => wrong.push(format!("{name}: {value:#x}, on Windows {known:#x}")),
            None => wrong.push(format!("{name}: {value:#x}, not in windows-sys")),
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn offsets_computed_here_are_those_that_the_compiler_checked() {
    let generated = &World::get().generated;
    assert!(generated.offsets.len() > 4_000, "{} assertions", generated.offsets.len());
    let mut wrong = Vec::new();

    for structure in generated.sizes.keys() {
        for field in generated.fields_of(structure).iter().filter(|field| !field.path.contains('.')) {
            let asserted = generated.offsets.get(&format!("{structure}::{}", field.path));
            if asserted.is_some_and(|asserted| *asserted != field.offset) {
                wrong.push(format!("{structure}.{}: {}, asserted {asserted:?}", field.path, field.offset));
            }
        }
        let size = generated.named_layout(Path::new(""), std::slice::from_ref(structure)).size;
        if size != generated.sizes[structure] {
            wrong.push(format!("{structure}: {size} bytes, asserted {}", generated.sizes[structure]));
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_known_otherwise_is_used() {
    let world = World::get();
    let structures = world.used_structures();
    let constants: BTreeSet<&str> = world.generated.constants(&world.used).map(|(name, _)| name).collect();

    for (structure, _) in STRUCTURES_KNOWN_OTHERWISE {
        assert!(structures.contains(*structure), "{structure} is not used");
    }
    for structure in OPAQUE.iter().chain(SHORTER.iter().map(|(structure, _)| structure)) {
        assert!(structures.contains(*structure), "{structure} is not used");
    }
    for (structure, path, _) in FIELDS_KNOWN_OTHERWISE {
        let is_used = world.used_fields(structure).iter().any(|field| field.path == *path);
        assert!(is_used, "{structure}.{path} is not used");
    }
    for (constant, _) in CONSTANTS_KNOWN_OTHERWISE {
        assert!(constants.contains(constant), "{constant} is not used");
    }
}
