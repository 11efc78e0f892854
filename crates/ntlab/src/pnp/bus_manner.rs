//! A bus driver that takes its time with PnP and power requests, or fails those that it may fail.

use windows_sys::{
    Wdk::Foundation::DEVICE_OBJECT,
    Wdk::System::SystemServices::{
        IRP_MJ_PNP, IRP_MJ_POWER, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_CANCEL_STOP_DEVICE,
        IRP_MN_DEVICE_USAGE_NOTIFICATION, IRP_MN_FILTER_RESOURCE_REQUIREMENTS, IRP_MN_QUERY_CAPABILITIES,
        IRP_MN_QUERY_POWER, IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_QUERY_STOP_DEVICE, IRP_MN_REMOVE_DEVICE,
        IRP_MN_SET_POWER, IRP_MN_START_DEVICE, IRP_MN_STOP_DEVICE, IRP_MN_SURPRISE_REMOVAL,
    },
    Win32::System::Power::PowerDeviceD0,
};

use super::{Device, devnode::Devnode};
use crate::{io::layout::Words, kernel::Kernel, machine::System, memory::Ptr, user::Status};

/// A request that the bus driver gets last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BusRequest {
    /// `IRP_MN_START_DEVICE`.
    Start,
    /// `IRP_MN_QUERY_STOP_DEVICE`.
    QueryStop,
    /// `IRP_MN_STOP_DEVICE`.
    Stop,
    /// `IRP_MN_CANCEL_STOP_DEVICE`.
    CancelStop,
    /// `IRP_MN_QUERY_REMOVE_DEVICE`.
    QueryRemove,
    /// `IRP_MN_CANCEL_REMOVE_DEVICE`.
    CancelRemove,
    /// `IRP_MN_SURPRISE_REMOVAL`.
    SurpriseRemoval,
    /// `IRP_MN_REMOVE_DEVICE`.
    Remove,
    /// `IRP_MN_QUERY_CAPABILITIES`.
    QueryCapabilities,
    /// `IRP_MN_FILTER_RESOURCE_REQUIREMENTS`.
    FilterRequirements,
    /// `IRP_MN_DEVICE_USAGE_NOTIFICATION`.
    UsageNotification,
    /// `IRP_MN_QUERY_POWER`.
    QueryPower,
    /// `IRP_MN_SET_POWER` for the system.
    SetSystemPower,
    /// `IRP_MN_SET_POWER` that turns the device on.
    TurnOn,
    /// `IRP_MN_SET_POWER` that turns the device off.
    TurnOff,
}

impl BusRequest {
    /// Every one.
    pub const ALL: [Self; 15] = [
        Self::Start,
        Self::QueryStop,
        Self::Stop,
        Self::CancelStop,
        Self::QueryRemove,
        Self::CancelRemove,
        Self::SurpriseRemoval,
        Self::Remove,
        Self::QueryCapabilities,
        Self::FilterRequirements,
        Self::UsageNotification,
        Self::QueryPower,
        Self::SetSystemPower,
        Self::TurnOn,
        Self::TurnOff,
    ];

    /// Whether the documents let a bus driver fail it: those of each request, and "Handling `IRP_MN_SET_POWER` for Device Power States".
    #[must_use]
    pub const fn may_fail(self) -> bool {
        matches!(
            self,
            Self::Start
                | Self::QueryStop
                | Self::QueryRemove
                | Self::QueryCapabilities
                | Self::FilterRequirements
                | Self::UsageNotification
                | Self::QueryPower
                | Self::TurnOn
        )
    }

    fn of(major: u8, minor: u8, words: Words) -> Option<Self> {
        match u32::from(major) {
            IRP_MJ_PNP => Self::of_pnp(minor.into()),
            IRP_MJ_POWER => Self::of_power(minor.into(), words),
            _ => None,
        }
    }

    const fn of_pnp(minor: u32) -> Option<Self> {
        Some(match minor {
            IRP_MN_START_DEVICE => Self::Start,
            IRP_MN_QUERY_STOP_DEVICE => Self::QueryStop,
            IRP_MN_STOP_DEVICE => Self::Stop,
            IRP_MN_CANCEL_STOP_DEVICE => Self::CancelStop,
            IRP_MN_QUERY_REMOVE_DEVICE => Self::QueryRemove,
            IRP_MN_CANCEL_REMOVE_DEVICE => Self::CancelRemove,
            IRP_MN_SURPRISE_REMOVAL => Self::SurpriseRemoval,
            IRP_MN_REMOVE_DEVICE => Self::Remove,
            IRP_MN_QUERY_CAPABILITIES => Self::QueryCapabilities,
            IRP_MN_FILTER_RESOURCE_REQUIREMENTS => Self::FilterRequirements,
            IRP_MN_DEVICE_USAGE_NOTIFICATION => Self::UsageNotification,
            _ => return None,
        })
    }

    fn of_power(minor: u32, [_, kind, state, _]: Words) -> Option<Self> {
        /// `SystemPowerState` of `POWER_STATE_TYPE`.
        const SYSTEM: u64 = 0;
        match minor {
            IRP_MN_QUERY_POWER => Some(Self::QueryPower),
            IRP_MN_SET_POWER if kind == SYSTEM => Some(Self::SetSystemPower),
            IRP_MN_SET_POWER if state == u64::from(PowerDeviceD0.cast_unsigned()) => Some(Self::TurnOn),
            IRP_MN_SET_POWER => Some(Self::TurnOff),
            _ => None,
        }
    }
}

/// What a bus driver makes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusManner {
    /// It fails it with this status.
    Fails(Status),
    /// It marks it pending and completes it so many virtual nanoseconds later on a thread, at `PASSIVE_LEVEL`.
    Pends(u64),
    /// The same, and it is completed at `DISPATCH_LEVEL`, as a DPC does.
    PendsForDpc(u64),
}

/// What the scenario asked of the bus driver for a request.
pub fn manner_of(devnode: &Devnode, major: u8, minor: u8, words: Words) -> Option<BusManner> {
    let manners = devnode.manners.borrow();
    if manners.is_empty() {
        return None;
    }
    manners.get(&BusRequest::of(major, minor, words)?).copied()
}

/// Whether a power request to a device's stack fails because of the bus driver: as the scenario asked, or because the device is gone.
pub fn fails_power(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, minor: u32, words: Words) -> bool {
    let Some(devnode) = k.pnp.devnodes.of(pdo).filter(|devnode| !devnode.gone.get()) else { return true };
    let request = BusRequest::of_power(minor, words);
    request.is_some_and(|request| matches!(devnode.manners.borrow().get(&request), Some(BusManner::Fails(_))))
}

impl Device {
    /// What the bus driver makes of a request from now on, or that it does as it should.
    ///
    /// # Panics
    ///
    /// Where it is to fail what the documents do not let it fail.
    pub fn set_bus_manner(self, system: &System, request: BusRequest, manner: Option<BusManner>) {
        let fails = matches!(manner, Some(BusManner::Fails(_)));
        assert!(!fails || request.may_fail(), "a bus driver must not fail {request:?}");
        let devnode = self.devnode(system);
        let mut manners = devnode.manners.borrow_mut();
        match manner {
            Some(manner) => manners.insert(request, manner),
            None => manners.remove(&request),
        };
    }
}
