//! Objects with a reference count ("Life Cycle of an Object"): threads, events and whatever other parts of the lab add. Devices and
//! drivers count in their own records.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use windows_sys::Wdk::Foundation::KEVENT;

use super::{device, driver, name::Named};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

/// `REFERENCE_BY_POINTER`.
const REFERENCE_BY_POINTER: u32 = 0x18;

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `KEVENT`.
    Event,
    /// `KTHREAD`.
    Thread,
    /// `FILE_OBJECT`.
    File,
}

/// Runs when the last reference is gone.
type Delete = Box<dyn FnOnce(&Kernel)>;

struct Object {
    kind: Kind,
    references: u64,
    delete: Option<Delete>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with {} references", self.kind, self.references)
    }
}

/// Every counted object, by address.
#[derive(Debug, Default)]
pub struct Objects {
    objects: RefCell<BTreeMap<u64, Object>>,
}

/// Starts to count: the object has one reference, and `delete` runs when the last is gone.
pub fn add(k: &Kernel, object: u64, kind: Kind, delete: impl FnOnce(&Kernel) + 'static) {
    let new = Object { kind, references: 1, delete: Some(Box::new(delete)) };
    k.io.objects.objects.borrow_mut().insert(object, new);
}

/// The variable that holds an object's type.
pub fn type_name(k: &Kernel, object: u64) -> &'static str {
    match k.io.objects.objects.borrow().get(&object).map(|object| object.kind) {
        Some(Kind::Event) => "ExEventObjectType",
        Some(Kind::Thread) => "PsThreadType",
        Some(Kind::File) | None => "IoFileObjectType",
    }
}

/// Adds a reference (`ObReferenceObject`).
pub fn reference(k: &Kernel, object: u64) {
    if let Some(object) = k.io.objects.objects.borrow_mut().get_mut(&object) {
        object.references += 1;
        return;
    }
    if k.io.devices.reference(object) || k.io.drivers.reference(object) {
        return;
    }
    raise(object, "a reference was taken to something that is no object");
}

/// Takes a reference back (`ObDereferenceObject`).
pub fn dereference(k: &Kernel, object: u64) {
    if device::number(k, Ptr::new(object)) != 0 {
        return device::dereference(k, Ptr::new(object));
    }
    if driver::is_driver(k, Ptr::new(object)) {
        return driver::dereference(k, Ptr::new(object));
    }
    let mut objects = k.io.objects.objects.borrow_mut();
    let Some(found) = objects.get_mut(&object) else {
        drop(objects);
        raise(object, "a reference was taken back from something that is no object, or no longer one");
    };
    found.references -= 1;
    if found.references > 0 {
        return;
    }
    let delete = found.delete.take();
    objects.remove(&object);
    drop(objects);
    if let Some(delete) = delete {
        delete(k);
    }
}

/// Whether an event is a notification event, and whether it is signalled.
pub type Manner = (bool, bool);

/// The event with this name, if there is one.
pub fn find_event(k: &Kernel, name: &str) -> Option<Ptr<KEVENT>> {
    match k.io.names.find(name) {
        Some(Named::Event(event)) => Some(event),
        _ => None,
    }
}

/// The event with this name, made in the given manner if there is none (`IoCreateNotificationEvent`), with a reference for the caller.
pub fn named_event(k: &Kernel, name: &str, manner: Manner) -> Option<Ptr<KEVENT>> {
    match k.io.names.find(name) {
        Some(Named::Event(event)) => {
            reference(k, event.address());
            Some(event)
        }
        Some(_) => None,
        None => Some(new_event(k, name, manner)),
    }
}

/// An event without a name (`ZwCreateEvent`), with a reference for the caller.
pub fn unnamed_event(k: &Kernel, (notification, signalled): Manner) -> Ptr<KEVENT> {
    let event = k.memory.allocate_object::<KEVENT>();
    k.sched.initialize_event(event, notification, signalled);
    add(k, event.address(), Kind::Event, move |k| k.memory.free_object(event));
    event
}

fn new_event(k: &Kernel, name: &str, (notification, signalled): Manner) -> Ptr<KEVENT> {
    let event = k.memory.allocate_object::<KEVENT>();
    k.sched.initialize_event(event, notification, signalled);
    k.io.names.insert(name, Named::Event(event));
    let path = name.to_owned();
    add(k, event.address(), Kind::Event, move |k| {
        k.io.names.remove(&path);
        k.memory.free_object(event);
    });
    event
}

/// Signals or resets an event of the system, such as `\KernelObjects\HighMemoryCondition`; it stays for good.
pub fn set_system_event(k: &Kernel, name: &str, signalled: bool) {
    let event = match k.io.names.find(name) {
        Some(Named::Event(event)) => event,
        _ => new_event(k, name, (true, signalled)),
    };
    if signalled {
        k.sched.set_event(k, event);
    } else {
        at!(event, Header.SignalState).write(0);
    }
}

fn raise(object: u64, sentence: &str) -> ! {
    Finding::bug_check(REFERENCE_BY_POINTER, [0, object, 0, 0], sentence).raise()
}
