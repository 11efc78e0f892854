//! The registry for drivers.
#![allow(clippy::cast_possible_truncation, reason = "sizes are those of structures and strings, which are small")]

use windows_sys::{
    Wdk::{
        Foundation::OBJECT_ATTRIBUTES,
        System::SystemServices::{
            KEY_VALUE_BASIC_INFORMATION, KEY_VALUE_FULL_INFORMATION, KEY_VALUE_PARTIAL_INFORMATION,
        },
    },
    Win32::{
        Foundation::{
            NTSTATUS, OBJ_KERNEL_HANDLE, STATUS_ACCESS_DENIED, STATUS_BUFFER_OVERFLOW, STATUS_BUFFER_TOO_SMALL,
            STATUS_CANNOT_DELETE, STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER, STATUS_KEY_DELETED,
            STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_PATH_SYNTAX_BAD, STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS,
            UNICODE_STRING,
        },
        Storage::FileSystem::DELETE,
        System::Registry::{KEY_QUERY_VALUE, KEY_SET_VALUE, REG_CREATED_NEW_KEY, REG_OPENED_EXISTING_KEY},
    },
};

use super::Export;
use crate::{
    at, export,
    io::{handle::Target, string},
    irql::{PASSIVE_LEVEL, exactly},
    kernel::Kernel,
    memory::Ptr,
    registry::{KeyId, Value},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ZwOpenKey", exactly(PASSIVE_LEVEL), zw_open_key),
    export!("ZwCreateKey", exactly(PASSIVE_LEVEL), zw_create_key),
    export!("ZwQueryValueKey", exactly(PASSIVE_LEVEL), zw_query_value_key),
    export!("ZwSetValueKey", exactly(PASSIVE_LEVEL), zw_set_value_key),
    export!("ZwDeleteValueKey", exactly(PASSIVE_LEVEL), zw_delete_value_key),
    export!("ZwDeleteKey", exactly(PASSIVE_LEVEL), zw_delete_key),
];

/// `KEY_VALUE_INFORMATION_CLASS`.
const BASIC: i32 = 0;
const FULL: i32 = 1;
const PARTIAL: i32 = 2;

/// The key of a handle that was opened with `access`.
fn key_of(k: &Kernel, handle: u64, access: u32) -> Result<KeyId, NTSTATUS> {
    let open = k.io.handles.get(handle).ok_or(STATUS_INVALID_HANDLE)?;
    let Target::Key(key) = open.target else { return Err(STATUS_OBJECT_TYPE_MISMATCH) };
    // Generic and maximum access are for the whole key.
    let granted = if open.access & 0xF200_0000 == 0 { open.access } else { u32::MAX };
    if granted & access != access {
        return Err(STATUS_ACCESS_DENIED);
    }
    if k.registry.is_deleted(key) { Err(STATUS_KEY_DELETED) } else { Ok(key) }
}

/// Runs what needs a key; its error is the status.
fn with_key(k: &Kernel, handle: u64, access: u32, action: impl FnOnce(KeyId) -> NTSTATUS) -> NTSTATUS {
    key_of(k, handle, access).map_or_else(|status| status, action)
}

/// The directory that a name starts from, if it is relative, and the name.
fn name_of(k: &Kernel, attributes: Ptr<OBJECT_ATTRIBUTES>) -> Result<(Option<KeyId>, String), NTSTATUS> {
    if at!(attributes, Length).read() as usize != size_of::<OBJECT_ATTRIBUTES>() {
        return Err(STATUS_INVALID_PARAMETER);
    }
    let name = string::text(Ptr::new(at!(attributes, ObjectName).cast::<u64>().read()));
    let root = at!(attributes, RootDirectory).cast::<u64>().read();
    if root != 0 {
        return key_of(k, root, 0).map(|key| (Some(key), name));
    }
    if name.starts_with('\\') { Ok((None, name)) } else { Err(STATUS_OBJECT_PATH_SYNTAX_BAD) }
}

fn open(k: &Kernel, key: KeyId, access: u32, attributes: Ptr<OBJECT_ATTRIBUTES>, handle: Ptr<u64>) {
    let kernel = at!(attributes, Attributes).read() & OBJ_KERNEL_HANDLE != 0;
    handle.write(k.io.handles.open(k, Target::Key(key), access, kernel));
}

/// "`ZwOpenKey` function".
fn zw_open_key(k: &Kernel, handle: Ptr<u64>, access: u32, attributes: Ptr<OBJECT_ATTRIBUTES>) -> NTSTATUS {
    let (root, name) = match name_of(k, attributes) {
        Ok(found) => found,
        Err(status) => return status,
    };
    let key = root.map_or_else(|| k.registry.find(&name), |root| k.registry.find_below(root, &name));
    let Some(key) = key else { return STATUS_OBJECT_NAME_NOT_FOUND };
    open(k, key, access, attributes, handle);
    STATUS_SUCCESS
}

/// "`ZwCreateKey` function": only the last component is made.
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn zw_create_key(
    k: &Kernel,
    handle: Ptr<u64>,
    access: u32,
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    _title: u32,
    _class: Ptr<UNICODE_STRING>,
    _options: u32,
    disposition: Ptr<u32>,
) -> NTSTATUS {
    let (root, name) = match name_of(k, attributes) {
        Ok(found) => found,
        Err(status) => return status,
    };
    let find = |name: &str| root.map_or_else(|| k.registry.find(name), |root| k.registry.find_below(root, name));
    let (parent, child) = name.rsplit_once('\\').unwrap_or(("", &name));
    let (key, outcome) = match (find(&name), find(parent).or(root)) {
        (Some(key), _) => (key, REG_OPENED_EXISTING_KEY),
        (None, Some(parent)) => (k.registry.create_child(parent, child), REG_CREATED_NEW_KEY),
        (None, None) => return STATUS_OBJECT_NAME_NOT_FOUND,
    };
    open(k, key, access, attributes, handle);
    if !disposition.is_null() {
        disposition.write(outcome);
    }
    STATUS_SUCCESS
}

/// "`ZwQueryValueKey` function".
fn zw_query_value_key(
    k: &Kernel,
    handle: u64,
    name: Ptr<UNICODE_STRING>,
    class: i32,
    buffer: Ptr<u8>,
    length: u32,
    needed: Ptr<u32>,
) -> NTSTATUS {
    with_key(k, handle, KEY_QUERY_VALUE, |key| {
        let name = string::text(name);
        let Some(value) = k.registry.get(key, &name) else { return STATUS_OBJECT_NAME_NOT_FOUND };
        let Some((fixed, bytes)) = information(class, &name, &value) else { return STATUS_INVALID_PARAMETER };
        needed.write(bytes.len() as u32);
        let room = length as usize;
        if room < fixed {
            return STATUS_BUFFER_TOO_SMALL;
        }
        buffer.write_bytes(&bytes[..room.min(bytes.len())]);
        if room < bytes.len() { STATUS_BUFFER_OVERFLOW } else { STATUS_SUCCESS }
    })
}

/// The information about a value, and the length of its fixed part.
fn information(class: i32, name: &str, value: &Value) -> Option<(usize, Vec<u8>)> {
    let name = string::utf16(name);
    let (kind, data) = (value.kind, value.data.len() as u32);
    let word = u32::to_le_bytes;
    let mut bytes = Vec::new();
    let fixed = match class {
        BASIC => {
            bytes.extend([0, kind, name.len() as u32].map(word).concat());
            bytes.extend(&name);
            std::mem::offset_of!(KEY_VALUE_BASIC_INFORMATION, Name)
        }
        PARTIAL => {
            bytes.extend([0, kind, data].map(word).concat());
            bytes.extend(&value.data);
            std::mem::offset_of!(KEY_VALUE_PARTIAL_INFORMATION, Data)
        }
        FULL => {
            let fixed = std::mem::offset_of!(KEY_VALUE_FULL_INFORMATION, Name);
            let offset = (fixed + name.len()).next_multiple_of(8);
            bytes.extend([0, kind, offset as u32, data, name.len() as u32].map(word).concat());
            bytes.extend(&name);
            bytes.resize(offset, 0);
            bytes.extend(&value.data);
            fixed
        }
        _ => return None,
    };
    Some((fixed, bytes))
}

/// "`ZwSetValueKey` function".
fn zw_set_value_key(
    k: &Kernel,
    handle: u64,
    name: Ptr<UNICODE_STRING>,
    _title: u32,
    kind: u32,
    data: Ptr<u8>,
    length: u32,
) -> NTSTATUS {
    with_key(k, handle, KEY_SET_VALUE, |key| {
        k.registry.set(key, &string::text(name), Value { kind, data: data.read_bytes(length as usize) });
        STATUS_SUCCESS
    })
}

/// "`ZwDeleteValueKey` function".
fn zw_delete_value_key(k: &Kernel, handle: u64, name: Ptr<UNICODE_STRING>) -> NTSTATUS {
    with_key(k, handle, KEY_SET_VALUE, |key| {
        if k.registry.remove_value(key, &string::text(name)) { STATUS_SUCCESS } else { STATUS_OBJECT_NAME_NOT_FOUND }
    })
}

/// "`ZwDeleteKey` function".
fn zw_delete_key(k: &Kernel, handle: u64) -> NTSTATUS {
    with_key(k, handle, DELETE, |key| if k.registry.delete(key) { STATUS_SUCCESS } else { STATUS_CANNOT_DELETE })
}
