//! `hotadd.sys` in a machine of the lab: installing it, asking it for what its interface offers, and load whose every answer is checked.
//! The demo, the benchmark and the tests are written on it.

mod client;
mod load;

use std::path::Path;

pub use client::{Journal, factorial, journal, journal_from, open, processors, status};
pub use load::{Counts, Load, MOST_LANES, Manner, Plan};
use ntlab::pnp::{DeviceSpec, DriverPackage};

/// The hardware ID of the software device.
pub const SOFTWARE_ID: &str = r"ROOT\HOTADD";
/// The hardware ID of the `edu` device.
pub const EDU_ID: &str = r"PCI\VEN_1234&DEV_11E8";

/// The driver in the file `sys`, for both of its devices, as its INF installs it.
#[must_use]
pub fn package(sys: &Path) -> DriverPackage {
    DriverPackage::new("hotadd", sys).for_ids([EDU_ID, SOFTWARE_ID])
}

/// The device without hardware.
#[must_use]
pub fn software() -> DeviceSpec {
    DeviceSpec::software(SOFTWARE_ID)
}
