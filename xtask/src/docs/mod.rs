//! `docs`: the documents, and parts of documents, that are generated from the sources; and the interface as a header in C.

mod architecture;
mod control_codes;
mod drawing;
mod embedded;
mod header;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A document that comes from the sources, or shows some.
pub struct Generated {
    /// Where it is, in the repository.
    pub path: &'static str,
    make: fn(&Path) -> Result<String>,
}

/// All of them.
pub const GENERATED: [Generated; 6] = [
    Generated { path: "bench/include/hotadd.h", make: header::header },
    Generated { path: "docs/architecture.md", make: architecture::document },
    Generated { path: "docs/architecture/driver.svg", make: architecture::driver_svg },
    Generated { path: "docs/architecture/packages.svg", make: architecture::packages_svg },
    Generated { path: "docs/control-codes.md", make: control_codes::document },
    Generated { path: WRITING, make: |root| embedded::document(root, WRITING) },
];

const WRITING: &str = "docs/writing-a-driver.md";

impl Generated {
    /// As it should be.
    ///
    /// # Errors
    ///
    /// A source cannot be read, or does not look as expected.
    pub fn contents(&self, root: &Path) -> Result<String> {
        (self.make)(root).with_context(|| format!("generating {}", self.path))
    }
}

/// Writes those that are not as they should be; returns which.
///
/// # Errors
///
/// A source cannot be read or does not look as expected, or a document cannot be written.
pub fn run(root: &Path) -> Result<Vec<&'static str>> {
    let mut written = Vec::new();
    for document in &GENERATED {
        let contents = document.contents(root)?;
        let path = root.join(document.path);
        if fs::read_to_string(&path).is_ok_and(|old| old == contents) {
            continue;
        }
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
        written.push(document.path);
    }
    Ok(written)
}
