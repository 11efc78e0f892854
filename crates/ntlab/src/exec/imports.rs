//! What a driver image needs of the kernel, without running it.

use std::{fs, path::Path};

use object::read::pe::PeFile64;
use serde::Serialize;

use super::{
    crt,
    image::{self, LoadError, MODULES, Missing},
    variables,
};
use crate::exports::{self, notes};

/// A function or variable that a driver imports.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Import {
    /// Its name.
    pub name: String,
    /// The module it is imported from.
    pub module: String,
    /// Whether the lab has it.
    pub has: bool,
    /// How what the lab has differs from Windows, where that is worth saying.
    pub note: Option<&'static str>,
}

/// What the image at `path` imports, by name.
///
/// # Errors
///
/// Why it is no driver image.
pub fn imports(path: &Path) -> Result<Vec<Import>, LoadError> {
    let file = fs::read(path).map_err(|error| LoadError::Read { path: path.display().to_string(), error })?;
    let pe = PeFile64::parse(&*file)?;
    image::check(&pe)?;
    let mut imports: Vec<Import> = image::imports(&pe)?.into_iter().map(|import| describe(import.function)).collect();
    imports.sort();
    Ok(imports)
}

fn describe(Missing { module, name }: Missing) -> Import {
    let known = exports::find(&name).is_some() || crt::offset(&name).is_some() || variables::is_variable(&name);
    let has = known && MODULES.iter().any(|own| own.eq_ignore_ascii_case(&module));
    let note = notes::of(&name).filter(|_| has);
    Import { name, module, has, note }
}
