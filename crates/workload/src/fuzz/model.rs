//! What the interface (the tables of `hotadd-abi`) says that a device-control request ends with.

use hotadd_abi::{
    Event, FactorialInput, FactorialOutput, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ,
    IOCTL_HOTADD_JOURNAL_WAIT, IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS, JournalInput, JournalOutput,
    ProcessorStatistics, ProcessorsInput, ProcessorsOutput, Status, Wire,
};
use ntlab::user::{self, Access, Completion};

use super::input::Control;

const fn error(code: u32) -> user::Status {
    user::Status(code.cast_signed())
}

const INFO_LENGTH_MISMATCH: user::Status = error(0xC000_0004);
const INVALID_PARAMETER: user::Status = error(0xC000_000D);
const INVALID_DEVICE_REQUEST: user::Status = error(0xC000_0010);
const ACCESS_DENIED: user::Status = error(0xC000_0022);
const BUFFER_TOO_SMALL: user::Status = error(0xC000_0023);
pub(super) const CANCELLED: user::Status = error(0xC000_0120);
/// Access bits of a control code, above which the device type begins.
const READ_ACCESS: u32 = 1 << 14;
const WRITE_ACCESS: u32 = 2 << 14;

/// What decides how requests end, while nothing happens to the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The number of the journal's next event; none before was overwritten.
    pub journal_next: u64,
    /// Processors with a block of their own: those of the first indices.
    pub processors_known: u32,
}

/// What happened to a request from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meanwhile {
    /// It was cancelled.
    pub cancelled: bool,
    /// Its handle was closed.
    pub closed: bool,
    /// Its handle was closed when it was sent, or just then.
    pub closed_before: bool,
}

/// How a request must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// With this error.
    Error(user::Status),
    /// With the driver's state.
    Status,
    /// With this factorial.
    Factorial(u32),
    /// With so many processors from one on.
    Processors {
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// With so many events from a number on.
    Events {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Not before it is cancelled.
    Waits,
}

impl Facts {
    /// How a request must end: the checks, in the order in which the interface lists them.
    #[must_use]
    pub fn expect(&self, control: &Control, access: Access) -> Expected {
        self.check(control, access).unwrap_or_else(Expected::Error)
    }

    fn check(&self, control: &Control, access: Access) -> Result<Expected, user::Status> {
        let Control { code, .. } = *control;
        let (may_read, may_write) = match access {
            Access::Attributes => (false, false),
            Access::Read => (true, false),
            Access::Write => (false, true),
            Access::ReadWrite => (true, true),
        };
        if code & READ_ACCESS != 0 && !may_read || code & WRITE_ACCESS != 0 && !may_write {
            return Err(ACCESS_DENIED);
        }
        let output = usize::from(control.output);
        let entries = |front: usize, entry: usize| output.saturating_sub(front) as u64 / entry as u64;
        match code {
            IOCTL_HOTADD_STATUS => {
                expect(control.input == 0, INFO_LENGTH_MISMATCH)?;
                expect(output >= Status::SIZE, BUFFER_TOO_SMALL)?;
                Ok(Expected::Status)
            }
            IOCTL_HOTADD_FACTORIAL => {
                let FactorialInput { number, .. } = parse(control)?;
                expect(output >= FactorialOutput::SIZE, BUFFER_TOO_SMALL)?;
                Ok(Expected::Factorial((2..=number.min(34)).fold(1, u32::wrapping_mul)))
            }
            IOCTL_HOTADD_PROCESSORS => {
                let ProcessorsInput { first, .. } = parse(control)?;
                let room = entries(ProcessorsOutput::SIZE, ProcessorStatistics::SIZE);
                expect(room > 0, BUFFER_TOO_SMALL)?;
                let left = self.processors_known.saturating_sub(first);
                Ok(Expected::Processors { first, count: left.min(u32::try_from(room).unwrap_or(u32::MAX)) })
            }
            IOCTL_HOTADD_JOURNAL_READ | IOCTL_HOTADD_JOURNAL_WAIT => {
                let JournalInput { cursor, .. } = parse(control)?;
                expect(cursor <= self.journal_next, INVALID_PARAMETER)?;
                let room = entries(JournalOutput::SIZE, Event::SIZE);
                expect(room > 0, BUFFER_TOO_SMALL)?;
                let count = room.min(self.journal_next - cursor);
                let waits = code == IOCTL_HOTADD_JOURNAL_WAIT && count == 0;
                Ok(if waits { Expected::Waits } else { Expected::Events { first: cursor, count } })
            }
            _ => Err(INVALID_DEVICE_REQUEST),
        }
    }

    /// What is wrong with how a request ended; None where that is as it must be.
    #[must_use]
    pub fn judge(&self, expected: Expected, meanwhile: Meanwhile, done: &Completion) -> Option<String> {
        let stopped = meanwhile.cancelled || meanwhile.closed;
        let can_wait = matches!(expected, Expected::Factorial(_) | Expected::Waits);
        let error = match expected {
            // The object manager's answer, for which the driver is not asked.
            _ if meanwhile.closed_before && done.status == INVALID_PARAMETER => Some(INVALID_PARAMETER),
            _ if can_wait && stopped && done.status == CANCELLED => Some(CANCELLED),
            Expected::Error(status) => Some(status),
            Expected::Waits => Some(CANCELLED),
            _ => None,
        };
        let wanted = error.map_or(Ok(()), Err);
        if done.success().map(|_| ()) != wanted {
            let why = if wanted == Err(CANCELLED) && !stopped { ", which nobody did" } else { "" };
            return Some(format!("it must end with {:?}{why}", wanted.err().unwrap_or(user::Status::SUCCESS)));
        }
        if wanted.is_err() {
            let nothing = done.information == 0 && done.output.is_empty();
            return (!nothing).then(|| "an error that returns something".to_owned());
        }
        let length = expected.length();
        if done.information != length || done.output.len() as u64 != length {
            return Some(format!("it must return {length} bytes"));
        }
        (!self.is_right(expected, &done.output)).then(|| "what it returns is wrong".to_owned())
    }

    fn is_right(&self, expected: Expected, output: &[u8]) -> bool {
        match expected {
            Expected::Error(_) | Expected::Waits => true,
            Expected::Status => Status::from_bytes(output).is_ok_and(|status| {
                status.journal_next == self.journal_next && status.processors_known == self.processors_known
            }),
            Expected::Factorial(factorial) => {
                FactorialOutput::from_bytes(output).is_ok_and(|output| output.factorial == factorial)
            }
            Expected::Processors { first, count } => {
                let after = first.saturating_add(count);
                let next = if after < self.processors_known { after } else { 0 };
                let front = ProcessorsOutput::from_bytes(output);
                let entries = output[ProcessorsOutput::SIZE..].chunks_exact(ProcessorStatistics::SIZE);
                front == Ok(ProcessorsOutput { count, next })
                    && entries
                        .map(ProcessorStatistics::from_bytes)
                        .zip(first..)
                        .all(|(entry, index)| entry.is_ok_and(|entry| entry.index == index && entry.steered == 1))
            }
            Expected::Events { first, count } => {
                let front = JournalOutput::from_bytes(output);
                let entries = output[JournalOutput::SIZE..].chunks_exact(Event::SIZE);
                front.is_ok_and(|front| (front.next, front.missed, u64::from(front.count)) == (first + count, 0, count))
                    && entries
                        .map(Event::from_bytes)
                        .zip(first..)
                        .all(|(event, sequence)| event.is_ok_and(|event| event.sequence == sequence))
            }
        }
    }
}

impl Expected {
    /// How many bytes it returns.
    fn length(self) -> u64 {
        let list = |front: usize, entry: usize, count: u64| front as u64 + entry as u64 * count;
        match self {
            Self::Error(_) | Self::Waits => 0,
            Self::Status => Status::SIZE as u64,
            Self::Factorial(_) => FactorialOutput::SIZE as u64,
            Self::Processors { count, .. } => list(ProcessorsOutput::SIZE, ProcessorStatistics::SIZE, count.into()),
            Self::Events { count, .. } => list(JournalOutput::SIZE, Event::SIZE, count),
        }
    }
}

const fn expect(is_so: bool, otherwise: user::Status) -> Result<(), user::Status> {
    if is_so { Ok(()) } else { Err(otherwise) }
}

fn parse<T: Wire>(control: &Control) -> Result<T, user::Status> {
    expect(usize::from(control.input) == T::SIZE, INFO_LENGTH_MISMATCH)?;
    T::from_bytes(&control.input()).map_err(|_| INVALID_PARAMETER)
}
