//! The driver's interface, typed.

use hotadd_abi::{
    Event, FactorialInput, FactorialOutput, INTERFACE_CLASS, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ,
    IOCTL_HOTADD_JOURNAL_WAIT, IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS, JournalInput, JournalOutput,
    ProcessorStatistics, ProcessorsInput, ProcessorsOutput, Status, Wire,
};
use ntlab::{
    machine::System,
    user::{self, Access, Handle, Request},
};

/// Entries of a list that one request asks for.
const ENTRIES: usize = 64;

/// What a reader of the journal gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// The cursor with which to read on.
    pub next: u64,
    /// Events that were overwritten before they were read.
    pub missed: u64,
    /// The events.
    pub events: Vec<Event>,
}

/// Opens the driver's device number `number`, for reading and writing.
///
/// # Errors
///
/// The status with which opening ended.
pub fn open(system: &System, number: usize) -> Result<Handle<'_>, user::Status> {
    system.open_interface(INTERFACE_CLASS, number, Access::ReadWrite)
}

/// `number!` modulo 2^32, as the driver computes it.
///
/// # Errors
///
/// The request's status.
pub fn factorial(handle: &Handle<'_>, number: u32) -> Result<FactorialOutput, user::Status> {
    handle.submit(factorial_request(number)).wait().success().map(|done| parse(&done.output))
}

/// The state of the driver and the device.
///
/// # Errors
///
/// The request's status.
pub fn status(handle: &Handle<'_>) -> Result<Status, user::Status> {
    handle.device_control(IOCTL_HOTADD_STATUS, &[], Status::SIZE).map(|output| parse(&output))
}

/// The statistics of all processors.
///
/// # Errors
///
/// The status of the request that failed.
pub fn processors(handle: &Handle<'_>) -> Result<Vec<ProcessorStatistics>, user::Status> {
    let room = ProcessorsOutput::SIZE + ENTRIES * ProcessorStatistics::SIZE;
    let (mut all, mut first) = (Vec::new(), 0);
    loop {
        let output =
            handle.device_control(IOCTL_HOTADD_PROCESSORS, &bytes(&ProcessorsInput { first, reserved: 0 }), room)?;
        let front: ProcessorsOutput = parse(&output);
        all.extend(entries::<ProcessorStatistics>(&output[ProcessorsOutput::SIZE..], front.count));
        if front.next == 0 {
            return Ok(all);
        }
        first = front.next;
    }
}

/// The journal's events from `cursor` on that are there now.
///
/// # Errors
///
/// The status of the request that failed.
pub fn journal_from(handle: &Handle<'_>, cursor: u64) -> Result<Journal, user::Status> {
    let mut all = Journal { next: cursor, missed: 0, events: Vec::new() };
    loop {
        let output = handle.device_control(IOCTL_HOTADD_JOURNAL_READ, &journal_input(all.next), journal_room())?;
        let part = journal_output(&output);
        let is_last = part.events.is_empty();
        all.next = part.next;
        all.missed += part.missed;
        all.events.extend(part.events);
        if is_last {
            return Ok(all);
        }
    }
}

/// The request that waits for the journal's events from `cursor` on, and what reads its output.
#[must_use]
pub fn journal(cursor: u64) -> (Request, fn(&[u8]) -> Journal) {
    let request =
        Request::Control { code: IOCTL_HOTADD_JOURNAL_WAIT, input: journal_input(cursor), output: journal_room() };
    (request, journal_output)
}

fn journal_input(cursor: u64) -> Vec<u8> {
    bytes(&JournalInput { cursor, reserved: 0 })
}

const fn journal_room() -> usize {
    JournalOutput::SIZE + ENTRIES * Event::SIZE
}

fn journal_output(output: &[u8]) -> Journal {
    let front: JournalOutput = parse(output);
    let events = entries(&output[JournalOutput::SIZE..], front.count);
    Journal { next: front.next, missed: front.missed, events }
}

fn bytes<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0; T::SIZE];
    value.write_to(&mut bytes).expect("there is room for the structure");
    bytes
}

/// A structure that the driver returned.
///
/// # Panics
///
/// If the driver returned too little: that it does not is one of its promises.
pub fn parse<T: Wire>(output: &[u8]) -> T {
    T::from_bytes(output).expect("the driver returns whole structures with reserved fields of zero")
}

fn entries<T: Wire>(output: &[u8], count: u32) -> Vec<T> {
    assert_eq!(output.len(), count as usize * T::SIZE, "the driver returns as many entries as it says");
    output.chunks_exact(T::SIZE).map(parse).collect()
}

/// The request that asks for `number!`.
#[must_use]
pub fn factorial_request(number: u32) -> Request {
    let input = bytes(&FactorialInput { number, reserved: 0 });
    Request::Control { code: IOCTL_HOTADD_FACTORIAL, input, output: FactorialOutput::SIZE }
}
