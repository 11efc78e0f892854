//! One run of a scenario, and what it found.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::{Deserialize, Serialize};

use super::{Scenario, Tally};
use crate::{
    choices::Tape,
    config::Config,
    finding::Cause,
    interleavings::Pair,
    machine::Outcome,
    promise::{self, Quiet},
    report::Report,
};

/// What came of a run.
#[derive(Debug)]
pub(super) struct Attempt {
    pub result: Result<Tally, Failure>,
    pub tape: Option<Tape>,
    pub points: u64,
    pub interleavings: BTreeSet<Pair>,
}

/// A finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What findings of the same defect have in common.
    pub key: String,
    /// The report.
    pub report: String,
}

/// Runs a scenario.
pub(super) fn attempt<S: Scenario>(scenario: &S, config: Config) -> Attempt {
    let config = Config { report_panics: true, ..config };
    let quiet = Quiet::begin();
    let ended = catch_unwind(AssertUnwindSafe(|| scenario.run(config)));
    let attempt = match ended {
        Ok(Outcome { result, tape, points, interleavings, .. }) => {
            let result = match result {
                Ok(Ok(tally)) => Ok(tally),
                Ok(Err(sentence)) => Err(broken(&sentence)),
                Err(report) => Err(Failure { key: key(&report), report: report.to_string() }),
            };
            Attempt { result, tape, points, interleavings }
        }
        // It was judged when its machine was gone.
        Err(payload) => {
            let result = Err(broken(&promise::sentence(&*payload)));
            Attempt { result, tape: None, points: 0, interleavings: BTreeSet::new() }
        }
    };
    drop(quiet);
    attempt
}

fn broken(sentence: &str) -> Failure {
    Failure { key: shape(sentence), report: format!("a broken promise\n{sentence}") }
}

/// The code and the innermost frame of the driver.
fn key(report: &Report) -> String {
    let what = match report.finding.cause {
        Cause::BugCheck { code, parameters } => format!("bug check {code:#x}/{:#x}", kind(code, parameters[0])),
        Cause::NotModelled => format!("not modelled: {}", shape(&report.finding.sentence)),
        Cause::BrokenPromise => return shape(&report.finding.sentence),
    };
    // The C runtime's functions are the lab's, those of core the compiler's.
    let mut frames = report.place.iter().flat_map(|place| &place.stack);
    let frame = frames.find(|frame| frame.module != "ntoskrnl" && !frame.to_string().contains("!core::"));
    frame.map_or_else(|| what.clone(), |frame| format!("{what} in {frame}"))
}

/// The first parameter says which violation it is for the codes of Driver Verifier; for others it may be an address.
const fn kind(code: u32, parameter: u64) -> u64 {
    match code {
        0xC4 | 0xC9 | 0xE6 => parameter,
        _ => 0,
    }
}

/// The first line without its numbers, which differ from run to run.
fn shape(sentence: &str) -> String {
    let line = sentence.lines().next().unwrap_or_default();
    let mut shape = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '0'..='9' if shape.ends_with('#') => (),
            '0'..='9' => shape.push('#'),
            other => shape.push(other),
        }
    }
    shape
}
