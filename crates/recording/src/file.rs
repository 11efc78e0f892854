//! The file: what all of a recording is, and reading it back.

use hotadd_abi::EventKind;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Activity, Event, Request, Sample, Snapshot};

/// The version of the file's format; another one is refused.
pub const FORMAT: u32 = 1;

/// What hotadd did between two times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// [`FORMAT`].
    pub format: u32,
    /// Where it comes from.
    pub origin: Origin,
    /// The machine at the beginning, in between, and at the end: at least two, in order of time. One that was taken right before the first
    /// addition and one right after the last divide what each processor did into before and after.
    pub snapshots: Vec<Snapshot>,
    /// The journal's events, in order.
    pub events: Vec<Event>,
    /// Events that were overwritten before they were read.
    pub missed: u64,
    /// Requests, in order of when they began; none where nobody noted them.
    #[serde(default)]
    pub requests: Vec<Request>,
    /// Interrupts and DPCs, in order of when they began; none where nobody can see them, as outside of the lab.
    #[serde(default)]
    pub activities: Vec<Activity>,
    /// Counters, in order of time.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

/// Where a recording comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Origin {
    /// A machine of the lab.
    Lab {
        /// What decided the run.
        seed: u64,
        /// The command line that repeats it, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<String>,
    },
    /// Windows.
    Windows {
        /// The computer's name.
        computer: String,
    },
}

/// Why a file is no recording.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is not JSON, or lacks something.
    #[error("this is no recording: {0}")]
    NotARecording(#[from] serde_json::Error),
    /// It is of another version.
    #[error("the recording has format {found}, this program reads format {FORMAT}: use the program it was made with")]
    Format {
        /// The file's.
        found: u64,
    },
    /// It is a recording that contradicts itself.
    #[error("the recording contradicts itself: {0}")]
    Contradiction(String),
}

impl Recording {
    /// An empty recording that begins with a machine.
    #[must_use]
    pub fn begin(origin: Origin, first: Snapshot) -> Self {
        Self {
            format: FORMAT,
            origin,
            snapshots: vec![first],
            events: Vec::new(),
            missed: 0,
            requests: Vec::new(),
            activities: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// In one line, why it cannot be used.
    pub fn from_json(text: &str) -> Result<Self, FileError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(found) if found != u64::from(FORMAT) => return Err(FileError::Format { found }),
            _ => {}
        }
        let recording: Self = serde_json::from_value(value)?;
        recording.check()?;
        Ok(recording)
    }

    /// As a file.
    ///
    /// # Errors
    ///
    /// [`FileError::Contradiction`] if it could not be read back.
    pub fn to_json(&self) -> Result<String, FileError> {
        self.check()?;
        Ok(serde_json::to_string(self)?)
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn check(&self) -> Result<(), FileError> {
        let snapshots = &self.snapshots;
        let checks = [
            (snapshots.len() >= 2, "it has less than two snapshots"),
            (snapshots.is_sorted_by_key(|snapshot| snapshot.time), "snapshots are not in order of time"),
            (self.events.is_sorted_by(|one, next| one.sequence < next.sequence), "events are not in order"),
            (self.events.is_sorted_by_key(|event| event.time), "events are not in order of time"),
            (self.requests.iter().all(|request| request.begin <= request.end), "a request ends before it begins"),
            (
                self.activities.iter().all(|activity| activity.begin <= activity.end),
                "an activity ends before it begins",
            ),
            (self.samples.is_sorted_by_key(|sample| sample.time), "samples are not in order of time"),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(FileError::Contradiction(what.to_owned())),
            None => Ok(()),
        }
    }

    /// The machine at the beginning.
    ///
    /// # Panics
    ///
    /// If there is no snapshot, which [`Recording::begin`] and [`Recording::check`] exclude.
    #[must_use]
    pub fn before(&self) -> &Snapshot {
        &self.snapshots[0]
    }

    /// The machine at the end.
    ///
    /// # Panics
    ///
    /// As [`Recording::before`].
    #[must_use]
    pub fn after(&self) -> &Snapshot {
        &self.snapshots[self.snapshots.len() - 1]
    }

    /// The events of a kind.
    pub fn events_of(&self, kind: EventKind) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.kind == kind.into())
    }

    /// The first and the last time in it.
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
        let begins = [
            Some(self.before().time),
            self.events.first().map(|event| event.time),
            self.requests.iter().map(|request| request.begin).min(),
            self.activities.iter().map(|activity| activity.begin).min(),
            self.samples.first().map(|sample| sample.time),
        ];
        let ends = [
            Some(self.after().time),
            self.events.last().map(|event| event.time),
            self.requests.iter().map(|request| request.end).max(),
            self.activities.iter().map(|activity| activity.end).max(),
            self.samples.last().map(|sample| sample.time),
        ];
        let begin = begins.into_iter().flatten().min().unwrap_or_default();
        (begin, ends.into_iter().flatten().max().unwrap_or(begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActivityKind, Kind, RequestKind};

    fn recording() -> Recording {
        let at = |time| Snapshot { time, ..Snapshot::default() };
        let event = |sequence, time| hotadd_abi::Event { sequence, time, kind: 80, ..hotadd_abi::Event::default() };
        let mut recording = Recording::begin(Origin::Lab { seed: 7, command: None }, at(100));
        recording.snapshots.push(at(900));
        recording.events = [event(3, 2), event(4, 2)].iter().map(Event::from).collect();
        recording.requests =
            vec![Request { device: 1, kind: RequestKind::Read, begin: 50, end: 1000, status: 0, processor: None }];
        recording.activities = vec![Activity { kind: ActivityKind::Dpc, processor: 0, begin: 300, end: 400 }];
        recording
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let text = recording().to_json().expect("it makes sense");
        assert_eq!(Recording::from_json(&text).expect("it was written so"), recording());
    }

    #[test]
    fn a_file_of_another_version_or_kind_is_refused_in_one_line() {
        let refusal = |text: &str| Recording::from_json(text).expect_err("it is no recording").to_string();
        assert_eq!(
            refusal(r#"{"format": 2, "new": true}"#),
            "the recording has format 2, this program reads format 1: use the program it was made with"
        );
        assert!(refusal("{}").starts_with("this is no recording: missing field"));
        assert!(refusal("MZ").starts_with("this is no recording: "));
        assert!(!refusal("MZ").contains('\n'));
    }

    #[test]
    fn a_recording_that_contradicts_itself_is_refused() {
        let refusal = |change: fn(&mut Recording)| {
            let mut recording = recording();
            change(&mut recording);
            recording.to_json().expect_err("it contradicts itself").to_string()
        };
        let told = [
            refusal(|recording| recording.snapshots.truncate(1)),
            refusal(|recording| recording.snapshots.reverse()),
            refusal(|recording| recording.events.reverse()),
            refusal(|recording| recording.events[0].time = 300),
            refusal(|recording| recording.requests[0].end = 49),
            refusal(|recording| recording.activities[0].end = 299),
        ];
        let expected = [
            "it has less than two snapshots",
            "snapshots are not in order of time",
            "events are not in order",
            "events are not in order of time",
            "a request ends before it begins",
            "an activity ends before it begins",
        ];
        assert_eq!(told.map(|line| line.replace("the recording contradicts itself: ", "")), expected);
    }

    #[test]
    fn its_span_covers_everything_in_it() {
        assert_eq!(recording().span(), (50, 1000));
        assert_eq!(recording().events_of(EventKind::GateClosed).count(), 2);
        assert_eq!(recording().events[0].kind, Kind(80));
    }
}
