//! Device nodes: what the PnP manager knows of each device.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use windows_sys::Wdk::Foundation::{DEVICE_OBJECT, DRIVER_OBJECT};

use super::{
    bus_manner::{BusManner, BusRequest},
    resources::{Assigned, AssignedInterrupt, Requirements},
    spec::DeviceSpec,
};
use crate::{hw::PciDevice, memory::Ptr, user::Status};

/// How far a device has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceState {
    /// No driver is installed for it.
    NoDriver,
    /// Its driver was added and works.
    Started,
    /// It was asked whether it can be stopped, and agreed.
    StopPending,
    /// It was stopped for a rebalance.
    Stopped,
    /// It was asked whether it can be removed, and agreed.
    RemovePending,
    /// Its driver could not be loaded, refused the device or failed to start it.
    Failed(Status),
    /// The administrator disabled it.
    Disabled,
    /// It is gone or has failed for good; its driver waits for the last handle to be closed.
    SurpriseRemoved,
    /// It is gone.
    Removed,
}

/// A device.
#[derive(Debug)]
pub struct Devnode {
    /// Its number, from 1 in the order devices were plugged in.
    pub id: u32,
    /// The device whose driver reported it; none for those that the lab's own bus drivers have.
    pub parent: Option<Rc<Self>>,
    /// Its parent's driver has left it out of a report.
    pub missing: Cell<bool>,
    /// The PnP manager has a reference to the physical device object of a child.
    pub linked: Cell<bool>,
    /// What it was made from.
    pub spec: DeviceSpec,
    /// The hardware, if it has any.
    pub hardware: Option<Rc<dyn PciDevice>>,
    /// Its physical device object.
    pub pdo: Ptr<DEVICE_OBJECT>,
    /// Hardware IDs, the most specific first.
    pub ids: Vec<String>,
    /// Instance path below `Enum`.
    pub instance: String,
    /// How far it has come.
    pub state: Cell<DeviceState>,
    /// It was pulled out.
    pub gone: Cell<bool>,
    /// The drivers over the bus driver: lower filters, function driver, upper filters.
    pub drivers: RefCell<Vec<Ptr<DRIVER_OBJECT>>>,
    /// What it asks for, as its driver edited that.
    pub requirements: RefCell<Requirements>,
    /// What it was given.
    pub assigned: RefCell<Vec<Assigned>>,
    /// What the bus driver makes of some requests.
    pub manners: RefCell<BTreeMap<BusRequest, BusManner>>,
    /// The bus fails the next start.
    pub fail_next_start: Cell<bool>,
}

impl Devnode {
    /// A device of which nothing is known yet.
    pub fn new(id: u32, pdo: Ptr<DEVICE_OBJECT>) -> Self {
        Self {
            id,
            parent: None,
            missing: false.into(),
            linked: false.into(),
            spec: DeviceSpec::software(""),
            hardware: None,
            pdo,
            ids: Vec::new(),
            instance: String::new(),
            state: DeviceState::NoDriver.into(),
            gone: false.into(),
            drivers: Vec::new().into(),
            requirements: Requirements::default().into(),
            assigned: Vec::new().into(),
            manners: BTreeMap::new().into(),
            fail_next_start: false.into(),
        }
    }

    /// The interrupts it was given.
    pub fn interrupts(&self) -> Vec<AssignedInterrupt> {
        let interrupt = |assigned: &Assigned| match assigned {
            Assigned::Interrupt(interrupt) => Some(*interrupt),
            Assigned::Memory { .. } => None,
        };
        self.assigned.borrow().iter().filter_map(interrupt).collect()
    }

    /// How many devices it hangs below.
    pub fn depth(&self) -> usize {
        std::iter::successors(self.parent.as_deref(), |parent| parent.parent.as_deref()).count()
    }

    /// Whether a rebalance after a hot add concerns it: `DEVPKEY_Device_DHP_Rebalance_Policy` is absent or 2.
    pub const fn participates(&self) -> bool {
        matches!(self.spec.rebalance_policy, None | Some(2))
    }
}

/// The devices of a machine.
#[derive(Debug, Default)]
pub struct Devnodes {
    all: RefCell<Vec<Rc<Devnode>>>,
}

impl Devnodes {
    /// The number of the next device.
    pub fn next_id(&self) -> u32 {
        u32::try_from(self.all.borrow().len() + 1).unwrap_or(u32::MAX)
    }

    /// Adds a device.
    pub fn add(&self, devnode: &Rc<Devnode>) {
        self.all.borrow_mut().push(Rc::clone(devnode));
    }

    /// The device with this number.
    ///
    /// # Panics
    ///
    /// Where there never was one.
    pub fn get(&self, id: u32) -> Rc<Devnode> {
        Rc::clone(&self.all.borrow()[id as usize - 1])
    }

    /// The device with this physical device object.
    pub fn of(&self, pdo: Ptr<DEVICE_OBJECT>) -> Option<Rc<Devnode>> {
        let exists = |devnode: &&Rc<Devnode>| devnode.pdo == pdo && devnode.state.get() != DeviceState::Removed;
        self.all.borrow().iter().find(exists).cloned()
    }

    /// The device that was given the registers at a physical address.
    pub fn with_memory(&self, physical: u64) -> Option<Rc<Devnode>> {
        let has = |assigned: &Assigned| match *assigned {
            Assigned::Memory { start, length } => physical.wrapping_sub(start) < u64::from(length),
            Assigned::Interrupt(_) => false,
        };
        self.all.borrow().iter().find(|devnode| devnode.assigned.borrow().iter().any(has)).cloned()
    }

    /// Every device, in the order they were plugged in.
    pub fn all(&self) -> Vec<Rc<Devnode>> {
        self.all.borrow().clone()
    }

    /// Those that a device's driver has reported and that are not gone for good, in the order they came.
    pub fn children_of(&self, parent: &Devnode) -> Vec<Rc<Devnode>> {
        let is_child = |devnode: &&Rc<Devnode>| {
            devnode.linked.get() && devnode.parent.as_ref().is_some_and(|other| other.id == parent.id)
        };
        self.all.borrow().iter().filter(is_child).cloned().collect()
    }

    /// The devices in a state, in the order they were plugged in.
    pub fn in_state(&self, state: DeviceState) -> Vec<Rc<Devnode>> {
        self.all.borrow().iter().filter(|devnode| devnode.state.get() == state).cloned().collect()
    }

    /// Those that use a driver, in the order they were plugged in.
    pub fn driven_by(&self, driver: Ptr<DRIVER_OBJECT>) -> Vec<Rc<Devnode>> {
        self.all.borrow().iter().filter(|devnode| devnode.drivers.borrow().contains(&driver)).cloned().collect()
    }
}
