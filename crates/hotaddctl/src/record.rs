//! `record` and `report`: what happened, kept in a file; and what is made of such a file.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use hotadd_abi::{EventKind, Status};
use recording::{Device, Event, Recording, Sample, Snapshot, page, perfetto};

use crate::{
    client::{Client, Journal},
    device::{Access, Host, Place},
    failure::Failure,
    follow::Follower,
    styles::STRONG,
    words,
};

/// Record what happens to all devices, until Ctrl-C; in the lab, until all was added.
#[derive(Args, Debug)]
pub struct Options {
    /// The file to write.
    file: PathBuf,
    /// End after so many seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Make pictures of a recording: a page for browsers, and a trace for Perfetto.
#[derive(Args, Debug)]
pub struct ReportOptions {
    /// The file that `record` wrote.
    recording: PathBuf,
    /// Where the page goes; without it, beside the recording, as .html.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where the trace goes; without it, beside the recording, as .pftrace.
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
}

/// Records.
pub fn run(host: &dyn Host, places: &[Place], options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    // What cannot be written is told at once.
    fs::write(&options.file, "").map_err(|error| not_written(&options.file, &error))?;
    let first = places.first().ok_or_else(|| Failure::NoDevice("there is no device to record".into()))?;
    let mut journal = Client::open(host, first, Access::Read)?;
    let mut recorder = Recorder::new(host, places)?;
    let ended = recorder.record(host, &mut journal, options.seconds.map(Duration::from_secs));
    let mut recording = recorder.finish();
    host.complete(&mut recording);
    let text = recording.to_json().map_err(|error| Failure::Broken(error.to_string()))?;
    fs::write(&options.file, text).map_err(|error| not_written(&options.file, &error))?;
    let (events, file) = (recording.events.len(), options.file.display());
    writeln!(out, "{STRONG}{file}{STRONG:#}: {events} events; `hotaddctl report {file}` makes pictures of it")?;
    ended
}

/// Makes pictures.
pub fn report(options: &ReportOptions, out: &mut dyn Write) -> Result<(), Failure> {
    let file = &options.recording;
    let text = fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let recording =
        Recording::from_json(&text).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let page = options.html.clone().unwrap_or_else(|| file.with_extension("html"));
    fs::write(&page, page::html(&recording)).map_err(|error| not_written(&page, &error))?;
    writeln!(out, "{STRONG}{}{STRONG:#}: open it in a browser; it needs no network", page.display())?;
    let trace = options.perfetto.clone().unwrap_or_else(|| file.with_extension("pftrace"));
    fs::write(&trace, perfetto::encode(&recording)).map_err(|error| not_written(&trace, &error))?;
    let trace = trace.display();
    Ok(writeln!(out, "{STRONG}{trace}{STRONG:#}: open it at https://ui.perfetto.dev, which keeps it on this computer")?)
}

fn not_written(file: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{} cannot be written: {error}", file.display()))
}

/// A recording under way.
struct Recorder<'h> {
    /// By the number that the driver gives them.
    devices: Vec<(u32, String, Client<'h>)>,
    recording: Recording,
    /// How the machine was when it was last looked at.
    last: Snapshot,
    /// The same right after the last addition so far.
    after: Option<Snapshot>,
}

impl<'h> Recorder<'h> {
    fn new(host: &'h dyn Host, places: &[Place]) -> Result<Self, Failure> {
        let mut devices = Vec::new();
        for place in places {
            let mut client = Client::open(host, place, Access::Nothing)?;
            let status = client.status()?;
            devices.push((status.device, name(place, &status, &devices), client));
        }
        devices.sort_by_key(|(number, ..)| *number);
        let (first, _) = look(&mut devices)?;
        let recording = Recording::begin(host.origin(), first.clone());
        Ok(Self { devices, recording, last: first, after: None })
    }

    /// Follows journal and counters until there is no more.
    fn record(&mut self, host: &dyn Host, journal: &mut Client<'_>, limit: Option<Duration>) -> Result<(), Failure> {
        let mut follower = Follower::from(0);
        let began = host.now();
        loop {
            let events = follower.next(journal.device(), host.tick())?;
            let is_over = host.is_over() || limit.is_some_and(|limit| host.now().saturating_sub(began) >= limit);
            match events {
                None if is_over => return Ok(()),
                events => self.note(&events.unwrap_or_default())?,
            }
        }
    }

    /// Keeps events, and how the machine is after them.
    fn note(&mut self, journal: &Journal) -> Result<(), Failure> {
        self.recording.missed += journal.missed;
        self.recording.events.extend(journal.events.iter().map(Event::from));
        let (now, samples) = look(&mut self.devices)?;
        self.recording.samples.extend(samples);
        let began = self.recording.snapshots[0].time;
        if journal.events.iter().any(|event| is_addition(event) && Event::from(event).time > began) {
            if self.after.is_none() {
                self.recording.snapshots.push(self.last.clone());
            }
            self.after = Some(now.clone());
        }
        self.last = now;
        Ok(())
    }

    fn finish(mut self) -> Recording {
        self.recording.snapshots.extend(self.after);
        // Of a device that is gone there is nothing more to tell.
        let last = look(&mut self.devices).map_or(self.last, |(now, _)| now);
        self.recording.snapshots.push(last);
        self.recording
    }
}

/// What people call a device: its engine where it is the only one with it, else its instance path.
fn name(place: &Place, status: &Status, others: &[(u32, String, Client<'_>)]) -> String {
    let engine = words::engine(status);
    if others.iter().any(|(_, name, _)| *name == engine) { place.instance.clone() } else { engine }
}

/// The machine and the devices as they are now.
fn look(devices: &mut [(u32, String, Client<'_>)]) -> Result<(Snapshot, Vec<Sample>), Failure> {
    let (mut told, mut samples, mut last) = (Vec::new(), Vec::new(), Status::default());
    for (number, name, client) in devices.iter_mut() {
        last = client.status()?;
        told.push(Device::new(*number, name, &last));
        samples.push(Sample::new(*number, &last));
    }
    let processors = devices.first_mut().map_or_else(|| Ok(Vec::new()), |(.., client)| client.processors())?;
    Ok((Snapshot::new(&last, &processors, told), samples))
}

/// Whether there is more hardware than before.
const fn is_addition(event: &hotadd_abi::Event) -> bool {
    let kind = EventKind::from_code(event.kind);
    matches!(kind, Some(EventKind::ProcessorAddStart | EventKind::ProcessorAddComplete | EventKind::MemoryGrew))
}
