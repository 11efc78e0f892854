//! `test`: formatting, lints, documentation and tests of everything.

use anyhow::{Context, Result, ensure};

use crate::metadata::Metadata;

/// Runs every check there is, one after the other, and stops at the first that fails.
///
/// # Errors
///
/// The check that failed.
pub fn run() -> Result<()> {
    let windows = windows_packages()?;
    let windows: Vec<&str> = windows.iter().map(String::as_str).collect();
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--locked", "--all-targets", "--", "--deny", "warnings"], &[])?;
    let program = ["--package", "hotaddctl", "--target", kit::PROGRAM_TARGET];
    cargo(&[&["clippy", "--locked"], &program[..], &["--", "--deny", "warnings"]].concat(), &[])?;
    kit::clippy(&windows)?;
    cargo(&["doc", "--locked", "--no-deps", "--document-private-items"], &[("RUSTDOCFLAGS", "--deny warnings")])?;
    kit::doc(&windows)?;
    cargo(&["test", "--locked"], &[])
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = kit::cargo();
    command.current_dir(kit::root()).args(arguments).envs(environment.iter().copied());
    let status = command.status().context("running cargo")?;
    ensure!(status.success(), "`cargo {}` ended with {status}", arguments.join(" "));
    Ok(())
}

/// The members that are not default members: those that build for Windows only.
fn windows_packages() -> Result<Vec<String>> {
    let metadata = Metadata::read()?;
    Ok(metadata.packages.iter().filter(|package| !metadata.is_for_host(package)).map(|p| p.name.clone()).collect())
}
