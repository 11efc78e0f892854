//! The locked crates as a directory source, in which `wdk-build` runs on hosts other than Windows.
//!
//! Cargo takes a directory source in place of the registry without a change of `Cargo.lock`. It checks only those files that
//! a crate's checksum file lists, so the edited ones are taken off that list.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::build::cargo;
use crate::staged;

/// A replacement of text that must be there exactly `times` times.
struct Edit {
    file: &'static str,
    times: usize,
    old: &'static str,
    new: &'static str,
}

/// The crate the edits are for.
const CRATE: &str = "wdk-build";

/// What keeps [`CRATE`] from compiling on Linux. Nothing here is reached by a build: the set and remove of variables and the
/// symbolic links belong to cargo-make, the registry is asked only where `WDKContentRoot` is not set.
const EDITS: &[Edit] = &[
    Edit {
        file: "Cargo.toml",
        times: 1,
        old: "[dependencies.windows]\n",
        new: "[target.\"cfg(windows)\".dependencies.windows]\n",
    },
    Edit {
        file: "src/cargo_make.rs",
        times: 2,
        old: "std::os::windows::fs::symlink_file(",
        new: "std::os::unix::fs::symlink(",
    },
    Edit {
        file: "src/utils.rs",
        times: 2,
        old: concat!(
            "    compile_error!(\n",
            "        \"windows-drivers-rs is designed to be run on a Windows host machine in a WDK environment. \\\n",
            "         Please build using a Windows target.\"\n",
            "    );\n",
        ),
        new: "    unreachable!(\"only cargo-make sets variables\")\n",
    },
    Edit { file: "src/utils.rs", times: 1, old: "    ffi::{CStr, OsStr},\n", new: "    ffi::OsStr,\n" },
    Edit {
        file: "src/utils.rs",
        times: 1,
        old: "use windows::{\n    Win32::System::Registry",
        new: "#[cfg(windows)]\nuse std::ffi::CStr;\n#[cfg(windows)]\nuse windows::{\n    Win32::System::Registry",
    },
    Edit {
        file: "src/utils.rs",
        times: 1,
        old: concat!(
            "    // Check HKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Windows Kits\\Installed\n",
            "    // Roots@KitsRoot10 registry key\n",
            "    if let Some(path)",
        ),
        new: "    #[cfg(windows)]\n    if let Some(path)",
    },
    Edit {
        file: "src/utils.rs",
        times: 1,
        old: concat!(
            "    // Check HKEY_LOCAL_MACHINE\\SOFTWARE\\Wow6432Node\\Microsoft\\Windows\n",
            "    // Kits\\Installed Roots@KitsRoot10 registry key\n",
            "    if let Some(path)",
        ),
        new: "    #[cfg(windows)]\n    if let Some(path)",
    },
    Edit {
        file: "src/utils.rs",
        times: 1,
        old: "fn read_registry_key_string_value(\n    key_handle",
        new: "#[cfg(windows)]\nfn read_registry_key_string_value(\n    key_handle",
    },
];

/// Makes `directory` the source of all crates that the workspace in `root` locks.
pub fn crates(root: &Path, directory: &Path) -> Result<()> {
    let lock = root.join("Cargo.lock");
    let lock = fs::read(&lock).with_context(|| format!("reading {}", lock.display()))?;
    let fingerprint = staged::fingerprint(&[include_bytes!("vendor.rs"), &lock]);
    staged::directory(directory, fingerprint, |scratch| {
        vendor(root, scratch)?;
        apply(EDITS, &scratch.join(CRATE))
    })
}

fn vendor(root: &Path, to: &Path) -> Result<()> {
    let mut command: Command = cargo();
    command.current_dir(root).args(["vendor", "--quiet", "--locked", "--no-delete"]).arg(to).stdout(Stdio::null());
    let status = command.status().context("running cargo vendor")?;
    ensure!(status.success(), "cargo vendor ended with {status}");
    Ok(())
}

/// Applies `edits` to the crate in `directory` and takes the files off its checksum list.
fn apply(edits: &[Edit], directory: &Path) -> Result<()> {
    let sums_path = directory.join(".cargo-checksum.json");
    let mut sums: serde_json::Value = serde_json::from_str(&read(&sums_path)?)?;
    let files = sums["files"].as_object_mut().with_context(|| format!("{}: no `files`", sums_path.display()))?;
    for edit in edits {
        let path = directory.join(edit.file);
        // The published sources have the line ends of Windows.
        let text = replace(edit, &read(&path)?.replace("\r\n", "\n"))?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        files.remove(edit.file);
    }
    fs::write(&sums_path, sums.to_string()).with_context(|| format!("writing {}", sums_path.display()))
}

fn replace(edit: &Edit, text: &str) -> Result<String> {
    let found = text.matches(edit.old).count();
    if found != edit.times {
        bail!(
            "{CRATE}: {} has changed: found {found} times instead of {}:\n{}\nits edit in xtask/kit/src/vendor.rs must be \
             made anew for this version",
            edit.file,
            edit.times,
            edit.old
        );
    }
    Ok(text.replace(edit.old, edit.new))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDIT: Edit = Edit { file: "src/utils.rs", times: 2, old: "old text", new: "new" };

    #[test]
    fn an_edit_replaces_every_place() {
        assert_eq!(replace(&EDIT, "old text, old text").ok(), Some("new, new".to_owned()));
    }

    #[test]
    fn an_edit_that_no_longer_matches_fails_and_names_file_and_text() {
        let message = replace(&EDIT, "old text once").err().map(|error| error.to_string()).unwrap_or_default();

        assert!(message.contains("src/utils.rs"), "{message}");
        assert!(message.contains("old text"), "{message}");
        assert!(message.contains("found 1 times instead of 2"), "{message}");
    }
}
