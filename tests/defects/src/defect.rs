//! Which rule is broken, and when.

use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use wdk_sys::{_KINTERRUPT, BOOLEAN, DRIVER_OBJECT, IRP, NTSTATUS, PVOID};

use crate::{
    attach, callbacks, completion, device::Device, dma, hot_add, interrupts, io, irql, locks, mutexes, paging, pool,
    queue, removal, security, stack, system_irps, tracking,
};

/// A rule that can be broken.
pub struct Defect {
    /// What the parameter `Defect` calls it.
    pub name: &'static str,
    /// When the driver breaks it, or gets ready to.
    pub hooks: &'static [Hook],
}

impl Defect {
    /// A defect with one hook or several.
    pub const fn new(name: &'static str, hooks: &'static [Hook]) -> Self {
        Self { name, hooks }
    }
}

/// The moments at which a defect acts. The last argument of each is whether it is to act correctly.
pub enum Hook {
    /// At the end of DriverEntry, which returns the status.
    Load(fn(&mut DRIVER_OBJECT, bool) -> NTSTATUS),
    /// In `DriverUnload`.
    Unload(fn(&mut DRIVER_OBJECT, bool) -> NTSTATUS),
    /// At the end of `AddDevice`, where that succeeds.
    Add(fn(&Device, bool) -> NTSTATUS),
    /// At the end of a start that succeeds so far: lower drivers have started, hardware is mapped and connected.
    Start(fn(&Device, bool) -> NTSTATUS),
    /// On a device-control request, which ends with the status.
    Request(fn(&Device, bool) -> NTSTATUS),
    /// On an IRP with this major function; everything that is to be done with it is the hook's.
    Irp(u32, fn(&Device, *mut IRP, bool) -> NTSTATUS),
    /// On an `IRP_MJ_PNP` with this minor function other than `IRP_MN_REMOVE_DEVICE`; everything that is to be done with it is the
    /// hook's.
    Pnp(u32, fn(&Device, *mut IRP, bool) -> NTSTATUS),
    /// At `IRP_MN_REMOVE_DEVICE`, when the remove lock has let the last user go; the device is still in its stack.
    Remove(fn(&Device, bool) -> NTSTATUS),
    /// At the end of `IRP_MN_REMOVE_DEVICE`, instead of what takes the device out of its stack and deletes it.
    Delete(fn(&Device, bool) -> NTSTATUS),
    /// This is the interrupt service routine.
    Service(unsafe extern "C" fn(*mut _KINTERRUPT, PVOID) -> BOOLEAN),
    /// In the interrupt service routine; returns what that returns. Without it the interrupt is acknowledged and the DPC queued.
    Isr(fn(&Device, bool) -> bool),
    /// In the DPC that the interrupt service routine queues.
    Dpc(fn(&Device, bool) -> NTSTATUS),
}

/// Every topic's defects.
pub const ALL: [&[Defect]; 18] = [
    attach::DEFECTS,
    irql::DEFECTS,
    callbacks::DEFECTS,
    queue::DEFECTS,
    pool::DEFECTS,
    paging::DEFECTS,
    tracking::DEFECTS,
    removal::DEFECTS,
    io::DEFECTS,
    system_irps::DEFECTS,
    completion::DEFECTS,
    locks::DEFECTS,
    mutexes::DEFECTS,
    stack::DEFECTS,
    interrupts::DEFECTS,
    dma::DEFECTS,
    security::DEFECTS,
    hot_add::DEFECTS,
];

static CHOSEN: AtomicPtr<Defect> = AtomicPtr::new(core::ptr::null_mut());
static CORRECT: AtomicBool = AtomicBool::new(false);

/// Makes the driver break this rule, or act correctly where it could.
pub fn choose(defect: &'static Defect, correct: bool) {
    CHOSEN.store(core::ptr::from_ref(defect).cast_mut(), Ordering::Relaxed);
    CORRECT.store(correct, Ordering::Relaxed);
}

fn chosen() -> Option<&'static Defect> {
    // SAFETY: null, or one of the tables', which are never written.
    unsafe { CHOSEN.load(Ordering::Relaxed).as_ref() }
}

/// Whether this is the chosen defect, for routines that several share.
pub fn is_chosen(name: &str) -> bool {
    chosen().is_some_and(|defect| defect.name == name)
}

/// Whether the driver is to act correctly, for routines that are not hooks.
pub fn is_correct() -> bool {
    CORRECT.load(Ordering::Relaxed)
}

/// Lets the chosen defect act: `act` is asked for each of its hooks whether this is its moment; the first that says something ends it.
pub fn at<T>(mut act: impl FnMut(&'static Hook, bool) -> Option<T>) -> Option<T> {
    let correct = is_correct();
    chosen()?.hooks.iter().find_map(|hook| act(hook, correct))
}
