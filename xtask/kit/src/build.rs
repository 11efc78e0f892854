//! Runs cargo for the Windows target.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::identity::settle;
use crate::{stage, staged, vendor};

/// What drivers are built for.
pub const TARGET: &str = "x86_64-pc-windows-msvc";

/// A driver, built.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Artifacts {
    /// The image that ships.
    pub sys: PathBuf,
    /// Its symbols.
    pub pdb: PathBuf,
}

/// The root of the workspace, which this package lies two directories below.
#[must_use]
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

/// Builds the driver `package` in release if it is missing or stale.
///
/// # Errors
///
/// What the kit is made from is not installed, `wdk-build` no longer matches its edits, or the driver does not compile.
pub fn driver(package: &str) -> Result<Artifacts> {
    run(windows_cargo("build")?.args(["--package", package]))?;
    let release = target_directory().join(TARGET).join("release");
    let name = package.replace('-', "_");
    let artifacts = Artifacts { sys: release.join(format!("{name}.sys")), pdb: release.join(format!("{name}.pdb")) };
    finish(&release.join(format!("{name}.dll")), &artifacts)?;
    Ok(artifacts)
}

/// Runs clippy on `packages` for the Windows target; a warning is an error.
///
/// # Errors
///
/// As for [`driver`], or clippy has something to say.
pub fn clippy(packages: &[&str]) -> Result<()> {
    let mut command = windows_cargo("clippy")?;
    run(with_packages(&mut command, packages).args(["--", "--deny", "warnings"]))
}

/// Documents `packages` for the Windows target, for those who work on them: private items too. A warning is an error.
///
/// # Errors
///
/// As for [`driver`], or rustdoc has something to say.
pub fn doc(packages: &[&str]) -> Result<()> {
    let mut command = windows_cargo("doc")?;
    run(with_packages(&mut command, packages)
        .args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "--deny warnings"))
}

/// The directory with the bindings that `wdk-sys` generated for the driver `package`.
///
/// # Errors
///
/// As for [`driver`].
pub fn bindings(package: &str) -> Result<PathBuf> {
    let mut command = windows_cargo("build")?;
    command.args(["--package", package, "--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = command.output().context("running cargo build")?;
    ensure!(output.status.success(), "cargo build ended with {}", output.status);
    let messages = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for message in messages {
        let message: serde_json::Value = serde_json::from_slice(message)?;
        let is_of_wdk_sys = message["package_id"].as_str().is_some_and(|id| id.contains("#wdk-sys@"));
        if is_of_wdk_sys && let Some(directory) = message["out_dir"].as_str() {
            return Ok(directory.into());
        }
    }
    bail!("{package} does not depend on wdk-sys")
}

/// A command of the cargo that runs this program, or the one in the path.
#[must_use]
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// `wdk-build` finds the workspace from the target directory, so it is always this one, whatever `CARGO_TARGET_DIR` says.
fn target_directory() -> PathBuf {
    root().join("target")
}

/// A cargo command for the Windows target, with everything staged that it needs.
fn windows_cargo(subcommand: &str) -> Result<Command> {
    let target = target_directory();
    let mut command = cargo();
    command.current_dir(root()).arg(subcommand).args(["--release", "--locked", "--target", TARGET]);
    command.arg("--target-dir").arg(&target);
    if cfg!(windows) {
        return Ok(command);
    }
    // Flags from the environment would take the place of those in .cargo/config.toml.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let vendored = target.join("vendor");
    vendor::crates(root(), &vendored)?;
    let config = [
        "source.crates-io.replace-with='kit'".to_owned(),
        format!("source.kit.directory='{}'", vendored.display()),
        format!("target.{TARGET}.linker='rust-lld'"),
        // The image is the same wherever it is built.
        format!(
            "target.{TARGET}.rustflags=['--remap-path-prefix={}=vendor', '--remap-path-prefix={}=hotadd']",
            vendored.display(),
            root().display()
        ),
    ];
    command.args(config.iter().flat_map(|setting| ["--config", setting]));
    if !stage::is_wanted() {
        // A real kit is used as on Windows. Whoever brings one says what else libclang needs on this host.
        if env::var_os("LIBCLANG_PATH").is_none() {
            command.env("LIBCLANG_PATH", stage::libclang()?);
        }
        return Ok(command);
    }
    let kit = stage::kit(target.join("kit"))?;
    command.env("WDKContentRoot", kit.root).env("BINDGEN_EXTRA_CLANG_ARGS", kit.clang_args);
    command.env("LIBCLANG_PATH", kit.libclang);
    Ok(command)
}

fn with_packages<'a>(command: &'a mut Command, packages: &[&str]) -> &'a mut Command {
    command.args(packages.iter().flat_map(|package| ["--package", package]))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running {}", command.get_program().display()))?;
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    ensure!(status.success(), "`cargo {}` ended with {status}", arguments.join(" "));
    Ok(())
}

/// Makes the driver of what was linked, in one step, and leaves alone what is so already.
fn finish(linked: &Path, artifacts: &Artifacts) -> Result<()> {
    let _held = staged::lock(&artifacts.sys)?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let (mut image, linked_symbols) = (read(linked)?, read(&artifacts.pdb)?);
    let mut symbols = linked_symbols.clone();
    // Where it is asked for, Microsoft's linker does so itself.
    if !cfg!(windows) {
        settle(&mut image, &mut symbols).with_context(|| format!("settling the identity of {}", linked.display()))?;
    }
    if symbols != linked_symbols {
        // In its place: cargo has the same file under another name too, and would restore it.
        let mut file = File::options().write(true).open(&artifacts.pdb)?;
        file.write_all(&symbols).with_context(|| format!("writing {}", artifacts.pdb.display()))?;
    }
    replace_if_different(&artifacts.sys, &image)
}

fn replace_if_different(path: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|existing| existing == contents) {
        return Ok(());
    }
    let scratch = path.with_added_extension("new");
    fs::write(&scratch, contents).with_context(|| format!("writing {}", scratch.display()))?;
    fs::rename(&scratch, path).with_context(|| format!("moving {} to its place", scratch.display()))
}
