//! `ntlab`: runs WDM driver images on Linux.
//!
//! Exit codes: 0 where nothing was found, 1 where something was, 2 for a wrong command line or file.

mod explore;
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
    match run(Arguments::parse().command) {
        Ok(Outcome::Nothing) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::Explore(options) => explore::explore(&options),
        Command::Replay { file } => explore::replay(&file),
    }
}
