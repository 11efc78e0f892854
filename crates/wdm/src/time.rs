//! Intervals and the performance counter.

use wdk_sys::{LARGE_INTEGER, ntddk};

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

/// Ticks of the performance counter since start-up, and how many it makes a second ("`KeQueryPerformanceCounter` function").
fn performance_counter() -> (u64, u64) {
    let mut frequency = LARGE_INTEGER { QuadPart: 0 };
    // SAFETY: callable at any IRQL; the frequency outlives the call.
    let ticks = unsafe { ntddk::KeQueryPerformanceCounter(&raw mut frequency) };
    (quad(ticks).cast_unsigned(), quad(frequency).cast_unsigned())
}

/// Units of 100 ns since start-up, from the performance counter.
///
/// IRQL: any.
#[must_use]
pub fn now() -> u64 {
    const SECOND: u64 = 10_000_000;
    let (ticks, frequency) = performance_counter();
    // By parts, because all ticks at once would overflow within weeks.
    let (Some(seconds), Some(rest)) = (ticks.checked_div(frequency), ticks.checked_rem(frequency)) else { return 0 };
    let part = rest.wrapping_mul(SECOND).checked_div(frequency).unwrap_or(0);
    seconds.wrapping_mul(SECOND).wrapping_add(part)
}

/// The whole of a `LARGE_INTEGER`.
pub(crate) const fn quad(value: LARGE_INTEGER) -> i64 {
    // SAFETY: every member of the union is made of integers and covers no more than this one.
    unsafe { value.QuadPart }
}
