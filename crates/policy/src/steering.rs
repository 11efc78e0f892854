//! Which processor takes which work: the requester itself, if it is free, else a free one of its NUMA node, else everybody in turn.
//!
//! The processors that work is steered to sit in a row in which those of a node are neighbours. A requester that is busy asks its
//! neighbours one after the other; where all of them are busy too it deals its requests out, so that each round gives every processor of
//! the row exactly one. Where requests come from everywhere, each processor serves its own, and no two write to the same memory.

/// NUMA nodes that are told apart; nodes beyond share a place.
const NODES: usize = 64;

/// A processor that work is steered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// Its index in the system.
    pub index: u32,
    /// Its NUMA node.
    pub node: u16,
}

/// Where a processor sits in the row, and where its node begins and ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its own position.
    pub position: u16,
    /// The first position of its node.
    pub node_start: u16,
    /// The position after the last of its node.
    pub node_end: u16,
}

impl Seat {
    /// As one word, so that it can be read and written at once; never zero.
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.position as u64 | (self.node_start as u64) << 16 | (self.node_end as u64) << 32 | 1 << 48
    }

    /// From that word; `None` from zero.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the word on purpose")]
    pub const fn unpack(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        Some(Self { position: word as u16, node_start: (word >> 16) as u16, node_end: (word >> 32) as u16 })
    }

    /// The positions of its node, its own first, in a row of `count`.
    pub fn neighbours(self, count: u16) -> impl Iterator<Item = u16> {
        // Inside the row, unless the seat is one of another row.
        let end = self.node_end.min(count);
        let own = self.position.clamp(self.node_start.min(end), end);
        (own..end).chain(self.node_start.min(end)..own)
    }

    /// The position whose turn it is among all, for request number `turn` that this seat deals out, in a row of `count`; `None` in an
    /// empty row.
    #[must_use]
    pub const fn anybody(self, turn: u32, count: u16) -> Option<u16> {
        let Some(turn) = turn.checked_rem(count as u32) else { return None };
        // The row goes round from the end of the node.
        let position = (self.node_end as u32 + turn) % count as u32;
        #[expect(clippy::cast_possible_truncation, reason = "less than count, which is a u16")]
        Some(position as u16)
    }
}

/// Seats `processors` in a row of at most `room`: calls `seat` once for each, with where it sits. Returns how many sit.
pub fn arrange(
    processors: impl Iterator<Item = Processor> + Clone,
    room: u16,
    mut seat: impl FnMut(Processor, Seat),
) -> u16 {
    let place = |node: u16| usize::from(node) % NODES;
    let room = usize::from(room);
    let mut sizes = [0_u16; NODES];
    for processor in processors.clone().take(room) {
        if let Some(size) = sizes.get_mut(place(processor.node)) {
            *size = size.saturating_add(1);
        }
    }

    let mut starts = [0_u16; NODES];
    let mut count = 0_u16;
    for (start, size) in starts.iter_mut().zip(sizes) {
        *start = count;
        count = count.saturating_add(size);
    }

    let mut seated = [0_u16; NODES];
    for processor in processors.take(room) {
        let node = place(processor.node);
        let (Some(&node_start), Some(&size), Some(taken)) = (starts.get(node), sizes.get(node), seated.get_mut(node))
        else {
            continue;
        };
        if *taken == size {
            // Joined between the two passes; the next arrangement seats it.
            continue;
        }
        seat(
            processor,
            Seat { position: node_start.saturating_add(*taken), node_start, node_end: node_start.saturating_add(size) },
        );
        *taken = taken.saturating_add(1);
    }
    count
}
