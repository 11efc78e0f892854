//! Driver objects: loading, dispatching, unloading ("Writing a DriverEntry Routine", "Writing an Unload Routine").

use std::{cell::RefCell, collections::BTreeMap, fmt, path::Path, rc::Rc};

use thiserror::Error;
use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, DRIVER_EXTENSION, DRIVER_OBJECT, IRP},
        Storage::FileSystem::DO_DEVICE_INITIALIZING,
        System::SystemServices::{DRVO_UNLOAD_INVOKED, IO_TYPE_DRIVER, IRP_MJ_MAXIMUM_FUNCTION},
    },
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_DEVICE_REQUEST, UNICODE_STRING},
};

use super::{
    device, irp,
    layout::{self, DOE_UNLOAD_PENDING},
    leaks, lost, string,
};
use crate::{
    at,
    exec::{self, Image},
    finding::Finding,
    kernel::Kernel,
    memory::{Access, Ptr},
    registry::Value,
};

/// Where the addresses of routines lie that are the lab's own: no program can have code there, and calling one faults.
const LAB_ROUTINES: u64 = 0xFFFF_F800_0000_0000;
/// What a driver object's dispatch table has where the driver set nothing.
const INVALID_REQUEST: u64 = LAB_ROUTINES;
/// The cancel routine of packets in cancel-safe queues.
pub(crate) const CSQ_CANCEL_ROUTINE: u64 = LAB_ROUTINES + 1;
/// The dispatch routine of the first driver that is part of the lab.
const HOST_DRIVERS: u64 = LAB_ROUTINES + 0x1000;

/// A driver that is part of the lab, such as a bus driver.
pub trait HostDriver {
    /// What it is called.
    fn name(&self) -> &str;

    /// Handles a packet, as a dispatch routine does: completes it, passes it down or marks it pending.
    fn dispatch(&self, k: &Kernel, device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NTSTATUS;
}

/// What is known of a driver besides its object.
struct Record {
    name: String,
    image: Option<Rc<Image>>,
    /// Why it cannot be unloaded, besides its devices: PnP notifications and pointers.
    references: u32,
    /// Memory that goes with the object.
    strings: Vec<Ptr<u8>>,
}

/// Every driver.
#[derive(Default)]
pub struct Drivers {
    hosts: RefCell<Vec<Rc<dyn HostDriver>>>,
    records: RefCell<BTreeMap<u64, Record>>,
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records.borrow().values().map(|record| &record.name)).finish()
    }
}

impl Drivers {
    /// Adds a reference to a driver; false if it is no driver.
    pub(crate) fn reference(&self, object: u64) -> bool {
        self.records.borrow_mut().get_mut(&object).is_some_and(|record| {
            record.references += 1;
            true
        })
    }
}

/// Why a driver was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Its image cannot be loaded.
    #[error(transparent)]
    Image(#[from] exec::LoadError),
    /// Its DriverEntry returned this.
    #[error("DriverEntry returned {0:#010x}")]
    DriverEntry(NTSTATUS),
}

/// Why a driver was not unloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NotUnloaded {
    /// It has no unload routine.
    #[error("the driver has no unload routine")]
    NoRoutine,
    /// It has devices: a PnP driver any, another one some that are open or attached to.
    #[error("the driver still has {0} devices in use")]
    Devices(usize),
    /// Something refers to its driver object: PnP notifications above all.
    #[error("the driver object is still referenced {0} times, as each registration for PnP notification does")]
    References(u32),
}

/// The path of a driver's service key.
#[must_use]
pub fn service_key(name: &str) -> String {
    format!("\\Registry\\Machine\\System\\CurrentControlSet\\Services\\{name}")
}

/// Makes a driver object for a driver that is part of the lab.
pub fn add_host(k: &Kernel, host: Rc<dyn HostDriver>) -> Ptr<DRIVER_OBJECT> {
    let (driver, strings) = make_object(k, host.name());
    let mut hosts = k.io.drivers.hosts.borrow_mut();
    let routine = HOST_DRIVERS + hosts.len() as u64;
    at!(driver, MajorFunction).cast::<[u64; 28]>().write([routine; 28]);
    let record = Record { name: host.name().to_owned(), image: None, references: 0, strings };
    k.io.drivers.records.borrow_mut().insert(driver.address(), record);
    hosts.push(host);
    driver
}

fn make_object(k: &Kernel, name: &str) -> (Ptr<DRIVER_OBJECT>, Vec<Ptr<u8>>) {
    let size = size_of::<DRIVER_OBJECT>() + size_of::<DRIVER_EXTENSION>() + size_of::<UNICODE_STRING>();
    let block = k.memory.allocate_object_bytes(size);
    block.fill(size, 0);
    let driver = block.cast::<DRIVER_OBJECT>();
    let extension = driver.offset(1).cast::<DRIVER_EXTENSION>();
    let hardware = extension.offset(1).cast::<UNICODE_STRING>();
    at!(driver, Type).write(IO_TYPE_DRIVER as i16);
    at!(driver, Size).write(size_of::<DRIVER_OBJECT>() as i16);
    layout::store(at!(driver, DriverExtension), extension);
    layout::store(at!(driver, HardwareDatabase), hardware);
    layout::store(at!(extension, DriverObject), driver);
    at!(driver, MajorFunction).cast::<[u64; 28]>().write([INVALID_REQUEST; 28]);
    let strings = vec![
        string::set(k, at!(driver, DriverName), &format!("\\Driver\\{name}")),
        string::set(k, at!(extension, ServiceKeyName), name),
        string::set(k, hardware, "\\REGISTRY\\MACHINE\\HARDWARE\\DESCRIPTION\\SYSTEM"),
    ];
    (driver, strings)
}

/// Loads a driver: writes its service key with `parameters`, loads its image and calls its DriverEntry at `PASSIVE_LEVEL`.
///
/// # Errors
///
/// Why it could not be loaded; nothing is left of it then.
pub fn load(
    k: &Kernel,
    image: &Path,
    name: &str,
    parameters: &[(&str, Value)],
) -> Result<Ptr<DRIVER_OBJECT>, LoadError> {
    write_service_key(k, image, name, parameters);
    let image = k.exec.load(image)?;
    let (driver, strings) = make_object(k, name);
    at!(driver, DriverStart).cast::<u64>().write(image.base);
    at!(driver, DriverSize).write(image.length as u32);
    at!(driver, DriverInit).cast::<u64>().write(image.entry);
    let entry = image.entry;
    let record = Record { name: name.to_owned(), image: Some(image), references: 0, strings };
    k.io.drivers.records.borrow_mut().insert(driver.address(), record);

    let path = k.memory.allocate_object::<UNICODE_STRING>();
    let text = string::set(k, path, &service_key(name));
    let status = k.call("DriverEntry", entry, &[driver.address(), path.address()]) as NTSTATUS;
    k.memory.free_object(text);
    k.memory.free_object(path);
    if status < 0 {
        leaks::check(k, driver, "DriverEntry failed");
        destroy(k, driver);
        return Err(LoadError::DriverEntry(status));
    }
    make_ready(k, driver);
    Ok(driver)
}

fn write_service_key(k: &Kernel, image: &Path, name: &str, parameters: &[(&str, Value)]) {
    let file = image.file_name().map_or_else(|| name.to_owned(), |file| file.to_string_lossy().into_owned());
    let service = k.registry.create(&service_key(name));
    k.registry.set(service, "ImagePath", Value::expand(&format!("\\SystemRoot\\System32\\drivers\\{file}")));
    for (value, number) in [("Type", 1), ("Start", 3), ("ErrorControl", 1)] {
        k.registry.set(service, value, Value::dword(number));
    }
    let key = k.registry.create(&(service_key(name) + "\\Parameters"));
    for (value, data) in parameters {
        k.registry.set(key, value, data.clone());
    }
}

/// What the I/O manager does after DriverEntry succeeded: its INIT sections go, its devices can be used, no dispatch routine is missing.
fn make_ready(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) {
    if let Some(image) = image_of(k, driver) {
        k.exec.discard_init(&image);
    }
    for device in device::devices_of(driver) {
        let flags = at!(device, Flags);
        flags.write(flags.read() & !DO_DEVICE_INITIALIZING);
    }
    let table = at!(driver, MajorFunction).cast::<u64>();
    for entry in (0..=IRP_MJ_MAXIMUM_FUNCTION as usize).map(|major| table.offset(major)) {
        if entry.read() == 0 {
            entry.write(INVALID_REQUEST);
        }
    }
}

/// The dispatch routine for a packet.
pub(crate) fn routine_for(device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>, major: u8) -> u64 {
    if u32::from(major) > IRP_MJ_MAXIMUM_FUNCTION {
        let sentence = format!("IoCallDriver with major function {major:#x}, which there is none of");
        Finding::bug_check(irp::IO_MANAGER_VIOLATION, [0x200, 0, packet.address(), 0], sentence).raise();
    }
    routine(device, major.into())
}

/// The dispatch routine of a device's driver for a major function.
pub(crate) fn routine(device: Ptr<DEVICE_OBJECT>, major: u32) -> u64 {
    at!(device::driver_of(device), MajorFunction).cast::<u64>().offset(major as usize).read()
}

/// Calls the dispatch routine for a packet.
pub(crate) fn dispatch(k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>, major: u8, routine: u64) -> NTSTATUS {
    if routine == INVALID_REQUEST {
        irp::set_status(packet, STATUS_INVALID_DEVICE_REQUEST, 0);
        irp::complete(k, packet);
        return STATUS_INVALID_DEVICE_REQUEST;
    }
    if routine >= HOST_DRIVERS {
        let host = k.io.drivers.hosts.borrow().get((routine - HOST_DRIVERS) as usize).cloned();
        return host.map_or(STATUS_INVALID_DEVICE_REQUEST, |host| host.dispatch(k, device, packet));
    }
    k.call(DISPATCH_NAMES[usize::from(major)], routine, &[device.address(), packet.address()]) as NTSTATUS
}

/// What the trace calls the dispatch routines.
const DISPATCH_NAMES: [&str; 28] = [
    "DispatchCreate",
    "DispatchCreateNamedPipe",
    "DispatchClose",
    "DispatchRead",
    "DispatchWrite",
    "DispatchQueryInformation",
    "DispatchSetInformation",
    "DispatchQueryEa",
    "DispatchSetEa",
    "DispatchFlushBuffers",
    "DispatchQueryVolumeInformation",
    "DispatchSetVolumeInformation",
    "DispatchDirectoryControl",
    "DispatchFileSystemControl",
    "DispatchDeviceControl",
    "DispatchInternalDeviceControl",
    "DispatchShutdown",
    "DispatchLockControl",
    "DispatchCleanup",
    "DispatchCreateMailslot",
    "DispatchQuerySecurity",
    "DispatchSetSecurity",
    "DispatchPower",
    "DispatchSystemControl",
    "DispatchDeviceChange",
    "DispatchQueryQuota",
    "DispatchSetQuota",
    "DispatchPnp",
];

/// Calls the driver's AddDevice; `None` where it has none.
pub fn add_device(k: &Kernel, driver: Ptr<DRIVER_OBJECT>, pdo: Ptr<DEVICE_OBJECT>) -> Option<NTSTATUS> {
    let routine = at!(layout::load(at!(driver, DriverExtension)), AddDevice).cast::<u64>().read();
    (routine != 0).then(|| k.call("AddDevice", routine, &[driver.address(), pdo.address()]) as NTSTATUS)
}

/// Whether an address is that of a driver object.
pub fn is_driver(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) -> bool {
    k.io.drivers.records.borrow().contains_key(&driver.address())
}

/// The name of a driver.
pub fn name_of(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) -> String {
    k.io.drivers.records.borrow().get(&driver.address()).map(|record| record.name.clone()).unwrap_or_default()
}

/// The image of a driver; `None` for drivers of the lab.
pub fn image_of(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) -> Option<Rc<Image>> {
    k.io.drivers.records.borrow().get(&driver.address()).and_then(|record| record.image.clone())
}

/// The driver whose kernel call runs; null where none does.
pub fn running(k: &Kernel) -> Ptr<DRIVER_OBJECT> {
    let top = k.exec.save().guest_sp;
    if !k.memory.space.allows(top, 8, Access::Read) {
        return Ptr::null();
    }
    at_address(k, Ptr::<u64>::new(top).read()).unwrap_or_default()
}

/// The driver whose image an address lies in.
pub fn at_address(k: &Kernel, address: u64) -> Option<Ptr<DRIVER_OBJECT>> {
    let records = k.io.drivers.records.borrow();
    let owner = |record: &Record| record.image.as_ref().is_some_and(|image| image.contains(address));
    records.iter().find(|(_, record)| owner(record)).map(|(&driver, _)| Ptr::new(driver))
}

/// Whether one address lies in the image of a driver, and the other one does not lie in the same.
pub fn is_of_another(k: &Kernel, address: u64, other: u64) -> bool {
    let records = k.io.drivers.records.borrow();
    let mut images = records.values().filter_map(|record| record.image.as_ref());
    images.find(|image| image.contains(address)).is_some_and(|image| !image.contains(other))
}

/// Adds a reference to a driver object: it is not unloaded while there is one. PnP notifications take one each.
pub fn reference(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) {
    if !k.io.drivers.reference(driver.address()) {
        Finding::bug_check(0x18, [0, driver.address(), 0, 0], "a reference to something that is no driver object")
            .raise();
    }
}

/// Takes a reference to a driver object back.
pub fn dereference(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) {
    let mut records = k.io.drivers.records.borrow_mut();
    let left = records.get_mut(&driver.address()).and_then(|record| record.references.checked_sub(1));
    let Some(left) = left else {
        drop(records);
        Finding::bug_check(
            0x18,
            [0, driver.address(), 0, 0],
            "a driver object was dereferenced more often than referenced",
        )
        .raise();
    };
    if let Some(record) = records.get_mut(&driver.address()) {
        record.references = left;
    }
}

/// Unloads a driver: calls its unload routine at `PASSIVE_LEVEL`, stops the run if it leaves anything behind, and takes its image away.
///
/// # Errors
///
/// Why it cannot be unloaded now; nothing has happened then.
pub fn unload(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) -> Result<(), NotUnloaded> {
    let routine = at!(driver, DriverUnload).cast::<u64>().read();
    if routine == 0 {
        return Err(NotUnloaded::NoRoutine);
    }
    let is_pnp = at!(layout::load(at!(driver, DriverExtension)), AddDevice).cast::<u64>().read() != 0;
    let devices = device::devices_of(driver);
    let used = devices.iter().filter(|&&device| is_pnp || device::is_used(device)).count();
    if used != 0 {
        return Err(NotUnloaded::Devices(used));
    }
    let references = k.io.drivers.records.borrow().get(&driver.address()).map_or(0, |record| record.references);
    if references != 0 {
        return Err(NotUnloaded::References(references));
    }
    for &device in &devices {
        device::change_flags(device, DOE_UNLOAD_PENDING, 0);
    }
    at!(driver, Flags).write(at!(driver, Flags).read() | DRVO_UNLOAD_INVOKED);
    k.call("DriverUnload", routine, &[driver.address()]);
    lost::check_devices(k, &devices, "its driver is unloaded");
    leaks::check(k, driver, "DriverUnload returned");
    destroy(k, driver);
    Ok(())
}

fn destroy(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) {
    let record = k.io.drivers.records.borrow_mut().remove(&driver.address());
    let Some(record) = record else { return };
    for text in record.strings {
        k.memory.free_object(text);
    }
    if let Some(image) = record.image {
        k.exec.unload(&image);
    }
    k.memory.free_object(driver);
}
