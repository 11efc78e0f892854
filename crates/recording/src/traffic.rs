//! What flowed: requests, what processors did for them, and counters over time.

use hotadd_abi::Status;
use serde::{Deserialize, Serialize};

use crate::ns;

/// A request that a user sent. There may be very many: in the file each is an array, of its fields in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RequestRow", into = "RequestRow")]
pub struct Request {
    /// The device it was sent to, by number.
    pub device: u32,
    /// What was asked.
    pub kind: RequestKind,
    /// When it was sent.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
    /// The NTSTATUS it ended with.
    pub status: i32,
    /// The processor on which it was finished, where that is known.
    pub processor: Option<u32>,
}

type RequestRow = (u32, RequestKind, u64, u64, i32, Option<u32>);

impl From<RequestRow> for Request {
    fn from((device, kind, begin, end, status, processor): RequestRow) -> Self {
        Self { device, kind, begin, end, status, processor }
    }
}

impl From<Request> for RequestRow {
    fn from(request: Request) -> Self {
        let Request { device, kind, begin, end, status, processor } = request;
        (device, kind, begin, end, status, processor)
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestKind {
    /// A factorial.
    Factorial,
    /// Bytes of the device's buffer.
    Read,
    /// Bytes into the device's buffer.
    Write,
}

/// What a processor did for a driver. Activities of a processor nest: an interrupt may come in the middle of a DPC. In the file each is an
/// array, of its fields in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ActivityRow", into = "ActivityRow")]
pub struct Activity {
    /// What.
    pub kind: ActivityKind,
    /// The processor, by index.
    pub processor: u32,
    /// When it began.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
}

type ActivityRow = (ActivityKind, u32, u64, u64);

impl From<ActivityRow> for Activity {
    fn from((kind, processor, begin, end): ActivityRow) -> Self {
        Self { kind, processor, begin, end }
    }
}

impl From<Activity> for ActivityRow {
    fn from(activity: Activity) -> Self {
        (activity.kind, activity.processor, activity.begin, activity.end)
    }
}

/// What a processor can be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivityKind {
    /// An interrupt service routine.
    Interrupt,
    /// A deferred procedure call.
    Dpc,
}

/// Counters of a device at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub time: u64,
    /// The device, by number.
    pub device: u32,
    /// Requests that passed the gate and have not ended.
    pub in_flight: u64,
    /// Requests that wait at the gate.
    pub held: u64,
    /// Bytes in the driver's buffer pool.
    pub pool_bytes: u64,
}

impl Sample {
    /// From what the driver tells of a device.
    #[must_use]
    pub const fn new(device: u32, status: &Status) -> Self {
        let ended = status.completed.saturating_add(status.cancelled).saturating_add(status.failed);
        // The counters are read one by one while requests flow, and may be a few requests apart.
        let in_flight = status.accepted.saturating_sub(ended).saturating_sub(status.held);
        Self { time: ns(status.now), device, in_flight, held: status.held, pool_bytes: status.pool_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_activities_are_rows() {
        let request = Request { device: 1, kind: RequestKind::Read, begin: 2, end: 3, status: -4, processor: Some(5) };
        let activity = Activity { kind: ActivityKind::Dpc, processor: 1, begin: 2, end: 3 };
        let text = serde_json::to_string(&(request, activity)).expect("rows are JSON");
        assert_eq!(text, r#"[[1,"read",2,3,-4,5],["dpc",1,2,3]]"#);
        assert_eq!(serde_json::from_str::<(Request, Activity)>(&text).expect("it was written so"), (request, activity));
    }

    #[test]
    fn in_flight_is_what_was_accepted_and_neither_ended_nor_waits() {
        let status = Status {
            now: 9,
            accepted: 20,
            completed: 10,
            cancelled: 2,
            failed: 1,
            held: 4,
            pool_bytes: 5,
            ..Status::default()
        };
        let expected = Sample { time: 900, device: 2, in_flight: 3, held: 4, pool_bytes: 5 };
        assert_eq!(Sample::new(2, &status), expected);
        assert_eq!(Sample::new(2, &Status { held: 8, ..status }).in_flight, 0);
    }
}
