//! Files of the command line.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
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

/// The same with another driver image; there must be one.
///
/// # Errors
///
/// As [`scenario`], or that there is no image.
pub fn scenario_with(path: &Path, driver: Option<&Path>) -> Result<Scenario> {
    let mut scenario = scenario(path)?;
    if let Some(driver) = driver {
        scenario.driver.image = driver.to_path_buf();
    }
    let image = &scenario.driver.image;
    ensure!(!image.as_os_str().is_empty(), "{}: no driver image is named, there or with --driver", path.display());
    for driver in scenario.drivers() {
        ensure!(driver.image.is_file(), "{}: there is no such driver image", driver.image.display());
        ensure_complete(&driver.image)?;
    }
    Ok(scenario)
}

/// Whether the lab has all that a driver imports; a driver that it lacks something of is a wrong file, and not something that was found.
///
/// # Errors
///
/// It is no driver image, or what the lab lacks.
pub fn ensure_complete(image: &Path) -> Result<()> {
    let imports = ntlab::exec::imports(image).with_context(|| format!("{}", image.display()))?;
    let lacking: Vec<String> = imports
        .into_iter()
        .filter(|import| !import.has)
        .map(|import| format!("{}!{}", import.module, import.name))
        .collect();
    ensure!(lacking.is_empty(), "{}: the lab lacks what this driver imports: {}", image.display(), lacking.join(", "));
    Ok(())
}
