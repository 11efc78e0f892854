//! Work queue items without a device, the error log, events by handle, and the previous mode.
#![allow(clippy::cast_possible_truncation, reason = "sizes of structures are small")]

use windows_sys::{
    Wdk::{
        Foundation::{KEVENT, OBJECT_ATTRIBUTES},
        System::SystemServices::{IO_ERROR_LOG_PACKET, KernelMode, UserMode},
    },
    Win32::{
        Foundation::{
            NTSTATUS, OBJ_KERNEL_HANDLE, STATUS_INVALID_HANDLE, STATUS_OBJECT_NAME_COLLISION,
            STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS, UNICODE_STRING,
        },
        System::Kernel::LIST_ENTRY,
    },
};

use super::Export;
use crate::{
    at,
    events::Kind,
    export,
    finding::Finding,
    io::{handle::Target, object, string, work_item},
    irql::{DISPATCH_LEVEL, PASSIVE_LEVEL, at_most, exactly},
    kernel::Kernel,
    memory::{PoolKind, Ptr},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ExQueueWorkItem", at_most(DISPATCH_LEVEL), ex_queue_work_item),
    export!("IoAllocateErrorLogEntry", at_most(DISPATCH_LEVEL), io_allocate_error_log_entry),
    export!("IoWriteErrorLogEntry", at_most(DISPATCH_LEVEL), io_write_error_log_entry),
    export!("IoFreeErrorLogEntry", at_most(DISPATCH_LEVEL), io_free_error_log_entry),
    export!("IoCreateSynchronizationEvent", exactly(PASSIVE_LEVEL), io_create_synchronization_event),
    export!("ZwCreateEvent", exactly(PASSIVE_LEVEL), zw_create_event),
    export!("ZwOpenEvent", exactly(PASSIVE_LEVEL), zw_open_event),
    export!("ZwSetEvent", exactly(PASSIVE_LEVEL), zw_set_event),
    export!("ExGetPreviousMode", at_most(DISPATCH_LEVEL), ex_get_previous_mode),
];

/// `WORKER_INVALID`.
const WORKER_INVALID: u32 = 0xE4;
/// Its first parameter: an active worker item was queued.
const QUEUED_AGAIN: u64 = 1;
/// `ERROR_LOG_MAXIMUM_SIZE`: 256 bytes without what the kernel puts around an entry.
const LONGEST_ENTRY: usize = 0xF0;
const ERROR_LOG: u32 = u32::from_le_bytes(*b"IoEr");
/// Access to an event: `EVENT_ALL_ACCESS`.
const EVENT_ALL_ACCESS: u32 = 0x001F_0003;

/// `WORK_QUEUE_ITEM`.
#[derive(Clone, Copy)]
#[repr(C)]
struct WorkQueueItem {
    list: LIST_ENTRY,
    routine: u64,
    parameter: u64,
}

/// "`ExQueueWorkItem` function". Every queue is served by the same threads.
fn ex_queue_work_item(k: &Kernel, item: Ptr<WorkQueueItem>, queue: u32) {
    let queued = at!(item, list.Flink).cast::<u64>();
    if queued.read() != 0 {
        let sentence = "ExQueueWorkItem was called for a work item that is queued already, or not initialised";
        Finding::bug_check(WORKER_INVALID, [QUEUED_AGAIN, item.address(), queue.into(), 0], sentence).raise();
    }
    queued.write(item.address());
    work_item::run(k, move |k| {
        let WorkQueueItem { routine, parameter, .. } = item.read();
        // From here on the driver may queue the item again, or free it.
        queued.write(0);
        k.call("worker routine", routine, &[parameter]);
    });
}

/// "`IoAllocateErrorLogEntry` function".
fn io_allocate_error_log_entry(k: &Kernel, _object: u64, size: u8) -> Ptr<IO_ERROR_LOG_PACKET> {
    let size = usize::from(size);
    if !(size_of::<IO_ERROR_LOG_PACKET>()..=LONGEST_ENTRY).contains(&size) {
        return Ptr::null();
    }
    let entry = k.memory.allocate_pool(k, PoolKind::NonPaged, size, ERROR_LOG);
    entry.map_or(Ptr::null(), |entry| {
        entry.fill(size, 0);
        entry.cast()
    })
}

/// "`IoWriteErrorLogEntry` function": the entry goes to the trace.
fn io_write_error_log_entry(k: &Kernel, entry: Ptr<IO_ERROR_LOG_PACKET>) {
    let (code, last) = (at!(entry, ErrorCode).read(), at!(entry, FinalStatus).read());
    let dump = at!(entry, DumpDataSize).read();
    k.record(|| Kind::Note(format!("error log: {code:#010x}, final status {last:#010x}, {dump} bytes of data").into()));
    io_free_error_log_entry(k, entry);
}

/// "`IoFreeErrorLogEntry` function".
fn io_free_error_log_entry(k: &Kernel, entry: Ptr<IO_ERROR_LOG_PACKET>) {
    k.memory.free_pool(k, entry.cast(), Some(ERROR_LOG));
}

/// "`IoCreateSynchronizationEvent` function".
fn io_create_synchronization_event(k: &Kernel, name: Ptr<UNICODE_STRING>, handle: Ptr<u64>) -> Ptr<KEVENT> {
    let Some(event) = object::named_event(k, &string::text(name), (false, true)) else { return Ptr::null() };
    handle.write(k.io.handles.open(k, Target::Event(event), EVENT_ALL_ACCESS, true));
    event
}

/// What the attributes of an object say: its name, if it has one, and whether its handle is the kernel's.
fn attributes_of(attributes: Ptr<OBJECT_ATTRIBUTES>) -> (Option<String>, bool) {
    if attributes.is_null() {
        return (None, false);
    }
    let name = Ptr::<UNICODE_STRING>::new(at!(attributes, ObjectName).cast::<u64>().read());
    if at!(attributes, RootDirectory).cast::<u64>().read() != 0 {
        Finding::not_modelled("an event below a directory object").raise();
    }
    let kernel = at!(attributes, Attributes).read() & OBJ_KERNEL_HANDLE != 0;
    ((!name.is_null()).then(|| string::text(name)), kernel)
}

/// "`ZwCreateEvent` function".
fn zw_create_event(
    k: &Kernel,
    handle: Ptr<u64>,
    access: u32,
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    kind: i32,
    state: bool,
) -> NTSTATUS {
    let (name, kernel) = attributes_of(attributes);
    let manner = (kind == 0, state);
    let event = match name {
        None => object::unnamed_event(k, manner),
        Some(name) if object::find_event(k, &name).is_some() => return STATUS_OBJECT_NAME_COLLISION,
        Some(name) => match object::named_event(k, &name, manner) {
            Some(event) => event,
            None => return STATUS_OBJECT_TYPE_MISMATCH,
        },
    };
    handle.write(k.io.handles.open(k, Target::Event(event), access, kernel));
    STATUS_SUCCESS
}

/// "`ZwOpenEvent` function".
fn zw_open_event(k: &Kernel, handle: Ptr<u64>, access: u32, attributes: Ptr<OBJECT_ATTRIBUTES>) -> NTSTATUS {
    let (name, kernel) = attributes_of(attributes);
    let found = name.and_then(|name| object::find_event(k, &name));
    let Some(event) = found else { return STATUS_OBJECT_NAME_NOT_FOUND };
    object::reference(k, event.address());
    handle.write(k.io.handles.open(k, Target::Event(event), access, kernel));
    STATUS_SUCCESS
}

/// "`ZwSetEvent` function".
fn zw_set_event(k: &Kernel, handle: u64, previous: Ptr<i32>) -> NTSTATUS {
    let event = match k.io.handles.get(handle).map(|open| open.target) {
        Some(Target::Event(event)) => event,
        Some(_) => return STATUS_OBJECT_TYPE_MISMATCH,
        None => return STATUS_INVALID_HANDLE,
    };
    let before = k.set_event(event);
    if !previous.is_null() {
        previous.write(before);
    }
    STATUS_SUCCESS
}

/// "`ExGetPreviousMode` function".
fn ex_get_previous_mode(k: &Kernel) -> i32 {
    let is_users = k.sched.users.borrow().contains(&k.thread_id());
    if is_users { UserMode } else { KernelMode }
}
