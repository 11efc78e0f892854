//! What the commands do alike.

use std::{fs::File, io::Write as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Error, Result};
use clap::ValueEnum;
use serde::Serialize;

/// Says why the options cannot be served, and ends with the exit code for that, 2.
#[must_use]
pub fn not_served(error: &Error) -> ExitCode {
    eprintln!("{error:#}");
    ExitCode::from(2)
}

/// What a value is called on the command line.
#[must_use]
pub fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Makes a file for results, if one was asked for: before the work, so that what cannot be written is told at once.
///
/// # Errors
///
/// The file cannot be written.
pub fn create(path: Option<&Path>) -> Result<Option<File>> {
    path.map(|path| File::create(path).with_context(|| format!("{} cannot be written", path.display()))).transpose()
}

/// Writes results as JSON to the file that was asked for.
///
/// # Errors
///
/// The file cannot be written to the end.
pub fn write_json(file: Option<File>, results: &impl Serialize) -> Result<()> {
    let Some(mut file) = file else { return Ok(()) };
    serde_json::to_writer_pretty(&mut file, results)?;
    Ok(writeln!(file)?)
}
