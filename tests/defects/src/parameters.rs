//! The driver's parameters in the registry.

use core::ptr;

use wdk_sys::{
    _KEY_VALUE_INFORMATION_CLASS::KeyValuePartialInformation,
    HANDLE, KEY_READ, NTSTATUS, OBJ_CASE_INSENSITIVE, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, PCUNICODE_STRING,
    STATUS_NOT_FOUND, STATUS_SUCCESS, ULONG, UNICODE_STRING,
    ntddk::{ZwClose, ZwOpenKey, ZwQueryValueKey},
};

use crate::defect;

/// A `KEY_VALUE_PARTIAL_INFORMATION` with room for a name.
#[repr(C, align(8))]
struct Data {
    title: u32,
    kind: u32,
    length: u32,
    units: [u16; 130],
}

/// A string of the kernel's.
macro_rules! unicode {
    ($text:literal) => {{
        const UNITS: [u16; $text.len()] = {
            let (bytes, mut units, mut next) = (str::as_bytes($text), [0; $text.len()], 0);
            while next < units.len() {
                units[next] = bytes[next] as u16;
                next += 1;
            }
            units
        };
        const BYTES: u16 = 2 * $text.len() as u16;
        UNICODE_STRING { Length: BYTES, MaximumLength: BYTES, Buffer: UNITS.as_ptr().cast_mut() }
    }};
}

/// Reads which defect is wanted, if any, and whether it is to act correctly.
///
/// # Safety
/// `path` is that of the service key.
pub unsafe fn choose(path: PCUNICODE_STRING) -> NTSTATUS {
    let mut service: HANDLE = ptr::null_mut();
    // SAFETY: as the caller promises.
    let status = unsafe { open(ptr::null_mut(), path.cast_mut(), &mut service) };
    if status < STATUS_SUCCESS {
        return status;
    }
    let mut name = unicode!("Parameters");
    let mut parameters: HANDLE = ptr::null_mut();
    // SAFETY: the key is open, and the name is a string.
    let status = unsafe { open(service, &raw mut name, &mut parameters) };
    close(service);
    if status < STATUS_SUCCESS {
        return STATUS_SUCCESS;
    }
    let (wanted, correct) = (read(parameters, unicode!("Defect")), read(parameters, unicode!("Correct")));
    close(parameters);
    let Some(wanted) = wanted else { return STATUS_SUCCESS };
    let units = &wanted.units[..(wanted.length as usize / 2).saturating_sub(1).min(wanted.units.len())];
    let is_wanted = |name: &str| name.encode_utf16().eq(units.iter().copied());
    let Some(found) = defect::ALL.iter().flat_map(|topic| topic.iter()).find(|defect| is_wanted(defect.name)) else {
        return STATUS_NOT_FOUND;
    };
    defect::choose(found, correct.is_some_and(|value| value.units[0] == 1));
    STATUS_SUCCESS
}

/// # Safety
/// `name` is a string, below the open key `root` or absolute.
unsafe fn open(root: HANDLE, name: *mut UNICODE_STRING, key: &mut HANDLE) -> NTSTATUS {
    let mut attributes = OBJECT_ATTRIBUTES {
        Length: size_of::<OBJECT_ATTRIBUTES>() as ULONG,
        RootDirectory: root,
        ObjectName: name,
        Attributes: OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE,
        ..OBJECT_ATTRIBUTES::default()
    };
    // SAFETY: everything outlives the call; DriverEntry runs at PASSIVE_LEVEL.
    unsafe { ZwOpenKey(key, KEY_READ, &raw mut attributes) }
}

fn read(key: HANDLE, mut name: UNICODE_STRING) -> Option<Data> {
    let mut data = Data { title: 0, kind: 0, length: 0, units: [0; 130] };
    let (room, mut needed) = (size_of::<Data>() as ULONG, 0);
    // SAFETY: `data` has the room that is said; everything outlives the call.
    let status = unsafe {
        ZwQueryValueKey(key, &raw mut name, KeyValuePartialInformation, (&raw mut data).cast(), room, &raw mut needed)
    };
    (status >= STATUS_SUCCESS).then_some(data)
}

fn close(key: HANDLE) {
    // SAFETY: the handle is ours and not used again.
    let _ = unsafe { ZwClose(key) };
}
