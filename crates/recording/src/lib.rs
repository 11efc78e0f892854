//! What hotadd did, kept: a [`Recording`] holds a machine before and after hardware was added, the driver's journal, and what its users and
//! the lab saw meanwhile. It is a JSON file, and becomes pictures.
//!
//! Whoever records needs what the driver's control codes return, and nothing else: [`Snapshot::new`], [`Device::new`] and [`Sample::new`]
//! take the structures of `hotadd-abi` as they come. What can be told from the journal (holds, rebalances, additions) is not stored but
//! [derived].
//!
//! Times are nanoseconds of interrupt time: since the system started, on Windows as in the lab. The driver's own are multiples of 100.

pub mod derived;
mod event;
mod file;
mod machine;
pub mod page;
pub mod perfetto;
mod tracks;
mod traffic;
pub mod words;

pub use event::{Event, Kind};
pub use file::{FORMAT, FileError, Origin, Recording};
pub use machine::{Device, Interrupt, Processor, Snapshot};
pub use traffic::{Activity, ActivityKind, Request, RequestKind, Sample};

/// Nanoseconds in a unit of the driver's times.
const NS_PER_UNIT: u64 = 100;

/// A time or duration of the driver's in nanoseconds.
const fn ns(units: u64) -> u64 {
    units.saturating_mul(NS_PER_UNIT)
}

/// The name of a value of one of the driver's enumerations, or its number where this version does not know it.
fn name_of<T: std::fmt::Debug>(known: Option<T>, code: u32) -> String {
    known.map_or_else(|| code.to_string(), |value| format!("{value:?}"))
}

/// Masks as text: a JSON number is no place for 64 bits.
mod mask {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub fn serialize<S: Serializer>(mask: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{mask:#x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| D::Error::custom(format!("\"{text}\" is no mask: 0x…")))?;
        u64::from_str_radix(digits, 16).map_err(D::Error::custom)
    }
}
