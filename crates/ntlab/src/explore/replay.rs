//! What repeats a finding.

use std::{fmt::Write as _, fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Scenario, attempt::attempt};
use crate::config::Config;

/// What repeats a finding to the very same end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replay<S> {
    /// What ran.
    pub scenario: S,
    /// The machine, with what was drawn.
    pub config: Config,
    /// The images by file, with their SHA-256.
    pub images: Vec<(PathBuf, String)>,
    /// What findings of the same defect have in common.
    pub finding: String,
    /// The report.
    pub report: String,
}

/// Why a finding cannot be repeated.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Stale {
    /// An image is not there.
    #[error("{image}: {error}")]
    Missing {
        /// The file.
        image: String,
        /// The host's error.
        error: String,
    },
    /// An image is not the one it was found with.
    #[error("{image} is not the image this was found with (its SHA-256 is {is}, was {was})")]
    Changed {
        /// The file.
        image: String,
        /// Its hash.
        is: String,
        /// The hash of the one that was.
        was: String,
    },
}

impl<S: Scenario> Replay<S> {
    /// Runs it again: the report, or `None` where nothing is found. The same as [`Replay::report`] where lab and host are the same.
    ///
    /// # Errors
    ///
    /// Why it cannot be run.
    pub fn run(&self) -> Result<Option<String>, Stale> {
        for (image, was) in &self.images {
            let is = hash(image)?;
            if is != *was {
                return Err(Stale::Changed { image: image.display().to_string(), is, was: was.clone() });
            }
        }
        let ended = attempt(&self.scenario, self.config.clone());
        Ok(ended.result.err().map(|failure| failure.report))
    }
}

/// The SHA-256 of a file.
fn hash(path: &PathBuf) -> Result<String, Stale> {
    let missing =
        |error: std::io::Error| Stale::Missing { image: path.display().to_string(), error: error.to_string() };
    let bytes = fs::read(path).map_err(missing)?;
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The images of a scenario with their hashes; one that cannot be read has none.
pub(super) fn images<S: Scenario>(scenario: &S) -> Vec<(PathBuf, String)> {
    scenario.images().into_iter().filter_map(|image| hash(&image).ok().map(|hash| (image, hash))).collect()
}
