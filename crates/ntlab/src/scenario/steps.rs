//! What threads of a scenario do.

use serde::{Deserialize, Serialize};

use super::values::{self, Expect, Guid, Hex};
use crate::{power::SystemState, user, user::Status};

/// A step of a thread.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Opens a device by interface class or by name.
    Open {
        /// What later steps call the handle.
        handle: String,
        /// The interface class.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<Guid>,
        /// Which of the enabled interfaces of the class.
        #[serde(default)]
        number: usize,
        /// The name instead, such as `\\.\Name`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// The access asked for.
        #[serde(default)]
        access: Access,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
    },
    /// `ReadFile`.
    Read {
        /// Of which handle.
        handle: String,
        /// Length of the buffer.
        length: usize,
        /// Byte offset.
        #[serde(default)]
        offset: i64,
        /// With a name, the step does not wait; `wait` and `cancel` name it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
        /// What it must return.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        returns: Option<Hex>,
    },
    /// `WriteFile`.
    Write {
        /// Of which handle.
        handle: String,
        /// What is written.
        data: Hex,
        /// Byte offset.
        #[serde(default)]
        offset: i64,
        /// With a name, the step does not wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
    },
    /// `DeviceIoControl`.
    Control {
        /// Of which handle.
        handle: String,
        /// Control code.
        code: u32,
        /// Input.
        #[serde(default)]
        input: Hex,
        /// Length of the output buffer.
        #[serde(default)]
        output: usize,
        /// With a name, the step does not wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
        /// What it must return.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        returns: Option<Hex>,
    },
    /// Waits for a request of this thread.
    Wait {
        /// Its name.
        request: String,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
        /// What it must return.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        returns: Option<Hex>,
    },
    /// Cancels a request of this thread, as `CancelIoEx` does.
    Cancel {
        /// Its name.
        request: String,
    },
    /// Closes a handle.
    Close {
        /// Which.
        handle: String,
    },
    /// Lets virtual time pass.
    Pause {
        /// Microseconds.
        us: u64,
    },
    /// Waits until notifications, PnP actions and power requests are over.
    Settle {},
    /// Rebalances the resources of a device, or of all.
    Rebalance {
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Asks whether a device can be stopped, and cancels that.
    QueryStop(OnDevice),
    /// Asks whether a device can be removed, and cancels that.
    QueryRemove(OnDevice),
    /// Removes a device's driver.
    Disable(OnDevice),
    /// Adds and starts a device again.
    Enable(OnDevice),
    /// Pulls a device out.
    SurpriseRemove {
        /// Which.
        device: String,
    },
    /// Ejects a device that another one's driver has reported.
    Eject(OnDevice),
    /// Raises the interrupt line of a PCI function whose registers are memory.
    RaiseInterrupt {
        /// Which.
        device: String,
    },
    /// The bus fails the next start of a device.
    FailNextStart {
        /// Which.
        device: String,
    },
    /// Adds a processor.
    AddProcessor {
        /// Its NUMA node; any, if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<u16>,
        /// It does not start, for this reason.
        #[serde(default, with = "values::status", skip_serializing_if = "Option::is_none")]
        fails: Option<Status>,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
    },
    /// Adds memory.
    AddMemory {
        /// How much.
        mib: u64,
        /// Its NUMA node.
        #[serde(default)]
        node: u16,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
    },
    /// Puts the system to sleep and wakes it.
    Sleep {
        /// Into which state.
        state: SleepState,
        /// How it may end.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
    },
}

/// A step on a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OnDevice {
    /// Which.
    pub device: String,
    /// How it may end.
    #[serde(default, skip_serializing_if = "Expect::is_any")]
    pub expect: Expect,
}

/// The access a handle is opened with.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Neither reading nor writing.
    Attributes,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    #[default]
    ReadWrite,
}

impl From<Access> for user::Access {
    fn from(access: Access) -> Self {
        match access {
            Access::Attributes => Self::Attributes,
            Access::Read => Self::Read,
            Access::Write => Self::Write,
            Access::ReadWrite => Self::ReadWrite,
        }
    }
}

/// A state the system is put into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SleepState {
    /// Sleep.
    S3,
    /// Hibernation.
    S4,
    /// What hot replace uses.
    PseudoS4,
}

impl From<SleepState> for SystemState {
    fn from(state: SleepState) -> Self {
        match state {
            SleepState::S3 => Self::S3,
            SleepState::S4 => Self::S4,
            SleepState::PseudoS4 => Self::PseudoS4,
        }
    }
}

impl Step {
    /// The handle it makes.
    pub(super) fn opens(&self) -> Option<&str> {
        if let Self::Open { handle, .. } = self { Some(handle) } else { None }
    }

    /// The handle it uses.
    pub(super) fn uses(&self) -> Option<&str> {
        match self {
            Self::Read { handle, .. }
            | Self::Write { handle, .. }
            | Self::Control { handle, .. }
            | Self::Close { handle } => Some(handle),
            _ => None,
        }
    }

    /// The request it sends and does not wait for.
    pub(super) fn sends(&self) -> Option<&str> {
        match self {
            Self::Read { request, .. } | Self::Write { request, .. } | Self::Control { request, .. } => {
                request.as_deref()
            }
            _ => None,
        }
    }

    /// The request it is about.
    pub(super) fn awaits(&self) -> Option<&str> {
        match self {
            Self::Wait { request, .. } | Self::Cancel { request } => Some(request),
            _ => None,
        }
    }

    /// The device it is about.
    pub(super) fn device(&self) -> Option<&str> {
        match self {
            Self::Rebalance { device } => device.as_deref(),
            Self::QueryStop(on) | Self::QueryRemove(on) | Self::Disable(on) | Self::Enable(on) | Self::Eject(on) => {
                Some(&on.device)
            }
            Self::SurpriseRemove { device } | Self::FailNextStart { device } | Self::RaiseInterrupt { device } => {
                Some(device)
            }
            _ => None,
        }
    }
}
