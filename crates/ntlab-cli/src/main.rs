//! `ntlab`: runs WDM driver images on Linux.
//!
//! Exit codes: 0 where nothing was found, 1 where something was, 2 for a wrong command line or file.

mod files;

use std::{path::PathBuf, process::ExitCode};

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
    /// Say whether a scenario file makes sense.
    Check {
        /// The file.
        scenario: PathBuf,
    },
}

/// What was found.
enum Found {
    /// Nothing.
    Nothing,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(Found::Nothing) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<Found> {
    match command {
        Command::Check { scenario } => files::scenario(&scenario).map(|_| Found::Nothing),
    }
}
