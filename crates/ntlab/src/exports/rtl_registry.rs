//! The registry through tables of values ("`RtlQueryRegistryValues` function").
#![allow(clippy::cast_possible_truncation, reason = "lengths of values are checked")]

use windows_sys::{
    Wdk::System::SystemServices::RTL_QUERY_REGISTRY_TABLE,
    Win32::{
        Foundation::{
            NTSTATUS, STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_HANDLE, STATUS_NO_MEMORY, STATUS_OBJECT_NAME_NOT_FOUND,
            STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS, UNICODE_STRING,
        },
        System::Registry::{REG_DWORD, REG_EXPAND_SZ, REG_NONE, REG_SZ},
    },
};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    io::{handle::Target, layout, string},
    irql::{PASSIVE_LEVEL, exactly},
    kernel::Kernel,
    memory::{PoolKind, Ptr},
    registry::{KeyId, Value},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("RtlQueryRegistryValues", exactly(PASSIVE_LEVEL), rtl_query_registry_values),
    export!("RtlWriteRegistryValue", exactly(PASSIVE_LEVEL), rtl_write_registry_value),
    export!("RtlDeleteRegistryValue", exactly(PASSIVE_LEVEL), rtl_delete_registry_value),
];

const ABSOLUTE: u32 = 0;
const SERVICES: u32 = 1;
const CONTROL: u32 = 2;
const HANDLE: u32 = 0x4000_0000;
const OPTIONAL: u32 = 0x8000_0000;
/// Of a table's entry.
const SUBKEY: u32 = 0x1;
const TOP_KEY: u32 = 0x2;
const REQUIRED: u32 = 0x4;
const NO_EXPAND: u32 = 0x10;
const DIRECT: u32 = 0x20;
const TYPE_CHECK: u32 = 0x100;
const KNOWN: u32 = SUBKEY | TOP_KEY | REQUIRED | NO_EXPAND | DIRECT | TYPE_CHECK;
/// The tag of strings that the caller frees.
const STRING: u32 = u32::from_le_bytes(*b"Strg");

type Entry = Ptr<RTL_QUERY_REGISTRY_TABLE>;

/// The path that a path is relative to, as text.
fn absolute(relative_to: u32, path: Ptr<u16>) -> String {
    let path = if path.is_null() { String::new() } else { String::from_utf16_lossy(&string::terminated(path)) };
    let control_set = r"\Registry\Machine\System\CurrentControlSet";
    match relative_to & !OPTIONAL {
        ABSOLUTE => path,
        SERVICES => format!(r"{control_set}\Services\{path}"),
        CONTROL => format!(r"{control_set}\Control\{path}"),
        other => Finding::not_modelled(format!("registry values relative to {other}")).raise(),
    }
}

fn find(k: &Kernel, relative_to: u32, path: Ptr<u16>) -> Result<KeyId, NTSTATUS> {
    if relative_to & HANDLE == 0 {
        return k.registry.find(&absolute(relative_to, path)).ok_or(STATUS_OBJECT_NAME_NOT_FOUND);
    }
    match k.io.handles.get(path.address()).map(|open| open.target) {
        Some(Target::Key(key)) => Ok(key),
        Some(_) => Err(STATUS_OBJECT_TYPE_MISMATCH),
        None => Err(STATUS_INVALID_HANDLE),
    }
}

/// "`RtlQueryRegistryValues` function".
fn rtl_query_registry_values(
    k: &Kernel,
    relative_to: u32,
    path: Ptr<u16>,
    table: Entry,
    context: u64,
    _environment: u64,
) -> NTSTATUS {
    let top = match find(k, relative_to, path) {
        Ok(key) => key,
        Err(_) if relative_to & OPTIONAL != 0 => return STATUS_SUCCESS,
        Err(status) => return status,
    };
    let mut key = Some(top);
    for entry in (0..).map(|index| table.offset(index)) {
        let flags = at!(entry, Flags).read();
        let name = Ptr::<u16>::new(at!(entry, Name).cast::<u64>().read());
        if at!(entry, QueryRoutine).cast::<u64>().read() == 0 && flags & (DIRECT | SUBKEY) == 0 {
            return STATUS_SUCCESS;
        }
        if flags & !KNOWN != 0 || name.is_null() {
            Finding::not_modelled(format!("RtlQueryRegistryValues: flags {flags:#x}, or an entry without a name"))
                .raise();
        }
        let name = String::from_utf16_lossy(&string::terminated(name));
        let status = if flags & SUBKEY != 0 {
            key = k.registry.find_below(top, &name);
            if key.is_none() && flags & REQUIRED != 0 { STATUS_OBJECT_NAME_NOT_FOUND } else { STATUS_SUCCESS }
        } else {
            key = if flags & TOP_KEY == 0 { key } else { Some(top) };
            query(k, key, entry, &name, context)
        };
        if status < 0 {
            return status;
        }
    }
    STATUS_SUCCESS
}

/// One value: to where the entry says, or to its routine.
fn query(k: &Kernel, key: Option<KeyId>, entry: Entry, name: &str, context: u64) -> NTSTATUS {
    let flags = at!(entry, Flags).read();
    let found = key.and_then(|key| k.registry.get(key, name));
    let value = match found {
        Some(value) => value,
        None if flags & REQUIRED != 0 => return STATUS_OBJECT_NAME_NOT_FOUND,
        None => match default_of(entry) {
            Some(value) => value,
            None => return STATUS_SUCCESS,
        },
    };
    if flags & TYPE_CHECK != 0 && value.kind != at!(entry, DefaultType).read() >> 24 {
        return STATUS_OBJECT_TYPE_MISMATCH;
    }
    let target = at!(entry, EntryContext).cast::<u64>().read();
    if flags & DIRECT != 0 { store(k, &value, target) } else { tell(k, entry, name, &value, (context, target)) }
}

fn default_of(entry: Entry) -> Option<Value> {
    let kind = at!(entry, DefaultType).read() & 0xFF_FFFF;
    let data = Ptr::<u8>::new(at!(entry, DefaultData).cast::<u64>().read());
    let length = at!(entry, DefaultLength).read() as usize;
    if kind == REG_NONE {
        return None;
    }
    let is_text = matches!(kind, REG_SZ | REG_EXPAND_SZ);
    let length = if is_text && length == 0 { 2 * string::terminated(data.cast()).len() + 2 } else { length };
    Some(Value { kind, data: data.read_bytes(length) })
}

/// `RTL_QUERY_REGISTRY_DIRECT`.
fn store(k: &Kernel, value: &Value, target: u64) -> NTSTATUS {
    match value.kind {
        REG_SZ | REG_EXPAND_SZ => store_text(k, value, Ptr::new(target)),
        REG_DWORD => {
            Ptr::<u8>::new(target).write_bytes(&value.data);
            STATUS_SUCCESS
        }
        kind => Finding::not_modelled(format!("RTL_QUERY_REGISTRY_DIRECT of a value of type {kind}")).raise(),
    }
}

fn store_text(k: &Kernel, value: &Value, target: Ptr<UNICODE_STRING>) -> NTSTATUS {
    let Ok(length) = u16::try_from(value.data.len()) else { return STATUS_BUFFER_TOO_SMALL };
    if layout::load(at!(target, Buffer)).is_null() {
        let Some(buffer) = k.memory.allocate_pool(k, PoolKind::Paged, length.into(), STRING) else {
            return STATUS_NO_MEMORY;
        };
        layout::store(at!(target, Buffer), buffer.cast());
        at!(target, MaximumLength).write(length);
    } else if at!(target, MaximumLength).read() < length {
        return STATUS_BUFFER_TOO_SMALL;
    }
    layout::load(at!(target, Buffer)).cast::<u8>().write_bytes(&value.data);
    at!(target, Length).write(length.saturating_sub(2));
    STATUS_SUCCESS
}

/// Calls the entry's routine with the value.
fn tell(k: &Kernel, entry: Entry, name: &str, value: &Value, (context, own): (u64, u64)) -> NTSTATUS {
    if value.kind == windows_sys::Win32::System::Registry::REG_MULTI_SZ || value.kind == REG_EXPAND_SZ {
        Finding::not_modelled("RtlQueryRegistryValues: expanding or splitting a value for its routine").raise();
    }
    let text = string::place(k, name);
    let data = k.memory.allocate_object_bytes(value.data.len());
    data.write_bytes(&value.data);
    let routine = at!(entry, QueryRoutine).cast::<u64>().read();
    let length = value.data.len() as u64;
    let arguments = [text.address(), value.kind.into(), data.address(), length, context, own];
    let status = k.call("QueryRoutine", routine, &arguments) as NTSTATUS;
    k.memory.free_object(text);
    k.memory.free_object(data);
    status
}

/// "`RtlWriteRegistryValue` function": the last component of the path is made if it is not there.
fn rtl_write_registry_value(
    k: &Kernel,
    relative_to: u32,
    path: Ptr<u16>,
    name: Ptr<u16>,
    kind: u32,
    data: Ptr<u8>,
    length: u32,
) -> NTSTATUS {
    let key = match find(k, relative_to, path) {
        Ok(key) => key,
        Err(STATUS_OBJECT_NAME_NOT_FOUND) if relative_to & HANDLE == 0 => {
            k.registry.create(&absolute(relative_to, path))
        }
        Err(status) => return status,
    };
    let name = String::from_utf16_lossy(&string::terminated(name));
    k.registry.set(key, &name, Value { kind, data: data.read_bytes(length as usize) });
    STATUS_SUCCESS
}

/// "`RtlDeleteRegistryValue` function".
fn rtl_delete_registry_value(k: &Kernel, relative_to: u32, path: Ptr<u16>, name: Ptr<u16>) -> NTSTATUS {
    let key = match find(k, relative_to, path) {
        Ok(key) => key,
        Err(status) => return status,
    };
    let name = String::from_utf16_lossy(&string::terminated(name));
    if k.registry.remove_value(key, &name) { STATUS_SUCCESS } else { STATUS_OBJECT_NAME_NOT_FOUND }
}
