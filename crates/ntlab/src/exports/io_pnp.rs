//! What drivers ask of the PnP manager about their devices: interfaces, properties, registry keys.
#![allow(clippy::cast_possible_truncation, reason = "sizes are those of structures and strings, which are small")]

use windows_sys::{
    Wdk::Foundation::{DEVICE_OBJECT, DRIVER_OBJECT},
    Win32::Foundation::{
        DEVPROPKEY, NTSTATUS, STATUS_BUFFER_TOO_SMALL, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_REQUEST,
        STATUS_INVALID_PARAMETER, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS, UNICODE_STRING,
    },
    core::GUID,
};

use super::Export;
use crate::{
    at, export,
    io::{
        driver,
        handle::{Open, Target},
        interface, property, string,
    },
    irql::{APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, at_most, exactly},
    kernel::Kernel,
    memory::{PoolKind, Ptr},
    pnp::children,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("IoRegisterDeviceInterface", exactly(PASSIVE_LEVEL), io_register_device_interface),
    export!("IoSetDeviceInterfaceState", exactly(PASSIVE_LEVEL), io_set_device_interface_state),
    export!("IoGetDeviceProperty", exactly(PASSIVE_LEVEL), io_get_device_property),
    export!("IoGetDevicePropertyData", at_most(APC_LEVEL), io_get_device_property_data),
    export!("IoSetDevicePropertyData", at_most(APC_LEVEL), io_set_device_property_data),
    export!("IoOpenDeviceRegistryKey", exactly(PASSIVE_LEVEL), io_open_device_registry_key),
    export!("IoOpenDriverRegistryKey", exactly(PASSIVE_LEVEL), io_open_driver_registry_key),
    export!("IoInvalidateDeviceRelations", at_most(DISPATCH_LEVEL), children::invalidate_relations),
    export!("IoInvalidateDeviceState", at_most(DISPATCH_LEVEL), children::invalidate_state),
    export!("IoRequestDeviceEject", at_most(DISPATCH_LEVEL), children::request_eject),
];

/// `PLUGPLAY_REGKEY_DEVICE` and `PLUGPLAY_REGKEY_DRIVER`.
const HARDWARE_KEY: u32 = 1;
const SOFTWARE_KEY: u32 = 2;
/// Tag of symbolic link names that the caller frees.
const LINK_NAME: u32 = u32::from_le_bytes(*b"IoLn");

/// "`IoRegisterDeviceInterface` function". The caller frees the name with `RtlFreeUnicodeString`.
fn io_register_device_interface(
    k: &Kernel,
    pdo: Ptr<DEVICE_OBJECT>,
    class: Ptr<GUID>,
    reference: Ptr<UNICODE_STRING>,
    link: Ptr<UNICODE_STRING>,
) -> NTSTATUS {
    let (name, status) = match interface::register(k, pdo, class.read().into(), &string::text(reference)) {
        Ok(registered) => registered,
        Err(status) => return status,
    };
    let bytes = string::utf16_terminated(&name);
    let Some(buffer) = k.memory.allocate_pool(k, PoolKind::Paged, bytes.len(), LINK_NAME) else {
        return STATUS_INSUFFICIENT_RESOURCES;
    };
    buffer.write_bytes(&bytes);
    string::describe(link, buffer, bytes.len() - 2);
    status
}

/// "`IoSetDeviceInterfaceState` function".
fn io_set_device_interface_state(k: &Kernel, link: Ptr<UNICODE_STRING>, enable: bool) -> NTSTATUS {
    interface::set_state(k, &string::text(link), enable)
}

/// Copies a property to a driver's buffer if it has room, and says how much it needs.
fn copy_out(data: &[u8], length: u32, buffer: Ptr<u8>, needed: Ptr<u32>) -> NTSTATUS {
    needed.write(data.len() as u32);
    if data.len() > length as usize {
        return STATUS_BUFFER_TOO_SMALL;
    }
    buffer.write_bytes(data);
    STATUS_SUCCESS
}

/// "`IoGetDeviceProperty` function".
fn io_get_device_property(
    k: &Kernel,
    pdo: Ptr<DEVICE_OBJECT>,
    which: i32,
    length: u32,
    buffer: Ptr<u8>,
    needed: Ptr<u32>,
) -> NTSTATUS {
    match property::with_node(k, pdo, |node| node.properties.get(&which).cloned()) {
        None => STATUS_INVALID_DEVICE_REQUEST,
        Some(None) => STATUS_OBJECT_NAME_NOT_FOUND,
        Some(Some(data)) => copy_out(&data, length, buffer, needed),
    }
}

fn property_key(key: Ptr<DEVPROPKEY>) -> property::PropertyKey {
    let mut class = [0; 16];
    key.cast::<u8>().read_into(&mut class);
    (class, at!(key, pid).read())
}

/// "`IoGetDevicePropertyData` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_get_device_property_data(
    k: &Kernel,
    pdo: Ptr<DEVICE_OBJECT>,
    key: Ptr<DEVPROPKEY>,
    _locale: u32,
    flags: u32,
    length: u32,
    buffer: Ptr<u8>,
    needed: Ptr<u32>,
    kind: Ptr<u32>,
) -> NTSTATUS {
    if flags != 0 {
        return STATUS_INVALID_PARAMETER;
    }
    let key = property_key(key);
    match property::with_node(k, pdo, |node| node.keys.get(&key).cloned()) {
        None => STATUS_INVALID_DEVICE_REQUEST,
        Some(None) => STATUS_OBJECT_NAME_NOT_FOUND,
        Some(Some((property, data))) => {
            kind.write(property);
            copy_out(&data, length, buffer, needed)
        }
    }
}

/// "`IoSetDevicePropertyData` function". `DEVPROP_TYPE_EMPTY`, which is 0, deletes the property.
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_set_device_property_data(
    k: &Kernel,
    pdo: Ptr<DEVICE_OBJECT>,
    key: Ptr<DEVPROPKEY>,
    _locale: u32,
    _flags: u32,
    kind: u32,
    length: u32,
    data: Ptr<u8>,
) -> NTSTATUS {
    let key = property_key(key);
    let value = (kind != 0).then(|| (kind, data.read_bytes(length as usize)));
    let changed = property::with_node(k, pdo, |node| match value {
        Some(value) => node.keys.insert(key, value),
        None => node.keys.remove(&key),
    });
    if changed.is_some() { STATUS_SUCCESS } else { STATUS_INVALID_DEVICE_REQUEST }
}

/// "`IoOpenDeviceRegistryKey` function": the hardware key or the software key of the current hardware profile.
fn io_open_device_registry_key(
    k: &Kernel,
    pdo: Ptr<DEVICE_OBJECT>,
    which: u32,
    access: u32,
    handle: Ptr<u64>,
) -> NTSTATUS {
    let path = match which {
        HARDWARE_KEY => property::with_node(k, pdo, |node| property::hardware_key(node)),
        SOFTWARE_KEY => property::with_node(k, pdo, |node| property::software_key(node)),
        _ => return STATUS_INVALID_PARAMETER,
    };
    let Some(path) = path else { return STATUS_INVALID_DEVICE_REQUEST };
    let target = Target::Key(k.registry.create(&path));
    handle.write(k.io.handles.open_of(k, pdo, Open { target, access, kernel: true }));
    STATUS_SUCCESS
}

/// "`IoOpenDriverRegistryKey` function": the `Parameters` key, which is `DriverRegKeyParameters`, 0.
fn io_open_driver_registry_key(
    k: &Kernel,
    object: Ptr<DRIVER_OBJECT>,
    kind: i32,
    access: u32,
    flags: u32,
    handle: Ptr<u64>,
) -> NTSTATUS {
    if kind != 0 || flags != 0 || !driver::is_driver(k, object) {
        return STATUS_INVALID_PARAMETER;
    }
    let key = k.registry.create(&(driver::service_key(&driver::name_of(k, object)) + "\\Parameters"));
    handle.write(k.io.handles.open(k, Target::Key(key), access, true));
    STATUS_SUCCESS
}
