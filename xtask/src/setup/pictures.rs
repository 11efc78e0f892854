//! What looks at the pictures of recordings: a browser, and Perfetto's own reader of traces.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Browsers that take orders over a pipe, the first that is there is used.
pub const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// What is installed from `PyPI`: the schema of traces with a decoder, and what that needs.
const PERFETTO: [&str; 2] = ["perfetto==0.59.1", "protobuf==7.36.2"];

/// A browser, if one is installed.
#[must_use]
pub fn browser() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let places: Vec<PathBuf> = env::split_paths(&path).collect();
    BROWSERS.iter().find_map(|name| places.iter().map(|place| place.join(name)).find(|file| file.is_file()))
}

/// The Python that has Perfetto's reader, whether it is installed or not.
fn python() -> PathBuf {
    kit::root().join("target/perfetto/bin/python3")
}

/// The Python that has Perfetto's reader, if it is installed.
#[must_use]
pub fn perfetto() -> Option<PathBuf> {
    Some(python()).filter(has_perfetto)
}

fn has_perfetto(python: &PathBuf) -> bool {
    let found = Command::new(python).args(["-c", "import perfetto, google.protobuf"]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// Whether this machine's Python can make environments.
pub fn can_make_environments() -> bool {
    let found = Command::new("python3").args(["-c", "import venv, ensurepip"]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// Installs Perfetto's reader of traces below `target`, unless it is there.
pub fn install_perfetto() -> Result<()> {
    if perfetto().is_some() {
        return Ok(());
    }
    let place = kit::root().join("target/perfetto");
    run(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    run(Command::new(python()).args(pip).args(PERFETTO))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("running {program}"))?;
    ensure!(status.success(), "installing Perfetto's reader of traces from PyPI: {program} ended with {status}");
    Ok(())
}
