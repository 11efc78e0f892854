//! A device, typed.

use std::time::Duration;

use hotadd_abi::{
    Event, FactorialInput, FactorialOutput, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ,
    IOCTL_HOTADD_JOURNAL_WAIT, IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS, JournalInput, JournalOutput,
    ProcessorStatistics, ProcessorsInput, ProcessorsOutput, Status, Wire,
};

use crate::{
    device::{Access, Completion, Device, Host, Place, Request},
    failure::Failure,
    ntstatus::NtStatus,
};

/// How long one request may take. The driver's own limit is ten seconds, but a device may be stopped for as long as others take.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Entries of a list that one request asks for.
const ENTRIES: usize = 64;

/// Events of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// The cursor with which to read on.
    pub next: u64,
    /// Events that were overwritten before they were read.
    pub missed: u64,
    /// The events.
    pub events: Vec<Event>,
}

/// An open device that is asked one thing at a time.
pub struct Client<'h>(Box<dyn Device + 'h>);

impl<'h> Client<'h> {
    /// Opens a device.
    ///
    /// # Errors
    ///
    /// As [`Host::open`].
    pub fn open(host: &'h dyn Host, place: &Place, access: Access) -> Result<Self, Failure> {
        host.open(place, access).map(Self)
    }

    /// The device.
    pub fn device(&mut self) -> &mut (dyn Device + 'h) {
        &mut *self.0
    }

    /// Sends a request and waits for it.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn ask(&mut self, request: Request) -> Result<Completion, Failure> {
        self.0.submit(0, request);
        let lost = || Failure::Broken(format!("a request has not ended after {} seconds", PATIENCE.as_secs()));
        self.0.wait(PATIENCE).map(|(_, done)| done).ok_or_else(lost)
    }

    fn control(&mut self, what: &str, request: Request) -> Result<Vec<u8>, Failure> {
        match self.ask(request)? {
            Completion { status, output, .. } if status.is_success() => Ok(output),
            Completion { status, .. } => Err(Failure::of_request(what, status)),
        }
    }

    /// Reads the device's buffer.
    ///
    /// # Errors
    ///
    /// As [`Client::status`].
    pub fn read(&mut self, offset: i64, length: usize) -> Result<Vec<u8>, Failure> {
        self.control("reading", Request::Read { offset, length })
    }

    /// Writes the device's buffer.
    ///
    /// # Errors
    ///
    /// As [`Client::status`].
    pub fn write(&mut self, offset: i64, data: Vec<u8>) -> Result<(), Failure> {
        self.control("writing", Request::Write { offset, data }).map(drop)
    }

    /// The state of the driver and the device.
    ///
    /// # Errors
    ///
    /// The request failed, or its answer makes no sense.
    pub fn status(&mut self) -> Result<Status, Failure> {
        let output = self.control("asking for the status", control(IOCTL_HOTADD_STATUS, &[], Status::SIZE))?;
        parse(&output)
    }

    /// The statistics of all processors, by index.
    ///
    /// # Errors
    ///
    /// As [`Client::status`].
    pub fn processors(&mut self) -> Result<Vec<ProcessorStatistics>, Failure> {
        self.processors_by(ENTRIES)
    }

    /// The same, so many with each request.
    ///
    /// # Errors
    ///
    /// As [`Client::status`].
    pub fn processors_by(&mut self, entries: usize) -> Result<Vec<ProcessorStatistics>, Failure> {
        let room = ProcessorsOutput::SIZE + entries * ProcessorStatistics::SIZE;
        let (mut all, mut first) = (Vec::new(), 0);
        loop {
            let input = bytes(&ProcessorsInput { first, reserved: 0 });
            let output = self.control("asking for the processors", control(IOCTL_HOTADD_PROCESSORS, &input, room))?;
            let front: ProcessorsOutput = parse(&output)?;
            all.extend(list::<ProcessorStatistics>(&output, ProcessorsOutput::SIZE, front.count)?);
            if front.next == 0 {
                return Ok(all);
            }
            if front.next <= first {
                return Err(Failure::Broken(format!(
                    "the list of processors goes on with {} after {first}",
                    front.next
                )));
            }
            first = front.next;
        }
    }

    /// The journal's events from `cursor` on that are there now, or the first of them.
    ///
    /// # Errors
    ///
    /// As [`Client::status`].
    pub fn journal(&mut self, cursor: u64) -> Result<Journal, Failure> {
        let output = self.control("reading the journal", journal(IOCTL_HOTADD_JOURNAL_READ, cursor))?;
        parse_journal(&output)
    }
}

/// The request that waits for the journal's events from `cursor` on.
#[must_use]
pub fn journal_wait(cursor: u64) -> Request {
    journal(IOCTL_HOTADD_JOURNAL_WAIT, cursor)
}

fn journal(code: u32, cursor: u64) -> Request {
    control(code, &bytes(&JournalInput { cursor, reserved: 0 }), JournalOutput::SIZE + ENTRIES * Event::SIZE)
}

/// What such a request came back with.
///
/// # Errors
///
/// It makes no sense.
pub fn parse_journal(output: &[u8]) -> Result<Journal, Failure> {
    let front: JournalOutput = parse(output)?;
    let events = list(output, JournalOutput::SIZE, front.count)?;
    Ok(Journal { next: front.next, missed: front.missed, events })
}

/// The request for a factorial.
#[must_use]
pub fn factorial(number: u32) -> Request {
    control(IOCTL_HOTADD_FACTORIAL, &bytes(&FactorialInput { number, reserved: 0 }), FactorialOutput::SIZE)
}

/// What that must come back with.
#[must_use]
pub fn factorial_of(number: u32) -> u32 {
    // 34! is divisible by 2^32, and so is every greater one.
    if number >= 34 { 0 } else { (1..=number).fold(1, u32::wrapping_mul) }
}

/// A control request.
#[must_use]
pub fn control(code: u32, input: &[u8], output: usize) -> Request {
    Request::Control { code, input: input.to_vec(), output }
}

/// A structure as it crosses the border.
#[must_use]
pub fn bytes<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0; T::SIZE];
    let rest = value.write_to(&mut bytes).map(|rest| rest.len());
    debug_assert_eq!(rest, Some(0), "a structure has its size");
    bytes
}

/// A structure that the driver returned.
///
/// # Errors
///
/// It returned too little, or a reserved field that is not zero.
pub fn parse<T: Wire>(output: &[u8]) -> Result<T, Failure> {
    T::from_bytes(output).map_err(|error| {
        Failure::Broken(format!(
            "the driver's answer of {} bytes makes no sense ({error:?}); do driver and hotaddctl have the same version?",
            output.len()
        ))
    })
}

fn list<T: Wire>(output: &[u8], front: usize, count: u32) -> Result<Vec<T>, Failure> {
    let entries = output.get(front..).unwrap_or_default();
    if entries.len() != count as usize * T::SIZE {
        return Err(Failure::Broken(format!("the driver says {count} entries and returns {} bytes", entries.len())));
    }
    entries.chunks_exact(T::SIZE).map(parse).collect()
}

/// A status of the driver, for an answer that must be a success.
///
/// # Errors
///
/// It is none.
pub fn succeeded(what: &str, status: NtStatus) -> Result<(), Failure> {
    if status.is_success() { Ok(()) } else { Err(Failure::of_request(what, status)) }
}
