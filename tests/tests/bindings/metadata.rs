//! What windows-sys says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::layout::{Definition, Definitions, Field};
use crate::rust::{self, Type};

/// Where Microsoft's metadata keeps the kernel's names, and then the others.
const PARTS: &[&str] = &["Wdk", "Win32"];

/// Structures that wdm.h packs and that windows-sys does not: debuggers show `CM_PARTIAL_RESOURCE_DESCRIPTOR` with `u` at 4.
const PACKED: &[(&str, usize)] = &[("CM_PARTIAL_RESOURCE_DESCRIPTOR", 4)];

/// The source of windows-sys.
pub struct Metadata {
    /// The modules, by directory, that define a name, the kernel's first.
    index: BTreeMap<String, Vec<PathBuf>>,
    modules: Mutex<BTreeMap<PathBuf, Arc<BTreeMap<String, Definition>>>>,
}

impl Metadata {
    /// Finds the source of the windows-sys that this workspace locks, the newest if there are several.
    pub fn find() -> Self {
        let mut cargo = kit::cargo();
        cargo.current_dir(kit::root()).args(["metadata", "--locked", "--format-version", "1"]);
        let output = cargo.output().expect("cargo runs");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let newest = packages
            .filter(|package| package["name"] == "windows-sys")
            .max_by_key(|package| package["version"].as_str())
            .expect("windows-sys is locked");
        let manifest = Path::new(newest["manifest_path"].as_str().expect("a package has a manifest"));
        let mut index = BTreeMap::new();
        for part in PARTS {
            add_to_index(&manifest.with_file_name("src").join("Windows").join(part), &mut index);
        }
        Self { index, modules: Mutex::default() }
    }

    /// The fields of the structure `name`.
    pub fn fields_of(&self, name: &str) -> Option<Vec<Field>> {
        Some(self.fields(&self.module_of_structure(name)?, name))
    }

    /// The size of the structure `name`.
    pub fn size(&self, name: &str) -> Option<usize> {
        let module = self.module_of_structure(name)?;
        Some(self.layout(&module, &Type::Named(vec![name.to_owned()])).size)
    }

    /// The value of the integer `name`.
    pub fn constant(&self, name: &str) -> Option<i128> {
        let found = self.index.get(name)?.iter().find_map(|module| self.definition(module, name))?;
        match found {
            Definition::Constant(value) => Some(value),
            Definition::SameAs(other) => self.constant(&other),
            Definition::Structure { .. } | Definition::Alias(_) => None,
        }
    }

    fn module_of_structure(&self, name: &str) -> Option<PathBuf> {
        self.index.get(name)?.iter().find(|module| self.structure(module, name).is_some()).cloned()
    }

    fn module(&self, directory: &Path) -> Arc<BTreeMap<String, Definition>> {
        let mut modules = self.modules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let read = || {
            let items = rust::items(&directory.join("mod.rs"));
            Arc::new(items.iter().filter_map(rust::definition).map(packed).collect())
        };
        Arc::clone(modules.entry(directory.to_owned()).or_insert_with(read))
    }
}

impl Definitions for Metadata {
    fn definition(&self, module: &Path, name: &str) -> Option<Definition> {
        // What is not in a module's directory is of the core.
        module.is_dir().then(|| self.module(module).get(name).cloned()).flatten()
    }

    /// They have the name of the outer one and a number.
    fn is_inner(&self, inner: &str, outer: &str) -> bool {
        let number = inner.strip_prefix(outer).and_then(|rest| rest.strip_prefix('_'));
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Members without a name are called `Anonymous`, with a number if there are several.
    fn path_element(&self, name: &str) -> String {
        match name.strip_prefix("Anonymous") {
            Some("") => "~1".to_owned(),
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("~{number}"),
            _ => name.to_owned(),
        }
    }
}

/// Packs a structure of [`PACKED`] and what is inside it.
fn packed((name, mut definition): (String, Definition)) -> (String, Definition) {
    let packing = PACKED.iter().find(|(structure, _)| {
        name.strip_prefix(structure).is_some_and(|rest| rest.bytes().all(|byte| byte == b'_' || byte.is_ascii_digit()))
    });
    if let (Definition::Structure(structure), Some((_, packing))) = (&mut definition, packing) {
        structure.packing = structure.packing.min(*packing);
    }
    (name, definition)
}

/// Notes which module under `directory` defines which name, without parsing them all.
fn add_to_index(directory: &Path, index: &mut BTreeMap<String, Vec<PathBuf>>) {
    for entry in fs::read_dir(directory).expect("the directory can be listed") {
        let path = entry.expect("the directory can be listed").path();
        if path.is_dir() {
            add_to_index(&path, index);
        }
    }
    let text = fs::read_to_string(directory.join("mod.rs")).expect("every module has a file");
    for line in text.lines() {
        let mut words = line.split(|character: char| !(character.is_alphanumeric() || character == '_'));
        if words.next() == Some("pub")
            && let Some("struct" | "union" | "const") = words.next()
            && let Some(name) = words.next()
        {
            let modules = index.entry(name.to_owned()).or_default();
            if modules.last().is_none_or(|last| last != directory) {
                modules.push(directory.to_owned());
            }
        }
    }
}
