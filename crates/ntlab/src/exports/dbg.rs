//! Text to the debugger, which goes to the trace, and bug checks that drivers ask for.

use super::{Argument, Arguments, Export};
use crate::{
    events::Kind,
    export,
    finding::Finding,
    irql::{DIRQL_MAX, PASSIVE_LEVEL, any_level, at_most},
    kernel::Kernel,
    memory::Ptr,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("DbgPrint", at_most(DIRQL_MAX), dbg_print),
    export!("DbgPrintEx", at_most(DIRQL_MAX), dbg_print_ex),
    export!("KeBugCheck", any_level(), ke_bug_check),
    export!("KeBugCheckEx", any_level(), ke_bug_check_ex),
];

/// As much text as one call transmits.
const LONGEST: usize = 512;

/// "`DbgPrint` function".
fn dbg_print(k: &Kernel, format: Ptr<u8>, arguments: Arguments) -> i32 {
    let mut text = Formatter { k, arguments }.format(&c_string(format, LONGEST));
    text.truncate(text.floor_char_boundary(LONGEST));
    k.record(Kind::Print(text.trim_end().into()));
    0
}

/// "`DbgPrintEx` function". Every component and level is let through.
fn dbg_print_ex(k: &Kernel, _component: u32, _level: u32, format: Ptr<u8>, arguments: Arguments) -> i32 {
    dbg_print(k, format, arguments)
}

/// "`KeBugCheck` function".
fn ke_bug_check(_: &Kernel, code: u32) {
    Finding::bug_check(code, [0; 4], format!("the driver called KeBugCheck({code:#x})")).raise();
}

/// "`KeBugCheckEx` function".
fn ke_bug_check_ex(_: &Kernel, code: u32, a: u64, b: u64, c: u64, d: u64) {
    Finding::bug_check(code, [a, b, c, d], format!("the driver called KeBugCheckEx({code:#x}, …)")).raise();
}

/// The bytes of a string to its end, at most `longest`.
fn c_string(text: Ptr<u8>, longest: usize) -> Vec<u8> {
    (0..longest).map(|position| text.offset(position).read()).take_while(|&byte| byte != 0).collect()
}

/// One conversion of a format.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "so many flags a format has")]
struct Conversion {
    left: bool,
    zeros: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    /// Whether the argument has 64 bits.
    long: bool,
    /// Whether a string has 16-bit characters.
    wide: bool,
}

struct Formatter<'k> {
    k: &'k Kernel,
    arguments: Arguments,
}

impl Formatter<'_> {
    fn format(&mut self, format: &[u8]) -> String {
        let mut text = String::new();
        let mut rest = format;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte == b'%' {
                text += &self.conversion(&mut rest);
            } else {
                text.push(char::from(byte));
            }
        }
        text
    }

    fn conversion(&mut self, rest: &mut &[u8]) -> String {
        let mut conversion = Conversion::default();
        Self::flags(&mut conversion, rest);
        conversion.width = self.number(rest).unwrap_or(0);
        if eat(rest, b".") {
            conversion.precision = Some(self.number(rest).unwrap_or(0));
        }
        size(&mut conversion, rest);
        let Some((&kind, after)) = rest.split_first() else { return String::new() };
        *rest = after;
        let text = self.convert(&conversion, kind);
        pad(&conversion, &text)
    }

    fn flags(conversion: &mut Conversion, rest: &mut &[u8]) {
        loop {
            match rest.first() {
                Some(b'-') => conversion.left = true,
                Some(b'0') => conversion.zeros = true,
                Some(b'#') => conversion.alternate = true,
                Some(b'+' | b' ') => (),
                _ => return,
            }
            *rest = &rest[1..];
        }
    }

    fn number(&mut self, rest: &mut &[u8]) -> Option<usize> {
        if eat(rest, b"*") {
            return usize::try_from(i32::take(&mut self.arguments)).ok();
        }
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, after) = rest.split_at(digits);
        *rest = after;
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    fn convert(&mut self, conversion: &Conversion, kind: u8) -> String {
        match kind {
            b'%' => "%".into(),
            b'd' | b'i' => self.signed(conversion).to_string(),
            b'u' => self.unsigned(conversion).to_string(),
            b'x' => self.hexadecimal(conversion),
            b'X' => self.hexadecimal(conversion).to_uppercase(),
            b'p' => self.address(),
            b'c' => char::from(u8::take(&mut self.arguments)).into(),
            b's' => self.string(conversion),
            b'S' => self.string(&Conversion {
                wide: !conversion.wide,
                precision: conversion.precision,
                ..Conversion::default()
            }),
            b'Z' => self.counted(conversion),
            _ => Finding::not_modelled(format!("DbgPrint: %{}", char::from(kind))).raise(),
        }
    }

    fn signed(&mut self, conversion: &Conversion) -> i64 {
        if conversion.long { i64::take(&mut self.arguments) } else { i32::take(&mut self.arguments).into() }
    }

    fn unsigned(&mut self, conversion: &Conversion) -> u64 {
        if conversion.long { u64::take(&mut self.arguments) } else { u32::take(&mut self.arguments).into() }
    }

    fn hexadecimal(&mut self, conversion: &Conversion) -> String {
        let value = self.unsigned(conversion);
        let place = self.place(value).filter(|_| conversion.long);
        place.unwrap_or_else(|| if conversion.alternate { format!("{value:#x}") } else { format!("{value:x}") })
    }

    fn address(&mut self) -> String {
        let value = u64::take(&mut self.arguments);
        self.place(value).unwrap_or_else(|| format!("{value:016x}"))
    }

    /// An address of the machine as a place in it: where the machine lies differs from run to run, and the trace must not.
    fn place(&self, address: u64) -> Option<String> {
        let (arena, offset) = self.k.memory.space.locate(address)?;
        Some(format!("{arena:?}+{offset:#x}"))
    }

    fn string(&mut self, conversion: &Conversion) -> String {
        let text = Ptr::new(u64::take(&mut self.arguments));
        let longest = conversion.precision.unwrap_or(LONGEST);
        if text.is_null() {
            return "(null)".into();
        }
        if !conversion.wide {
            let bytes: Vec<u8> = c_string(text, longest);
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        self.below_dispatch("%S");
        let text: Ptr<u16> = text.cast();
        let units = (0..longest).map(|position| text.offset(position).read()).take_while(|&unit| unit != 0);
        String::from_utf16_lossy(&units.collect::<Vec<u16>>())
    }

    /// `%Z`: `ANSI_STRING`, `%wZ`: `UNICODE_STRING`; both are length, room, address.
    fn counted(&mut self, conversion: &Conversion) -> String {
        let counted: Ptr<u16> = Ptr::new(u64::take(&mut self.arguments));
        let bytes = usize::from(counted.read());
        let buffer: Ptr<u8> = Ptr::new(counted.offset(4).cast().read());
        let bytes = buffer.read_bytes(bytes.min(2 * LONGEST));
        if !conversion.wide {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        self.below_dispatch("%wZ");
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    }

    /// The tables for Unicode conversions are pageable.
    fn below_dispatch(&self, conversion: &str) {
        let irql = self.k.irql();
        if irql != PASSIVE_LEVEL {
            let sentence = format!("DbgPrint: {conversion} at {irql}; it may be used at PASSIVE_LEVEL");
            Finding::bug_check(crate::sched::VERIFIER, [0, irql.0.into(), 0, 0], sentence).raise();
        }
    }
}

fn eat(rest: &mut &[u8], prefix: &[u8]) -> bool {
    rest.strip_prefix(prefix).inspect(|after| *rest = after).is_some()
}

fn size(conversion: &mut Conversion, rest: &mut &[u8]) {
    let long = [b"I64".as_slice(), b"ll", b"I", b"z", b"j", b"t"].iter().any(|size| eat(rest, size));
    conversion.long = long;
    if !long && (eat(rest, b"w") || eat(rest, b"l")) {
        conversion.wide = true;
    } else {
        eat(rest, b"h");
    }
}

fn pad(conversion: &Conversion, text: &str) -> String {
    let Conversion { left, zeros, width, .. } = *conversion;
    match (left, zeros) {
        (true, _) => format!("{text:<width$}"),
        (false, true) => format!("{text:0>width$}"),
        (false, false) => format!("{text:>width$}"),
    }
}
