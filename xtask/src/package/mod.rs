//! `package`: the files of a driver package in `target/package`.

pub mod inf;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use time::OffsetDateTime;
use time::macros::format_description;

/// What stands in the INX for the architecture, as for the WDK's stampinf.
const ARCHITECTURE: &str = "$ARCH$";

/// Puts the driver, its symbols and its stamped INF into a directory, which is returned.
///
/// # Errors
///
/// The driver does not build, or the INX is not as expected.
pub fn run() -> Result<PathBuf> {
    let built = crate::driver("hotadd")?;
    let package = kit::root().join("target/package");
    fs::create_dir_all(&package).with_context(|| format!("creating {}", package.display()))?;
    let inx = kit::root().join("inf/hotadd.inx");
    let inx = fs::read_to_string(&inx).with_context(|| format!("reading {}", inx.display()))?;
    let date = OffsetDateTime::now_utc().date().format(format_description!("[month]/[day]/[year]"))?;
    let inf = stamp(&inx, &date, concat!(env!("CARGO_PKG_VERSION"), ".0"))?;
    fs::write(package.join("hotadd.inf"), inf).context("writing hotadd.inf")?;
    for file in [&built.sys, &built.pdb] {
        let name = file.file_name().with_context(|| format!("{} is not a file", file.display()))?;
        fs::copy(file, package.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(package)
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
