//! `selftest`: every kind of request, what it must answer, and what must be refused.

use std::{io::Write, time::Duration};

use clap::Args;
use hotadd_abi::{
    Event, FactorialInput, FactorialOutput, Gate, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ,
    IOCTL_HOTADD_JOURNAL_WAIT, IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS, JournalInput, JournalOutput, PnpState,
    ProcessorStatistics, ProcessorsInput, ProcessorsOutput, Status, Wire,
};
use serde::Serialize;

use crate::{
    client::{self, Client, PATIENCE, control, factorial, factorial_of},
    device::{Access, Completion, Host, Place, Request},
    failure::Failure,
    ntstatus::NtStatus,
    styles::{BAD, GOOD},
};

/// Ask for everything and check every answer, also that what is wrong is refused; exit code 0 or 1.
#[derive(Args, Debug)]
pub struct Options {
    /// Print a line of JSON for each check.
    #[arg(long)]
    json: bool,
}

/// What a check has.
struct Bench<'h> {
    host: &'h dyn Host,
    place: &'h Place,
    client: Client<'h>,
}

type Check = fn(&mut Bench<'_>) -> Result<(), Failure>;

const CHECKS: [(&str, Check); 12] = [
    ("the status makes sense", status),
    ("processors are told whole, and in parts", processors),
    ("factorials are right", factorials),
    ("what is written is read again", transfers),
    ("many requests at once are all answered right", many_at_once),
    ("the journal has no gap and no step back in time", journal),
    ("waiting for the journal ends with an event, or when cancelled", journal_wait),
    ("a handle without access gets the status and nothing else", access),
    ("unknown control codes are refused", unknown_codes),
    ("inputs of a wrong length and reserved fields are refused", inputs),
    ("outputs without room are refused", outputs),
    ("transfers out of range are refused", ranges),
];

#[derive(Serialize)]
struct Told<'a> {
    check: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Makes all checks; a failure of the last kind if any was one.
pub fn run(host: &dyn Host, place: &Place, options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    let mut bench = Bench { host, place, client: Client::open(host, place, Access::ReadWrite)? };
    let mut failed = 0;
    for (check, make) in CHECKS {
        let why = match make(&mut bench) {
            Ok(()) => None,
            Err(Failure::Broken(why)) => Some(why),
            // Without a device there is nothing to test.
            Err(other) => return Err(other),
        };
        failed += u32::from(why.is_some());
        if options.json {
            serde_json::to_writer(&mut *out, &Told { check, ok: why.is_none(), why })?;
            writeln!(out)?;
        } else if let Some(why) = why {
            writeln!(out, "{BAD}FAILED{BAD:#}  {check}: {why}")?;
        } else {
            writeln!(out, "{GOOD}ok{GOOD:#}      {check}")?;
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Broken(format!(
            "{failed} of {} checks failed; `hotaddctl watch --from 0` tells what the driver did",
            CHECKS.len()
        ))),
    }
}

/// Something that must be so.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::Broken(otherwise())) }
}

impl Bench<'_> {
    /// A request that must end with `expected`, and bring nothing back if that is an error.
    fn expect(&mut self, what: &str, request: Request, expected: NtStatus) -> Result<Completion, Failure> {
        let done = self.client.ask(request)?;
        ensure(done.status == expected, || format!("{what} ended with {}, not {expected}", done.status))?;
        ensure(expected.is_success() || done.output.is_empty(), || format!("{what} was refused and returned bytes"))?;
        Ok(done)
    }

    /// The bytes that transfers reach.
    fn buffer_bytes(&mut self) -> Result<usize, Failure> {
        let bytes = self.client.status()?.buffer_bytes;
        usize::try_from(bytes)
            .ok()
            .filter(|bytes| (1..=hotadd_abi::BUFFER_BYTES as usize).contains(bytes))
            .ok_or_else(|| Failure::Broken(format!("the device's buffer has {bytes} bytes")))
    }
}

fn status(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let status = bench.client.status()?;
    let ended = status.completed + status.cancelled + status.failed;
    ensure(Gate::from_code(status.gate).is_some(), || format!("the gate is {}", status.gate))?;
    ensure(PnpState::from_code(status.pnp_state).is_some(), || format!("the PnP state is {}", status.pnp_state))?;
    ensure(ended <= status.accepted, || format!("{ended} requests ended, and {} were accepted", status.accepted))?;
    ensure((1..=status.processors_maximum).contains(&status.processors_active), || {
        format!("{} of {} processors are active", status.processors_active, status.processors_maximum)
    })?;
    let later = bench.client.status()?;
    ensure(later.now >= status.now && later.journal_next >= status.journal_next, || {
        "time or the journal went backwards".into()
    })
}

fn processors(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let (whole, parts) = (bench.client.processors()?, bench.client.processors_by(1)?);
    ensure(whole.is_sorted_by_key(|row| row.index), || "the processors are not in the order of their index".into())?;
    // Processors may join between the two.
    let same = whole.iter().zip(&parts).all(|(one, other)| (one.index, one.group) == (other.index, other.group));
    ensure(same && parts.len() >= whole.len(), || "processors differ when they are asked for one by one".into())?;
    let known = bench.client.status()?.processors_known as usize;
    ensure(!whole.is_empty() && whole.len() <= known, || format!("{} of {known} processors are told", whole.len()))
}

fn factorials(bench: &mut Bench<'_>) -> Result<(), Failure> {
    for number in (0..=40).chain([u32::MAX]) {
        let done = bench.expect("a factorial", factorial(number), NtStatus::SUCCESS)?;
        check_factorial(number, &done.output)?;
    }
    Ok(())
}

fn check_factorial(number: u32, output: &[u8]) -> Result<(), Failure> {
    let (FactorialOutput { factorial, .. }, expected) = (client::parse(output)?, factorial_of(number));
    ensure(factorial == expected, || format!("{number}! is {expected} modulo 2^32, not {factorial}"))
}

/// Bytes that differ from place to place.
fn pattern(start: usize, length: usize) -> Vec<u8> {
    (start..start + length).map(|at| u8::try_from((at * 7 + 0xA5) % 251).unwrap_or_default()).collect()
}

/// Leaves the device's buffer as it was.
fn transfers(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let length = bench.buffer_bytes()?;
    let before = bench.expect("reading the whole buffer", Request::Read { offset: 0, length }, NtStatus::SUCCESS)?;
    for (offset, length) in [(0, length), (1, length - 1), (length / 2, 1), (length - 1, 1), (7, 64)] {
        let data: Vec<u8> = pattern(offset, length);
        let place = i64::try_from(offset).unwrap_or(i64::MAX);
        let written =
            bench.expect("a write", Request::Write { offset: place, data: data.clone() }, NtStatus::SUCCESS)?;
        ensure(written.bytes == length, || format!("{} of {length} bytes were written", written.bytes))?;
        let read = bench.expect("a read", Request::Read { offset: place, length }, NtStatus::SUCCESS)?;
        ensure(read.output == data, || format!("{length} bytes at {offset} differ from what was written there"))?;
    }
    let data = before.output;
    bench.expect("a write", Request::Write { offset: 0, data }, NtStatus::SUCCESS).map(drop)
}

fn many_at_once(bench: &mut Bench<'_>) -> Result<(), Failure> {
    const MANY: u32 = 200;
    let device = bench.client.device();
    for number in 0..MANY {
        device.submit(number.into(), factorial(number % 40));
    }
    for ended in 0..MANY {
        let lost = || Failure::Broken(format!("{} of {MANY} requests have not ended", MANY - ended));
        let (number, done) = device.wait(PATIENCE).ok_or_else(lost)?;
        client::succeeded("a factorial", done.status)?;
        check_factorial(u32::try_from(number).unwrap_or(u32::MAX) % 40, &done.output)?;
    }
    Ok(())
}

fn journal(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let (mut cursor, mut last): (u64, Option<Event>) = (0, None);
    loop {
        let part = bench.client.journal(cursor)?;
        for event in &part.events {
            let number = last.map_or(cursor + part.missed, |last| last.sequence + 1);
            // Events may be overwritten while they are read.
            ensure(event.sequence == number || part.missed != 0, || {
                format!("event {} follows instead of {number}", event.sequence)
            })?;
            ensure(last.is_none_or(|last| last.time <= event.time), || {
                format!("event {} happened before the one before it", event.sequence)
            })?;
            last = Some(*event);
        }
        ensure(part.next == last.map_or(0, |last| last.sequence + 1), || format!("the next event is {}", part.next))?;
        if part.events.is_empty() {
            return ensure(last.is_some(), || "the journal is empty".into());
        }
        cursor = part.next;
    }
}

fn journal_wait(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let next = bench.client.status()?.journal_next;
    let last = next.checked_sub(1).ok_or_else(|| Failure::Broken("the journal is empty".into()))?;
    let done = bench.expect("waiting for an event that was", client::journal_wait(last), NtStatus::SUCCESS)?;
    ensure(!client::parse_journal(&done.output)?.events.is_empty(), || "a wait ended without an event".into())?;

    let device = bench.client.device();
    let mut cursor = client::parse_journal(&done.output)?.next;
    loop {
        device.submit(0, client::journal_wait(cursor));
        // Events may come; then it is waited for the next one.
        let ended = device.wait(Duration::from_millis(1)).or_else(|| {
            device.cancel();
            device.wait(PATIENCE)
        });
        let (_, done) = ended.ok_or_else(|| Failure::Broken("a cancelled wait has not ended".into()))?;
        if done.status == NtStatus::CANCELLED {
            return Ok(());
        }
        client::succeeded("waiting for the next event", done.status)?;
        cursor = client::parse_journal(&done.output)?.next;
    }
}

fn access(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let whole = std::mem::replace(&mut bench.client, Client::open(bench.host, bench.place, Access::Nothing)?);
    let journal = control(IOCTL_HOTADD_JOURNAL_READ, &[0; JournalInput::SIZE], JournalOutput::SIZE + Event::SIZE);
    let checked = bench
        .client
        .status()
        .and_then(|_| bench.expect("a factorial without access", factorial(5), NtStatus::ACCESS_DENIED))
        .and_then(|_| bench.expect("the journal without access", journal, NtStatus::ACCESS_DENIED));
    bench.client = whole;
    checked.map(drop)
}

fn unknown_codes(bench: &mut Bench<'_>) -> Result<(), Failure> {
    // Another function, another method, another device type.
    for code in [IOCTL_HOTADD_STATUS + (0x100 << 2), IOCTL_HOTADD_STATUS | 3, 0x0022_2004] {
        bench.expect("an unknown code", control(code, &[], Status::SIZE), NtStatus::INVALID_DEVICE_REQUEST)?;
    }
    Ok(())
}

/// Control codes with the sizes of their input and of their smallest output.
const CODES: [(u32, usize, usize); 5] = [
    (IOCTL_HOTADD_FACTORIAL, FactorialInput::SIZE, FactorialOutput::SIZE),
    (IOCTL_HOTADD_STATUS, 0, Status::SIZE),
    (IOCTL_HOTADD_PROCESSORS, ProcessorsInput::SIZE, ProcessorsOutput::SIZE + ProcessorStatistics::SIZE),
    (IOCTL_HOTADD_JOURNAL_READ, JournalInput::SIZE, JournalOutput::SIZE + Event::SIZE),
    (IOCTL_HOTADD_JOURNAL_WAIT, JournalInput::SIZE, JournalOutput::SIZE + Event::SIZE),
];

fn inputs(bench: &mut Bench<'_>) -> Result<(), Failure> {
    for (code, input, output) in CODES {
        for wrong in [input + 1, input.saturating_sub(1)].into_iter().filter(|wrong| *wrong != input) {
            let what = format!("code {code:#x} with {wrong} bytes of input");
            bench.expect(&what, control(code, &vec![0; wrong], output), NtStatus::INFO_LENGTH_MISMATCH)?;
        }
        if input != 0 {
            // Reserved fields are the last of their structures.
            let mut bytes = vec![0; input];
            bytes[input - 1] = 1;
            let what = format!("code {code:#x} with a reserved field that is not zero");
            bench.expect(&what, control(code, &bytes, output), NtStatus::INVALID_PARAMETER)?;
        }
    }
    let beyond = client::bytes(&JournalInput { cursor: u64::MAX, reserved: 0 });
    let request = control(IOCTL_HOTADD_JOURNAL_READ, &beyond, JournalOutput::SIZE + Event::SIZE);
    bench.expect("reading the journal beyond its end", request, NtStatus::INVALID_PARAMETER).map(drop)
}

fn outputs(bench: &mut Bench<'_>) -> Result<(), Failure> {
    for (code, input, output) in CODES {
        let what = format!("code {code:#x} with room for {} bytes", output - 1);
        bench.expect(&what, control(code, &vec![0; input], output - 1), NtStatus::BUFFER_TOO_SMALL)?;
    }
    Ok(())
}

fn ranges(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let size = bench.buffer_bytes()?;
    let end = i64::try_from(size).unwrap_or(i64::MAX);
    let read = |offset, length| Request::Read { offset, length };
    let write = |offset, length| Request::Write { offset, data: vec![0; length] };
    let refused = [
        ("a read at the end", read(end, 1), NtStatus::END_OF_FILE),
        ("a read beyond the end", read(end + 1, 1), NtStatus::END_OF_FILE),
        ("a read over the end", read(end - 1, 2), NtStatus::INVALID_BUFFER_SIZE),
        ("a read at a negative offset", read(-4096, 1), NtStatus::INVALID_PARAMETER),
        ("a write at the end", write(end, 1), NtStatus::DISK_FULL),
        ("a write beyond the end", write(end + 1, 1), NtStatus::DISK_FULL),
        ("a write over the end", write(end - 1, 2), NtStatus::INVALID_BUFFER_SIZE),
        ("a write at a negative offset", write(-4096, 1), NtStatus::INVALID_PARAMETER),
        ("a read of nothing at the end", read(end, 0), NtStatus::SUCCESS),
        ("a write of nothing at the start", write(0, 0), NtStatus::SUCCESS),
    ];
    for (what, request, expected) in refused {
        bench.expect(what, request, expected)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, success};

    /// Runs it on a device that answers so: what it says, and what it ends with.
    fn selftest(answer: fn(&Request) -> Option<Completion>) -> (String, Option<String>) {
        let (fake, mut out) = (Fake::new(answer), Vec::new());
        let ended =
            run(&fake, &Fake::<fn(&Request) -> Option<Completion>>::place(), &Options { json: false }, &mut out);
        (String::from_utf8(out).expect("UTF-8"), ended.err().map(|failure| failure.to_string()))
    }

    #[test]
    fn every_check_finds_out_a_driver_that_says_yes_to_everything() {
        let (out, ended) = selftest(|request| {
            Some(success(match request {
                Request::Control { output, .. } => vec![0; *output],
                Request::Read { length, .. } => vec![0; *length],
                Request::Write { .. } => Vec::new(),
            }))
        });
        assert!(ended.is_some_and(|ended| ended.starts_with("12 of 12 checks failed")), "{out}");
    }

    #[test]
    fn every_check_finds_out_a_driver_that_does_not_answer() {
        let (out, ended) = selftest(|_| None);
        assert!(ended.is_some_and(|ended| ended.starts_with("12 of 12 checks failed")), "{out}");
        assert!(out.contains("has not ended"), "{out}");
    }
}
