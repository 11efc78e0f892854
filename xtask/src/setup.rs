//! `setup`: what the build and the tests need and the machine lacks.

mod pictures;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kit::Requirement;
use ntlab::hw::qemu::{self, QemuError};

use crate::package;
use pictures::BROWSERS;
pub use pictures::{browser, perfetto};

/// The version of libclang that is tried most.
const LIBCLANG: u32 = 14;

/// What things are needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To build.
    Build,
    /// To build the drivers in C too, with which hotadd is compared.
    Bench,
    /// To make a signed package too.
    Package,
    /// For the tests too: drivers in C, the real device, programs under Wine.
    Tests,
}

/// Something that is not installed.
enum Missing {
    Build(Requirement),
    Packaging(&'static str),
    Qemu,
    Browser,
    Venv,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Build(requirement) => requirement.fmt(formatter),
            Self::Packaging(program) => write!(formatter, "{program}, with which packages are signed"),
            Self::Qemu => formatter.write_str("QEMU's emulator of x86 machines, qemu-system-x86_64"),
            Self::Browser => write!(formatter, "a browser for recordings' pages, one of {}", BROWSERS.join(", ")),
            Self::Venv => formatter.write_str("Python with venv, for Perfetto's own reader of traces"),
        }
    }
}

/// What has to be done by someone who may.
#[derive(Debug)]
pub struct NotAllowed(pub String);

impl std::fmt::Display for NotAllowed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NotAllowed {}

/// Installs what is missing. Looks first, so that it costs nothing where all is there.
///
/// # Errors
///
/// [`NotAllowed`] with the command to run where this program may not install; else what went wrong.
pub fn run(purpose: Purpose) -> Result<()> {
    rust_target(kit::TARGET)?;
    if cfg!(windows) {
        return Ok(());
    }
    if purpose == Purpose::Tests {
        rust_target(kit::PROGRAM_TARGET)?;
    }
    packages_for(purpose)?;
    if purpose == Purpose::Tests {
        pictures::install_perfetto()?;
    }
    Ok(())
}

fn packages_for(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_debian() {
        let names: Vec<_> = missing.iter().map(|requirement| format!("  {requirement}")).collect();
        return Err(NotAllowed(format!("Please install, with the means of this system:\n{}", names.join("\n"))).into());
    }
    if !is_root() {
        let packages = packages(&missing).join(" ");
        return Err(NotAllowed(format!(
            "Please run:\n  sudo apt-get update && sudo apt-get install --yes --no-install-recommends {packages}"
        ))
        .into());
    }
    apt_get(&["update"])?;
    let packages = packages(&missing);
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages.iter().map(String::as_str));
    apt_get(&arguments)?;
    let missing: Vec<_> = self::missing(purpose).iter().map(ToString::to_string).collect();
    ensure!(missing.is_empty(), "installed {}, and still do not find: {}", packages.join(" "), missing.join("; "));
    Ok(())
}

/// Rust's target for drivers comes with rustup's toolchain file, except where automatic installation is switched off.
fn rust_target(target: &str) -> Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(kit::root()))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib").exists() {
        return Ok(());
    }
    let added = Command::new("rustup").args(["target", "add", target]).current_dir(kit::root()).status();
    if added.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(NotAllowed(format!("Please run, in {}:\n  rustup target add {target}", kit::root().display())).into())
}

fn missing(purpose: Purpose) -> Vec<Missing> {
    let mut missing = kit::missing();
    missing.retain(|requirement| match requirement {
        Requirement::KernelHeaders | Requirement::Libclang => true,
        Requirement::Clang => matches!(purpose, Purpose::Bench | Purpose::Tests),
        // Only the tests start programs.
        Requirement::Linker | Requirement::Wine => purpose == Purpose::Tests,
    });
    let mut missing: Vec<_> = missing.into_iter().map(Missing::Build).collect();
    if matches!(purpose, Purpose::Package | Purpose::Tests) {
        missing.extend(package::sign::missing().into_iter().map(Missing::Packaging));
    }
    if purpose == Purpose::Tests && matches!(qemu::version(), Err(QemuError::Absent)) {
        missing.push(Missing::Qemu);
    }
    if purpose == Purpose::Tests {
        missing.extend(browser().is_none().then_some(Missing::Browser));
        missing.extend((!pictures::can_make_environments()).then_some(Missing::Venv));
    }
    missing
}

fn packages(missing: &[Missing]) -> Vec<String> {
    missing
        .iter()
        .flat_map(|missing| match missing {
            Missing::Build(Requirement::KernelHeaders) => vec!["mingw-w64-x86-64-dev".to_owned()],
            Missing::Packaging(program) => vec![(*program).to_owned()],
            Missing::Qemu => vec!["qemu-system-x86".to_owned()],
            Missing::Browser => vec!["chromium".to_owned()],
            Missing::Venv => vec!["python3-venv".to_owned()],
            Missing::Build(Requirement::Libclang) => {
                let version = libclang_version(&known_packages());
                vec![format!("libclang1-{version}"), format!("libclang-common-{version}-dev")]
            }
            Missing::Build(Requirement::Linker) => vec!["gcc-mingw-w64-x86-64-win32".to_owned()],
            Missing::Build(Requirement::Wine) => vec!["wine64".to_owned()],
            Missing::Build(Requirement::Clang) => vec![format!("clang-{}", libclang_version(&known_packages()))],
        })
        .collect()
}

/// [`LIBCLANG`] where the release has it or its packages are not known, else the newest.
fn libclang_version(known: &[String]) -> u32 {
    let mut versions: Vec<u32> = known
        .iter()
        .filter_map(|name| name.strip_prefix("libclang1-")?.parse().ok())
        .filter(|version| *version >= LIBCLANG && known.contains(&format!("libclang-common-{version}-dev")))
        .collect();
    versions.sort_unstable();
    if versions.contains(&LIBCLANG) { LIBCLANG } else { versions.last().copied().unwrap_or(LIBCLANG) }
}

fn known_packages() -> Vec<String> {
    let listed = output(Command::new("apt-cache").args(["pkgnames", "libclang"])).unwrap_or_default();
    listed.lines().map(str::to_owned).collect()
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .any(|ids| ids.trim_matches('"').split(' ').any(|id| id == "debian"))
}

fn is_root() -> bool {
    output(Command::new("id").arg("--user")).is_ok_and(|id| id.trim() == "0")
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let status = command.status().context("running apt-get")?;
    ensure!(status.success(), "`apt-get {}` ended with {status}", arguments.join(" "));
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{} ended with {}", command.get_program().display(), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::libclang_version;

    fn known(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn libclang_is_of_the_version_tried_most_where_the_release_has_it() {
        let release = known(&[
            "libclang1-14",
            "libclang-common-14-dev",
            "libclang1-19",
            "libclang-common-19-dev",
            "libclang-dev",
        ]);

        assert_eq!(libclang_version(&release), 14);
    }

    #[test]
    fn libclang_is_of_the_newest_complete_version_elsewhere() {
        let release = known(&[
            "libclang1-17",
            "libclang-common-17-dev",
            "libclang1-19",
            "libclang-common-19-dev",
            "libclang1-20",
        ]);

        assert_eq!(libclang_version(&release), 19);
    }
}
