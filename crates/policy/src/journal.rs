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

/// Where the event of this number is kept.
#[must_use]
pub const fn slot(sequence: u64, capacity: u64) -> Option<usize> {
    match sequence.checked_rem(capacity) {
        // Less than the capacity, which was a length.
        #[expect(clippy::cast_possible_truncation, reason = "less than the capacity, which is the length of a slice")]
        Some(slot) => Some(slot as usize),
        None => None,
    }
}
