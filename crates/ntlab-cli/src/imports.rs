//! `ntlab imports`: what a driver imports, and whether the lab has it.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Result};
use ntlab::exec::{Import, imports};

use crate::Outcome;

/// Lists what the driver in `image` imports; something is found where the lab lacks any of it.
pub fn list(image: &Path, json: bool) -> Result<Outcome> {
    let imports = imports(image).context("this driver cannot run in the lab")?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &imports)?;
        writeln!(out)?;
    } else {
        table(&mut out, &imports)?;
    }
    let complete = imports.iter().all(|import| import.has);
    Ok(if complete { Outcome::Nothing } else { Outcome::Found })
}

/// Writes the list for people to read.
pub fn table(out: &mut impl Write, imports: &[Import]) -> io::Result<()> {
    let width = imports.iter().map(|import| import.name.len()).max().unwrap_or(0);
    for import in imports {
        let has = if import.has { "has  " } else { "lacks" };
        let line = format!("{has}  {:width$}  {}", import.name, import.module);
        let note = import.note.map(|note| format!("  {note}")).unwrap_or_default();
        writeln!(out, "{line}{note}")?;
    }
    let lacking = imports.iter().filter(|import| !import.has).count();
    writeln!(out, "{} imports, of which the lab lacks {lacking}", imports.len())
}
