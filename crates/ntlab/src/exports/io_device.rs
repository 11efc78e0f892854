//! Device objects, remove locks and work items.
#![allow(clippy::cast_possible_truncation, reason = "sizes are those of structures and strings, which are small")]

use windows_sys::{
    Wdk::Foundation::{DEVICE_OBJECT, DRIVER_OBJECT},
    Win32::Foundation::{
        NTSTATUS, STATUS_NO_SUCH_DEVICE, STATUS_OBJECT_NAME_COLLISION, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS,
        UNICODE_STRING,
    },
};

use super::Export;
use crate::{
    export,
    io::{
        device::{self, NewDevice},
        layout,
        name::{self, Named},
        remove_lock::{self, Limits, RemoveLock},
        string,
        work_item::{self, WorkItem},
    },
    irql::{APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("IoCreateDevice", at_most(APC_LEVEL), io_create_device),
    export!("IoDeleteDevice", at_most(APC_LEVEL), device::delete),
    export!("IoAttachDeviceToDeviceStack", at_most(DISPATCH_LEVEL), device::attach),
    export!("IoAttachDeviceToDeviceStackSafe", at_most(DISPATCH_LEVEL), io_attach_device_to_device_stack_safe),
    export!("IoDetachDevice", exactly(PASSIVE_LEVEL), device::detach),
    export!("IoGetAttachedDeviceReference", at_most(DISPATCH_LEVEL), io_get_attached_device_reference),
    export!("IoCreateSymbolicLink", exactly(PASSIVE_LEVEL), io_create_symbolic_link),
    export!("IoDeleteSymbolicLink", exactly(PASSIVE_LEVEL), io_delete_symbolic_link),
    export!("IoInitializeRemoveLockEx", exactly(PASSIVE_LEVEL), io_initialize_remove_lock_ex),
    export!("IoAcquireRemoveLockEx", at_most(DISPATCH_LEVEL), io_acquire_remove_lock_ex),
    export!("IoReleaseRemoveLockEx", at_most(DISPATCH_LEVEL), io_release_remove_lock_ex),
    export!("IoReleaseRemoveLockAndWaitEx", exactly(PASSIVE_LEVEL), io_release_remove_lock_and_wait_ex),
    export!("IoAllocateWorkItem", at_most(DISPATCH_LEVEL), work_item::allocate),
    export!("IoFreeWorkItem", at_most(DISPATCH_LEVEL), work_item::free),
    export!("IoSizeofWorkItem", any_level(), io_sizeof_work_item),
    export!("IoInitializeWorkItem", any_level(), io_initialize_work_item),
    export!("IoUninitializeWorkItem", any_level(), io_uninitialize_work_item),
    export!("IoQueueWorkItem", at_most(DISPATCH_LEVEL), io_queue_work_item),
    export!("IoQueueWorkItemEx", at_most(DISPATCH_LEVEL), io_queue_work_item_ex),
];

/// "`IoCreateDevice` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_create_device(
    k: &Kernel,
    driver: Ptr<DRIVER_OBJECT>,
    extension: u32,
    name: Ptr<UNICODE_STRING>,
    device_type: u32,
    characteristics: u32,
    exclusive: bool,
    result: Ptr<*mut DEVICE_OBJECT>,
) -> NTSTATUS {
    let text = string::text(name);
    let name = (!name.is_null()).then_some(text.as_str());
    match device::create(k, driver, &NewDevice { extension, name, device_type, characteristics, exclusive }) {
        Ok(device) => {
            layout::store(result, device);
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// "`IoAttachDeviceToDeviceStackSafe` function".
fn io_attach_device_to_device_stack_safe(
    k: &Kernel,
    source: Ptr<DEVICE_OBJECT>,
    target: Ptr<DEVICE_OBJECT>,
    attached: Ptr<*mut DEVICE_OBJECT>,
) -> NTSTATUS {
    let lower = device::attach(k, source, target);
    layout::store(attached, lower);
    if lower.is_null() { STATUS_NO_SUCH_DEVICE } else { STATUS_SUCCESS }
}

/// "`IoGetAttachedDeviceReference` function".
fn io_get_attached_device_reference(k: &Kernel, device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    let top = device::top_of_stack(device);
    device::reference(k, top);
    top
}

/// "`IoCreateSymbolicLink` function".
fn io_create_symbolic_link(k: &Kernel, link: Ptr<UNICODE_STRING>, target: Ptr<UNICODE_STRING>) -> NTSTATUS {
    let name = string::text(link);
    let target = string::text(target);
    if k.io.names.insert(&name, Named::Link(target.clone())) {
        let device = match k.io.names.resolve(&target) {
            Some((Named::Device(device), _)) => device::physical(k, device),
            _ => Ptr::null(),
        };
        k.tracking.made_for(k, Tracked::SymbolicLink, name::key(&name), device, || name.clone());
        STATUS_SUCCESS
    } else {
        STATUS_OBJECT_NAME_COLLISION
    }
}

/// "`IoDeleteSymbolicLink` function".
fn io_delete_symbolic_link(k: &Kernel, link: Ptr<UNICODE_STRING>) -> NTSTATUS {
    let name = string::text(link);
    if !matches!(k.io.names.find(&name), Some(Named::Link(_))) {
        return STATUS_OBJECT_NAME_NOT_FOUND;
    }
    k.io.names.remove(&name);
    k.tracking.gone(Tracked::SymbolicLink, name::key(&name));
    STATUS_SUCCESS
}

/// "`IoInitializeRemoveLock` macro".
fn io_initialize_remove_lock_ex(k: &Kernel, lock: RemoveLock, _tag: u32, minutes: u32, high_water: u32, size: u32) {
    remove_lock::initialize(k, lock, Limits::new(minutes, high_water), size);
}

/// "`IoAcquireRemoveLock` macro".
fn io_acquire_remove_lock_ex(k: &Kernel, lock: RemoveLock, tag: u64, _file: u64, _line: u32, _size: u32) -> NTSTATUS {
    remove_lock::acquire(k, lock, tag)
}

/// "`IoReleaseRemoveLock` macro".
fn io_release_remove_lock_ex(k: &Kernel, lock: RemoveLock, tag: u64, _size: u32) {
    remove_lock::release(k, lock, tag);
}

/// "`IoReleaseRemoveLockAndWait` macro".
fn io_release_remove_lock_and_wait_ex(k: &Kernel, lock: RemoveLock, tag: u64, _size: u32) {
    remove_lock::release_and_wait(k, lock, tag);
}

/// "`IoSizeofWorkItem` function".
const fn io_sizeof_work_item(_k: &Kernel) -> u32 {
    size_of::<WorkItem>() as u32
}

/// "`IoInitializeWorkItem` function".
fn io_initialize_work_item(_k: &Kernel, object: u64, item: Ptr<WorkItem>) {
    work_item::initialize(item, object);
}

/// "`IoUninitializeWorkItem` function".
fn io_uninitialize_work_item(_k: &Kernel, item: Ptr<WorkItem>) {
    work_item::uninitialize(item, "IoUninitializeWorkItem");
}

/// "`IoQueueWorkItem` function". Every queue type is served by the same threads.
fn io_queue_work_item(k: &Kernel, item: Ptr<WorkItem>, routine: u64, _queue: i32, context: u64) {
    work_item::queue(k, item, routine, context, false);
}

/// "`IoQueueWorkItemEx` function".
fn io_queue_work_item_ex(k: &Kernel, item: Ptr<WorkItem>, routine: u64, _queue: i32, context: u64) {
    work_item::queue(k, item, routine, context, true);
}
