//! How much memory the buffer pool has.

/// One buffer holds the largest transfer.
pub const BUFFER_BYTES: u64 = hotadd_abi::BUFFER_BYTES as u64;

/// The fewest buffers there are, however little memory there is.
const FEWEST: u64 = 16;

/// One byte of the pool for this many bytes of memory: the default limit of 16 MiB is reached at 1 TiB, so that memory added to a server
/// counts, and smaller machines keep theirs; where more requests come at a time, the pool keeps their buffers.
const SHARE: u64 = 64 * 1024;

/// How many buffers the pool has with `physical` bytes of memory, at most `most` bytes; never less than [`FEWEST`].
#[must_use]
pub const fn buffers(physical: u64, most: u64) -> u64 {
    let share = physical / SHARE;
    let bytes = if share < most { share } else { most };
    let buffers = bytes / BUFFER_BYTES;
    if buffers < FEWEST { FEWEST } else { buffers }
}
