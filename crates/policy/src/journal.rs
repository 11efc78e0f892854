//! The arithmetic of a ring of numbered events.

/// What a reader finds at its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first event that is still there.
    pub first: u64,
    /// How many there are from it on.
    pub available: u64,
    /// How many from the cursor on are gone.
    pub missed: u64,
}

/// What a reader at `cursor` finds in a ring of `capacity` events in which `next` will be the next one, or `None` if
/// the cursor is beyond that.
#[must_use]
pub const fn window(cursor: u64, next: u64, capacity: u64) -> Option<Window> {
    if cursor > next {
        return None;
    }
    let oldest = next.saturating_sub(capacity);
    let first = if cursor < oldest { oldest } else { cursor };
    Some(Window { first, available: next - first, missed: first - cursor })
}

/// How many events are kept where `wanted` are asked for: the next power of two, so that finding a place takes no division.
#[must_use]
pub const fn capacity(wanted: u32) -> usize {
    match wanted.checked_next_power_of_two() {
        Some(capacity) => capacity as usize,
        // The largest there is.
        None => 1 << (u32::BITS - 1),
    }
}

/// Where the event of this number is kept, of as many places as a [`capacity`].
#[must_use]
pub const fn slot(sequence: u64, places: usize) -> Option<usize> {
    match places.checked_sub(1) {
        #[expect(clippy::cast_possible_truncation, reason = "the mask leaves less than the length of a slice")]
        Some(mask) => Some((sequence & mask as u64) as usize),
        None => None,
    }
}
