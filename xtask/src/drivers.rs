//! The drivers that are measured and tested side by side: each serves the interface of hotadd, or a part of it.

use std::fmt;

use anyhow::Result;
use kit::Artifacts;

/// What a driver is written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// Rust, on crates/wdm.
    Rust,
    /// C.
    C,
}

/// What a driver does with requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Jobs {
    /// Completes factorials in its dispatch routine, on the software device, and nothing else.
    Floor,
    /// All that the interface has.
    All,
}

/// A driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Driver {
    /// Its name, which is that of its package or its directory in bench/.
    pub name: &'static str,
    /// What it is written in.
    pub language: Language,
    /// What it does.
    pub jobs: Jobs,
}

impl Driver {
    /// The driver that ships.
    pub const HOTADD: Self = Self { name: "hotadd", language: Language::Rust, jobs: Jobs::All };
    /// The same jobs in C, done as the documentation of Windows teaches them.
    pub const PEER: Self = Self { name: "peer", language: Language::C, jobs: Jobs::All };
    /// The least that a driver in Rust takes.
    pub const FLOOR_RUST: Self = Self { name: "floor-rust", language: Language::Rust, jobs: Jobs::Floor };
    /// The least that a driver in C takes.
    pub const FLOOR_C: Self = Self { name: "floor-c", language: Language::C, jobs: Jobs::Floor };

    /// All of them.
    pub const ALL: [Self; 4] = [Self::HOTADD, Self::PEER, Self::FLOOR_RUST, Self::FLOOR_C];

    /// The driver, built if it is missing or stale.
    ///
    /// # Errors
    ///
    /// It does not build, or what it is built with is not installed ([`Purpose::Bench`](crate::setup::Purpose::Bench)).
    pub fn build(self) -> Result<Artifacts> {
        match self.language {
            Language::Rust => kit::driver(self.name),
            Language::C => {
                let bench = kit::root().join("bench");
                kit::c_driver_in(&bench.join(self.name), &bench.join("include"))
            }
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}
