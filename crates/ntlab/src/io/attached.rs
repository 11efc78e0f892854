//! What a driver makes of its device in a stack: the flags and the type that it has when AddDevice returns, and that it stays there until
//! `IRP_MN_REMOVE_DEVICE` ("Initializing a Device Object", "Handling an `IRP_MN_SURPRISE_REMOVAL` Request").

use windows_sys::Wdk::{
    Foundation::DEVICE_OBJECT,
    Storage::FileSystem::{DO_BUFFERED_IO, DO_DEVICE_INITIALIZING, DO_DIRECT_IO, DO_POWER_PAGABLE},
};

use super::{device, irp::IO_MANAGER_VIOLATION};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

/// How the I/O manager passes data.
const BUFFERS: u32 = DO_BUFFERED_IO | DO_DIRECT_IO;

/// AddDevice has succeeded: looks at the devices that it has attached over `below`.
pub fn check_added(k: &Kernel, below: Ptr<DEVICE_OBJECT>) {
    for device in device::stack_above(below) {
        if let Some((code, sentence)) = wrong(device) {
            Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, 0, device.address()], sentence)
                .with_stack("it was attached", &device::attached_at(k, device))
                .raise();
        }
    }
}

/// What is wrong with a device, and the code of that. What a device over another driver's has to have as that has it, a function driver
/// decides: it takes the requests that are sent to its stack.
fn wrong(device: Ptr<DEVICE_OBJECT>) -> Option<(u64, &'static str)> {
    let lower = device::lower(device);
    let is_over_another = !device::lower(lower).is_null();
    let flags = at!(device, Flags).read();
    let missing = if is_over_another { at!(lower, Flags).read() & !flags } else { 0 };
    let is_of_another_type = at!(device, DeviceType).read() != at!(lower, DeviceType).read();
    let rules = [
        (flags & DO_DEVICE_INITIALIZING != 0, 0x243, "AddDevice returned without clearing DO_DEVICE_INITIALIZING"),
        (flags & BUFFERS == BUFFERS, 0x245, "a device has both DO_BUFFERED_IO and DO_DIRECT_IO"),
        (missing & BUFFERS != 0, 0x244, "a device lacks DO_BUFFERED_IO or DO_DIRECT_IO of the one it is attached to"),
        (is_over_another && is_of_another_type, 0x246, "a device has another type than the one it is attached to"),
        (missing & DO_POWER_PAGABLE != 0, 0x23F, "a device lacks DO_POWER_PAGABLE of the one it is attached to"),
    ];
    rules.into_iter().find(|(is_broken, ..)| *is_broken).map(|(_, code, sentence)| (code, sentence))
}

/// Tells the devices over `pdo` by `tell`, an `IRP_MN_SURPRISE_REMOVAL`, that theirs is gone. They stay in the stack, and are there, until they
/// are removed.
pub fn surprise(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, tell: impl FnOnce()) {
    let stack = device::stack_above(pdo);
    // What is deleted too early can so be looked at.
    for &device in &stack {
        device::reference(k, device);
    }
    tell();
    for &device in &stack {
        let (code, done) = match (device::is_device(k, device), device::lower(device).is_null()) {
            (false, _) => (0x242, "deleted"),
            (true, true) => (0x241, "detached"),
            (true, false) => continue,
        };
        let sentence = format!("a driver {done} its device object when it got IRP_MN_SURPRISE_REMOVAL");
        Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, 0, device.address()], sentence)
            .with_stack("detached at", &device::detached_at(k, device))
            .raise();
    }
    for &device in &stack {
        device::dereference(k, device);
    }
}
