//! What the tests of `hotadd.sys` share: the driver that ships, machines that run it, and seeds that repeat a failure.
//!
//! `HOTADD_SEED` in the environment makes a test run that seed only. A test that fails prints it, in a command that repeats the failure.

mod bench;
pub mod browser;
mod recorded;
mod seeds;
mod traffic;

use std::{path::Path, sync::OnceLock};

pub use bench::{Bench, on_bench, on_each_driver, open, requests_come_before_add_complete};
use ntlab::{
    config::Config,
    machine::{Machine, System},
    user::Status,
};
pub use recorded::recorded;
pub use seeds::{command, each_seed, with_all_seeds};
pub use traffic::Traffic;
pub use workload::{SERVICE, life::end, quick_edu};
use xtask::drivers::Driver;

/// Virtual nanoseconds in which everything must have ended.
pub const PATIENCE: u64 = 120_000_000_000;

/// Statuses by the names that the documents use.
pub mod status {
    #![allow(missing_docs, reason = "the names are those of the documents")]

    use super::Status;

    const fn error(code: u32) -> Status {
        Status(code.cast_signed())
    }

    pub const UNSUCCESSFUL: Status = error(0xC000_0001);
    pub const INFO_LENGTH_MISMATCH: Status = error(0xC000_0004);
    pub const INVALID_PARAMETER: Status = error(0xC000_000D);
    pub const NO_SUCH_DEVICE: Status = error(0xC000_000E);
    pub const INVALID_DEVICE_REQUEST: Status = error(0xC000_0010);
    pub const END_OF_FILE: Status = error(0xC000_0011);
    pub const ACCESS_DENIED: Status = error(0xC000_0022);
    pub const BUFFER_TOO_SMALL: Status = error(0xC000_0023);
    pub const DELETE_PENDING: Status = error(0xC000_0056);
    pub const DISK_FULL: Status = error(0xC000_007F);
    pub const INSUFFICIENT_RESOURCES: Status = error(0xC000_009A);
    pub const DEVICE_NOT_READY: Status = error(0xC000_00A3);
    pub const IO_TIMEOUT: Status = error(0xC000_00B5);
    pub const CANCELLED: Status = error(0xC000_0120);
    pub const INVALID_BUFFER_SIZE: Status = error(0xC000_0206);
    pub const DEVICE_BUSY: Status = error(0x8000_0011);
}

/// The driver, built.
///
/// # Panics
///
/// Where it cannot be built.
#[must_use]
pub fn sys() -> &'static Path {
    static SYS: OnceLock<xtask::Artifacts> = OnceLock::new();
    &SYS.get_or_init(|| xtask::driver("hotadd").expect("the driver builds")).sys
}

/// The driver in C that hotadd is measured against, built.
///
/// # Panics
///
/// Where it cannot be built.
#[must_use]
pub fn peer() -> &'static Path {
    static SYS: OnceLock<xtask::Artifacts> = OnceLock::new();
    &SYS.get_or_init(|| Driver::PEER.build().expect("the peer builds")).sys
}

/// The driver's buffer pool has one byte for so many bytes of memory.
pub const POOL_SHARE: u64 = 64 << 10;

/// A machine with as little memory as the smallest buffer pool is the share of: all that is added counts.
#[must_use]
pub fn small() -> Config {
    Config { memory: 4 << 30, ..Config::default() }
}

/// Runs `scenario` on a machine made as `config` says, and returns what it returns.
///
/// # Panics
///
/// With its report, where the lab stopped the machine.
pub fn run<T>(config: Config, scenario: impl for<'k> FnOnce(&'k System) -> T) -> T {
    let repeat = config.repeat.clone().or_else(|| Some(command(config.seed)));
    let machine = Machine::new(Config { repeat, ..config }).expect("the machine makes sense");
    machine.run(scenario).result.unwrap_or_else(|report| panic!("{report}"))
}
