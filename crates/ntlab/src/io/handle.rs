//! Handles of the system process: to registry keys, events and threads.

use std::{cell::RefCell, fmt};

use windows_sys::Wdk::Foundation::{DEVICE_OBJECT, KEVENT};

use super::object;
use crate::{kernel::Kernel, memory::Ptr, registry::KeyId, tracking::Tracked};

/// Kernel handles have the upper bits set, which makes them valid in every process.
const KERNEL_HANDLES: u64 = 0xFFFF_FFFF_8000_0000;

/// What a handle leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A registry key.
    Key(KeyId),
    /// An event.
    Event(Ptr<KEVENT>),
    /// An object with a reference count of its own, such as a thread.
    Object(u64),
}

/// An open handle.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// What it leads to.
    pub target: Target,
    /// The access it was opened with.
    pub access: u32,
    /// It was opened with `OBJ_KERNEL_HANDLE`.
    pub kernel: bool,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.target {
            Target::Key(_) => "a registry key",
            Target::Event(_) => "an event",
            Target::Object(_) => "a thread or other object",
        };
        write!(f, "to {kind} with access {:#x}", self.access)
    }
}

/// The handle table.
#[derive(Debug, Default)]
pub struct Handles {
    entries: RefCell<Vec<Option<Open>>>,
}

impl Handles {
    /// Opens a handle for the driver that runs, or for the system; `kernel` as `OBJ_KERNEL_HANDLE` says.
    pub fn open(&self, k: &Kernel, target: Target, access: u32, kernel: bool) -> u64 {
        self.open_of(k, Ptr::null(), Open { target, access, kernel })
    }

    /// The same for something that belongs to a device, which is named by its physical device object.
    pub fn open_of(&self, k: &Kernel, device: Ptr<DEVICE_OBJECT>, open: Open) -> u64 {
        let handle = self.add(open);
        k.tracking.made_for(k, Tracked::Handle, handle, device, || open.to_string());
        handle
    }

    fn add(&self, open: Open) -> u64 {
        let mut entries = self.entries.borrow_mut();
        let free = entries.iter().position(Option::is_none).unwrap_or_else(|| {
            entries.push(None);
            entries.len() - 1
        });
        entries[free] = Some(open);
        let value = (free as u64 + 1) * 4;
        if open.kernel { KERNEL_HANDLES | value } else { value }
    }

    fn index(handle: u64) -> Option<usize> {
        let value = handle & !KERNEL_HANDLES;
        usize::try_from(value / 4).ok()?.checked_sub(1)
    }

    /// What a handle leads to.
    #[must_use]
    pub fn get(&self, handle: u64) -> Option<Open> {
        let open = self.entries.borrow().get(Self::index(handle)?).copied().flatten()?;
        (open.kernel == (handle & KERNEL_HANDLES == KERNEL_HANDLES)).then_some(open)
    }

    /// Closes a handle; returns what it led to, or `None` if it is no open handle.
    pub fn close(&self, handle: u64) -> Option<Open> {
        let open = self.get(handle)?;
        self.entries.borrow_mut()[Self::index(handle)?] = None;
        Some(open)
    }
}

/// Closes a handle and gives up what it kept alive; `None` if it is no open handle.
pub fn close(k: &Kernel, handle: u64) -> Option<Open> {
    let open = k.io.handles.close(handle)?;
    k.tracking.gone(Tracked::Handle, handle);
    match open.target {
        Target::Object(object) => object::dereference(k, object),
        Target::Event(event) => object::dereference(k, event.address()),
        Target::Key(_) => {}
    }
    Some(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(handles: &Handles, object: u64, kernel: bool) -> u64 {
        handles.add(Open { target: Target::Object(object), access: 7, kernel })
    }

    #[test]
    fn a_closed_handle_leads_nowhere_and_its_value_is_used_again() {
        let handles = Handles::default();
        let first = open(&handles, 1, true);
        let second = open(&handles, 2, false);
        assert_ne!(first, second);
        assert!(handles.close(first).is_some());
        assert!(handles.get(first).is_none());
        assert!(handles.close(first).is_none());
        assert_eq!(open(&handles, 3, true), first);
        assert_eq!(handles.get(second).map(|open| open.target), Some(Target::Object(2)));
    }

    #[test]
    fn a_kernel_handle_and_a_process_handle_are_not_mixed_up() {
        let handles = Handles::default();
        let kernel = open(&handles, 1, true);
        assert!(handles.get(kernel & 0xFFFF).is_none());
    }
}
