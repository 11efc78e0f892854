//! What the device computes, and which transfers it can do.

/// `number!` modulo 2^32, as the `edu` device computes it.
#[inline]
#[must_use]
pub fn factorial(number: u32) -> u32 {
    FACTORIALS.get(number as usize).copied().unwrap_or(0)
}

/// All that are not 0: 34! and all above have the factor 2^32.
const FACTORIALS: [u32; 34] = {
    let mut factorials = [1; 34];
    let mut number = 1;
    while number < factorials.len() {
        #[expect(clippy::cast_possible_truncation, reason = "below 34")]
        let factor = number as u32;
        factorials[number] = factor.wrapping_mul(factorials[number - 1]);
        number += 1;
    }
    factorials
};

/// Why a transfer is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadTransfer {
    /// The offset is negative, or offset and length overflow.
    Invalid,
    /// It starts at or beyond the end.
    BeyondEnd,
    /// It starts inside and reaches over the end.
    OverEnd,
}

/// A transfer within the device's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Where it starts.
    pub offset: u32,
    /// How many bytes; may be 0.
    pub length: u32,
}

/// Checks a transfer of `length` bytes at `offset` against a buffer of `size` bytes.
///
/// # Errors
///
/// See [`BadTransfer`].
#[inline]
pub fn transfer(offset: i64, length: u32, size: u32) -> Result<Transfer, BadTransfer> {
    within(offset, length, size).ok_or_else(|| what_is_wrong(offset, length, size))
}

#[inline]
fn within(offset: i64, length: u32, size: u32) -> Option<Transfer> {
    let offset = u32::try_from(offset).ok()?;
    (length <= size.checked_sub(offset)?).then_some(Transfer { offset, length })
}

/// Why a transfer is not within the buffer.
#[cold]
fn what_is_wrong(offset: i64, length: u32, size: u32) -> BadTransfer {
    if offset < 0 || offset.checked_add(i64::from(length)).is_none() {
        return BadTransfer::Invalid;
    }
    if offset < i64::from(size) { BadTransfer::OverEnd } else { BadTransfer::BeyondEnd }
}
