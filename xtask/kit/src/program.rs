//! Programs for Windows: built on Linux with mingw-w64's linker, and started under Wine.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::build::{cargo, root};
use crate::stage::Requirement;
use crate::staged;

/// What programs are built for.
pub const PROGRAM_TARGET: &str = "x86_64-pc-windows-gnu";

/// The C compiler of mingw-w64, which is what links.
const COMPILER: &str = "x86_64-w64-mingw32-gcc";

/// Where distributions put the Wine for 64-bit programs.
const WINE: &[&str] = &["/usr/lib/wine/wine64", "/usr/bin/wine64", "/usr/bin/wine"];

/// Where they put its libraries, which are Windows' own as far as programs can tell.
const WINE_LIBRARIES: &[&str] = &["/usr/lib/x86_64-linux-gnu/wine/x86_64-windows", "/usr/lib/wine/x86_64-windows"];

/// Where Rust's standard library gets random numbers on Windows, and Wine 8 has nothing.
const RANDOM: &str = include_str!("../bcryptprimitives.c");

/// Wine for 64-bit programs, where it is installed.
#[must_use]
pub fn wine() -> Option<PathBuf> {
    WINE.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Wine's libraries, where they are installed.
#[must_use]
pub fn wine_libraries() -> Option<PathBuf> {
    WINE_LIBRARIES.iter().map(PathBuf::from).find(|path| path.is_dir())
}

/// What is not installed of all that programs need.
pub fn missing() -> Vec<Requirement> {
    let mut missing = Vec::new();
    let version = Command::new(COMPILER).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        missing.push(Requirement::Linker);
    }
    if wine().is_none() {
        missing.push(Requirement::Wine);
    }
    missing
}

/// Builds the program `package` for Windows, unoptimised, if it is missing or stale.
///
/// # Errors
///
/// Linker or target are not installed, or it does not compile.
pub fn program(package: &str) -> Result<PathBuf> {
    let target = root().join("target");
    let mut command = cargo();
    command.current_dir(root()).args(["build", "--quiet", "--locked", "--package", package]);
    command.args(["--target", PROGRAM_TARGET, "--target-dir"]).arg(&target);
    let status = command.status().context("running cargo build")?;
    ensure!(status.success(), "`cargo build --package {package} --target {PROGRAM_TARGET}` ended with {status}");
    Ok(target.join(PROGRAM_TARGET).join("debug").join(package).with_extension("exe"))
}

/// Runs a console program for Windows under Wine, one at a time: a program that starts while Wine's server is about to end finds its
/// directory gone. There are no devices there, and no display.
///
/// # Errors
///
/// Wine or mingw-w64's compiler are not installed.
pub fn run_under_wine(program: &Path, arguments: &[&str]) -> Result<Output> {
    let wine = wine().context("Wine for 64-bit programs is not installed: run `cargo xtask setup`")?;
    let home = wine_home()?;
    let alone = File::create(home.with_extension("lock"))?;
    alone.lock()?;
    let ran = in_wine(&wine, &home).arg(program).args(arguments).output().context("running Wine")?;
    for end in ["-k", "-w"] {
        // It says so where there is no server any more, which is what is wanted.
        in_wine(&wine_server(&wine)?, &home).arg(end).stderr(Stdio::null()).status().context("ending Wine's server")?;
    }
    Ok(ran)
}

/// Wine's server, which is installed beside it.
///
/// # Errors
///
/// It is not.
pub fn wine_server(wine: &Path) -> Result<PathBuf> {
    let names = ["wineserver64", "wineserver"].map(|name| wine.with_file_name(name));
    names
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("there is no server beside {}", wine.display()))
}

/// A command of Wine's for what is in `home`.
fn in_wine(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command.env("WINEPREFIX", home.join("prefix")).env("WINEPATH", home).env("WINEDEBUG", "-all");
    command.env("WINEDLLOVERRIDES", "mscoree,mshtml=").env_remove("DISPLAY");
    command
}

/// Where Wine finds what it takes for Windows. Its own directory takes the place of the files and the registry that it makes for a user,
/// which would be 700 MB.
fn wine_home() -> Result<PathBuf> {
    let libraries = wine_libraries().context("Wine's libraries are in none of the usual directories")?;
    let home = root().join("target").join("wine");
    let inputs = [RANDOM.as_bytes(), include_bytes!("program.rs"), libraries.as_os_str().as_encoded_bytes()];
    staged::directory(&home, staged::fingerprint(&inputs), |scratch| {
        let windows = scratch.join("prefix/drive_c/windows");
        fs::create_dir_all(&windows)?;
        symlink(&libraries, windows.join("system32"))?;
        fs::write(scratch.join("prefix/.update-timestamp"), "disable\n")?;
        let source = scratch.join("bcryptprimitives.c");
        fs::write(&source, RANDOM)?;
        let mut compile = Command::new(COMPILER);
        compile.args(["-shared", "-O2", "-s", "-o"]).arg(source.with_extension("dll")).arg(&source).arg("-ladvapi32");
        let status = compile.status().with_context(|| format!("running {COMPILER}"))?;
        ensure!(status.success(), "{COMPILER} ended with {status}");
        Ok(())
    })?;
    Ok(home)
}
