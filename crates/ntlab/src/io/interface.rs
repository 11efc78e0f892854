//! Device interfaces ("Overview of Device Interface Classes").

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc};

use windows_sys::{
    Wdk::Foundation::DEVICE_OBJECT,
    Win32::Foundation::{
        NTSTATUS, STATUS_INVALID_DEVICE_REQUEST, STATUS_OBJECT_NAME_EXISTS, STATUS_OBJECT_NAME_NOT_FOUND,
        STATUS_SUCCESS,
    },
    core::GUID,
};

use super::{device, name::Named, property};
use crate::{kernel::Kernel, memory::Ptr, tracking::Tracked};

/// An interface class in a form that compares and prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(pub u128);

impl Class {
    /// From its parts, as `GUID` has them.
    #[must_use]
    pub const fn new(parts: (u32, u16, u16, [u8; 8])) -> Self {
        let (a, b, c, d) = parts;
        Self((a as u128) << 96 | (b as u128) << 80 | (c as u128) << 64 | u64::from_be_bytes(d) as u128)
    }
}

impl From<GUID> for Class {
    fn from(guid: GUID) -> Self {
        Self::new((guid.data1, guid.data2, guid.data3, guid.data4))
    }
}

impl From<(u32, u16, u16, [u8; 8])> for Class {
    fn from(parts: (u32, u16, u16, [u8; 8])) -> Self {
        Self::new(parts)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = self;
        write!(
            f,
            "{{{:08x}-{:04x}-{:04x}-{:04x}-{:012x}}}",
            value >> 96,
            value >> 80 & 0xFFFF,
            value >> 64 & 0xFFFF,
            value >> 48 & 0xFFFF,
            value & 0xFFFF_FFFF_FFFF
        )
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
struct Interface {
    class: Class,
    pdo: Ptr<DEVICE_OBJECT>,
    enabled: bool,
}

/// An interface appeared or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its class.
    pub class: Class,
    /// Its symbolic link.
    pub link: String,
    /// Whether it was enabled or disabled.
    pub arrived: bool,
}

type Listener = Rc<dyn Fn(&Kernel, &Change)>;

/// Every registered interface by its symbolic link.
#[derive(Default)]
pub struct Interfaces {
    interfaces: RefCell<BTreeMap<String, Interface>>,
    listeners: RefCell<Vec<Listener>>,
}

impl fmt::Debug for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.interfaces.borrow().fmt(f)
    }
}

/// Has `listener` called for every interface that is enabled or disabled.
pub fn on_change(k: &Kernel, listener: impl Fn(&Kernel, &Change) + 'static) {
    k.io.interfaces.listeners.borrow_mut().push(Rc::new(listener));
}

/// Registers an interface of a physical device object (`IoRegisterDeviceInterface`): its symbolic link, and `STATUS_OBJECT_NAME_EXISTS`
/// if it is registered already.
///
/// # Errors
///
/// `STATUS_INVALID_DEVICE_REQUEST` if `pdo` is no physical device object.
pub fn register(
    k: &Kernel,
    pdo: Ptr<DEVICE_OBJECT>,
    class: Class,
    reference: &str,
) -> Result<(String, NTSTATUS), NTSTATUS> {
    let instance =
        property::with_node(k, pdo, |node| node.instance.replace('\\', "#")).ok_or(STATUS_INVALID_DEVICE_REQUEST)?;
    let mut link = format!("\\??\\{instance}#{class}");
    if !reference.is_empty() {
        link = link + "\\" + reference;
    }
    let mut interfaces = k.io.interfaces.interfaces.borrow_mut();
    if let Some(interface) = interfaces.get_mut(&link) {
        interface.pdo = pdo;
        return Ok((link, STATUS_OBJECT_NAME_EXISTS));
    }
    interfaces.insert(link.clone(), Interface { class, pdo, enabled: false });
    Ok((link, STATUS_SUCCESS))
}

/// Enables or disables an interface (`IoSetDeviceInterfaceState`): makes or removes its symbolic link and tells the listeners.
pub fn set_state(k: &Kernel, link: &str, enable: bool) -> NTSTATUS {
    let mut interfaces = k.io.interfaces.interfaces.borrow_mut();
    let Some(interface) = interfaces.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(link)) else {
        return STATUS_OBJECT_NAME_NOT_FOUND;
    };
    let (link, interface) = (interface.0.clone(), interface.1);
    if interface.enabled == enable {
        return if enable { STATUS_OBJECT_NAME_EXISTS } else { STATUS_OBJECT_NAME_NOT_FOUND };
    }
    let Some(target) = device::name_of(k, interface.pdo) else { return STATUS_INVALID_DEVICE_REQUEST };
    interface.enabled = enable;
    let (class, pdo) = (interface.class, interface.pdo);
    drop(interfaces);
    if enable {
        k.io.names.insert(&link, Named::Link(target));
        k.tracking.made_for(k, Tracked::Interface, link.clone(), pdo, || link.clone());
    } else {
        k.io.names.remove(&link);
        k.tracking.gone(Tracked::Interface, link.clone());
    }
    let change = Change { class, link, arrived: enable };
    let listeners: Vec<Listener> = k.io.interfaces.listeners.borrow().clone();
    for listener in listeners {
        listener(k, &change);
    }
    STATUS_SUCCESS
}

/// The symbolic links of the enabled interfaces of a class.
#[must_use]
pub fn enabled(k: &Kernel, class: Class) -> Vec<String> {
    let interfaces = k.io.interfaces.interfaces.borrow();
    interfaces.iter().filter(|(_, known)| known.enabled && known.class == class).map(|(link, _)| link.clone()).collect()
}

/// The symbolic links of the enabled interfaces of a device; the PnP manager disables them when it is removed.
#[must_use]
pub fn enabled_of(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>) -> Vec<String> {
    let interfaces = k.io.interfaces.interfaces.borrow();
    interfaces.iter().filter(|(_, known)| known.enabled && known.pdo == pdo).map(|(link, _)| link.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_prints_as_registry_and_links_have_it() {
        let class = Class::new((0x97FA_DB10, 0x4E33, 0x40AE, [0x35, 0x9C, 0x8B, 0xEF, 0x02, 0x9D, 0xBD, 0xD0]));
        assert_eq!(class.to_string(), "{97fadb10-4e33-40ae-359c-8bef029dbdd0}");
    }
}
