//! The journal's events as a recording has them.

use std::fmt;

use hotadd_abi::EventKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::ns;

/// What an event tells of: a kind that this version knows by name, or another by its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(pub u32);

impl Kind {
    /// The kind, where this version knows it.
    #[must_use]
    pub const fn known(self) -> Option<EventKind> {
        EventKind::from_code(self.0)
    }
}

impl From<EventKind> for Kind {
    fn from(kind: EventKind) -> Self {
        Self(kind.code())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(kind) => write!(f, "{kind:?}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let known = EventKind::ALL.iter().map(|&kind| Self::from(kind)).find(|kind| kind.to_string() == name);
        let number = || name.parse().ok().map(Self);
        known.or_else(number).ok_or_else(|| D::Error::custom(format!("\"{name}\" is no kind of event")))
    }
}

/// An event of the journal: [`hotadd_abi::Event`] with its times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub sequence: u64,
    /// When it happened.
    pub time: u64,
    /// What happened.
    pub kind: Kind,
    /// An NTSTATUS.
    pub status: i32,
    /// Which of the driver's devices, from 1; 0 for the driver itself.
    pub device: u32,
    /// A processor's index.
    pub processor: u32,
    /// A processor group.
    pub group: u32,
    /// A processor's number in its group.
    pub number: u32,
    /// A processor mask within the group.
    #[serde(with = "crate::mask")]
    pub affinity: u64,
    /// A quantity before.
    pub before: u64,
    /// The same quantity after, or a count.
    pub count: u64,
    /// How long it took.
    pub duration: u64,
}

impl From<&hotadd_abi::Event> for Event {
    fn from(event: &hotadd_abi::Event) -> Self {
        let hotadd_abi::Event { sequence, time, kind, status, device, processor, group, number, .. } = *event;
        let hotadd_abi::Event { affinity, before, count, duration, .. } = *event;
        let (time, duration) = (ns(time), ns(duration));
        Self {
            sequence,
            time,
            kind: Kind(kind),
            status,
            device,
            processor,
            group,
            number,
            affinity,
            before,
            count,
            duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_written_by_its_name_and_read_back() {
        for &kind in EventKind::ALL {
            let text = serde_json::to_string(&Kind::from(kind)).expect("a kind is text");
            assert_eq!(text, format!("\"{kind:?}\""));
            assert_eq!(serde_json::from_str::<Kind>(&text).expect("it was written so"), kind.into());
        }
    }

    #[test]
    fn a_kind_of_a_later_driver_keeps_its_number() {
        let text = serde_json::to_string(&Kind(9999)).expect("a kind is text");
        assert_eq!(text, "\"9999\"");
        assert_eq!(serde_json::from_str::<Kind>(&text).expect("it was written so"), Kind(9999));
        assert!(serde_json::from_str::<Kind>("\"Lunch\"").is_err());
    }

    #[test]
    fn an_event_keeps_all_its_fields_and_tells_time_in_nanoseconds() {
        let event = hotadd_abi::Event {
            sequence: 1,
            time: 2,
            kind: 80,
            status: -3,
            device: 4,
            processor: 5,
            group: 6,
            number: 7,
            affinity: u64::MAX,
            before: 9,
            count: 10,
            duration: 11,
        };
        let text = serde_json::to_value(Event::from(&event)).expect("an event is an object");
        let expected = serde_json::json!({
            "sequence": 1, "time": 200, "kind": "GateClosed", "status": -3, "device": 4, "processor": 5, "group": 6, "number": 7,
            "affinity": "0xffffffffffffffff", "before": 9, "count": 10, "duration": 1100,
        });
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_value::<Event>(text).expect("it was written so"), Event::from(&event));
    }
}
