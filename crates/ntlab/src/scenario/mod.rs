//! Scenario files: a machine, a driver, its devices, and what user threads and the administrator do to them.
//!
//! A scenario is a TOML document. All of `machine`, `device`, `before`, `thread` and `after` may be left out, and most of what is in them.
//!
//! ```toml
//! # Steps of the first thread, one after the other, before the other threads start. What is opened here, all threads can use.
//! before = [
//!     { open = { handle = "shared", interface = "{f04e1617-0ca5-4d07-9a1b-3c5d7e8f90a1}" } },
//! ]
//! # Steps of the first thread when the other threads have ended.
//! after = [{ settle = {} }]
//!
//! [machine]
//! processors = 2        # active at boot
//! maximum = 8           # places for processors
//! group-size = 64       # processors of a group
//! memory-mib = 64
//! time-limit-ms = 10000 # virtual time after which the scenario is taken to hang
//!
//! [driver]
//! service = "mailbox"
//! image = "mailbox.sys" # or on the command line
//! ids = ['ROOT\MAILBOX'] # hardware IDs, as in its INF
//! unload = true         # at the end: everything is closed, and the driver must go and leave nothing
//! parameters = { Slots = 16, Name = "a" } # of its `Parameters` key: REG_DWORD and REG_SZ
//!
//! upper-filters = ["above"] # services over it in the stack of its devices, the lowest first, as `UpperFilters` in the registry; and lower-filters
//!
//! [[other-driver]]      # as `driver`: a filter, or the driver of devices that the first one reports
//! service = "above"
//! image = "above.sys"
//!
//! [[device]]
//! name = "box"          # what it reports is "box/INSTANCE", with the instance ID that the driver gives it
//! hardware = { software = 'ROOT\MAILBOX' } # a device that the root bus enumerates, with this hardware ID
//! # hardware = { edu = { messages = "always" } } # QEMU's `edu`; messages: always, scarce, never; qemu = true: the one in a real QEMU
//! # hardware = { pci = { id = "1234:11e8", bar = 4096 } } # a PCI function with an interrupt line, whose BAR is memory of so many bytes
//!
//! [[thread]]
//! repeat = 3            # how often its steps are done
//! steps = [
//!     { write = { handle = "shared", data = "68 65 6c 6c 6f", expect = "STATUS_SUCCESS" } },
//!     { read = { handle = "shared", length = 16, offset = 0, request = "r" } }, # a request with a name is not waited for
//!     { cancel = { request = "r" } },
//!     { wait = { request = "r", expect = ["STATUS_SUCCESS", "STATUS_CANCELLED"] } },
//!     { control = { handle = "shared", code = 0x222000, input = "01000000", output = 8, returns = "0102030405060708" } },
//!     { pause = { us = 100 } },
//! ]
//!
//! [[thread]]
//! steps = [{ add-processor = {} }, { query-remove = { device = "box" } }, { close = { handle = "shared" } }]
//! ```
//!
//! Steps with a status take `expect`, a status or several, by name or number; without, any will do. See [`Step`] for all of them. A step on
//! a handle that could not be opened or was closed ends with `STATUS_INVALID_HANDLE`.

mod check;
mod run;
mod shrink;
mod steps;
mod values;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    steps::{Access, SleepState, Step},
    values::{Expect, Guid, Hex, PciId},
};
use crate::{
    config::{Config, ConfigError},
    pnp::{self, DeviceSpec, DriverPackage},
    registry::Value,
};

/// A scenario, as its file has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Scenario {
    /// What reports call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Done first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Step>,
    /// Done when all threads have ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Step>,
    /// The machine.
    #[serde(default)]
    pub machine: Machine,
    /// The driver.
    pub driver: Driver,
    /// Drivers besides it: filters, and those of devices that it reports.
    #[serde(default, rename = "other-driver", skip_serializing_if = "Vec::is_empty")]
    pub other_drivers: Vec<Driver>,
    /// Devices, in the order they are plugged in.
    #[serde(default, rename = "device", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Threads, all started at once.
    #[serde(default, rename = "thread", skip_serializing_if = "Vec::is_empty")]
    pub threads: Vec<Thread>,
}

/// The machine of a scenario.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Machine {
    /// Active at boot.
    pub processors: u32,
    /// Places for processors.
    pub maximum: u32,
    /// Processors of a group.
    pub group_size: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual milliseconds after which the scenario is taken to hang.
    pub time_limit_ms: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self { processors: 2, maximum: 8, group_size: 64, memory_mib: 64, time_limit_ms: 10_000 }
    }
}

/// The driver of a scenario.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Driver {
    /// Its service.
    #[serde(default = "driver")]
    pub service: String,
    /// Its image; the command line's takes its place.
    #[serde(default)]
    pub image: PathBuf,
    /// The hardware IDs of its INF.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Services of the filters over it in the stack of its devices, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upper_filters: Vec<String>,
    /// Services of the filters under it, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lower_filters: Vec<String>,
    /// Whether it is unloaded at the end.
    #[serde(default = "yes")]
    pub unload: bool,
    /// Values of its `Parameters` key.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
}

fn driver() -> String {
    "driver".into()
}

const fn yes() -> bool {
    true
}

/// A value in the registry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Parameter {
    /// `REG_DWORD`.
    Number(u32),
    /// `REG_SZ`.
    Text(String),
}

/// A device of a scenario.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Device {
    /// What steps call it.
    pub name: String,
    /// What it is.
    pub hardware: Hardware,
}

/// What a device is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Hardware {
    /// A device that the root bus enumerates: its hardware ID.
    Software(String),
    /// QEMU's `edu`.
    Edu {
        /// Its interrupts.
        #[serde(default)]
        messages: Messages,
        /// The real one, in a QEMU that is started for it; a run need not be the same every time then.
        #[serde(default)]
        qemu: bool,
    },
    /// A PCI function whose registers are memory.
    Pci {
        /// Vendor and device ID.
        id: PciId,
        /// Bytes of its BAR.
        #[serde(default = "page")]
        bar: u32,
    },
}

const fn page() -> u32 {
    4096
}

/// Whether a device gets message-signaled interrupts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Messages {
    /// Always.
    #[default]
    Always,
    /// Not always: a rebalance may change what it gets.
    Scarce,
    /// Never: it has a line.
    Never,
}

/// A user thread of a scenario.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Thread {
    /// How often its steps are done.
    #[serde(default = "once")]
    pub repeat: u32,
    /// What it does.
    pub steps: Vec<Step>,
}

const fn once() -> u32 {
    1
}

/// What is wrong with a scenario file.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub struct ScenarioError {
    /// Line and column, from 1.
    pub place: Option<(usize, usize)>,
    /// What is wrong, in one line.
    pub message: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl Scenario {
    /// The scenario in a document.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let message = error.message().replace('\n', "; ");
            ScenarioError { place: error.span().map(|span| check::place(text, span.start)), message }
        })?;
        scenario
            .check()
            .map_err(|mistake| ScenarioError { place: mistake.place_in(text), message: mistake.message })?;
        Ok(scenario)
    }

    /// Puts the real device, in a QEMU, behind each `edu`, or the model.
    pub fn set_qemu(&mut self, real: bool) {
        for device in &mut self.devices {
            if let Hardware::Edu { qemu, .. } = &mut device.hardware {
                *qemu = real;
            }
        }
    }

    /// Whether it needs QEMU; a run need not be the same every time then.
    #[must_use]
    pub fn needs_qemu(&self) -> bool {
        self.devices.iter().any(|device| matches!(device.hardware, Hardware::Edu { qemu: true, .. }))
    }

    /// The machine it runs on, with seed 0.
    ///
    /// # Errors
    ///
    /// What is wrong with the machine.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let Machine { processors, maximum, group_size, memory_mib, time_limit_ms } = self.machine;
        let config = Config {
            memory: memory_mib.saturating_mul(1 << 20),
            time_limit_ns: time_limit_ms.saturating_mul(1_000_000),
            ..Config::grouped(processors, maximum, group_size)?
        };
        config.check()?;
        Ok(config)
    }

    /// Its drivers, the one that it is about first.
    pub fn drivers(&self) -> impl Iterator<Item = &Driver> {
        std::iter::once(&self.driver).chain(&self.other_drivers)
    }
}

impl Driver {
    fn package(&self) -> DriverPackage {
        let Self { service, image, ids, upper_filters, lower_filters, parameters, .. } = self;
        let package = DriverPackage::new(service, image)
            .for_ids(ids.iter().map(String::as_str))
            .with_upper_filters(upper_filters.iter().map(String::as_str))
            .with_lower_filters(lower_filters.iter().map(String::as_str));
        parameters.iter().fold(package, |package, (name, value)| {
            package.with_parameter(
                name,
                match value {
                    Parameter::Number(number) => Value::dword(*number),
                    Parameter::Text(text) => Value::text(text),
                },
            )
        })
    }
}

impl Hardware {
    fn spec(&self) -> DeviceSpec {
        match self {
            Self::Software(id) => DeviceSpec::software(id),
            Self::Pci { id, bar } => DeviceSpec::pci(id.vendor, id.device, *bar),
            Self::Edu { messages, qemu } => {
                let edu = match messages {
                    Messages::Always => DeviceSpec::edu(),
                    Messages::Scarce => DeviceSpec::edu().with_scarce_messages(),
                    Messages::Never => DeviceSpec::edu().with_line_interrupts_only(),
                };
                if *qemu { edu.on_hardware(pnp::Hardware::Qemu) } else { edu }
            }
        }
    }
}

#[cfg(test)]
mod tests;
