//! What a developer of hotadd runs.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::setup::{NotAllowed, Purpose};
use xtask::{bench, campaign, demo, docs, fuzz, package, setup, test};

/// What a developer of hotadd runs; each command does first what it needs and finds missing.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the build and the tests need: Rust's Windows targets, libclang, the public-domain kernel headers, signing tools, QEMU, Wine.
    Setup,
    /// Build hotadd.sys.
    Build,
    /// Run clippy on packages that build for Windows only.
    Check {
        /// The packages.
        #[arg(long = "package", default_values = ["wdm", "hotadd"])]
        packages: Vec<String>,
    },
    /// Hot-add processors and memory to a simulated machine that runs hotadd.sys under load.
    Demo(demo::Options),
    /// Run hotadd.sys for long: every sequence of events, endurance, interruption at any instruction, every failure.
    Campaign(campaign::Options),
    /// Send random control requests, and keep those that reach basic blocks of hotadd.sys which no kept one reaches, in tests/corpus.
    Fuzz(fuzz::Options),
    /// Measure what the driver and the lab take on this machine.
    Bench(bench::Options),
    /// Write the documents that are generated from the sources.
    Docs,
    /// Check formatting, lints and documentation, and run the tests.
    Test,
    /// Make the driver package in target/package, signed with a test certificate, and its zip.
    Package,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    run(command).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        if error.is::<NotAllowed>() { ExitCode::from(2) } else { ExitCode::FAILURE }
    })
}

fn run(command: Command) -> Result<ExitCode> {
    // These look at their options before anything is installed for them.
    if !matches!(command, Command::Demo(_) | Command::Campaign(_) | Command::Bench(_) | Command::Docs) {
        setup::run(purpose(&command))?;
    }
    match command {
        Command::Campaign(options) => return campaign::run(&options, hotadd),
        Command::Demo(options) => return demo::run(&options, hotadd),
        Command::Fuzz(options) => fuzz::run(&options, &hotadd()?)?,
        Command::Setup => println!("Everything the build and the tests need is installed."),
        Command::Build => println!("{}", hotadd()?.display()),
        Command::Check { packages } => kit::clippy(&packages.iter().map(String::as_str).collect::<Vec<_>>())?,
        Command::Bench(options) => return bench::run(&options, for_bench),
        Command::Docs => {
            for path in docs::run(kit::root())? {
                println!("wrote {path}");
            }
        }
        Command::Test => test::run()?,
        Command::Package => {
            let package = package::run()?;
            println!("{}\n{}", package.directory.display(), package.zip.display());
            println!(
                "Signed for tests: see docs/package.md for how a machine trusts it, and for how to sign for others."
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What has to be there for a command: all of it where everything is to be set up or tested.
const fn purpose(command: &Command) -> Purpose {
    match command {
        Command::Setup | Command::Test => Purpose::Tests,
        Command::Package => Purpose::Package,
        _ => Purpose::Build,
    }
}

/// The driver, where the others that it is compared with can be built too.
fn for_bench() -> Result<PathBuf> {
    setup::run(Purpose::Bench)?;
    hotadd()
}

/// The driver, built if that is necessary.
fn hotadd() -> Result<PathBuf> {
    setup::run(Purpose::Build)?;
    Ok(xtask::driver("hotadd")?.sys)
}
