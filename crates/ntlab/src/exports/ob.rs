//! Objects and handles.

use windows_sys::{
    Wdk::{Foundation::KEVENT, System::SystemServices::UserMode},
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS, UNICODE_STRING},
};

use super::Export;
use crate::{
    export,
    finding::Finding,
    io::{
        handle::{self, Target},
        object, string,
    },
    irql::{DISPATCH_LEVEL, PASSIVE_LEVEL, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ObReferenceObjectByHandle", exactly(PASSIVE_LEVEL), ob_reference_object_by_handle),
    export!("ObfReferenceObject", at_most(DISPATCH_LEVEL), obf_reference_object),
    export!("ObfDereferenceObject", at_most(DISPATCH_LEVEL), object::dereference),
    export!("ObDereferenceObjectDeferDelete", at_most(DISPATCH_LEVEL), object::dereference),
    export!("ZwClose", exactly(PASSIVE_LEVEL), zw_close),
    export!("IoCreateNotificationEvent", exactly(PASSIVE_LEVEL), io_create_notification_event),
];

/// Access to an event: `EVENT_ALL_ACCESS`.
const EVENT_ALL_ACCESS: u32 = 0x001F_0003;

/// "`ObReferenceObjectByHandle` function". For the kernel's own handles only.
fn ob_reference_object_by_handle(
    k: &Kernel,
    handle: u64,
    _access: u32,
    object_type: u64,
    mode: i8,
    result: Ptr<u64>,
    information: u64,
) -> NTSTATUS {
    if i32::from(mode) == UserMode || information != 0 {
        Finding::not_modelled("ObReferenceObjectByHandle: user mode or handle information").raise();
    }
    let Some(open) = k.io.handles.get(handle) else { return STATUS_INVALID_HANDLE };
    let (address, type_name) = match open.target {
        Target::Event(event) => (event.address(), "ExEventObjectType"),
        Target::Object(object) => (object, object::type_name(k, object)),
        Target::Key(_) => return STATUS_OBJECT_TYPE_MISMATCH,
    };
    if object_type != 0 && k.exec.object_type(type_name) != Some(object_type) {
        return STATUS_OBJECT_TYPE_MISMATCH;
    }
    object::reference(k, address);
    result.write(address);
    STATUS_SUCCESS
}

/// "`ObReferenceObject` macro". The count it returns is for debugging only.
fn obf_reference_object(k: &Kernel, object: u64) -> u64 {
    object::reference(k, object);
    0
}

/// "`ZwClose` function".
fn zw_close(k: &Kernel, handle: u64) -> NTSTATUS {
    if handle::close(k, handle).is_some() { STATUS_SUCCESS } else { STATUS_INVALID_HANDLE }
}

/// "`IoCreateNotificationEvent` function".
fn io_create_notification_event(k: &Kernel, name: Ptr<UNICODE_STRING>, handle: Ptr<u64>) -> Ptr<KEVENT> {
    let Some(event) = object::named_event(k, &string::text(name), (true, true)) else { return Ptr::null() };
    handle.write(k.io.handles.open(k, Target::Event(event), EVENT_ALL_ACCESS, true));
    event
}
