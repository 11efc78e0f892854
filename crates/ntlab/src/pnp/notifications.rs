//! Notification of device interfaces that come and go ("Using PnP Device Interface Change Notification").
//!
//! All of it is asynchronous: an event reaches a registration some time after it happened, on a system thread, in any order with other
//! events, and where existing interfaces were asked for perhaps twice. A registration's callbacks never overlap.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use windows_sys::{
    Wdk::{Foundation::DRIVER_OBJECT, System::SystemServices::DEVICE_INTERFACE_CHANGE_NOTIFICATION},
    Win32::{
        Devices::DeviceAndDriverInstallation::{GUID_DEVICE_INTERFACE_ARRIVAL, GUID_DEVICE_INTERFACE_REMOVAL},
        Foundation::{NTSTATUS, STATUS_SUCCESS, UNICODE_STRING},
        System::Power::{GUID_DEVICE_MEMORY, GUID_DEVICE_PROCESSOR},
    },
    core::GUID,
};

use super::lists::size_field;
use crate::{
    at,
    events::Kind,
    io::{
        driver,
        interface::{self, Class},
    },
    kernel::Kernel,
    machine::System,
    memory::Ptr,
    rule::Rule,
    sched::ThreadId,
    tracking::Tracked,
};

/// The longest time between an event and its delivery, in virtual nanoseconds: where it comes at once, and where it comes late.
const LATEST: [u64; 2] = [200_000, 50_000_000];

/// How events reach the callbacks that are registered for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The longest time from an event to its delivery, in virtual nanoseconds. Each delivery takes its own time, so that a later event
    /// may be delivered earlier.
    pub latest: u64,
    /// How often each event is delivered.
    pub times: u32,
}

/// A callback that was registered.
#[derive(Debug)]
pub struct Registration {
    /// Where the driver's handle for it points.
    entry: Ptr<u64>,
    class: Class,
    existing: bool,
    driver: Ptr<DRIVER_OBJECT>,
    callback: u64,
    context: u64,
    live: Cell<bool>,
    /// The thread that runs the callback.
    running: Cell<Option<ThreadId>>,
}

/// An interface that came or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceEvent {
    /// Its class.
    pub class: Class,
    /// Its symbolic link.
    pub link: Rc<str>,
    /// It came, not went.
    pub arrival: bool,
}

/// Every registration of the machine.
#[derive(Debug, Default)]
pub struct Notifications {
    registrations: RefCell<Vec<Rc<Registration>>>,
    /// How events are delivered, where the scenario says so.
    delivery: Cell<Option<Delivery>>,
    /// Deliveries that have not ended.
    under_way: Cell<usize>,
}

impl Notifications {
    /// Registers a callback; existing interfaces are delivered later, like all others.
    pub fn register(
        &self,
        k: &Kernel,
        class: &GUID,
        existing: bool,
        driver: Ptr<DRIVER_OBJECT>,
        (callback, context): (u64, u64),
    ) -> Ptr<u64> {
        driver::reference(k, driver);
        let entry = k.memory.allocate_object::<u64>();
        let class = Class::from(*class);
        let (live, running) = (Cell::new(true), Cell::new(None));
        let registration = Rc::new(Registration { entry, class, existing, driver, callback, context, live, running });
        self.registrations.borrow_mut().push(Rc::clone(&registration));
        k.tracking.made(k, Tracked::PnpNotification, entry.address(), || class.to_string());
        if existing {
            for event in Self::existing(k, class) {
                self.deliver(k, &registration, &event);
            }
        }
        entry
    }

    /// Ends a registration. No callback runs when this returns, except one that called it; false if there is no such registration.
    pub fn unregister(&self, k: &Kernel, entry: Ptr<u64>) -> bool {
        let mut registrations = self.registrations.borrow_mut();
        let Some(place) = registrations.iter().position(|registration| registration.entry == entry) else {
            return false;
        };
        let registration = registrations.remove(place);
        drop(registrations);
        registration.live.set(false);
        let this = k.thread_id();
        k.block_until(
            "notification callback to end",
            |_| registration.running.get().is_none_or(|thread| thread == this),
            None,
        );
        driver::dereference(k, registration.driver);
        k.tracking.gone(Tracked::PnpNotification, entry.address());
        k.memory.free_object(entry);
        true
    }

    /// Whether events are still on their way.
    pub const fn is_quiet(&self) -> bool {
        self.under_way.get() == 0
    }

    /// An interface of hardware that no driver of the lab stands behind came: of a processor or a memory device.
    pub fn hardware_arrived(&self, k: &Kernel, class: &GUID, link: &str) {
        self.announce(k, &InterfaceEvent { class: Class::from(*class), link: link.into(), arrival: true });
    }

    /// An interface came or went: everyone registered for its class will hear of it.
    pub fn announce(&self, k: &Kernel, event: &InterfaceEvent) {
        let concerned: Vec<_> = self
            .registrations
            .borrow()
            .iter()
            .filter(|registration| registration.class == event.class)
            .cloned()
            .collect();
        for registration in concerned {
            self.deliver(k, &registration, event);
        }
    }

    fn existing(k: &Kernel, class: Class) -> Vec<InterfaceEvent> {
        let links = if class == Class::from(GUID_DEVICE_PROCESSOR) {
            k.sched.active().map(|processor| processor_link(processor.index)).collect()
        } else if class == Class::from(GUID_DEVICE_MEMORY) {
            (0..k.hot_add.memory_devices()).map(memory_link).collect()
        } else {
            interface::enabled(k, class)
        };
        links.into_iter().map(|link| InterfaceEvent { class, link: link.into(), arrival: true }).collect()
    }

    fn deliver(&self, k: &Kernel, registration: &Rc<Registration>, event: &InterfaceEvent) {
        let Delivery { latest, times } = self.delivery.get().unwrap_or_else(|| {
            let times = if registration.existing && k.choices.once_in(2) { 2 } else { 1 };
            Delivery { latest: LATEST[k.choices.below(2)], times }
        });
        for _ in 0..times {
            let (registration, event) = (Rc::clone(registration), event.clone());
            let delay = k.choices.between(0, latest);
            self.under_way.set(self.under_way.get() + 1);
            k.spawn("PnP notification", move |k| {
                k.sleep(delay);
                call(k, &registration, &event);
                let under_way = &k.pnp.notifications.under_way;
                under_way.set(under_way.get() - 1);
            });
        }
    }
}

impl System {
    /// Says how the events of device interfaces are delivered from now on, or leaves that to chance again.
    pub fn deliver_notifications(&self, delivery: Option<Delivery>) {
        self.kernel.pnp.notifications.delivery.set(delivery);
    }
}

fn call(k: &Kernel, registration: &Registration, event: &InterfaceEvent) {
    while registration.running.get().is_some() {
        k.block_until("notification callback", |_| registration.running.get().is_none(), None);
    }
    if !registration.live.get() {
        return;
    }
    registration.running.set(Some(k.thread_id()));
    k.record(|| {
        Kind::Note(format!("interface {} {}", event.link, if event.arrival { "arrived" } else { "removed" }).into())
    });
    let notification = Notification::new(k, event);
    let thread = k.current_thread();
    thread.must_not_block.set(true);
    let status = k.call(
        "PnP notification callback",
        registration.callback,
        &[notification.structure.address(), registration.context],
    );
    thread.must_not_block.set(false);
    notification.free(k);
    registration.running.set(None);
    check_status(registration, status);
}

/// "A callback routine should return `STATUS_SUCCESS`" for interface changes.
fn check_status(registration: &Registration, rax: u64) {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "an NTSTATUS is the low half of rax"
    )]
    let status = rax as NTSTATUS;
    if status != STATUS_SUCCESS {
        let sentence =
            format!("a device interface notification callback returned {status:#010x}; it must return STATUS_SUCCESS");
        let finding = Rule::NotificationStatus.broken([u64::from(status.cast_unsigned()), 0, 0], sentence);
        finding.with_stack("the callback", &[registration.callback]).raise();
    }
}

/// A `DEVICE_INTERFACE_CHANGE_NOTIFICATION` in the machine's memory.
struct Notification {
    structure: Ptr<DEVICE_INTERFACE_CHANGE_NOTIFICATION>,
    name: Ptr<UNICODE_STRING>,
    text: Ptr<u8>,
}

impl Notification {
    fn new(k: &Kernel, event: &InterfaceEvent) -> Self {
        let units: Vec<u8> = event.link.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let text = k.memory.allocate_object_bytes(units.len() + 2);
        text.write_bytes(&units);
        text.offset(units.len()).write_bytes(&[0, 0]);
        let name = k.memory.allocate_object::<UNICODE_STRING>();
        let length = u16::try_from(units.len()).expect("a symbolic link is short");
        at!(name, Length).write(length);
        at!(name, MaximumLength).write(length + 2);
        at!(name, Buffer).cast::<u64>().write(text.address());

        let structure = k.memory.allocate_object::<DEVICE_INTERFACE_CHANGE_NOTIFICATION>();
        at!(structure, Version).write(1);
        at!(structure, Size).write(size_field::<DEVICE_INTERFACE_CHANGE_NOTIFICATION>());
        let kind = if event.arrival { GUID_DEVICE_INTERFACE_ARRIVAL } else { GUID_DEVICE_INTERFACE_REMOVAL };
        at!(structure, Event).write(kind);
        at!(structure, InterfaceClassGuid).write(GUID::from_u128(event.class.0));
        at!(structure, SymbolicLinkName).cast::<u64>().write(name.address());
        Self { structure, name, text }
    }

    fn free(self, k: &Kernel) {
        k.memory.free_object(self.structure);
        k.memory.free_object(self.name);
        k.memory.free_object(self.text);
    }
}

/// The symbolic link of a processor's interface.
#[must_use]
pub fn processor_link(index: u32) -> String {
    hardware_link("ACPI0007", index, &GUID_DEVICE_PROCESSOR)
}

/// The symbolic link of a memory device's interface.
#[must_use]
pub fn memory_link(index: u32) -> String {
    hardware_link("PNP0C80", index, &GUID_DEVICE_MEMORY)
}

fn hardware_link(device: &str, index: u32, class: &GUID) -> String {
    format!(r"\??\ACPI#{device}#{index:x}#{}", Class::from(*class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_name_device_instance_and_class() {
        assert_eq!(processor_link(10), r"\??\ACPI#ACPI0007#a#{97fadb10-4e33-40ae-359c-8bef029dbdd0}");
        assert_eq!(memory_link(1), r"\??\ACPI#PNP0C80#1#{3fd0f03d-92e0-45fb-b75c-5ed8ffb01021}");
    }
}
