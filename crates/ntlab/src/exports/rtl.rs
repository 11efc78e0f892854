//! Strings, versions and GUIDs of the run-time library.
#![allow(clippy::cast_possible_truncation, reason = "sizes are those of structures and strings, which are small")]

use std::cmp::Ordering;

use windows_sys::{
    Win32::{
        Foundation::{
            NTSTATUS, STATUS_BUFFER_TOO_SMALL, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS,
            UNICODE_STRING,
        },
        System::SystemInformation::{OSVERSIONINFOEXW, OSVERSIONINFOW},
    },
    core::GUID,
};

use super::Export;
use crate::{
    at, export,
    io::{interface::Class, layout, string},
    irql::{APC_LEVEL, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::{PoolKind, Ptr},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("RtlInitUnicodeString", any_level(), rtl_init_unicode_string),
    export!("RtlCopyUnicodeString", any_level(), rtl_copy_unicode_string),
    export!("RtlCompareUnicodeString", exactly(PASSIVE_LEVEL), rtl_compare_unicode_string),
    export!("RtlEqualUnicodeString", exactly(PASSIVE_LEVEL), rtl_equal_unicode_string),
    export!("RtlAppendUnicodeStringToString", any_level(), rtl_append_unicode_string_to_string),
    export!("RtlAppendUnicodeToString", any_level(), rtl_append_unicode_to_string),
    export!("RtlFreeUnicodeString", at_most(APC_LEVEL), rtl_free_unicode_string),
    export!("RtlGetVersion", exactly(PASSIVE_LEVEL), rtl_get_version),
    export!("RtlIsNtDdiVersionAvailable", exactly(PASSIVE_LEVEL), rtl_is_nt_ddi_version_available),
    export!("RtlStringFromGUID", exactly(PASSIVE_LEVEL), rtl_string_from_guid),
];

/// What the lab says it is: Windows Server 2022, 10.0.20348.
const VERSION: (u32, u32, u32) = (10, 0, 20348);
/// `NTDDI_WIN10_FE`, the header version of that release.
const DDI_VERSION: u32 = 0x0A00_000A;
/// `VER_PLATFORM_WIN32_NT` and `VER_NT_SERVER`.
const PLATFORM_NT: u32 = 2;
const SERVER: u8 = 3;
const GUID_TEXT: u32 = u32::from_le_bytes(*b"Guid");

/// "`RtlInitUnicodeString` function".
fn rtl_init_unicode_string(_k: &Kernel, target: Ptr<UNICODE_STRING>, source: Ptr<u16>) {
    if source.is_null() {
        at!(target, Length).write(0);
        at!(target, MaximumLength).write(0);
        layout::store(at!(target, Buffer), source);
    } else {
        string::describe(target, source.cast(), string::terminated(source).len() * 2);
    }
}

/// "`RtlCopyUnicodeString` function".
fn rtl_copy_unicode_string(_k: &Kernel, target: Ptr<UNICODE_STRING>, source: Ptr<UNICODE_STRING>) {
    let room = at!(target, MaximumLength).read() & !1;
    let length = if source.is_null() { 0 } else { at!(source, Length).read().min(room) };
    if length != 0 {
        let bytes = layout::load(at!(source, Buffer)).cast::<u8>().read_bytes(length.into());
        let buffer = layout::load(at!(target, Buffer)).cast::<u8>();
        buffer.write_bytes(&bytes);
        if length + 2 <= room {
            buffer.offset(length.into()).write_bytes(&[0, 0]);
        }
    }
    at!(target, Length).write(length);
}

fn compare(first: Ptr<UNICODE_STRING>, second: Ptr<UNICODE_STRING>, ignore_case: bool) -> Ordering {
    let fold = |string| {
        let text = string::text(string);
        if ignore_case { text.to_uppercase() } else { text }.encode_utf16().collect::<Vec<u16>>()
    };
    fold(first).cmp(&fold(second))
}

/// "`RtlCompareUnicodeString` function".
fn rtl_compare_unicode_string(
    _k: &Kernel,
    first: Ptr<UNICODE_STRING>,
    second: Ptr<UNICODE_STRING>,
    ignore_case: bool,
) -> i32 {
    compare(first, second, ignore_case) as i32
}

/// "`RtlEqualUnicodeString` function".
fn rtl_equal_unicode_string(
    _k: &Kernel,
    first: Ptr<UNICODE_STRING>,
    second: Ptr<UNICODE_STRING>,
    ignore_case: bool,
) -> bool {
    compare(first, second, ignore_case) == Ordering::Equal
}

fn append(target: Ptr<UNICODE_STRING>, units: &[u16]) -> NTSTATUS {
    let length = usize::from(at!(target, Length).read());
    let room = usize::from(at!(target, MaximumLength).read());
    let added: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let end = length + added.len();
    if end > room {
        return STATUS_BUFFER_TOO_SMALL;
    }
    let buffer = layout::load(at!(target, Buffer)).cast::<u8>();
    buffer.offset(length).write_bytes(&added);
    if end + 2 <= room {
        buffer.offset(end).write_bytes(&[0, 0]);
    }
    at!(target, Length).write(end as u16);
    STATUS_SUCCESS
}

/// "`RtlAppendUnicodeStringToString` function".
fn rtl_append_unicode_string_to_string(
    _k: &Kernel,
    target: Ptr<UNICODE_STRING>,
    source: Ptr<UNICODE_STRING>,
) -> NTSTATUS {
    append(target, &string::units(source))
}

/// "`RtlAppendUnicodeToString` function".
fn rtl_append_unicode_to_string(_k: &Kernel, target: Ptr<UNICODE_STRING>, source: Ptr<u16>) -> NTSTATUS {
    if source.is_null() { STATUS_SUCCESS } else { append(target, &string::terminated(source)) }
}

/// "`RtlFreeUnicodeString` function".
fn rtl_free_unicode_string(k: &Kernel, text: Ptr<UNICODE_STRING>) {
    let buffer = layout::load(at!(text, Buffer));
    if !buffer.is_null() {
        k.memory.free_pool(k, buffer.cast(), None);
    }
    text.cast::<u8>().fill(size_of::<UNICODE_STRING>(), 0);
}

/// "`RtlGetVersion` function".
fn rtl_get_version(_k: &Kernel, version: Ptr<OSVERSIONINFOW>) -> NTSTATUS {
    let size = at!(version, dwOSVersionInfoSize).read() as usize;
    let (major, minor, build) = VERSION;
    at!(version, dwMajorVersion).write(major);
    at!(version, dwMinorVersion).write(minor);
    at!(version, dwBuildNumber).write(build);
    at!(version, dwPlatformId).write(PLATFORM_NT);
    at!(version, szCSDVersion).cast::<u16>().write(0);
    if size == size_of::<OSVERSIONINFOEXW>() {
        let extended = version.cast::<OSVERSIONINFOEXW>();
        at!(extended, wServicePackMajor).write(0);
        at!(extended, wServicePackMinor).write(0);
        at!(extended, wSuiteMask).write(0);
        at!(extended, wProductType).write(SERVER);
    }
    STATUS_SUCCESS
}

/// "`RtlIsNtDdiVersionAvailable` function".
const fn rtl_is_nt_ddi_version_available(_k: &Kernel, version: u32) -> bool {
    version <= DDI_VERSION
}

/// "`RtlStringFromGUID` function". The caller frees the text with `RtlFreeUnicodeString`.
fn rtl_string_from_guid(k: &Kernel, guid: Ptr<GUID>, target: Ptr<UNICODE_STRING>) -> NTSTATUS {
    if guid.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    let bytes = string::utf16_terminated(&Class::from(guid.read()).to_string());
    let Some(buffer) = k.memory.allocate_pool(k, PoolKind::Paged, bytes.len(), GUID_TEXT) else {
        return STATUS_INSUFFICIENT_RESOURCES;
    };
    buffer.write_bytes(&bytes);
    string::describe(target, buffer, bytes.len() - 2);
    STATUS_SUCCESS
}
