//! `ntlab`: runs WDM driver images on Linux.
//!
//! Exit codes: 0 where nothing was found, 1 where something was, 2 for a wrong command line or file.

mod explore;
mod files;
mod imports;
mod repeat;
mod run;
#[cfg(test)]
mod tests;

use std::{io::stdout, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Runs WDM driver images on Linux.
#[derive(Parser)]
#[command(name = "ntlab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a driver once: with a scenario file, or load it, give it a device and unload it.
    Run(run::Options),
    /// List what a driver imports, and whether the lab has it.
    Imports {
        /// The driver's image.
        driver: PathBuf,
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a scenario with many seeds, each with another interleaving, and make what is found small.
    Explore(explore::Options),
    /// Repeat what `explore` found.
    Replay {
        /// The file that `explore` wrote.
        file: PathBuf,
    },
}

/// What a command came to.
enum Outcome {
    /// Nothing was found.
    Nothing,
    /// Something was.
    Found,
}

fn main() -> ExitCode {
    if cfg!(panic = "abort") {
        eprintln!(
            "this ntlab was built to abort where it must unwind: build it with `--profile lab`, or run `cargo ntlab`"
        );
        return ExitCode::from(2);
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help, which was asked for.
        Err(help) if !help.use_stderr() => help.exit(),
        Err(error) => {
            eprintln!("{}", one_line(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    let ended = run(arguments.command);
    if let Err(error) = &ended {
        eprintln!("{error:#}");
    }
    ExitCode::from(code(&ended))
}

/// What is wrong with a command line, without what to do about it.
fn one_line(error: &str) -> String {
    let first = error.split("\n\n").next().unwrap_or_default();
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

const fn code(ended: &Result<Outcome>) -> u8 {
    match ended {
        Ok(Outcome::Nothing) => 0,
        Ok(Outcome::Found) => 1,
        Err(_) => 2,
    }
}

fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::Run(options) => run::run(&options),
        Command::Imports { driver, json } => imports::list(&driver, json),
        Command::Explore(options) => explore::explore(&options, &mut stdout()),
        Command::Replay { file } => explore::replay(&file, &mut stdout()),
    }
}
