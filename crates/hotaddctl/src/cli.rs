//! The command line.

use std::{ffi::OsString, io::Write};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

#[cfg(target_os = "linux")]
use crate::lab;
use crate::{
    device::{Host, Place},
    failure::{EXIT_CODES, Failure},
    list, record, selftest, send, status,
    styles::BAD,
    watch,
};

/// Shows what hotadd.sys does while processors and memory are added, and puts it to the test.
#[derive(Parser, Debug)]
#[command(name = "hotaddctl", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The device: its index in `list`, or its instance path.
    #[arg(long, global = true, value_name = "INDEX|PATH", default_value = "0")]
    device: String,
    #[cfg(target_os = "linux")]
    #[command(flatten, next_help_heading = "Lab")]
    lab: lab::Options,
}

#[derive(Subcommand, Debug)]
enum Command {
    List(list::Options),
    Status(status::Options),
    Watch(watch::Options),
    Send(send::Options),
    Record(record::Options),
    Report(record::ReportOptions),
    Selftest(selftest::Options),
    /// Print what lets a shell complete commands and options.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Runs the program with this command line; what it ends with.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString>>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let line: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let arguments = match Arguments::try_parse_from(&line) {
        Ok(arguments) => arguments,
        Err(error) => return not_parsed(&error, out, err),
    };
    match arguments.run(&line, out, err) {
        Ok(()) => 0,
        Err(failure) => {
            let code = failure.exit_code();
            if code != 0 {
                // Nowhere is left to say that this failed.
                let _ = writeln!(err, "{BAD}error:{BAD:#} {failure}");
            }
            code
        }
    }
}

/// Help that was asked for, or what is wrong with the command line in one line.
fn not_parsed(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if !error.use_stderr() {
        return u8::from(write!(out, "{}", error.render().ansi()).is_err());
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = write!(err, "{}", error.render().ansi());
        return 2;
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let _ = writeln!(err, "{BAD}error:{BAD:#} {line}; `hotaddctl help` explains");
    2
}

/// Completions that can be printed at once: what is written in parts to a pipe that was closed would panic.
fn print_completions(shell: Shell, out: &mut dyn Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "hotaddctl", &mut script);
    Ok(out.write_all(&script)?)
}

impl Arguments {
    fn run(self, line: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
        match self.command {
            Command::Completions { shell } => print_completions(shell, out),
            Command::Report(options) => record::report(&options, out),
            _ => self.reach(line, out, err),
        }
    }

    #[cfg(windows)]
    fn reach(self, _: &[OsString], out: &mut dyn Write, _: &mut dyn Write) -> Result<(), Failure> {
        self.command.run(&crate::windows::Windows::new(), &self.device, out)
    }

    #[cfg(target_os = "linux")]
    fn reach(self, line: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
        if !self.lab.lab {
            return Err(Failure::NoDevice(
                "devices of hotadd are on Windows; use --lab for those in a machine that runs here".into(),
            ));
        }
        let story = self.command.story();
        let words: Vec<_> = line.iter().skip(1).map(|word| word.to_string_lossy()).collect();
        let command_line = format!("hotaddctl {}", words.join(" "));
        lab::run(&self.lab, story, &command_line, err, |host| self.command.run(host, &self.device, out))
    }
}

impl Command {
    #[cfg(target_os = "linux")]
    const fn story(&self) -> lab::Story {
        match self {
            Self::List(_) | Self::Status(_) => lab::Story::Before,
            Self::Watch(_) => lab::Story::Alongside,
            Self::Record(_) => lab::Story::Recorded,
            Self::Send(_) | Self::Selftest(_) | Self::Report(_) | Self::Completions { .. } => lab::Story::AddOnly,
        }
    }

    fn run(&self, host: &dyn Host, device: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let places = host.places()?;
        let place = choose(&places, device)?;
        match self {
            Self::List(options) => list::run(host, options, out),
            Self::Status(options) => status::run(host, &place, options, out),
            Self::Watch(options) => watch::run(host, &place, options, out),
            Self::Send(options) => send::run(host, &place, options, out),
            Self::Selftest(options) => selftest::run(host, &place, options, out),
            Self::Record(options) => record::run(host, &places, options, out),
            Self::Report(options) => record::report(options, out),
            Self::Completions { shell } => print_completions(*shell, out),
        }
    }
}

/// The device that the user means.
fn choose(places: &[Place], device: &str) -> Result<Place, Failure> {
    if places.is_empty() {
        return Err(Failure::NoDevice(
            "there is no device of hotadd; install the driver and its device (docs/windows.md), then try `hotaddctl list`".into(),
        ));
    }
    let count = places.len();
    let index = device.parse::<usize>();
    let wanted = |place: &&Place| index == Ok(place.index) || place.instance.eq_ignore_ascii_case(device);
    places.iter().find(wanted).cloned().ok_or_else(|| {
        Failure::NoDevice(format!(
            "--device {device}: none of the {count} devices is that; `hotaddctl list` shows them"
        ))
    })
}
