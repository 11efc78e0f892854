//! `hotadd.sys` in a machine of the lab: installing it, asking it for what its interface offers, and load whose every answer is checked.
//! The demo, the benchmark and the tests are written on it.

mod additions;
pub mod check;
mod client;
mod demo;
mod endurance;
pub mod fuzz;
pub mod interference;
pub mod life;
mod load;
mod machine;
pub mod record;
pub mod scale;
pub mod sequence;
pub mod systematic;
pub mod uniform;

use std::path::Path;

pub use additions::{Addition, Additions};
pub use client::{Journal, factorial, factorial_request, journal, journal_from, open, processors, status};
pub use demo::Demo;
pub use endurance::Endurance;
use load::open_twice;
pub use load::{Counts, Load, MOST_LANES, Manner, Plan, Target};
pub use machine::{Hardware, MachineOptions};
use ntlab::{
    hw::edu::EduModel,
    pnp::{DeviceSpec, DriverPackage},
};

/// The service that the driver is installed as.
pub const SERVICE: &str = "hotadd";
/// The hardware ID of the software device.
pub const SOFTWARE_ID: &str = r"ROOT\HOTADD";
/// The hardware ID of the `edu` device.
pub const EDU_ID: &str = r"PCI\VEN_1234&DEV_11E8";

/// The driver in the file `sys`, for both of its devices, as its INF installs it.
#[must_use]
pub fn package(sys: &Path) -> DriverPackage {
    DriverPackage::new(SERVICE, sys).for_ids([EDU_ID, SOFTWARE_ID])
}

/// QEMU's `edu` where its clock follows the instructions (`-icount shift=0,sleep=off`): a transfer takes microseconds, not 100 ms, so that both
/// devices have much to do at the same time.
#[must_use]
pub const fn quick_edu() -> DeviceSpec {
    DeviceSpec::edu().with_model(EduModel { dma_time: 200_000, ..EduModel::QEMU_7 })
}

/// The device without hardware.
#[must_use]
pub fn software() -> DeviceSpec {
    DeviceSpec::software(SOFTWARE_ID)
}
