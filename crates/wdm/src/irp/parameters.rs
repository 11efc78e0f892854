//! What our stack location says, by major and minor function ("`IO_STACK_LOCATION` structure").

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use wdk_sys::{
    _DEVICE_POWER_STATE, _DEVICE_USAGE_NOTIFICATION_TYPE, _IO_STACK_LOCATION__bindgen_ty_1 as Parameters, _MODE,
    _POWER_STATE_TYPE, _SYSTEM_POWER_STATE, DEVICE_CAPABILITIES, IRP_MJ_DEVICE_CONTROL, IRP_MJ_PNP, IRP_MJ_POWER,
    IRP_MJ_READ, IRP_MJ_WRITE, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_CANCEL_STOP_DEVICE,
    IRP_MN_DEVICE_USAGE_NOTIFICATION, IRP_MN_FILTER_RESOURCE_REQUIREMENTS, IRP_MN_QUERY_CAPABILITIES,
    IRP_MN_QUERY_PNP_DEVICE_STATE, IRP_MN_QUERY_POWER, IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_QUERY_STOP_DEVICE,
    IRP_MN_REMOVE_DEVICE, IRP_MN_SET_POWER, IRP_MN_START_DEVICE, IRP_MN_STOP_DEVICE, IRP_MN_SURPRISE_REMOVAL,
    PFILE_OBJECT,
};

use super::IrpRef;
use crate::resources::ResourceList;
use crate::time::quad;

/// Which open handle an IRP came through: good for comparing, nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileId(usize);

/// The parameters of `IRP_MJ_DEVICE_CONTROL`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceControl {
    /// The control code.
    pub code: u32,
    /// Bytes that the caller gave.
    pub input_length: usize,
    /// Bytes that the caller takes.
    pub output_length: usize,
}

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the device: `IRP_MJ_READ`.
    Read,
    /// To the device: `IRP_MJ_WRITE`.
    Write,
}

/// The parameters of `IRP_MJ_READ` and `IRP_MJ_WRITE`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transfer {
    /// Which of the two it is.
    pub direction: Direction,
    /// Bytes to transfer.
    pub length: u32,
    /// Where on the device they start.
    pub offset: i64,
}

/// What a file in the path of the device is for ("`IRP_MN_DEVICE_USAGE_NOTIFICATION`").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usage {
    /// Paging.
    Paging,
    /// Hibernation.
    Hibernation,
    /// Crash dumps.
    DumpFile,
    /// Any other.
    Other(u32),
}

/// A minor function of `IRP_MJ_PNP` ("Plug and Play Minor IRPs").
#[derive(Clone, Copy)]
pub enum Pnp<'a> {
    /// Start with these resources; a device without any gets empty lists.
    StartDevice {
        /// As the bus sees them.
        raw: ResourceList<'a>,
        /// As the processors see them.
        translated: ResourceList<'a>,
    },
    /// May the device be stopped?
    QueryStopDevice,
    /// Stop; more resources, or others, follow with the next start.
    StopDevice,
    /// It will not be stopped after all.
    CancelStopDevice,
    /// May the device be removed?
    QueryRemoveDevice,
    /// It will not be removed after all.
    CancelRemoveDevice,
    /// It is gone.
    SurpriseRemoval,
    /// Remove. The glue of [`crate::device`] keeps this one to itself.
    RemoveDevice,
    /// What the device can do; lower drivers first.
    QueryCapabilities,
    /// Flags for the PnP manager, in the IRP's information.
    QueryPnpDeviceState,
    /// The requirements may be edited; lower drivers first.
    FilterResourceRequirements,
    /// A file came into or left the path of the device.
    UsageNotification {
        /// Whether it came.
        in_path: bool,
        /// What it is for.
        usage: Usage,
    },
    /// Any other, to be passed down untouched.
    Other(u8),
}

/// A power state of the system ("System Power States").
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SystemPowerState {
    /// S0.
    Working,
    /// S1.
    Sleeping1,
    /// S2.
    Sleeping2,
    /// S3.
    Sleeping3,
    /// S4.
    Hibernate,
    /// S5.
    Shutdown,
    /// A value without a name here.
    Other(u32),
}

/// A power state of a device ("Device Power States").
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum DevicePowerState {
    /// Fully on.
    D0,
    /// Between.
    D1,
    /// Between.
    D2,
    /// Off.
    D3,
    /// A value without a name here.
    Other(u32),
}

/// A minor function of `IRP_MJ_POWER` ("Power Management Minor IRPs").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Power {
    /// The system goes to this state.
    SetSystem(SystemPowerState),
    /// The device goes to this state.
    SetDevice(DevicePowerState),
    /// May the system go to this state?
    QuerySystem(SystemPowerState),
    /// May the device go to this state?
    QueryDevice(DevicePowerState),
    /// Any other, to be passed down untouched.
    Other(u8),
}

/// The capabilities that lower drivers filled in ("`DEVICE_CAPABILITIES` structure").
pub struct Capabilities<'a> {
    raw: NonNull<DEVICE_CAPABILITIES>,
    irp: PhantomData<&'a IrpRef>,
}

impl Capabilities<'_> {
    /// The most powered state that the device can be in while the system is in `state`.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn device_state(&self, state: SystemPowerState) -> Option<DevicePowerState> {
        let position = usize::try_from(state.raw()).ok()?;
        // SAFETY: the structure lives as long as the IRP is ours.
        let states = unsafe { (*self.raw.as_ptr()).DeviceState };
        states.get(position).copied().map(DevicePowerState::from_raw)
    }

    /// Says that the device may be unplugged without warning.
    ///
    /// IRQL: any.
    pub fn set_surprise_removal_ok(&self) {
        // SAFETY: the structure lives as long as the IRP is ours, and nobody else uses it meanwhile.
        let mut capabilities = unsafe { self.raw.read() };
        capabilities.set_SurpriseRemovalOK(1);
        // SAFETY: as above.
        unsafe { self.raw.write(capabilities) };
    }
}

impl SystemPowerState {
    const fn from_raw(raw: u32) -> Self {
        match raw {
            _SYSTEM_POWER_STATE::PowerSystemWorking => Self::Working,
            _SYSTEM_POWER_STATE::PowerSystemSleeping1 => Self::Sleeping1,
            _SYSTEM_POWER_STATE::PowerSystemSleeping2 => Self::Sleeping2,
            _SYSTEM_POWER_STATE::PowerSystemSleeping3 => Self::Sleeping3,
            _SYSTEM_POWER_STATE::PowerSystemHibernate => Self::Hibernate,
            _SYSTEM_POWER_STATE::PowerSystemShutdown => Self::Shutdown,
            other => Self::Other(other),
        }
    }

    const fn raw(self) -> u32 {
        match self {
            Self::Working => _SYSTEM_POWER_STATE::PowerSystemWorking,
            Self::Sleeping1 => _SYSTEM_POWER_STATE::PowerSystemSleeping1,
            Self::Sleeping2 => _SYSTEM_POWER_STATE::PowerSystemSleeping2,
            Self::Sleeping3 => _SYSTEM_POWER_STATE::PowerSystemSleeping3,
            Self::Hibernate => _SYSTEM_POWER_STATE::PowerSystemHibernate,
            Self::Shutdown => _SYSTEM_POWER_STATE::PowerSystemShutdown,
            Self::Other(other) => other,
        }
    }
}

impl DevicePowerState {
    const fn from_raw(raw: u32) -> Self {
        match raw {
            _DEVICE_POWER_STATE::PowerDeviceD0 => Self::D0,
            _DEVICE_POWER_STATE::PowerDeviceD1 => Self::D1,
            _DEVICE_POWER_STATE::PowerDeviceD2 => Self::D2,
            _DEVICE_POWER_STATE::PowerDeviceD3 => Self::D3,
            other => Self::Other(other),
        }
    }

    /// As the kernel takes it.
    pub(crate) const fn raw(self) -> u32 {
        match self {
            Self::D0 => _DEVICE_POWER_STATE::PowerDeviceD0,
            Self::D1 => _DEVICE_POWER_STATE::PowerDeviceD1,
            Self::D2 => _DEVICE_POWER_STATE::PowerDeviceD2,
            Self::D3 => _DEVICE_POWER_STATE::PowerDeviceD3,
            Self::Other(other) => other,
        }
    }
}

impl Usage {
    const fn from_raw(raw: i32) -> Self {
        match raw.cast_unsigned() {
            _DEVICE_USAGE_NOTIFICATION_TYPE::DeviceUsageTypePaging => Self::Paging,
            _DEVICE_USAGE_NOTIFICATION_TYPE::DeviceUsageTypeHibernation => Self::Hibernation,
            _DEVICE_USAGE_NOTIFICATION_TYPE::DeviceUsageTypeDumpFile => Self::DumpFile,
            other => Self::Other(other),
        }
    }
}

impl IrpRef {
    /// The major function.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn major(&self) -> u8 {
        // SAFETY: our own stack location of an IRP that is ours.
        unsafe { (*self.stack().as_ptr()).MajorFunction }
    }

    /// The minor function.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn minor(&self) -> u8 {
        // SAFETY: our own stack location of an IRP that is ours.
        unsafe { (*self.stack().as_ptr()).MinorFunction }
    }

    /// Whether user mode sent it.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn from_user_mode(&self) -> bool {
        // SAFETY: the IRP is ours.
        let mode = unsafe { (*self.as_ptr()).RequestorMode };
        u32::from(mode.cast_unsigned()) == _MODE::UserMode
    }

    /// The handle that it came through.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn file(&self) -> FileId {
        // SAFETY: our own stack location of an IRP that is ours.
        let file: PFILE_OBJECT = unsafe { (*self.stack().as_ptr()).FileObject };
        FileId(file.addr())
    }

    /// Notes that the handle is closed: nothing that comes through it waits in a queue from now on. The mark is the file object's
    /// `FsContext`, which is the driver's ("`FILE_OBJECT` structure").
    pub(crate) fn mark_file_closed(&self) {
        if let Some(mark) = self.file_mark() {
            mark.store(mark.as_ptr().cast(), Ordering::Relaxed);
        }
    }

    /// Whether [`IrpRef::mark_file_closed`] was called for an IRP of the same handle. Who asks with a lock held that is taken after the
    /// mark is set learns of it.
    pub(crate) fn is_file_closed(&self) -> bool {
        self.file_mark().is_some_and(|mark| !mark.load(Ordering::Relaxed).is_null())
    }

    /// Where the mark is; none for an IRP that came through no handle.
    fn file_mark(&self) -> Option<&AtomicPtr<c_void>> {
        // SAFETY: our own stack location of an IRP that is ours.
        let file = NonNull::new(unsafe { (*self.stack().as_ptr()).FileObject })?;
        // SAFETY: the address of a member of a file object, which lives as long as an IRP that came through it.
        let place = unsafe { &raw mut (*file.as_ptr()).FsContext };
        // SAFETY: as above; nobody but this module uses the member.
        Some(unsafe { AtomicPtr::from_ptr(place) })
    }

    fn parameters(&self) -> Parameters {
        // SAFETY: our own stack location of an IRP that is ours.
        unsafe { (*self.stack().as_ptr()).Parameters }
    }

    /// The parameters of `IRP_MJ_DEVICE_CONTROL`; none for another major function.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn device_control(&self) -> Option<DeviceControl> {
        if !self.is(IRP_MJ_DEVICE_CONTROL) {
            return None;
        }
        // SAFETY: the member that the major function says.
        let control = unsafe { self.parameters().DeviceIoControl };
        Some(DeviceControl {
            code: control.IoControlCode,
            input_length: control.InputBufferLength as usize,
            output_length: control.OutputBufferLength as usize,
        })
    }

    /// The parameters of `IRP_MJ_READ` and `IRP_MJ_WRITE`; none for another major function.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn transfer(&self) -> Option<Transfer> {
        let direction = match u32::from(self.major()) {
            IRP_MJ_READ => Direction::Read,
            IRP_MJ_WRITE => Direction::Write,
            _ => return None,
        };
        // SAFETY: the member that the major function says; that for writes has the same layout.
        let read = unsafe { self.parameters().Read };
        Some(Transfer { direction, length: read.Length, offset: quad(read.ByteOffset) })
    }

    /// The minor function of `IRP_MJ_PNP` with its parameters; none for another major function.
    ///
    /// IRQL: PASSIVE_LEVEL, where PnP IRPs are.
    #[must_use]
    pub fn pnp(&self) -> Option<Pnp<'_>> {
        self.is(IRP_MJ_PNP).then(|| match u32::from(self.minor()) {
            IRP_MN_START_DEVICE => self.start_device(),
            IRP_MN_QUERY_STOP_DEVICE => Pnp::QueryStopDevice,
            IRP_MN_STOP_DEVICE => Pnp::StopDevice,
            IRP_MN_CANCEL_STOP_DEVICE => Pnp::CancelStopDevice,
            IRP_MN_QUERY_REMOVE_DEVICE => Pnp::QueryRemoveDevice,
            IRP_MN_CANCEL_REMOVE_DEVICE => Pnp::CancelRemoveDevice,
            IRP_MN_SURPRISE_REMOVAL => Pnp::SurpriseRemoval,
            IRP_MN_REMOVE_DEVICE => Pnp::RemoveDevice,
            IRP_MN_QUERY_CAPABILITIES => Pnp::QueryCapabilities,
            IRP_MN_QUERY_PNP_DEVICE_STATE => Pnp::QueryPnpDeviceState,
            IRP_MN_FILTER_RESOURCE_REQUIREMENTS => Pnp::FilterResourceRequirements,
            IRP_MN_DEVICE_USAGE_NOTIFICATION => self.usage_notification(),
            _ => Pnp::Other(self.minor()),
        })
    }

    fn start_device(&self) -> Pnp<'_> {
        // SAFETY: the member that the minor function says.
        let start = unsafe { self.parameters().StartDevice };
        // SAFETY: null or a list that lives as long as the IRP is ours.
        let raw = unsafe { ResourceList::from_raw(start.AllocatedResources) };
        // SAFETY: as above.
        let translated = unsafe { ResourceList::from_raw(start.AllocatedResourcesTranslated) };
        Pnp::StartDevice { raw, translated }
    }

    fn usage_notification(&self) -> Pnp<'_> {
        // SAFETY: the member that the minor function says.
        let notification = unsafe { self.parameters().UsageNotification };
        Pnp::UsageNotification {
            in_path: notification.InPath != 0,
            usage: Usage::from_raw(notification.Type.cast_signed()),
        }
    }

    /// The minor function of `IRP_MJ_POWER` with its parameters; none for another major function.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn power(&self) -> Option<Power> {
        if !self.is(IRP_MJ_POWER) {
            return None;
        }
        let minor = self.minor();
        let set = match u32::from(minor) {
            IRP_MN_SET_POWER => true,
            IRP_MN_QUERY_POWER => false,
            _ => return Some(Power::Other(minor)),
        };
        // SAFETY: the member that the minor function says.
        let power = unsafe { self.parameters().Power };
        if power.Type == _POWER_STATE_TYPE::SystemPowerState {
            // SAFETY: the member that the type says.
            let state = SystemPowerState::from_raw(unsafe { power.State.SystemState });
            return Some(if set { Power::SetSystem(state) } else { Power::QuerySystem(state) });
        }
        // SAFETY: the member that the type says.
        let state = DevicePowerState::from_raw(unsafe { power.State.DeviceState });
        Some(if set { Power::SetDevice(state) } else { Power::QueryDevice(state) })
    }

    /// The capabilities of `IRP_MN_QUERY_CAPABILITIES`, once lower drivers have filled them in; none for another IRP.
    ///
    /// IRQL: PASSIVE_LEVEL, where PnP IRPs are.
    #[must_use]
    pub fn capabilities(&self) -> Option<Capabilities<'_>> {
        if !self.is(IRP_MJ_PNP) || u32::from(self.minor()) != IRP_MN_QUERY_CAPABILITIES {
            return None;
        }
        // SAFETY: the member that the minor function says.
        let raw = NonNull::new(unsafe { self.parameters().DeviceCapabilities }.Capabilities)?;
        Some(Capabilities { raw, irp: PhantomData })
    }

    /// Whether the major function is `major`.
    pub(super) fn is(&self, major: u32) -> bool {
        u32::from(self.major()) == major
    }
}
