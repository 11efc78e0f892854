//! Event tracing.

use windows_sys::{
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER, STATUS_SUCCESS},
    core::GUID,
};

use super::Export;
use crate::{
    export,
    io::trace::{self, Data, Descriptor},
    irql::{PASSIVE_LEVEL, any_level, exactly},
    kernel::Kernel,
    memory::Ptr,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("EtwRegister", exactly(PASSIVE_LEVEL), etw_register),
    export!("EtwUnregister", exactly(PASSIVE_LEVEL), etw_unregister),
    export!("EtwSetInformation", exactly(PASSIVE_LEVEL), etw_set_information),
    export!("EtwWrite", any_level(), etw_write),
    export!("EtwWriteTransfer", any_level(), etw_write_transfer),
    export!("EtwEventEnabled", any_level(), etw_event_enabled),
    export!("EtwProviderEnabled", any_level(), etw_provider_enabled),
];

/// "`EtwRegister` function".
fn etw_register(k: &Kernel, provider: Ptr<GUID>, callback: u64, context: u64, handle: Ptr<u64>) -> NTSTATUS {
    if provider.is_null() || handle.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    handle.write(trace::register(k, provider.read().into(), callback, context));
    STATUS_SUCCESS
}

const fn known(registered: bool) -> NTSTATUS {
    if registered { STATUS_SUCCESS } else { STATUS_INVALID_HANDLE }
}

/// "`EtwUnregister` function".
fn etw_unregister(k: &Kernel, handle: u64) -> NTSTATUS {
    known(trace::unregister(k, handle))
}

/// "`EtwSetInformation` function". Provider traits are for tools that read a trace; nothing in the lab does.
fn etw_set_information(k: &Kernel, handle: u64, _class: i32, _information: Ptr<u8>, _length: u32) -> NTSTATUS {
    known(k.io.trace.wants(handle, 0, 0).is_some())
}

/// "`EtwWrite` function".
fn etw_write(
    k: &Kernel,
    handle: u64,
    event: Ptr<Descriptor>,
    _activity: Ptr<GUID>,
    count: u32,
    data: Ptr<Data>,
) -> NTSTATUS {
    known(trace::write(k, handle, event, count, data))
}

/// "`EtwWriteTransfer` function".
fn etw_write_transfer(
    k: &Kernel,
    handle: u64,
    event: Ptr<Descriptor>,
    _activity: Ptr<GUID>,
    _related: Ptr<GUID>,
    count: u32,
    data: Ptr<Data>,
) -> NTSTATUS {
    known(trace::write(k, handle, event, count, data))
}

/// "`EtwEventEnabled` function".
fn etw_event_enabled(k: &Kernel, handle: u64, event: Ptr<Descriptor>) -> bool {
    let (level, keywords) = event.read().filter();
    k.io.trace.wants(handle, level, keywords) == Some(true)
}

/// "`EtwProviderEnabled` function".
fn etw_provider_enabled(k: &Kernel, handle: u64, level: u8, keywords: u64) -> bool {
    k.io.trace.wants(handle, level, keywords) == Some(true)
}
