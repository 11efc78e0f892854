//! Random device-control requests: every one ends with a status that the interface documents, and returns no more than was asked for.

use std::{collections::BTreeMap, path::Path};

use hotadd_abi::{
    INTERFACE_CLASS, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ, IOCTL_HOTADD_JOURNAL_WAIT,
    IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS,
};
use ntlab::{
    machine::System,
    user::{Access, Completion, Handle, Request, Status},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{factorial, package, quick_edu, software};

/// The control codes, and the length of their inputs.
const CODES: [(u32, usize); 5] = [
    (IOCTL_HOTADD_FACTORIAL, 8),
    (IOCTL_HOTADD_STATUS, 0),
    (IOCTL_HOTADD_PROCESSORS, 8),
    (IOCTL_HOTADD_JOURNAL_READ, 16),
    (IOCTL_HOTADD_JOURNAL_WAIT, 16),
];
/// In the lowest bits of a control code: the driver gets the caller's own addresses.
const METHOD_NEITHER: u32 = 3;
/// Addresses that callers should not pass: null, misaligned, not there, the kernel's, and the last ones.
const ADDRESSES: [u64; 6] = [0, 1, 0x1_0003, 0x7FFF_FFFE_FFFF, 0xFFFF_8000_0000_1000, u64::MAX - 7];
/// The longest input and output.
const LONGEST: usize = 4096;
/// Virtual nanoseconds after which a request is cancelled: one that waits for the next event would wait for long.
const PATIENCE: u64 = 10_000_000;
/// What a request may end with, by the tables of `hotadd-abi`: success, and these.
const DOCUMENTED: [&str; 8] = [
    "STATUS_SUCCESS",
    "STATUS_INVALID_DEVICE_REQUEST",
    "STATUS_ACCESS_DENIED",
    "STATUS_INFO_LENGTH_MISMATCH",
    "STATUS_INVALID_PARAMETER",
    "STATUS_BUFFER_TOO_SMALL",
    "STATUS_CANCELLED",
    "STATUS_IO_TIMEOUT",
];

/// What came of many requests.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that were sent.
    pub requests: u64,
    /// How many ended with each status.
    pub statuses: BTreeMap<String, u64>,
    /// A sentence for each that broke a promise.
    pub broken: Vec<String>,
}

impl Tally {
    /// Adds what came of others.
    pub fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.broken.extend(other.broken);
    }
}

/// Opens every device of the driver's in each way: for reading and writing, for either, for neither.
///
/// # Errors
///
/// The status with which opening ended.
pub fn open_all(system: &System) -> Result<Vec<Handle<'_>>, Status> {
    let ways = [Access::ReadWrite, Access::ReadWrite, Access::Read, Access::Write, Access::Attributes];
    let links = system.interfaces(INTERFACE_CLASS);
    links.iter().flat_map(|link| ways.map(|access| system.open(link, access))).collect()
}

/// A run of random requests, through the driver's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fuzz {
    /// How many requests.
    pub requests: u64,
    /// Decides which.
    pub seed: u64,
}

impl Fuzz {
    /// Sends the requests to an `edu` and a software device, looks whether they still answer, and unloads the driver. How many requests
    /// ended with each status.
    ///
    /// # Errors
    ///
    /// The promises that were broken.
    pub fn play(&self, system: &System, sys: &Path) -> Result<BTreeMap<String, u64>, String> {
        system.install(package(sys));
        system.plug(quick_edu());
        system.plug(software());
        let handles = open_all(system).map_err(|status| format!("a device does not open: {status}"))?;
        let mut tally = run(&handles, self.seed, self.requests);
        let answer = factorial(&handles[0], 5).map(|answer| answer.factorial);
        if answer != Ok(120) {
            tally.broken.push(format!("in the end the device answered {answer:?}"));
        }
        drop(handles);
        system.settle();
        tally.broken.extend(system.outstanding_requests().into_iter().map(|request| format!("still there: {request}")));
        if let Err(error) = system.unload("hotadd") {
            tally.broken.push(format!("the driver was not unloaded: {error}"));
        }
        if tally.broken.is_empty() { Ok(tally.statuses) } else { Err(tally.broken.join("; ")) }
    }
}

/// Sends `count` requests that follow from `seed`, one after the other, through one of `handles` each.
pub fn run(handles: &[Handle<'_>], seed: u64, count: u64) -> Tally {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for _ in 0..count {
        let handle = &handles[random.random_range(0..handles.len())];
        let (request, output) = request(&mut random);
        let done = handle.submit(&request).wait_for(PATIENCE).unwrap_or_else(|pending| {
            pending.cancel();
            pending.wait()
        });
        tally.requests += 1;
        *tally.statuses.entry(done.status.to_string()).or_default() += 1;
        if let Some(why) = broken(&done, output) {
            tally.broken.push(format!("{request:x?}: {why}: {done:x?}"));
        }
    }
    tally
}

fn broken(done: &Completion, output: usize) -> Option<&'static str> {
    if !DOCUMENTED.contains(&done.status.to_string().as_str()) {
        return Some("no status that is documented");
    }
    if done.information > output as u64 || done.output.len() > output {
        return Some("more than was asked for");
    }
    (done.status != Status::SUCCESS && done.information != 0).then_some("an error that returns something")
}

/// A request, most of them nearly right, and how much output it asks for.
fn request(random: &mut ChaCha8Rng) -> (Request, usize) {
    let (code, length) = CODES[random.random_range(0..CODES.len())];
    let code = match random.random_range(0..8) {
        0 => code ^ 1 << random.random_range(0..32),
        1 => (code & !0x3FFC) | random.random_range(0x7F0..0x820) << 2,
        2 => random.random(),
        _ => code,
    };
    let length = if random.random_range(0..4) == 0 { random.random_range(0..=LONGEST) } else { length };
    let output = output(random);
    if code & 3 == METHOD_NEITHER && random.random() {
        return (at_bad_addresses(random, code, length, output), output);
    }
    (Request::Control { code, input: input(random, length), output }, output)
}

/// Buffers of the caller's that overlap, are misaligned, or are not there.
fn at_bad_addresses(random: &mut ChaCha8Rng, code: u32, length: usize, output: usize) -> Request {
    let [from, to] = [(); 2].map(|()| ADDRESSES[random.random_range(0..ADDRESSES.len())]);
    let to = if random.random() { from } else { to };
    let short = |length| u32::try_from(length).unwrap_or(u32::MAX);
    Request::ControlAt { code, input: (from, short(length)), output: (to, short(output)) }
}

fn input(random: &mut ChaCha8Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    // A cursor that may be that of the next event.
    if length > 0 && random.random() {
        bytes[0] = random.random_range(0..32);
    }
    for _ in 0..random.random_range(0..4) {
        let end = if random.random_range(0..3) == 0 { length } else { length.min(4) };
        if end > 0 {
            bytes[random.random_range(0..end)] = random.random();
        }
    }
    bytes
}

fn output(random: &mut ChaCha8Rng) -> usize {
    match random.random_range(0..4) {
        0 => random.random_range(0..64),
        1 => random.random_range(0..=LONGEST),
        2 => LONGEST,
        _ => [0, 8, 16, 200, 201][random.random_range(0..5)],
    }
}
