//! Intervals and the time.

use wdk_sys::LARGE_INTEGER;

use crate::imports;

/// A span of time for waits and timers, in units of 100 ns.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Interval(u64);

impl Interval {
    /// So many milliseconds.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn from_millis(milliseconds: u32) -> Self {
        // Cannot overflow: 2^32 times 10^4 is below 2^46.
        Self((milliseconds as u64).wrapping_mul(10_000))
    }

    /// So many microseconds.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn from_micros(microseconds: u32) -> Self {
        // Cannot overflow: 2^32 times 10 is below 2^36.
        Self((microseconds as u64).wrapping_mul(10))
    }

    /// In units of 100 ns.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn units(self) -> u64 {
        self.0
    }

    /// As the kernel takes it: negative means from now on.
    pub(crate) const fn relative(self) -> LARGE_INTEGER {
        LARGE_INTEGER { QuadPart: self.0.cast_signed().wrapping_neg() }
    }
}

/// The interrupt time: units of 100 ns since start-up, exact to a microsecond ("`KeQueryInterruptTimePrecise` function").
///
/// IRQL: any.
#[must_use]
pub fn now() -> u64 {
    let mut counter = 0;
    // SAFETY: callable at any IRQL; the counter outlives the call.
    unsafe { imports::KeQueryInterruptTimePrecise(&raw mut counter) }
}

/// The whole of a `LARGE_INTEGER`.
pub(crate) const fn quad(value: LARGE_INTEGER) -> i64 {
    // SAFETY: every member of the union is made of integers and covers no more than this one.
    unsafe { value.QuadPart }
}
