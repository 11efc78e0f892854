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
//! [[device]]
//! name = "box"
//! hardware = { software = 'ROOT\MAILBOX' } # a device that the root bus enumerates, with this hardware ID
//! # hardware = { edu = { messages = "always" } } # QEMU's `edu`; messages: always, scarce, never
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
    values::{Expect, Guid, Hex},
};
use crate::{
    config::{Config, ConfigError},
    pnp::{DeviceSpec, DriverPackage},
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
    },
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

    fn package(&self) -> DriverPackage {
        let Driver { service, image, ids, parameters, .. } = &self.driver;
        let package = DriverPackage::new(service, image).for_ids(ids.iter().map(String::as_str));
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
            Self::Edu { messages: Messages::Always } => DeviceSpec::edu(),
            Self::Edu { messages: Messages::Scarce } => DeviceSpec::edu().with_scarce_messages(),
            Self::Edu { messages: Messages::Never } => DeviceSpec::edu().with_line_interrupts_only(),
        }
    }
}

#[cfg(test)]
mod tests;
