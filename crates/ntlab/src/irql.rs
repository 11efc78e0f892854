//! Interrupt request levels of x64 ("Managing Hardware Priorities").

use std::fmt;

use serde::Serialize;

/// An interrupt request level, 0 to 15.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub struct Irql(pub u8);

/// Threads run here; everything may be interrupted.
pub const PASSIVE_LEVEL: Irql = Irql(0);
/// Normal kernel APCs are held off.
pub const APC_LEVEL: Irql = Irql(1);
/// DPCs run and spin locks are held here: no waiting, no page faults.
pub const DISPATCH_LEVEL: Irql = Irql(2);
/// The lowest level of a device interrupt.
pub const DIRQL_MIN: Irql = Irql(3);
/// The highest level of a device interrupt.
pub const DIRQL_MAX: Irql = Irql(12);
/// Everything is masked.
pub const HIGH_LEVEL: Irql = Irql(15);

impl fmt::Display for Irql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PASSIVE_LEVEL => f.write_str("PASSIVE_LEVEL"),
            APC_LEVEL => f.write_str("APC_LEVEL"),
            DISPATCH_LEVEL => f.write_str("DISPATCH_LEVEL"),
            HIGH_LEVEL => f.write_str("HIGH_LEVEL"),
            Self(level @ 3..=12) => write!(f, "DIRQL {level}"),
            Self(level) => write!(f, "IRQL {level}"),
        }
    }
}

/// The levels at which a function may be called, lowest and highest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IrqlRange {
    /// The lowest level allowed.
    pub lowest: Irql,
    /// The highest level allowed.
    pub highest: Irql,
}

impl IrqlRange {
    /// Whether `level` is allowed.
    #[must_use]
    pub fn contains(self, level: Irql) -> bool {
        self.lowest <= level && level <= self.highest
    }
}

/// `IRQL = level`.
#[must_use]
pub const fn exactly(level: Irql) -> IrqlRange {
    IrqlRange { lowest: level, highest: level }
}

/// `IRQL <= level`.
#[must_use]
pub const fn at_most(level: Irql) -> IrqlRange {
    IrqlRange { lowest: PASSIVE_LEVEL, highest: level }
}

/// `IRQL >= level`.
#[must_use]
pub const fn at_least(level: Irql) -> IrqlRange {
    IrqlRange { lowest: level, highest: HIGH_LEVEL }
}

/// Any level.
#[must_use]
pub const fn any_level() -> IrqlRange {
    at_most(HIGH_LEVEL)
}
