//! Values of a scenario file that are written as text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::user::{Class, Status};

/// Bytes, written as hexadecimal digits with spaces where one likes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Hex {
    fn parse(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> = text.chars().filter(|c| !c.is_whitespace()).map(digit).collect();
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
        Some(Self(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()))
    }
}

fn digit(c: char) -> Option<u8> {
    c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("bytes are written as pairs of hexadecimal digits"))
    }
}

/// Vendor and device ID of a PCI function, written as `1234:11e8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciId {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl FromStr for PciId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = |digits: &str| u16::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 4);
        let (vendor, device) = text.split_once(':').unwrap_or_default();
        match (id(vendor), id(device)) {
            (Some(vendor), Some(device)) => Ok(Self { vendor, device }),
            _ => {
                Err("a PCI function is named by four hexadecimal digits of its vendor, a colon and four of its device")
            }
        }
    }
}

impl Serialize for PciId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The class of a device interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guid(pub Class);

impl Serialize for Guid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Guid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Uuid::parse_str(&text).map(|uuid| Self(Class(uuid.as_u128()))).map_err(de::Error::custom)
    }
}

/// The statuses that a step may end with; any, if none is named.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Expect(pub Vec<Status>);

impl Expect {
    /// Whether none is named.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// # Panics
    ///
    /// Where `status` is none of them: the driver broke a promise.
    pub(super) fn check(&self, what: &str, status: Status) {
        assert!(self.is_any() || self.0.contains(&status), "{what} ended with {status}, expected was {:?}", self.0);
    }
}

/// One status as it is written, or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a status or a list of them, each by name or number")]
enum Written {
    One(WrittenStatus),
    Several(Vec<WrittenStatus>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenStatus {
    Name(String),
    Number(u32),
}

impl WrittenStatus {
    fn status(&self) -> Result<Status, String> {
        match self {
            Self::Number(number) => Ok(Status(number.cast_signed())),
            Self::Name(name) => name.parse(),
        }
    }
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = match Written::deserialize(deserializer)? {
            Written::One(one) => vec![one],
            Written::Several(several) => several,
        };
        let statuses: Result<_, _> = written.iter().map(WrittenStatus::status).collect();
        statuses.map(Self).map_err(de::Error::custom)
    }
}

impl Serialize for Expect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

/// For `serde(with)`: a single status, by name or number.
pub(super) mod status {
    use super::{Deserialize, Deserializer, Serializer, Status, WrittenStatus, de};

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(status: &Option<Status>, serializer: S) -> Result<S::Ok, S::Error> {
        match status {
            Some(status) => serializer.collect_str(status),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Status>, D::Error> {
        let written = Option::<WrittenStatus>::deserialize(deserializer)?;
        written.map(|written| written.status()).transpose().map_err(de::Error::custom)
    }
}
