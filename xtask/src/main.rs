//! What a developer of hotadd runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a developer of hotadd runs; each command does first what it needs and finds missing.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build hotadd.sys.
    Build,
    /// Run clippy on the packages that build for Windows only.
    Check {
        /// The packages.
        #[arg(long = "package", default_values = ["wdm", "hotadd"])]
        packages: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Build => xtask::driver("hotadd").map(|built| println!("{}", built.sys.display())),
        Command::Check { packages } => kit::clippy(&packages.iter().map(String::as_str).collect::<Vec<_>>()),
    };
    done.map_or_else(
        |error| {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
