//! Bytes that nobody has written, and how they are known again when they leave for user mode.
//!
//! Pool that a driver did not ask to have zeroed, and the system buffer of a request behind its input, hold what memory held before: a
//! driver that returns such bytes to a user process gives away what may have been anybody's ("Failure to Initialize Output Buffers").
//! Driver Verifier does not look for that.
//!
//! The method: such memory is filled with words of 8 bytes, whose upper half is the same everywhere (as a pointer it faults), and whose
//! lower half is one number of the machine, drawn from the seed, in every even word, and in every odd word the number of the block,
//! blended with another number. What a request returns is searched for those words, at any offset, whichever way it came there: copied
//! by the driver, left in the system buffer, or read back from a device.
//!
//! What is found so is true: a driver or user that never saw such a word does not write one, but once in 2^64 words of random data; that a
//! block's number is taken for one needs a block of that number that was not zeroed besides. What is missed: fewer than 8 bytes in a row,
//! and what was changed on its way. A driver that writes to every byte is never told that it did not.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The upper half of each word consists of this byte: no processor takes such an address.
pub const FILLER: u8 = 0xBD;
const UPPER: [u8; 4] = [FILLER; 4];
/// So many bytes are looked through one by one first.
const SHORT: usize = 64;
/// What looks for them.
static WORDS: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(&UPPER));
/// The stream of the seeded generator that these numbers come from.
const STREAM: u64 = 0x756E_7772;
/// The block number of what is no block of the driver's: the system buffer of a request.
pub const SYSTEM_BUFFER: u64 = 0;

/// The words that fill unwritten memory of one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unwritten {
    even: u32,
    odd: u32,
}

/// Where unwritten bytes were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Offset of the word.
    pub offset: usize,
    /// The number of the block it comes from, if that is known.
    pub block: Option<u64>,
}

impl Unwritten {
    /// The words of the machine with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(STREAM);
        // No byte of a word's lower half is the filler, so that memory full of that byte has no such word.
        let mut half = || u32::from_le_bytes(std::array::from_fn(|_| generator.random_range(1..FILLER)));
        Self { even: half(), odd: half() }
    }

    /// What fills the block with this number: the byte at an address is the one at that address modulo 16.
    #[must_use]
    pub fn pattern(self, block: u64) -> [u8; 16] {
        let mut pattern = [FILLER; 16];
        pattern[..4].copy_from_slice(&self.even.to_le_bytes());
        pattern[8..12].copy_from_slice(&(self.odd ^ low(block)).to_le_bytes());
        pattern
    }

    /// The first word of unwritten memory in `bytes`. `is_unwritten` says whether a block with that number was given out unwritten.
    pub fn find(self, bytes: &[u8], is_unwritten: impl Fn(u64) -> bool) -> Option<Found> {
        // Most of what is returned is short and has no such byte: making a search ready takes longer than to see that.
        let any = || bytes.iter().fold(0, |found, byte| found | u8::from(*byte == FILLER)) != 0;
        if bytes.len() <= SHORT && !any() {
            return None;
        }
        let hits = WORDS.find_iter(bytes);
        let found = |offset: usize| {
            let half = lower_half(bytes, offset)?;
            let block = u64::from(half ^ self.odd);
            if half == self.even {
                return Some(Found {
                    offset,
                    block: self.neighbour(bytes, offset).filter(|block| is_unwritten(*block)),
                });
            }
            is_unwritten(block).then_some(Found { offset, block: Some(block) })
        };
        hits.filter_map(|hit| hit.checked_sub(UPPER.len())).find_map(found)
    }

    /// The block number in the word behind an even one, or in the one before it.
    fn neighbour(self, bytes: &[u8], offset: usize) -> Option<u64> {
        let behind = lower_half(bytes, offset + 8);
        let half = behind.or_else(|| lower_half(bytes, offset.checked_sub(8)?))?;
        Some(u64::from(half ^ self.odd))
    }
}

/// The lower half of the word at `offset`, if its upper half is that of an unwritten one.
fn lower_half(bytes: &[u8], offset: usize) -> Option<u32> {
    let word: [u8; 8] = *bytes.get(offset..)?.first_chunk()?;
    let (lower, upper) = word.split_first_chunk::<4>()?;
    (upper == UPPER).then(|| u32::from_le_bytes(*lower))
}

#[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of a block with this number, from an address that is a multiple of 16.
    fn memory(unwritten: Unwritten, block: u64, length: usize) -> Vec<u8> {
        unwritten.pattern(block).into_iter().cycle().take(length).collect()
    }

    #[test]
    fn unwritten_memory_is_found_at_any_offset_with_the_number_of_its_block() {
        let unwritten = Unwritten::new(7);
        for before in 0..20 {
            let bytes = [vec![0; before], memory(unwritten, 42, 16), vec![0; 5]].concat();
            let found = unwritten.find(&bytes, |block| block == 42);
            assert_eq!(found, Some(Found { offset: before, block: Some(42) }));
        }
    }

    #[test]
    fn one_word_is_enough() {
        let unwritten = Unwritten::new(7);
        let block = memory(unwritten, 42, 16);
        assert_eq!(unwritten.find(&block[..8], |_| false), Some(Found { offset: 0, block: None }));
        assert_eq!(unwritten.find(&block[8..], |block| block == 42), Some(Found { offset: 0, block: Some(42) }));
        assert_eq!(unwritten.find(&block[8..], |block| block == 41), None);
        assert_eq!(unwritten.find(&block[..7], |_| true), None);
    }

    #[test]
    fn other_bytes_are_not_taken_for_unwritten_ones() {
        let unwritten = Unwritten::new(7);
        let known = |block: u64| block < 1_000_000;
        for byte in 0..=u8::MAX {
            assert_eq!(unwritten.find(&[byte; 4096], known), None, "{byte:#x}");
        }
        let other = memory(Unwritten::new(8), 42, 4096);
        assert_eq!(unwritten.find(&other, known), None, "what fills the memory of another machine");
    }
}
