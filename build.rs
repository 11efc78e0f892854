//! Build script of `hotadd`: gives the linker what a WDM driver needs, from `wdk_build::Config`, and the version resource.

#[path = "build/version.rs"]
mod version;

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use version::Version;

/// What `wdk-build` leaves to the driver.
const LINK_ARGUMENTS: &[&str] = &[
    // Windows checks the checksum of a driver image; only /RELEASE writes it.
    "/RELEASE",
    // The same sources are the same image: no time of linking in it.
    "/Brepro",
    // Windows discards what is marked discardable once DriverEntry has returned.
    "/SECTION:INIT,ERD",
];

fn main() -> Result<(), Box<dyn Error>> {
    for argument in LINK_ARGUMENTS {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
    println!("cargo::rustc-cdylib-link-arg={}", version_resource()?.display());
    wdk_build::configure_wdk_binary_build()?;
    Ok(())
}

/// Writes the file with the version resource, which says the package's version as `Major.Minor.Patch.0`.
fn version_resource() -> Result<PathBuf, Box<dyn Error>> {
    let version = env::var("CARGO_PKG_VERSION")?;
    let mut number = [0; 4];
    for (place, part) in number.iter_mut().zip(version.split('.')) {
        *place = part.parse()?;
    }
    let file_version = format!("{version}.0");
    let strings = [
        ("CompanyName", "hotadd"),
        ("FileDescription", "Hot-add aware driver"),
        ("FileVersion", &file_version),
        ("InternalName", "hotadd.sys"),
        ("LegalCopyright", "Copyright (c) the hotadd developers"),
        ("OriginalFilename", "hotadd.sys"),
        ("ProductName", "hotadd"),
        ("ProductVersion", &file_version),
    ];
    let file = PathBuf::from(env::var("OUT_DIR")?).join("hotadd.res");
    fs::write(&file, Version { number, strings: &strings }.resource_file())?;
    Ok(file)
}
