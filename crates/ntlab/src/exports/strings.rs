//! ANSI and Unicode strings. Characters of ANSI strings are bytes of Latin-1; what has no such byte becomes a question mark.
#![allow(clippy::cast_possible_truncation, reason = "lengths of counted strings have 16 bits, which is checked")]

use std::cmp::Ordering;

use windows_sys::Win32::{
    Foundation::{
        NTSTATUS, STATUS_BUFFER_OVERFLOW, STATUS_INVALID_PARAMETER, STATUS_INVALID_PARAMETER_2, STATUS_NO_MEMORY,
        STATUS_SUCCESS, UNICODE_STRING,
    },
    System::Kernel::STRING,
};

use super::Export;
use crate::{
    at, export,
    io::{layout, string},
    irql::{APC_LEVEL, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::{PoolKind, Ptr},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("RtlInitAnsiString", any_level(), rtl_init_ansi_string),
    export!("RtlInitString", any_level(), rtl_init_ansi_string),
    export!("RtlAnsiStringToUnicodeString", exactly(PASSIVE_LEVEL), rtl_ansi_string_to_unicode_string),
    export!("RtlUnicodeStringToAnsiString", exactly(PASSIVE_LEVEL), rtl_unicode_string_to_ansi_string),
    export!("RtlFreeAnsiString", at_most(APC_LEVEL), rtl_free_ansi_string),
    export!("RtlCompareString", exactly(PASSIVE_LEVEL), rtl_compare_string),
    export!("RtlEqualString", exactly(PASSIVE_LEVEL), rtl_equal_string),
    export!("RtlUpcaseUnicodeChar", at_most(APC_LEVEL), rtl_upcase_unicode_char),
    export!("RtlUpcaseUnicodeString", at_most(APC_LEVEL), rtl_upcase_unicode_string),
    export!("RtlPrefixUnicodeString", exactly(PASSIVE_LEVEL), rtl_prefix_unicode_string),
    export!("RtlUnicodeStringToInteger", exactly(PASSIVE_LEVEL), rtl_unicode_string_to_integer),
    export!("RtlIntegerToUnicodeString", exactly(PASSIVE_LEVEL), rtl_integer_to_unicode_string),
    export!("RtlGUIDFromString", exactly(PASSIVE_LEVEL), rtl_guid_from_string),
];

/// The tag of strings that the caller frees.
const STRING: u32 = u32::from_le_bytes(*b"Strg");

/// "`RtlInitAnsiString` function", "`RtlInitString` function".
fn rtl_init_ansi_string(_: &Kernel, target: Ptr<STRING>, source: Ptr<u8>) {
    let most = if source.is_null() { 0 } else { usize::from(u16::MAX - 1) };
    let length = (0..most).take_while(|&at| source.offset(at).read() != 0).count() as u16;
    at!(target, Length).write(length);
    at!(target, MaximumLength).write(if source.is_null() { 0 } else { length + 1 });
    at!(target, Buffer).cast::<u64>().write(source.address());
}

fn bytes(text: Ptr<STRING>) -> Vec<u8> {
    Ptr::<u8>::new(at!(text, Buffer).cast::<u64>().read()).read_bytes(at!(text, Length).read().into())
}

/// Puts `content`, and a zero of `zero` bytes where there is room, into a counted string, whose buffer is the caller's or made here.
/// ANSI and Unicode strings have one layout.
fn fill(k: &Kernel, target: Ptr<UNICODE_STRING>, content: &[u8], zero: usize, allocate: bool) -> NTSTATUS {
    let needed = content.len() + zero;
    if needed > usize::from(u16::MAX) {
        return STATUS_INVALID_PARAMETER_2;
    }
    if allocate {
        let Some(buffer) = k.memory.allocate_pool(k, PoolKind::Paged, needed, STRING) else { return STATUS_NO_MEMORY };
        layout::store(at!(target, Buffer), buffer.cast());
        at!(target, MaximumLength).write(needed as u16);
    } else if needed > usize::from(at!(target, MaximumLength).read()) {
        return STATUS_BUFFER_OVERFLOW;
    }
    let buffer = layout::load(at!(target, Buffer)).cast::<u8>();
    buffer.write_bytes(content);
    buffer.offset(content.len()).write_bytes(&vec![0; zero]);
    at!(target, Length).write(content.len() as u16);
    STATUS_SUCCESS
}

/// "`RtlAnsiStringToUnicodeString` function".
fn rtl_ansi_string_to_unicode_string(
    k: &Kernel,
    target: Ptr<UNICODE_STRING>,
    source: Ptr<STRING>,
    allocate: bool,
) -> NTSTATUS {
    let wide: Vec<u8> = bytes(source).into_iter().flat_map(|byte| [byte, 0]).collect();
    fill(k, target, &wide, 2, allocate)
}

/// "`RtlUnicodeStringToAnsiString` function".
fn rtl_unicode_string_to_ansi_string(
    k: &Kernel,
    target: Ptr<UNICODE_STRING>,
    source: Ptr<UNICODE_STRING>,
    allocate: bool,
) -> NTSTATUS {
    let narrow: Vec<u8> = string::units(source).into_iter().map(|unit| u8::try_from(unit).unwrap_or(b'?')).collect();
    fill(k, target, &narrow, 1, allocate)
}

/// "`RtlFreeAnsiString` function".
fn rtl_free_ansi_string(k: &Kernel, text: Ptr<STRING>) {
    let buffer = at!(text, Buffer).cast::<u64>().read();
    if buffer != 0 {
        k.memory.free_pool(k, Ptr::new(buffer), None);
    }
    text.cast::<u8>().fill(size_of::<STRING>(), 0);
}

fn compare(first: Ptr<STRING>, second: Ptr<STRING>, ignore_case: bool) -> Ordering {
    let fold = |text| {
        let mut bytes = bytes(text);
        if ignore_case {
            bytes.make_ascii_uppercase();
        }
        bytes
    };
    fold(first).cmp(&fold(second))
}

/// "`RtlCompareString` function".
fn rtl_compare_string(_: &Kernel, first: Ptr<STRING>, second: Ptr<STRING>, ignore_case: bool) -> i32 {
    compare(first, second, ignore_case) as i32
}

/// "`RtlEqualString` function".
fn rtl_equal_string(_: &Kernel, first: Ptr<STRING>, second: Ptr<STRING>, ignore_case: bool) -> bool {
    compare(first, second, ignore_case) == Ordering::Equal
}

/// The upper case of a code unit, where that is one code unit.
fn upcase(unit: u16) -> u16 {
    let Some(character) = char::from_u32(unit.into()) else { return unit };
    let mut upper = character.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => u16::try_from(u32::from(upper)).unwrap_or(unit),
        _ => unit,
    }
}

/// "`RtlUpcaseUnicodeChar` function".
fn rtl_upcase_unicode_char(_: &Kernel, unit: u16) -> u16 {
    upcase(unit)
}

/// "`RtlUpcaseUnicodeString` function".
fn rtl_upcase_unicode_string(
    k: &Kernel,
    target: Ptr<UNICODE_STRING>,
    source: Ptr<UNICODE_STRING>,
    allocate: bool,
) -> NTSTATUS {
    let upper: Vec<u8> = string::units(source).into_iter().flat_map(|unit| upcase(unit).to_le_bytes()).collect();
    fill(k, target, &upper, 0, allocate)
}

/// "`RtlPrefixUnicodeString` function".
fn rtl_prefix_unicode_string(
    _: &Kernel,
    prefix: Ptr<UNICODE_STRING>,
    whole: Ptr<UNICODE_STRING>,
    ignore_case: bool,
) -> bool {
    let fold = |text| {
        let units = string::units(text);
        if ignore_case { units.into_iter().map(upcase).collect() } else { units }
    };
    fold(whole).starts_with(&fold(prefix))
}

/// "`RtlUnicodeStringToInteger` function": what precedes the first character that is no digit; the base is 10 or what the text says.
fn rtl_unicode_string_to_integer(_: &Kernel, text: Ptr<UNICODE_STRING>, base: u32, value: Ptr<u32>) -> NTSTATUS {
    let text = string::text(text);
    let text = text.trim_start_matches(|character: char| character <= ' ');
    let negative = text.starts_with('-');
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let known = [("0x", 16), ("0o", 8), ("0b", 2)];
    let told = known.into_iter().find_map(|(prefix, base)| Some((base, text.strip_prefix(prefix)?)));
    let (base, digits) = match (base, told) {
        (0, Some(told)) => told,
        (0, None) => (10, text),
        (2 | 8 | 10 | 16, _) => (base, text),
        _ => return STATUS_INVALID_PARAMETER,
    };
    let digits = digits.chars().map_while(|character| character.to_digit(base));
    let number = digits.fold(0_u32, |number, digit| number.wrapping_mul(base).wrapping_add(digit));
    value.write(if negative { number.wrapping_neg() } else { number });
    STATUS_SUCCESS
}

/// "`RtlIntegerToUnicodeString` function".
fn rtl_integer_to_unicode_string(k: &Kernel, value: u32, base: u32, target: Ptr<UNICODE_STRING>) -> NTSTATUS {
    let text = match base {
        0 | 10 => value.to_string(),
        2 => format!("{value:b}"),
        8 => format!("{value:o}"),
        16 => format!("{value:X}"),
        _ => return STATUS_INVALID_PARAMETER,
    };
    fill(k, target, &string::utf16(&text), 2, false)
}

/// "`RtlGUIDFromString` function".
fn rtl_guid_from_string(_: &Kernel, text: Ptr<UNICODE_STRING>, guid: Ptr<[u8; 16]>) -> NTSTATUS {
    let text = string::text(text);
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let parsed = inner.filter(|inner| inner.len() == 36).and_then(|inner| uuid::Uuid::parse_str(inner).ok());
    let Some(parsed) = parsed else { return STATUS_INVALID_PARAMETER };
    guid.write(parsed.to_bytes_le());
    STATUS_SUCCESS
}
