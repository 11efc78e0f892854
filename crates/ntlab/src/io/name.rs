//! The object manager's name space, as far as devices need it: device names, symbolic links, the events of `\KernelObjects`.

use std::{cell::RefCell, collections::BTreeMap};

use windows_sys::Wdk::Foundation::{DEVICE_OBJECT, KEVENT};

use crate::{kernel::Kernel, memory::Ptr};

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named {
    /// A device.
    Device(Ptr<DEVICE_OBJECT>),
    /// Another name.
    Link(String),
    /// An event.
    Event(Ptr<KEVENT>),
}

/// All names, case-insensitive.
#[derive(Debug, Default)]
pub(crate) struct Names {
    entries: RefCell<BTreeMap<String, Named>>,
}

/// How many links are followed; Windows ends such chains too.
const MAXIMUM_LINKS: usize = 32;

/// A name as it is compared: `\DosDevices` is another name of `\??`, as is the `\\?\` and `\\.\` of user mode.
pub(crate) fn key(name: &str) -> String {
    let name = name.to_uppercase();
    for prefix in ["\\DOSDEVICES\\", "\\\\?\\", "\\\\.\\", "\\GLOBAL??\\"] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return format!("\\??\\{rest}");
        }
    }
    name
}

impl Names {
    /// Adds a name; false where it is taken.
    pub(crate) fn insert(&self, name: &str, named: Named) -> bool {
        let mut entries = self.entries.borrow_mut();
        let key = key(name);
        if entries.contains_key(&key) {
            return false;
        }
        entries.insert(key, named);
        true
    }

    /// What a name stands for itself.
    pub(crate) fn find(&self, name: &str) -> Option<Named> {
        self.entries.borrow().get(&key(name)).cloned()
    }

    pub(crate) fn remove(&self, name: &str) -> Option<Named> {
        self.entries.borrow_mut().remove(&key(name))
    }

    /// What a path leads to through symbolic links, and what of the path is left for the device.
    pub(crate) fn resolve(&self, path: &str) -> Option<(Named, String)> {
        let mut path = path.to_owned();
        for _ in 0..MAXIMUM_LINKS {
            let (named, rest) = self.longest(&path)?;
            match named {
                Named::Link(target) => path = target + &rest,
                other => return Some((other, rest)),
            }
        }
        None
    }

    /// The entry whose name is the longest start of `path` in whole components, and the rest.
    fn longest(&self, path: &str) -> Option<(Named, String)> {
        let user = path.strip_prefix("\\\\?\\").or_else(|| path.strip_prefix("\\\\.\\"));
        let path = user.map_or_else(|| path.to_owned(), |rest| format!("\\??\\{rest}"));
        let mut end = path.len();
        while end > 0 {
            if let Some(named) = self.find(&path[..end]) {
                return Some((named, path[end..].to_owned()));
            }
            end = path[..end].rfind('\\')?;
        }
        None
    }
}

/// Removes what still leads to a device that is gone.
pub(crate) fn forget_device(k: &Kernel, device: Ptr<DEVICE_OBJECT>) {
    k.io.names.entries.borrow_mut().retain(|_, named| *named != Named::Device(device));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let names = Names::default();
        names.insert(r"\Device\Disk", Named::Device(Ptr::new(1)));
        names.insert(r"\??\D", Named::Link(r"\Device\Disk".to_owned()));
        names
    }

    #[test]
    fn a_link_leads_to_its_device_whatever_its_case_and_the_rest_of_the_path_is_the_devices() {
        let found = Some((Named::Device(Ptr::new(1)), r"\a\b".to_owned()));
        for path in [r"\??\D\a\b", r"\\.\d\a\b", r"\DosDevices\D\a\b", r"\device\DISK\a\b"] {
            assert_eq!(names().resolve(path), found, "{path}");
        }
    }

    #[test]
    fn part_of_a_component_is_not_a_name() {
        assert_eq!(names().resolve(r"\Device\Disk2"), None);
        assert_eq!(names().resolve(r"\Device"), None);
    }

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let names = names();
        names.insert(r"\??\A", Named::Link(r"\??\B".to_owned()));
        names.insert(r"\??\B", Named::Link(r"\??\A".to_owned()));
        assert_eq!(names.resolve(r"\??\A"), None);
    }

    #[test]
    fn a_name_is_given_once() {
        assert!(!names().insert(r"\DEVICE\disk", Named::Device(Ptr::new(2))));
    }
}
