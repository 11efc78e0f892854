//! Device queues and `StartIo` ("Writing a `StartIo` Routine", "Setting Up and Using Device Queues").

use windows_sys::Wdk::{
    Foundation::{DEVICE_OBJECT, IRP, KDEVICE_QUEUE},
    System::SystemServices::KDEVICE_QUEUE_ENTRY,
};
use windows_sys::Win32::System::Kernel::LIST_ENTRY;

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    io::{cancel, device, layout},
    irql::{DISPATCH_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
    sched::VERIFIER,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("KeInitializeDeviceQueue", at_most(DISPATCH_LEVEL), ke_initialize_device_queue),
    export!("KeInsertDeviceQueue", exactly(DISPATCH_LEVEL), ke_insert_device_queue),
    export!("KeInsertByKeyDeviceQueue", exactly(DISPATCH_LEVEL), ke_insert_by_key_device_queue),
    export!("KeRemoveDeviceQueue", exactly(DISPATCH_LEVEL), ke_remove_device_queue),
    export!("KeRemoveByKeyDeviceQueue", exactly(DISPATCH_LEVEL), ke_remove_by_key_device_queue),
    export!("KeRemoveEntryDeviceQueue", at_most(DISPATCH_LEVEL), ke_remove_entry_device_queue),
    export!("IoStartPacket", at_most(DISPATCH_LEVEL), io_start_packet),
    export!("IoStartNextPacket", exactly(DISPATCH_LEVEL), io_start_next_packet),
    export!("IoStartNextPacketByKey", at_most(DISPATCH_LEVEL), io_start_next_packet_by_key),
    export!("IoSetStartIoAttributes", any_level(), io_set_start_io_attributes),
];

/// `DeviceQueueObject`.
const DEVICE_QUEUE: i16 = 20;

type Queue = Ptr<KDEVICE_QUEUE>;
type Entry = Ptr<KDEVICE_QUEUE_ENTRY>;

/// "`KeInitializeDeviceQueue` function".
pub fn ke_initialize_device_queue(_: &Kernel, queue: Queue) {
    at!(queue, Type).write(DEVICE_QUEUE);
    layout::initialize_list(at!(queue, DeviceListHead));
    at!(queue, Lock).write(0);
    at!(queue, Busy).cast::<u8>().write(0);
}

fn is_busy(queue: Queue) -> bool {
    if at!(queue, Type).read() != DEVICE_QUEUE {
        let sentence = "a device queue that was not initialized";
        Finding::bug_check(VERIFIER, [0, queue.address(), 0, 0], sentence).raise();
    }
    at!(queue, Busy).cast::<u8>().replace(1) != 0
}

/// The entries, first to last.
fn entries(queue: Queue) -> Vec<Entry> {
    let head = at!(queue, DeviceListHead);
    let mut entries = Vec::new();
    let mut link = layout::load(at!(head, Flink));
    while link != head {
        entries.push(link.cast());
        link = layout::load(at!(link, Flink));
    }
    entries
}

/// Puts an entry before a link of the list.
fn insert_before(link: Ptr<LIST_ENTRY>, entry: Entry) {
    let own = at!(entry, DeviceListEntry);
    let before = layout::load(at!(link, Blink));
    layout::store(at!(own, Flink), link);
    layout::store(at!(own, Blink), before);
    layout::store(at!(before, Flink), own);
    layout::store(at!(link, Blink), own);
    at!(entry, Inserted).cast::<u8>().write(1);
}

fn unlink(entry: Entry) -> Entry {
    let own = at!(entry, DeviceListEntry);
    let (next, before) = (layout::load(at!(own, Flink)), layout::load(at!(own, Blink)));
    layout::store(at!(before, Flink), next);
    layout::store(at!(next, Blink), before);
    at!(entry, Inserted).cast::<u8>().write(0);
    entry
}

/// "`KeInsertDeviceQueue` function".
fn ke_insert_device_queue(_: &Kernel, queue: Queue, entry: Entry) -> bool {
    let queued = is_busy(queue);
    at!(entry, Inserted).cast::<u8>().write(0);
    if queued {
        insert_before(at!(queue, DeviceListHead), entry);
    }
    queued
}

/// "`KeInsertByKeyDeviceQueue` function": behind those of the same key.
fn ke_insert_by_key_device_queue(_: &Kernel, queue: Queue, entry: Entry, key: u32) -> bool {
    let queued = is_busy(queue);
    at!(entry, SortKey).write(key);
    at!(entry, Inserted).cast::<u8>().write(0);
    if queued {
        let later = entries(queue).into_iter().find(|other| at!(*other, SortKey).read() > key);
        insert_before(later.map_or_else(|| at!(queue, DeviceListHead), Ptr::cast), entry);
    }
    queued
}

/// "`KeRemoveDeviceQueue` function": an empty queue is no longer busy.
fn ke_remove_device_queue(_: &Kernel, queue: Queue) -> Entry {
    remove(queue, |_| true)
}

/// "`KeRemoveByKeyDeviceQueue` function": the first whose key is not less, else the first.
fn ke_remove_by_key_device_queue(_: &Kernel, queue: Queue, key: u32) -> Entry {
    remove(queue, |entry| at!(entry, SortKey).read() >= key)
}

fn remove(queue: Queue, wanted: impl Fn(Entry) -> bool) -> Entry {
    let entries = entries(queue);
    let found = entries.iter().copied().find(|entry| wanted(*entry)).or_else(|| entries.first().copied());
    if found.is_none() {
        at!(queue, Busy).cast::<u8>().write(0);
    }
    found.map_or(Ptr::null(), unlink)
}

/// "`KeRemoveEntryDeviceQueue` function".
fn ke_remove_entry_device_queue(_: &Kernel, _queue: Queue, entry: Entry) -> bool {
    let inserted = at!(entry, Inserted).cast::<u8>().read() != 0;
    if inserted {
        unlink(entry);
    }
    inserted
}

fn entry_of(packet: Ptr<IRP>) -> Entry {
    at!(packet, Tail.Overlay.Anonymous1.DeviceQueueEntry)
}

fn packet_of(entry: Entry) -> Ptr<IRP> {
    let offset = entry_of(Ptr::null()).address();
    Ptr::new(entry.address() - offset)
}

/// "`IoStartPacket` function".
fn io_start_packet(k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>, key: Ptr<u32>, cancel_routine: u64) {
    let before = k.raise_irql(DISPATCH_LEVEL);
    let cancelable = cancel_routine != 0;
    let level = cancelable.then(|| cancel::acquire_lock(k));
    if cancelable {
        at!(packet, CancelRoutine).cast::<u64>().write(cancel_routine);
    }
    let (queue, entry) = (at!(device, DeviceQueue), entry_of(packet));
    let queued = if key.is_null() {
        ke_insert_device_queue(k, queue, entry)
    } else {
        ke_insert_by_key_device_queue(k, queue, entry, key.read())
    };
    if !queued {
        layout::store(at!(device, CurrentIrp), packet);
    }
    let cancelled = cancelable && queued && at!(packet, Cancel).cast::<u8>().read() != 0;
    if let Some(level) = level {
        cancel::release_lock(k, level);
    }
    if cancelled {
        cancel::cancel(k, packet);
    } else if !queued {
        start(k, device, packet);
    }
    k.lower_irql(before);
}

/// "`IoStartNextPacket` function".
fn io_start_next_packet(k: &Kernel, device: Ptr<DEVICE_OBJECT>, cancelable: bool) {
    start_next(k, device, cancelable, |queue| ke_remove_device_queue(k, queue));
}

/// "`IoStartNextPacketByKey` function".
fn io_start_next_packet_by_key(k: &Kernel, device: Ptr<DEVICE_OBJECT>, cancelable: bool, key: u32) {
    let before = k.raise_irql(DISPATCH_LEVEL);
    start_next(k, device, cancelable, |queue| ke_remove_by_key_device_queue(k, queue, key));
    k.lower_irql(before);
}

fn start_next(k: &Kernel, device: Ptr<DEVICE_OBJECT>, cancelable: bool, next: impl FnOnce(Queue) -> Entry) {
    let level = cancelable.then(|| cancel::acquire_lock(k));
    layout::store(at!(device, CurrentIrp), Ptr::null());
    let entry = next(at!(device, DeviceQueue));
    let packet = if entry.is_null() { Ptr::null() } else { packet_of(entry) };
    layout::store(at!(device, CurrentIrp), packet);
    if let Some(level) = level {
        cancel::release_lock(k, level);
    }
    if !packet.is_null() {
        start(k, device, packet);
    }
}

fn start(k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>) {
    let driver = device::driver_of(device);
    let routine = at!(driver, DriverStartIo).cast::<u64>().read();
    if routine == 0 {
        let sentence = "IoStartPacket for a driver without a StartIo routine";
        Finding::bug_check(VERIFIER, [0, device.address(), packet.address(), 0], sentence).raise();
    }
    k.call("StartIo", routine, &[device.address(), packet.address()]);
}

/// "`IoSetStartIoAttributes` function".
fn io_set_start_io_attributes(_: &Kernel, _device: Ptr<DEVICE_OBJECT>, deferred: bool, non_cancelable: bool) {
    if deferred || non_cancelable {
        Finding::not_modelled("IoSetStartIoAttributes: DeferredStartIo or NonCancelable").raise();
    }
}
