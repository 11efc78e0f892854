//! Text of a format and its arguments, as `DbgPrint` and the C runtime's functions make it.

use super::{Argument, Arguments};
use crate::{finding::Finding, irql::PASSIVE_LEVEL, kernel::Kernel, memory::Ptr};

/// As much text as one `DbgPrint` transmits.
pub const LONGEST: usize = 512;

/// The bytes of a string to its end, at most `longest`.
pub fn c_string(text: Ptr<u8>, longest: usize) -> Vec<u8> {
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
    /// Whether a string has 16-bit characters, if that is said.
    wide: Option<bool>,
}

/// Makes text of a format and its arguments.
pub struct Formatter<'k> {
    k: &'k Kernel,
    /// The function that does so.
    name: &'static str,
    arguments: Arguments,
    /// Whether strings have 16-bit characters where nothing is said.
    is_wide: bool,
    /// Whether addresses of the machine are told as places in it: where the machine lies differs from run to run, and the trace must not.
    names_places: bool,
}

impl<'k> Formatter<'k> {
    /// As `name` formats.
    pub const fn of(k: &'k Kernel, name: &'static str, arguments: Arguments) -> Self {
        Self { k, name, arguments, is_wide: false, names_places: false }
    }

    /// For the trace.
    pub const fn naming_places(mut self) -> Self {
        self.names_places = true;
        self
    }

    /// With strings of 16-bit characters.
    pub const fn wide(mut self) -> Self {
        self.is_wide = true;
        self
    }
}

impl Formatter<'_> {
    /// The text of a format, whose characters are Latin-1.
    pub fn format(&mut self, format: &[u8]) -> String {
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
            b's' => self.string(conversion, conversion.wide.unwrap_or(self.is_wide)),
            b'S' => self.string(conversion, !conversion.wide.unwrap_or(self.is_wide)),
            b'Z' => self.counted(conversion),
            _ => Finding::not_modelled(format!("{}: %{}", self.name, char::from(kind))).raise(),
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
        self.place(value).unwrap_or_else(|| format!("{value:016X}"))
    }

    fn place(&self, address: u64) -> Option<String> {
        if !self.names_places {
            return None;
        }
        let (arena, offset) = self.k.memory.space.locate(address)?;
        Some(format!("{arena:?}+{offset:#x}"))
    }

    fn string(&mut self, conversion: &Conversion, is_wide: bool) -> String {
        let text = Ptr::new(u64::take(&mut self.arguments));
        let end = if self.names_places { LONGEST } else { usize::MAX };
        let longest = conversion.precision.unwrap_or(end);
        if text.is_null() {
            return "(null)".into();
        }
        if !is_wide {
            return latin_1(&c_string(text, longest));
        }
        self.below_dispatch("a string of wide characters");
        let text: Ptr<u16> = text.cast();
        let units = (0..longest).map(|position| text.offset(position).read()).take_while(|&unit| unit != 0);
        String::from_utf16_lossy(&units.collect::<Vec<u16>>())
    }

    /// `%Z`: `ANSI_STRING`, `%wZ`: `UNICODE_STRING`; both are length, room, address.
    fn counted(&mut self, conversion: &Conversion) -> String {
        let counted: Ptr<u16> = Ptr::new(u64::take(&mut self.arguments));
        let bytes = usize::from(counted.read());
        let buffer: Ptr<u8> = Ptr::new(counted.offset(4).cast().read());
        let bytes = buffer.read_bytes(bytes);
        if conversion.wide != Some(true) {
            return latin_1(&bytes);
        }
        self.below_dispatch("%wZ");
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    }

    /// The tables for Unicode conversions are pageable.
    fn below_dispatch(&self, conversion: &str) {
        let irql = self.k.irql();
        if irql != PASSIVE_LEVEL {
            let sentence = format!("{}: {conversion} at {irql}; it may be used at PASSIVE_LEVEL", self.name);
            Finding::bug_check(crate::sched::VERIFIER, [0, irql.0.into(), 0, 0], sentence).raise();
        }
    }
}

fn latin_1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn eat(rest: &mut &[u8], prefix: &[u8]) -> bool {
    rest.strip_prefix(prefix).inspect(|after| *rest = after).is_some()
}

fn size(conversion: &mut Conversion, rest: &mut &[u8]) {
    let long = [b"I64".as_slice(), b"ll", b"I", b"z", b"j", b"t"].iter().any(|size| eat(rest, size));
    conversion.long = long;
    if !long && (eat(rest, b"w") || eat(rest, b"l")) {
        conversion.wide = Some(true);
    } else if eat(rest, b"h") {
        conversion.wide = Some(false);
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
