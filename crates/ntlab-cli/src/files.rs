//! Files of the command line.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow};
use ntlab::scenario::Scenario;

/// The scenario in a file.
///
/// # Errors
///
/// One line that says what is wrong with the file, and where.
pub fn scenario(path: &Path) -> Result<Scenario> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    Scenario::parse(&text).map_err(|error| match error.place {
        Some((line, column)) => anyhow!("{}:{line}:{column}: {}", path.display(), error.message),
        None => anyhow!("{}: {}", path.display(), error.message),
    })
}
