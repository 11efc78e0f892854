//! Decoding events that carry their own description ("`TraceLogging`"): names and types of fields as `TraceLoggingProvider.h` lays them out.
//!
//! Metadata of an event: its size, tags, its name, and for each field a name, the type of the value (`TlgIn_t`) and, if bit 7 says so, how it
//! is shown (`TlgOut_t`), and tags. Numbers, strings, GUIDs and binary data are decoded; arrays, structures, SIDs and `SYSTEMTIME`s are not.

use std::fmt;

use uuid::Uuid;

use super::interface::Class;

/// More bytes follow: in the type of a value, how it is shown, and tags.
const CHAIN: u8 = 0x80;
/// In the type of a value: it is an array.
const ARRAY: u8 = 0x60;

/// A value of a field.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A signed number.
    Signed(i64),
    /// An unsigned number, or a time.
    Unsigned(u64),
    /// A number that is shown in hexadecimal, an address among them.
    Hex(u64),
    /// A floating-point number.
    Float(f64),
    /// A truth.
    Bool(bool),
    /// A string.
    Text(String),
    /// A GUID.
    Guid(Class),
    /// Bytes.
    Binary(Vec<u8>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Hex(value) => write!(f, "{value:#x}"),
            Self::Float(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::Guid(value) => value.fmt(f),
            Self::Binary(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// A field of an event.
#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Bytes with a count before them.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let count = u16::from_le_bytes(self.array()?);
        self.take(count.into())
    }

    /// Bytes up to a zero, which is taken too.
    fn terminated(&mut self) -> Option<&'a [u8]> {
        let length = self.0.iter().position(|&byte| byte == 0)?;
        let bytes = self.take(length)?;
        self.byte()?;
        Some(bytes)
    }

    /// A byte of which more follow as long as the high bit is set; the first.
    fn chain(&mut self) -> Option<u8> {
        let first = self.byte()?;
        let mut last = first;
        while last & CHAIN != 0 {
            last = self.byte()?;
        }
        Some(first)
    }

    fn name(&mut self) -> Option<String> {
        self.terminated().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// UTF-16 up to a zero.
    fn wide(&mut self) -> Option<String> {
        let mut units = Vec::new();
        loop {
            match u16::from_le_bytes(self.array()?) {
                0 => return Some(String::from_utf16_lossy(&units)),
                unit => units.push(unit),
            }
        }
    }
}

/// The name in an event's metadata; empty if there is none.
#[must_use]
pub fn event_name(metadata: &[u8]) -> String {
    front(metadata).map(|(name, _)| name).unwrap_or_default()
}

/// The name in a provider's metadata, which follows its size.
#[must_use]
pub fn provider_name(metadata: &[u8]) -> String {
    Reader(metadata.get(2..).unwrap_or_default()).name().unwrap_or_default()
}

/// The name of an event, and what follows it: the fields.
fn front(metadata: &[u8]) -> Option<(String, Reader<'_>)> {
    let mut reader = Reader(metadata.get(2..)?);
    reader.chain()?;
    let name = reader.name()?;
    Some((name, reader))
}

/// The fields of an event, or why they cannot be decoded.
///
/// # Errors
///
/// What the metadata has that is not decoded, or where it does not fit the values.
pub fn fields(metadata: &[u8], values: &[u8]) -> Result<Vec<Field>, String> {
    let size = metadata.first_chunk().map(|size| u16::from_le_bytes(*size));
    if size.map(usize::from) != Some(metadata.len()) {
        return Err(format!("its metadata has {} bytes, and says {size:?}", metadata.len()));
    }
    let (_, mut descriptions) = front(metadata).ok_or("its metadata ends in its name")?;
    let mut values = Reader(values);
    let mut fields = Vec::new();
    while !descriptions.0.is_empty() {
        let (name, kind) = description(&mut descriptions).ok_or("its metadata ends within a field")?;
        let value = value(&name, kind, &mut values)?;
        fields.push(Field { name, value });
    }
    match values.0.len() {
        0 => Ok(fields),
        left => Err(format!("{left} bytes of its values belong to no field")),
    }
}

/// The name and the type of the next field. How it is to be shown, and its tags, are left out.
fn description(reader: &mut Reader<'_>) -> Option<(String, u8)> {
    let name = reader.name()?;
    let kind = reader.byte()?;
    if kind & CHAIN != 0 && reader.byte()? & CHAIN != 0 {
        reader.chain()?;
    }
    Some((name, kind & !CHAIN))
}

fn value(name: &str, kind: u8, values: &mut Reader<'_>) -> Result<Value, String> {
    if kind & ARRAY != 0 {
        return Err(format!("field {name} is an array, which is not decoded"));
    }
    let value = match kind {
        1 => values.wide().map(Value::Text),
        2 => values.name().map(Value::Text),
        3 => values.array().map(|bytes| Value::Signed(i8::from_le_bytes(bytes).into())),
        4 => values.byte().map(|byte| Value::Unsigned(byte.into())),
        5 => values.array().map(|bytes| Value::Signed(i16::from_le_bytes(bytes).into())),
        6 => values.array().map(|bytes| Value::Unsigned(u16::from_le_bytes(bytes).into())),
        7 => values.array().map(|bytes| Value::Signed(i32::from_le_bytes(bytes).into())),
        8 => values.array().map(|bytes| Value::Unsigned(u32::from_le_bytes(bytes).into())),
        9 => values.array().map(|bytes| Value::Signed(i64::from_le_bytes(bytes))),
        10 | 17 => values.array().map(|bytes| Value::Unsigned(u64::from_le_bytes(bytes))),
        11 => values.array().map(|bytes| Value::Float(f32::from_le_bytes(bytes).into())),
        12 => values.array().map(|bytes| Value::Float(f64::from_le_bytes(bytes))),
        13 => values.array().map(|bytes| Value::Bool(u32::from_le_bytes(bytes) != 0)),
        14 | 25 => values.counted().map(|bytes| Value::Binary(bytes.to_vec())),
        15 => values.array().map(|bytes| Value::Guid(Class(Uuid::from_bytes_le(bytes).as_u128()))),
        20 => values.array().map(|bytes| Value::Hex(u32::from_le_bytes(bytes).into())),
        21 => values.array().map(|bytes| Value::Hex(u64::from_le_bytes(bytes))),
        22 => values.counted().and_then(|bytes| Reader(&[bytes, &[0, 0]].concat()).wide()).map(Value::Text),
        23 => values.counted().map(|bytes| Value::Text(String::from_utf8_lossy(bytes).into_owned())),
        _ => return Err(format!("field {name} has type {kind}, which is not decoded")),
    };
    value.ok_or_else(|| format!("the values end within field {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata of an event `E` with these descriptions of fields.
    fn metadata(fields: &[u8]) -> Vec<u8> {
        let size = u16::try_from(5 + fields.len()).expect("it is short");
        [&size.to_le_bytes()[..], b"\0E\0", fields].concat()
    }

    fn decoded(kinds: &[u8], values: &[u8]) -> Result<String, String> {
        let fields = fields(&metadata(kinds), values)?;
        Ok(fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_name_of_an_event_follows_its_tags() {
        assert_eq!(event_name(b"\x10\x00\x00Rebalance\0count\0\x07"), "Rebalance");
        assert_eq!(event_name(b"\x10\x00\x81\x80\x01Started\0"), "Started");
        assert_eq!(event_name(b""), "");
        assert_eq!(provider_name(b"\x09\0Hotadd\0"), "Hotadd");
    }

    #[test]
    fn numbers_strings_guids_and_bytes_are_decoded() {
        let kinds = b"a\0\x03b\0\x04c\0\x05d\0\x06e\0\x07f\0\x08g\0\x09h\0\x0A";
        let values = [
            &[0xFF, 0xFF, 0xFE, 0xFF, 2, 1][..],
            &(-3_i32).to_le_bytes(),
            &4_u32.to_le_bytes(),
            &(-5_i64).to_le_bytes(),
            &6_u64.to_le_bytes(),
        ];
        assert_eq!(decoded(kinds, &values.concat()), Ok("a=-1 b=255 c=-2 d=258 e=-3 f=4 g=-5 h=6".to_owned()));
        let values = [&0.5_f32.to_le_bytes()[..], &0.25_f64.to_le_bytes(), &1_u32.to_le_bytes(), &[16, 0, 0, 0]];
        assert_eq!(
            decoded(b"a\0\x0Bb\0\x0Cc\0\x0Dd\0\x14", &values.concat()),
            Ok("a=0.5 b=0.25 c=true d=0x10".to_owned())
        );
        let strings = b"a\0b\0\0\0cd\0\x02\0e\0\x01\0f";
        assert_eq!(decoded(b"a\0\x01b\0\x02c\0\x16d\0\x17", strings), Ok(r#"a="ab" b="cd" c="e" d="f""#.to_owned()));
        let values = [&[2, 0, 0xAB, 0xCD][..], &[1, 0, 0, 0, 2, 0, 3, 0, 4, 5, 6, 7, 8, 9, 10, 11]].concat();
        assert_eq!(
            decoded(b"a\0\x0Eb\0\x0F", &values),
            Ok("a=abcd b={00000001-0002-0003-0405-060708090a0b}".to_owned())
        );
    }

    #[test]
    fn how_a_value_is_shown_and_tags_are_passed_over() {
        assert_eq!(decoded(b"a\0\x84\x04b\0\x84\x84\x81\x02c\0\x04", &[1, 2, 3]), Ok("a=1 b=2 c=3".to_owned()));
    }

    #[test]
    fn what_is_not_decoded_is_told_by_name() {
        let because = |kinds: &[u8], values: &[u8]| decoded(kinds, values).expect_err("it is not decoded");
        assert_eq!(because(b"a\0\x44", &[1, 0, 7]), "field a is an array, which is not decoded");
        assert_eq!(because(b"s\0\x18", &[]), "field s has type 24, which is not decoded");
        assert_eq!(because(b"a\0\x08", &[1]), "the values end within field a");
        assert_eq!(because(b"a\0\x04", &[1, 2]), "1 bytes of its values belong to no field");
        assert_eq!(because(b"a\0", &[]), "its metadata ends within a field");
        assert_eq!(
            fields(b"\x09\0\0E\0", &[]).expect_err("the size is wrong"),
            "its metadata has 5 bytes, and says Some(9)"
        );
    }
}
