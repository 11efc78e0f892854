//! `watch`: events as they happen.

use std::io::Write;

use anstyle::Style;
use clap::Args;
use hotadd_abi::EventKind;
use recording::{Event, words};
use serde_json::json;

use crate::{
    client::{Client, Journal},
    device::{Access, Host, Place},
    failure::Failure,
    follow::Follower,
    styles::{BAD, GOOD, HELD, PLAIN, WEAK},
    top,
};

/// Show events as they happen, one a line, until Ctrl-C; in the lab, until all was added.
#[derive(Args, Debug)]
pub struct Options {
    /// Begin with the event of this number, 0 for the oldest that is kept; without it, with the next to come.
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Print each event as a line of JSON.
    #[arg(long)]
    json: bool,
    /// Show processors and rates on the whole screen, with the last events below.
    #[arg(long, conflicts_with = "json")]
    top: bool,
    /// In the lab: print what the driver writes to ETW instead, decoded by its own metadata.
    #[arg(long, conflicts_with_all = ["json", "top"])]
    etw: bool,
}

/// Shows events.
pub fn run(host: &dyn Host, place: &Place, options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    let mut client = Client::open(host, place, Access::Read)?;
    let next = client.status()?.journal_next;
    let from = options.from.unwrap_or(next);
    if from > next {
        return Err(Failure::Usage(format!("--from {from}: the next event will have number {next}")));
    }
    let mut follower = Follower::from(from);
    if options.top {
        return top::run(host, place, &mut client, &mut follower);
    }
    loop {
        let events = follower.next(client.device(), host.tick())?;
        if options.etw {
            print_traced(host, out)?;
        }
        match events {
            Some(_) if options.etw => (),
            Some(journal) if options.json => print_json(&journal, out)?,
            Some(journal) => print(&journal, out)?,
            None if host.is_over() => return Ok(()),
            None => (),
        }
    }
}

fn print_traced(host: &dyn Host, out: &mut dyn Write) -> Result<(), Failure> {
    let elsewhere = "--etw is for the lab; on Windows, tracelog or WPR listen to the provider (docs/tracing.md)";
    for line in host.traced().ok_or_else(|| Failure::Usage(elsewhere.into()))? {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn print(journal: &Journal, out: &mut dyn Write) -> Result<(), Failure> {
    if journal.missed != 0 {
        let missed = journal.missed;
        writeln!(out, "{BAD}{missed} events were missed: overwritten before they were read here{BAD:#}")?;
    }
    for event in &journal.events {
        let style = style(event);
        writeln!(out, "{WEAK}{:>6}{WEAK:#} {style}{}{style:#}", event.sequence, words::line(&Event::from(event)))?;
    }
    Ok(out.flush()?)
}

fn print_json(journal: &Journal, out: &mut dyn Write) -> Result<(), Failure> {
    if journal.missed != 0 {
        writeln!(out, "{}", json!({ "missed": journal.missed }))?;
    }
    for event in &journal.events {
        serde_json::to_writer(&mut *out, &Event::from(event))?;
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// Green for what was gained, yellow while something is held or stopped, red for what went wrong.
const fn style(event: &hotadd_abi::Event) -> Style {
    use EventKind as Kind;
    if event.status < 0 {
        return BAD;
    }
    match EventKind::from_code(event.kind) {
        Some(
            Kind::ProcessorAddComplete
            | Kind::PlanRebuilt
            | Kind::MemoryGrew
            | Kind::PoolGrew
            | Kind::GateOpened
            | Kind::DeviceRestarted,
        ) => GOOD,
        Some(Kind::QueryStop | Kind::DeviceStopped | Kind::GateClosed | Kind::GateDrained | Kind::PowerDown) => HELD,
        Some(Kind::RequestTimeout | Kind::SurpriseRemoved | Kind::GateRefusing | Kind::ParameterIgnored) => BAD,
        _ => PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use hotadd_abi::{IOCTL_HOTADD_STATUS, JournalOutput, Status};

    use super::*;
    use crate::{
        client::bytes,
        device::{Completion, Request},
        fake::{Fake, success},
    };

    /// A driver with one event, before which others were overwritten.
    fn answer(request: &Request) -> Option<Completion> {
        let Request::Control { code, input, .. } = request else { return None };
        if *code == IOCTL_HOTADD_STATUS {
            return Some(success(bytes(&Status { journal_next: 13, ..Status::default() })));
        }
        let front = JournalOutput { next: 13, missed: 12, count: 1, reserved: 0 };
        let event = hotadd_abi::Event { sequence: 12, kind: 20, ..hotadd_abi::Event::default() };
        (input[0] < 13).then(|| success([bytes(&front), bytes(&event)].concat()))
    }

    fn watch(json: bool) -> String {
        let place = Fake::<fn(&Request) -> Option<Completion>>::place();
        let options = Options { from: Some(0), json, top: false, etw: false };
        let mut out = anstream::StripStream::new(Vec::new());
        run(&Fake::new(answer), &place, &options, &mut out).expect("it ends when nothing more comes");
        String::from_utf8(out.into_inner()).expect("UTF-8")
    }

    #[test]
    fn events_that_were_missed_are_told_before_those_that_came() {
        let lines = watch(false);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("12 events were missed") && lines[1].contains("a processor device arrived"));
    }

    #[test]
    fn with_json_they_are_a_line_of_their_own() {
        let lines = watch(true);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[0], r#"{"missed":12}"#);
        assert!(lines[1].contains(r#""sequence":12"#), "{lines:?}");
    }
}
