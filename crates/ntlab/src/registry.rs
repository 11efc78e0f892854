//! The registry: keys by path, values by name, both without regard to case ("Using the Registry in a Driver").

use std::{cell::RefCell, collections::BTreeMap};

use windows_sys::Win32::System::Registry::{REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_QWORD, REG_SZ};

use crate::io::string;

/// The number of a key; it stays when the key is deleted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyId(usize);

/// A value's data and its type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// `REG_XXX`.
    pub kind: u32,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl Value {
    /// `REG_DWORD`.
    #[must_use]
    pub fn dword(number: u32) -> Self {
        Self { kind: REG_DWORD, data: number.to_le_bytes().to_vec() }
    }

    /// `REG_QWORD`.
    #[must_use]
    pub fn qword(number: u64) -> Self {
        Self { kind: REG_QWORD, data: number.to_le_bytes().to_vec() }
    }

    /// `REG_SZ`.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self { kind: REG_SZ, data: string::utf16_terminated(text) }
    }

    /// `REG_EXPAND_SZ`.
    #[must_use]
    pub fn expand(text: &str) -> Self {
        Self { kind: REG_EXPAND_SZ, data: string::utf16_terminated(text) }
    }

    /// `REG_MULTI_SZ`.
    #[must_use]
    pub fn list(texts: &[String]) -> Self {
        let mut data: Vec<u8> = texts.iter().flat_map(|text| string::utf16_terminated(text)).collect();
        data.extend([0, 0]);
        Self { kind: REG_MULTI_SZ, data }
    }

    /// The number of a `REG_DWORD`.
    #[must_use]
    pub fn as_dword(&self) -> Option<u32> {
        let bytes: [u8; 4] = self.data.as_slice().try_into().ok()?;
        (self.kind == REG_DWORD).then(|| u32::from_le_bytes(bytes))
    }
}

#[derive(Debug)]
struct Key {
    name: String,
    parent: Option<KeyId>,
    /// By upper-case name.
    children: BTreeMap<String, KeyId>,
    /// By upper-case name: the name as it was written, and the value.
    values: BTreeMap<String, (String, Value)>,
    deleted: bool,
}

impl Key {
    const fn new(name: String, parent: Option<KeyId>) -> Self {
        Self { name, parent, children: BTreeMap::new(), values: BTreeMap::new(), deleted: false }
    }
}

/// The registry of one machine.
#[derive(Debug)]
pub struct Registry {
    keys: RefCell<Vec<Key>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { keys: RefCell::new(vec![Key::new("\\Registry".to_owned(), None)]) }
    }
}

const ROOT: KeyId = KeyId(0);

/// The components of a path below `\Registry`; `None` if it lies elsewhere.
fn components(path: &str) -> Option<Vec<String>> {
    let mut parts = path.split('\\').filter(|part| !part.is_empty()).map(canonical);
    (parts.next()?.to_uppercase() == "REGISTRY").then(|| parts.collect())
}

/// `ControlSet001` is what `CurrentControlSet` leads to.
fn canonical(part: &str) -> String {
    if part.eq_ignore_ascii_case("ControlSet001") { "CurrentControlSet".to_owned() } else { part.to_owned() }
}

impl Registry {
    /// The key at a path that starts with `\Registry`.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<KeyId> {
        components(path)?.iter().try_fold(ROOT, |key, part| self.child(key, part))
    }

    /// The key at a path below another.
    #[must_use]
    pub fn find_below(&self, key: KeyId, path: &str) -> Option<KeyId> {
        path.split('\\').filter(|part| !part.is_empty()).try_fold(key, |key, part| self.child(key, part))
    }

    fn child(&self, key: KeyId, name: &str) -> Option<KeyId> {
        self.keys.borrow()[key.0].children.get(&name.to_uppercase()).copied()
    }

    /// The key at a path that starts with `\Registry`, made with all above it where it is not there yet.
    ///
    /// # Panics
    ///
    /// Where the path lies outside the registry.
    pub fn create(&self, path: &str) -> KeyId {
        let parts = components(path).unwrap_or_else(|| panic!("{path} is no registry path"));
        parts.iter().fold(ROOT, |key, part| self.create_child(key, part))
    }

    /// A key directly below another, made if it is not there yet.
    pub fn create_child(&self, key: KeyId, name: &str) -> KeyId {
        if let Some(child) = self.child(key, name) {
            return child;
        }
        let mut keys = self.keys.borrow_mut();
        let child = KeyId(keys.len());
        keys.push(Key::new(name.to_owned(), Some(key)));
        keys[key.0].children.insert(name.to_uppercase(), child);
        child
    }

    /// Sets a value.
    pub fn set(&self, key: KeyId, name: &str, value: Value) {
        self.keys.borrow_mut()[key.0].values.insert(name.to_uppercase(), (name.to_owned(), value));
    }

    /// A value.
    #[must_use]
    pub fn get(&self, key: KeyId, name: &str) -> Option<Value> {
        self.keys.borrow()[key.0].values.get(&name.to_uppercase()).map(|(_, value)| value.clone())
    }

    /// Removes a value; false if there is none.
    pub fn remove_value(&self, key: KeyId, name: &str) -> bool {
        self.keys.borrow_mut()[key.0].values.remove(&name.to_uppercase()).is_some()
    }

    /// Deletes a key without subkeys; false if it has some or is the root.
    pub fn delete(&self, key: KeyId) -> bool {
        let mut keys = self.keys.borrow_mut();
        let Some(parent) = keys[key.0].parent else { return false };
        if !keys[key.0].children.is_empty() {
            return false;
        }
        keys[key.0].deleted = true;
        let name = keys[key.0].name.to_uppercase();
        keys[parent.0].children.remove(&name);
        true
    }

    /// Whether a key has been deleted while handles to it were open.
    #[must_use]
    pub fn is_deleted(&self, key: KeyId) -> bool {
        self.keys.borrow()[key.0].deleted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\a";

    #[test]
    fn keys_and_values_are_found_whatever_their_case() {
        let registry = Registry::default();
        let key = registry.create(SERVICE);
        registry.set(key, "Start", Value::dword(3));
        assert_eq!(registry.find(&SERVICE.to_uppercase()), Some(key));
        assert_eq!(registry.get(key, "sTART").and_then(|value| value.as_dword()), Some(3));
    }

    #[test]
    fn the_current_control_set_is_the_first() {
        let registry = Registry::default();
        let key = registry.create(SERVICE);
        assert_eq!(registry.find("\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet001\\Services\\a"), Some(key));
    }

    #[test]
    fn a_path_outside_the_registry_leads_nowhere() {
        let registry = Registry::default();
        registry.create(SERVICE);
        assert_eq!(registry.find("\\Machine\\System"), None);
        assert_eq!(registry.find(""), None);
    }

    #[test]
    fn a_key_with_subkeys_is_not_deleted() {
        let registry = Registry::default();
        let key = registry.create(SERVICE);
        let child = registry.create_child(key, "Parameters");
        assert!(!registry.delete(key));
        assert!(registry.delete(child));
        assert!(registry.is_deleted(child));
        assert!(registry.delete(key));
        assert_eq!(registry.find(SERVICE), None);
    }
}
