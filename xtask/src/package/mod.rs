//! `package`: a driver package with its catalog, signed for test machines, as a directory and as a zip.

mod catalog;
pub mod inf;
pub mod sign;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use catalog::Member;
use inf::Inf;
use kit::Artifacts;
use sign::TestCertificate;
use time::OffsetDateTime;
use time::macros::format_description;
use zip::write::{SimpleFileOptions, ZipWriter};

/// What stands in the INX for the architecture, as for the WDK's stampinf.
const ARCHITECTURE: &str = "$ARCH$";
/// The driver's version: that of its package, with a fourth number as Windows has it.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ".0");

/// A package that was made.
pub struct Package {
    /// The directory with its files.
    pub directory: PathBuf,
    /// The same files in one.
    pub zip: PathBuf,
}

impl Package {
    /// The names of its files, as `cargo make` names them on Windows too.
    #[must_use]
    pub fn names() -> [String; 5] {
        let certificate = format!("{}.cer", sign::CERTIFICATE);
        ["hotadd.cat".into(), "hotadd.inf".into(), "hotadd.pdb".into(), "hotadd.sys".into(), certificate]
    }
}

/// Builds the driver and makes its package in `target/package`.
///
/// # Errors
///
/// As for [`make`], or the driver does not build.
pub fn run() -> Result<Package> {
    make(&crate::driver("hotadd")?, &kit::root().join("target/package"))
}

/// Makes the package of `built` in `directory`, which must be the package's own: what was in it goes. The zip and the test certificate lie beside it.
///
/// # Errors
///
/// The INX is not as expected, a tool is missing or fails, or a file cannot be written.
pub fn make(built: &Artifacts, directory: &Path) -> Result<Package> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let [catalog, inf, pdb, sys, certificate] = Package::names().map(|name| directory.join(name));
    let now = OffsetDateTime::now_utc();
    let inx = read(&kit::root().join("inf/hotadd.inx"))?;
    let date = now.date().format(format_description!("[month]/[day]/[year]"))?;
    let text = stamp(&String::from_utf8(inx)?, &date, VERSION)?;
    write(&inf, text.as_bytes())?;
    write(&pdb, &read(&built.pdb)?)?;
    write(&sys, &read(&built.sys)?)?;
    let signer = TestCertificate::in_directory(&directory.with_file_name("test-certificate"))?;
    signer.export(&certificate)?;
    signer.sign(&sys)?;
    write(&catalog, &list(directory, &Inf::parse(&text)?, now)?)?;
    signer.sign(&catalog)?;
    Ok(Package { directory: directory.to_owned(), zip: zip(directory)? })
}

/// The catalog of what an INF installs from `directory`, and of the INF.
fn list(directory: &Path, inf: &Inf, now: OffsetDateTime) -> Result<Vec<u8>> {
    let sources = inf.section("SourceDisksFiles").context("the INF has no SourceDisksFiles")?;
    let mut names: Vec<&str> = sources.iter().filter_map(|entry| entry.key.as_deref()).collect();
    names.push("hotadd.inf");
    let files = names.iter().map(|name| read(&directory.join(name))).collect::<Result<Vec<_>>>()?;
    let members: Vec<_> = names.iter().zip(&files).map(|(name, contents)| Member { name, contents }).collect();
    let models = inf.models()?;
    let models = models.iter().flat_map(|(_, name)| inf.section(name).unwrap_or_default());
    let ids: Vec<String> = models.map(|entry| entry.value(1).to_owned()).collect();
    catalog::make(&members, &ids, now)
}

/// Puts the package's files into one beside its directory.
fn zip(directory: &Path) -> Result<PathBuf> {
    let name = format!("hotadd-{VERSION}-x64.zip");
    let path = directory.with_file_name(name);
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let mut zip = ZipWriter::new(file);
    for name in Package::names() {
        zip.start_file(&name, SimpleFileOptions::default())?;
        zip.write_all(&read(&directory.join(&name))?)?;
    }
    zip.finish()?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
}

/// Writes architecture, date (month/day/year) and version into the text of an INX, as the WDK's stampinf does.
///
/// # Errors
///
/// The INX has no place for the architecture, or not one for the version.
pub fn stamp(inx: &str, date: &str, version: &str) -> Result<String> {
    ensure!(inx.contains(ARCHITECTURE), "the INX has no {ARCHITECTURE}");
    let is_version = |line: &&str| line.trim_start().starts_with("DriverVer");
    ensure!(inx.lines().filter(is_version).count() == 1, "the INX must have one DriverVer");
    let stamped = inx.lines().map(|line| {
        if is_version(&line) {
            format!("DriverVer = {date},{version}\r\n")
        } else {
            format!("{}\r\n", line.replace(ARCHITECTURE, "amd64"))
        }
    });
    Ok(stamped.collect())
}

#[cfg(test)]
mod tests {
    use super::stamp;

    #[test]
    fn stamping_writes_architecture_date_and_version() {
        let inx = "[Version]\nDriverVer = ; set by stampinf\n[Manufacturer]\n%Maker% = Models,NT$ARCH$\n";

        let inf = stamp(inx, "11/21/2026", "0.1.0.0").unwrap_or_default();

        assert_eq!(
            inf,
            "[Version]\r\nDriverVer = 11/21/2026,0.1.0.0\r\n[Manufacturer]\r\n%Maker% = Models,NTamd64\r\n"
        );
    }

    #[test]
    fn an_inx_without_a_place_for_the_version_is_refused() {
        assert!(stamp("[Manufacturer]\n%Maker% = Models,NT$ARCH$\n", "11/21/2026", "0.1.0.0").is_err());
    }
}
