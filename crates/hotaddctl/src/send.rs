//! `send`: requests whose every answer is checked, and how long they took.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal, Write},
    iter,
    time::Duration,
};

use clap::{Args, ValueEnum};
use comfy_table::{Cell, Table};
use hdrhistogram::Histogram;
use hotadd_abi::FactorialOutput;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    client::{self, Client, PATIENCE, factorial, factorial_of},
    device::{Access, Completion, Host, Place, Request},
    failure::Failure,
    status::{right, table},
    stop,
};

/// The most requests in flight: beyond it only queues grow.
const MOST: u32 = 4096;

/// Send requests, check every answer, and tell how long they took.
///
/// Reads and writes leave the device's buffer as it was; nobody else may write to it meanwhile.
#[derive(Args, Debug)]
pub struct Options {
    /// What to send.
    #[arg(value_enum)]
    kind: Kind,
    /// How many.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// How many are in flight at the same time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    concurrency: u32,
    /// Whose factorial; without it, of 0 to 39 in turn.
    #[arg(long, value_name = "N")]
    number: Option<u32>,
    /// Bytes of each read or write.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(hotadd_abi::BUFFER_BYTES)))]
    length: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Compute factorials.
    Factorial,
    /// Read the device's buffer.
    Read,
    /// Write it; each write is read again to check it.
    Write,
}

/// A request on its way.
struct Flight {
    sent_at: Duration,
    what: What,
}

/// What a request must come back with.
enum What {
    Factorial(u32),
    /// These bytes.
    Read(Vec<u8>),
    /// As many as these bytes, which are read afterwards.
    Write(Vec<u8>),
    /// The bytes that were written; this request does not count.
    ReadAgain(Vec<u8>),
}

/// What came of all requests.
#[derive(Serialize)]
struct Results {
    requests: u64,
    wrong: u64,
    seconds: f64,
    requests_per_second: f64,
    /// Processors on which factorials were finished.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    processors: BTreeSet<u32>,
    latency_us: Latency,
}

#[derive(Serialize)]
struct Latency {
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// The device's buffer while transfers are sent.
struct Buffer {
    /// What it had before.
    before: Vec<u8>,
    /// How many transfers fit beside each other.
    slots: usize,
}

/// Sends requests.
pub fn run(host: &dyn Host, place: &Place, options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    let mut client = Client::open(host, place, Access::ReadWrite)?;
    let buffer = if options.kind == Kind::Factorial { None } else { Some(fill(&mut client, options)?) };
    let bar = progress_bar(options);
    let slots = buffer.as_ref().map_or(1, |buffer| buffer.slots);
    let mut sender = Sender::new(host, options, slots)?;
    let ended = sender.run(&mut client, &bar);
    bar.finish_and_clear();
    ended?;
    if let Some(buffer) = buffer {
        client.write(0, buffer.before)?;
    }
    sender.tell(out)
}

/// Gives the device's buffer the contents that reads are checked against.
fn fill(client: &mut Client<'_>, options: &Options) -> Result<Buffer, Failure> {
    let size = usize::try_from(client.status()?.buffer_bytes).unwrap_or(usize::MAX);
    let (length, slots) = (options.length as usize, size / options.length as usize);
    if slots == 0 {
        return Err(Failure::Usage(format!("--length {length}: the device's buffer has {size} bytes")));
    }
    if options.kind == Kind::Write && slots < options.concurrency as usize {
        return Err(Failure::Usage(format!(
            "--concurrency {} --length {length}: the device's buffer has room for {slots} writes at the same time",
            options.concurrency
        )));
    }
    let before = client.read(0, size)?;
    client.write(0, pattern(0, size, 0))?;
    Ok(Buffer { before, slots })
}

/// Bytes that differ from place to place, and from one `turn` to the next.
fn pattern(start: usize, length: usize, turn: u64) -> Vec<u8> {
    let turn = turn.to_le_bytes()[0];
    (start..start + length).map(|at| turn.wrapping_add(u8::try_from(at % 251).unwrap_or_default())).collect()
}

fn progress_bar(options: &Options) -> ProgressBar {
    if options.json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {per_sec}  {eta} left");
    ProgressBar::new(options.count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

struct Sender<'a> {
    host: &'a dyn Host,
    options: &'a Options,
    slots: usize,
    /// By ticket: each has one request in flight at most.
    flights: Vec<Option<Flight>>,
    sent: u64,
    began: Duration,
    latencies: Histogram<u64>,
    processors: BTreeSet<u32>,
    wrong: Vec<String>,
}

impl<'a> Sender<'a> {
    fn new(host: &'a dyn Host, options: &'a Options, slots: usize) -> Result<Self, Failure> {
        let latencies = Histogram::new(3).map_err(|error| Failure::Usage(error.to_string()))?;
        let flights = (0..options.concurrency).map(|_| None).collect();
        let (processors, wrong) = (BTreeSet::new(), Vec::new());
        Ok(Self { host, options, slots, flights, sent: 0, began: host.now(), latencies, processors, wrong })
    }

    fn run(&mut self, client: &mut Client<'_>, bar: &ProgressBar) -> Result<(), Failure> {
        let device = client.device();
        for ticket in 0..self.flights.len() {
            if let Some(request) = self.next(ticket) {
                device.submit(ticket as u64, request);
            }
        }
        loop {
            let in_flight = self.flights.iter().flatten().count();
            if in_flight == 0 {
                return Ok(());
            }
            let lost = || Failure::Broken(format!("{in_flight} requests are lost: not ended after {PATIENCE:?}"));
            let (ticket, done) = device.wait(PATIENCE).ok_or_else(lost)?;
            let number = usize::try_from(ticket).unwrap_or(usize::MAX);
            if let Some(request) = self.ended(number, &done)?.or_else(|| self.next(number)) {
                device.submit(ticket, request);
            }
            bar.set_position(self.latencies.len());
        }
    }

    /// The next request with this ticket, if there is to be one.
    fn next(&mut self, ticket: usize) -> Option<Request> {
        if self.sent == self.options.count || stop::is_asked_for() {
            return None;
        }
        let turn = self.sent;
        self.sent += 1;
        let (length, slots) = (self.options.length as usize, self.slots);
        let (request, what) = match self.options.kind {
            Kind::Factorial => {
                let number = self.options.number.unwrap_or_else(|| u32::try_from(turn % 40).unwrap_or_default());
                (factorial(number), What::Factorial(number))
            }
            Kind::Read => {
                let start = usize::try_from(turn).unwrap_or_default() % slots * length;
                (read(start, length), What::Read(pattern(start, length, 0)))
            }
            Kind::Write => {
                let data = pattern(ticket, length, turn);
                (Request::Write { offset: offset(ticket * length), data: data.clone() }, What::Write(data))
            }
        };
        Some(self.send(ticket, request, what))
    }

    fn send(&mut self, ticket: usize, request: Request, what: What) -> Request {
        if let Some(flight) = self.flights.get_mut(ticket) {
            *flight = Some(Flight { sent_at: self.host.now(), what });
        }
        request
    }

    /// Checks what came back; the request that follows it, if one does.
    fn ended(&mut self, ticket: usize, done: &Completion) -> Result<Option<Request>, Failure> {
        let flight = self.flights.get_mut(ticket).and_then(Option::take);
        let flight = flight.ok_or_else(|| Failure::Broken("a request ended twice".into()))?;
        let took = self.host.now().saturating_sub(flight.sent_at);
        if !matches!(flight.what, What::ReadAgain(_)) {
            let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            self.latencies.record(nanoseconds).map_err(|error| Failure::Broken(format!("{took:?}: {error}")))?;
        }
        if !done.status.is_success() {
            self.wrong.push(format!("a request ended with {}", done.status));
            return Ok(None);
        }
        match flight.what {
            What::Factorial(number) => {
                let output: FactorialOutput = client::parse(&done.output)?;
                self.processors.insert(output.processor);
                let right = factorial_of(number);
                self.check(output.factorial == right, || format!("{number}! is {right}, not {}", output.factorial));
            }
            What::Read(right) => {
                self.check(done.output == right, || "a read brought other bytes than there are".into());
            }
            What::ReadAgain(right) => {
                self.check(done.output == right, || "a read brought other bytes than were written before".into());
            }
            What::Write(data) => {
                self.check(done.bytes == data.len(), || format!("{} of {} bytes were written", done.bytes, data.len()));
                let request = read(ticket * data.len(), data.len());
                return Ok(Some(self.send(ticket, request, What::ReadAgain(data))));
            }
        }
        Ok(None)
    }

    fn check(&mut self, is_right: bool, otherwise: impl FnOnce() -> String) {
        if !is_right {
            self.wrong.push(otherwise());
        }
    }

    /// Tells what came of it; a failure if anything was wrong.
    fn tell(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let results = self.results();
        if self.options.json {
            serde_json::to_writer_pretty(&mut *out, &results)?;
            writeln!(out)?;
        } else {
            let mut table = table(&["requests", "wrong", "seconds", "a second", "processors"]);
            let processors =
                if results.processors.is_empty() { "-".into() } else { results.processors.len().to_string() };
            let figures =
                [format!("{:.3}", results.seconds), format!("{:.0}", results.requests_per_second), processors];
            let counts = [results.requests.to_string(), results.wrong.to_string()];
            table.add_row(counts.into_iter().chain(figures).map(right));
            writeln!(out, "{table}\n\n{}", results.latency_us.table())?;
        }
        match self.wrong.first() {
            None => Ok(()),
            Some(first) => Err(Failure::Broken(format!(
                "{} of {} answers were wrong: {first}; `hotaddctl watch --from 0` tells what the driver did",
                self.wrong.len(),
                results.requests
            ))),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn results(&self) -> Results {
        let seconds = self.host.now().saturating_sub(self.began).as_secs_f64();
        let at = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Results {
            requests: self.latencies.len(),
            wrong: self.wrong.len() as u64,
            seconds,
            requests_per_second: if seconds > 0.0 { self.latencies.len() as f64 / seconds } else { 0.0 },
            processors: self.processors.clone(),
            latency_us: Latency {
                min: self.latencies.min() as f64 / 1e3,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: self.latencies.max() as f64 / 1e3,
            },
        }
    }
}

impl Latency {
    fn table(&self) -> Table {
        let mut table = table(&["latency in us", "min", "50%", "90%", "99%", "99.9%", "max"]);
        let figures = [self.min, self.p50, self.p90, self.p99, self.p999, self.max];
        let figures = figures.map(|figure| right(format!("{figure:.1}")));
        table.add_row(iter::once(Cell::new("")).chain(figures));
        table
    }
}

fn read(start: usize, length: usize) -> Request {
    Request::Read { offset: offset(start), length }
}

fn offset(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use hotadd_abi::Wire;

    use super::*;
    use crate::fake::{Fake, success};

    fn send(options: &Options, answer: impl Fn(&Request) -> Option<Completion>) -> Result<(), Failure> {
        let place = Place { index: 0, instance: String::new(), link: String::new() };
        run(&Fake::new(answer), &place, options, &mut io::sink())
    }

    fn factorials() -> Options {
        Options { kind: Kind::Factorial, count: 50, concurrency: 4, number: Some(3), length: 64, json: false }
    }

    #[test]
    fn a_wrong_answer_is_a_broken_promise() {
        let answer =
            |factorial| move |_: &Request| Some(success(client::bytes(&FactorialOutput { factorial, processor: 0 })));
        assert!(send(&factorials(), answer(6)).is_ok());
        let wrong = send(&factorials(), answer(7)).expect_err("3! is not 7");
        assert_eq!(wrong.exit_code(), 1);
        assert!(wrong.to_string().starts_with("50 of 50 answers were wrong: 3! is 6, not 7"), "{wrong}");
    }

    #[test]
    fn requests_that_never_end_are_lost() {
        let lost = send(&factorials(), |_| None).expect_err("nothing came back");
        assert!(lost.to_string().contains("4 requests are lost"), "{lost}");
    }

    #[test]
    fn a_write_that_is_not_kept_is_found_when_it_is_read_again() {
        let options = Options { kind: Kind::Write, count: 5, concurrency: 1, ..factorials() };
        let lost = send(&options, |request| {
            Some(match request {
                Request::Control { .. } => {
                    success(client::bytes(&hotadd_abi::Status { buffer_bytes: 64, ..hotadd_abi::Status::default() }))
                }
                Request::Read { length, .. } => success(vec![9; *length]),
                Request::Write { data, .. } => Completion { bytes: data.len(), ..success(Vec::new()) },
            })
        });
        let lost = lost.expect_err("9 was never written").to_string();
        assert!(lost.contains("other bytes than were written"), "{lost}");
        assert_eq!(hotadd_abi::Status::SIZE, 200, "all of it was returned");
    }
}
