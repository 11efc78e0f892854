//! Directories that are made once for a given input: under a lock, beside their place, then moved there whole.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The file in a staged directory that names the input it was made from.
const STAMP: &str = ".made-from";

/// A number that differs when any of `inputs` does.
pub fn fingerprint(inputs: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    hasher.finish()
}

/// Holds `target/NAME.lock` until dropped, so that processes running at the same time stage one after the other.
pub fn lock(path: &Path) -> Result<File> {
    let file_name = path.with_extension("lock");
    let parent = file_name.parent().context("a lock file has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let file = File::create(&file_name).with_context(|| format!("creating {}", file_name.display()))?;
    file.lock().with_context(|| format!("locking {}", file_name.display()))?;
    Ok(file)
}

/// Makes `directory` with `make` unless it was made from the same `fingerprint` already.
///
/// `make` writes to another directory that then takes the place of `directory`: whoever finds it, finds it whole.
pub fn directory(directory: &Path, fingerprint: u64, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let _held = lock(directory)?;
    let stamp = format!("{fingerprint:016x}");
    if fs::read_to_string(directory.join(STAMP)).is_ok_and(|made_from| made_from == stamp) {
        return Ok(());
    }
    let scratch = beside(directory, "new");
    remove(&scratch)?;
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    make(&scratch)?;
    fs::write(scratch.join(STAMP), stamp).with_context(|| format!("writing {}", scratch.join(STAMP).display()))?;
    let old = beside(directory, "old");
    remove(&old)?;
    if directory.exists() {
        fs::rename(directory, &old).with_context(|| format!("moving {} away", directory.display()))?;
    }
    fs::rename(&scratch, directory).with_context(|| format!("moving {} to its place", scratch.display()))?;
    remove(&old)
}

fn beside(directory: &Path, suffix: &str) -> PathBuf {
    directory.with_extension(suffix)
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}
