//! The Plug and Play manager, its buses and its arbiter.

pub mod arbiter;
mod assign;
mod bus;
mod bus_manner;
pub(crate) mod children;
mod configure;
pub mod connections;
mod device;
mod devnode;
pub(crate) mod dma;
mod legacy;
mod lists;
pub(crate) mod notifications;
pub mod rebalance;
pub(crate) mod remove;
pub(crate) mod request;
pub mod resources;
pub(crate) mod scatter_gather;
mod spec;
mod stepwise;
pub mod worker;

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use windows_sys::Wdk::Foundation::DRIVER_OBJECT;

use self::{
    assign::Arbiter, bus::Bus, connections::Connections, devnode::Devnodes, dma::Adapters,
    notifications::Notifications, resources::Assigned, worker::Worker,
};
pub(crate) use self::{bus_manner::fails_power as bus_fails, device::device_of, devnode::Devnode};
pub use self::{
    bus_manner::{BusManner, BusRequest},
    device::{Device, UnloadError, Usage},
    devnode::DeviceState,
    notifications::Delivery,
    rebalance::Rebalance,
    resources::AssignedInterrupt,
    spec::{DeviceSpec, DriverPackage, Hardware},
    stepwise::PnpRequest,
};
use crate::{
    hw::pci,
    io::{driver, interface},
    kernel::Kernel,
    memory::Ptr,
    rule::Rule,
};

/// What the PnP manager of one machine knows.
#[derive(Debug, Default)]
pub struct Pnp {
    pub(crate) adapters: Adapters,
    arbiter: Arbiter,
    pub(crate) connections: Connections,
    pub(crate) devnodes: Devnodes,
    pub(crate) notifications: Notifications,
    pub(crate) worker: Worker,
    bus: OnceCell<Ptr<DRIVER_OBJECT>>,
    packages: RefCell<Vec<DriverPackage>>,
    loaded: RefCell<BTreeMap<String, Ptr<DRIVER_OBJECT>>>,
}

impl Pnp {
    /// The bus drivers' object. The first call has interface changes announced.
    fn bus(&self, k: &Kernel) -> Ptr<DRIVER_OBJECT> {
        *self.bus.get_or_init(|| {
            interface::on_change(k, |k, change| {
                let event = notifications::InterfaceEvent {
                    class: change.class,
                    link: change.link.as_str().into(),
                    arrival: change.arrived,
                };
                k.pnp.notifications.announce(k, &event);
            });
            driver::add_host(k, Rc::new(Bus))
        })
    }

    /// The package installed last for a device with these IDs.
    fn package_for(&self, ids: &[String]) -> Option<DriverPackage> {
        self.packages.borrow().iter().rev().find(|package| package.matches(ids)).cloned()
    }

    /// The driver of a service, if it is loaded.
    pub(crate) fn loaded(&self, service: &str) -> Option<Ptr<DRIVER_OBJECT>> {
        self.loaded.borrow().get(service).copied()
    }

    fn set_loaded(&self, service: &str, driver: Option<Ptr<DRIVER_OBJECT>>) {
        let mut loaded = self.loaded.borrow_mut();
        match driver {
            Some(driver) => loaded.insert(service.into(), driver),
            None => loaded.remove(service),
        };
    }

    /// Device memory that other devices have.
    fn memory_of_others(&self, devnode: &Devnode) -> Vec<(u64, u64)> {
        let memory = |assigned: &Assigned| match *assigned {
            Assigned::Memory { start, length } => Some((start, u64::from(length))),
            Assigned::Interrupt(_) => None,
        };
        let others = self.devnodes.all().into_iter().filter(|other| other.id != devnode.id);
        others.flat_map(|other| other.assigned.borrow().iter().filter_map(memory).collect::<Vec<_>>()).collect()
    }

    /// Whether a device has this interrupt vector.
    fn has_vector(&self, vector: u32) -> bool {
        let has_it = |devnode: Rc<Devnode>| devnode.interrupts().iter().any(|interrupt| interrupt.vector == vector);
        self.devnodes.all().into_iter().any(has_it)
    }

    /// Whether nothing is under way: no action, no notification, no removal of a device that has no handle any more.
    pub(crate) fn is_quiet(&self, k: &Kernel) -> bool {
        let failed = self.devnodes.in_state(DeviceState::SurpriseRemoved);
        let held = failed.iter().all(|devnode| remove::is_held(k, devnode));
        held && self.notifications.is_quiet() && self.worker.is_quiet()
    }

    /// The packages whose drivers make the stack of a device that `package` is for, the lowest first.
    ///
    /// # Errors
    ///
    /// A filter that is not installed.
    fn stack_of(&self, package: &DriverPackage) -> Result<Vec<DriverPackage>, String> {
        let packages = self.packages.borrow();
        let filter = |service: &String| {
            packages.iter().rev().find(|other| other.service == *service).cloned().ok_or_else(|| service.clone())
        };
        let lower = package.lower_filters.iter().map(filter);
        lower.chain([Ok(package.clone())]).chain(package.upper_filters.iter().map(filter)).collect()
    }

    /// A device has lost its drivers. A driver without devices may be unloaded now, or stay for later.
    fn unload_if_unused(&self, k: &Kernel, devnode: &Devnode) {
        for driver in devnode.drivers.take().into_iter().rev() {
            // An unload ends the driver's registrations, which waits for a processor that is being added.
            let unused = self.devnodes.driven_by(driver).is_empty() && !k.hot_add.is_held();
            if unused && k.choices.once_in(2) && driver::unload(k, driver).is_ok() {
                self.loaded.borrow_mut().retain(|_, other| *other != driver);
            }
        }
    }
}

/// Pulls out the device with this number, if it is there: its registers read as ones at once, and its driver is told as soon as the PnP
/// manager is done with what it does.
pub(crate) fn unplug(k: &Kernel, device: u32) {
    let Some(devnode) = k.pnp.devnodes.all().into_iter().find(|devnode| devnode.id == device) else { return };
    devnode.gone.set(true);
    if let Some(hardware) = &devnode.hardware {
        hardware.unplug(k);
    }
    worker::queue(k, move |k| remove::lost(k, &devnode));
}

/// A driver touches device registers at a physical address where no device answers: right only where the device was pulled out and the
/// driver has not been told.
pub(crate) fn check_registers(k: &Kernel, address: u64) {
    let has_them = |devnode: &Rc<Devnode>| {
        devnode.assigned.borrow().iter().any(|assigned| match *assigned {
            Assigned::Memory { start, length } => address.wrapping_sub(start) < u64::from(length),
            Assigned::Interrupt(_) => false,
        })
    };
    let owner = k.pnp.devnodes.all().into_iter().find(has_them);
    let told = |devnode: &Devnode| matches!(devnode.state.get(), DeviceState::SurpriseRemoved | DeviceState::Removed);
    let hardware = owner.as_ref().filter(|devnode| !told(devnode)).and_then(|devnode| devnode.hardware.clone());
    match hardware {
        Some(hardware) if !pci::is_present(k, hardware.as_ref()) => {}
        Some(hardware) if !hardware.is_powered() => {
            let sentence = "device registers are touched while the device is not in D0";
            Rule::RegistersPoweredDown.broken([address, 0, 0], sentence).raise();
        }
        _ => {
            let sentence = "device registers are touched that the device does not answer at: it is stopped or removed";
            Rule::RegistersAfterStop.broken([address, 0, 0], sentence).raise();
        }
    }
}
