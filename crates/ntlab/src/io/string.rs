//! Counted strings of drivers.

use windows_sys::Win32::Foundation::UNICODE_STRING;

use super::layout;
use crate::{at, kernel::Kernel, memory::Ptr};

/// The UTF-16 code units of a counted string; none where there is no string.
#[must_use]
pub fn units(string: Ptr<UNICODE_STRING>) -> Vec<u16> {
    if string.is_null() {
        return Vec::new();
    }
    let length = usize::from(at!(string, Length).read());
    let bytes = layout::load(at!(string, Buffer)).cast::<u8>().read_bytes(length & !1);
    bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect()
}

/// A counted string as text.
#[must_use]
pub fn text(string: Ptr<UNICODE_STRING>) -> String {
    String::from_utf16_lossy(&units(string))
}

/// The text of a string that ends with a zero.
#[must_use]
pub fn terminated(string: Ptr<u16>) -> Vec<u16> {
    let mut units = Vec::new();
    loop {
        match string.offset(units.len()).read() {
            0 => return units,
            unit => units.push(unit),
        }
    }
}

/// The bytes of `text` in UTF-16, without a zero.
#[must_use]
pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The bytes of `text` in UTF-16, ended by a zero.
#[must_use]
pub fn utf16_terminated(text: &str) -> Vec<u8> {
    let mut bytes = utf16(text);
    bytes.extend([0, 0]);
    bytes
}

/// Makes `string` describe `bytes` of text at `buffer`, with room for a closing zero.
pub fn describe(string: Ptr<UNICODE_STRING>, buffer: Ptr<u8>, bytes: usize) {
    let length = u16::try_from(bytes).unwrap_or(u16::MAX - 1);
    at!(string, Length).write(length);
    at!(string, MaximumLength).write(length.saturating_add(2));
    layout::store(at!(string, Buffer), buffer.cast());
}

/// Puts `text`, ended by a zero, into memory of the system's own.
pub fn place(k: &Kernel, text: &str) -> Ptr<u8> {
    let bytes = utf16_terminated(text);
    let buffer = k.memory.allocate_object_bytes(bytes.len());
    buffer.write_bytes(&bytes);
    buffer
}

/// Makes `string` describe `text` in memory of the system's own; returns that memory.
pub fn set(k: &Kernel, string: Ptr<UNICODE_STRING>, text: &str) -> Ptr<u8> {
    let buffer = place(k, text);
    describe(string, buffer, text.encode_utf16().count() * 2);
    buffer
}
