//! What cargo says of the workspace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The workspace.
#[derive(Deserialize)]
pub struct Metadata {
    /// Its packages, by name.
    pub packages: Vec<Package>,
    workspace_default_members: BTreeSet<String>,
}

/// A package of the workspace.
#[derive(Deserialize)]
pub struct Package {
    id: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
    manifest_path: PathBuf,
}

/// What a package depends on.
#[derive(Deserialize)]
pub struct Dependency {
    /// The other package's name.
    pub name: String,
    /// Whether it is for tests or for the build script only.
    pub kind: Option<String>,
}

impl Metadata {
    /// Asks cargo.
    ///
    /// # Errors
    ///
    /// Cargo cannot be asked.
    pub fn read() -> Result<Self> {
        let mut command = kit::cargo();
        command.current_dir(kit::root()).args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
        let output = command.output().context("running cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let mut metadata: Self = serde_json::from_slice(&output.stdout)?;
        metadata.packages.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(metadata)
    }

    /// Whether a package builds for the host, as default members do; the others build for Windows only.
    #[must_use]
    pub fn is_for_host(&self, package: &Package) -> bool {
        self.workspace_default_members.contains(&package.id)
    }
}

impl Package {
    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}
