//! Build script of `hotadd`: gives the linker what a WDM driver needs, from `wdk_build::Config`.

/// What `wdk-build` leaves to the driver.
const LINK_ARGUMENTS: &[&str] = &[
    // Windows checks the checksum of a driver image; only /RELEASE writes it.
    "/RELEASE",
    // Windows discards what is marked discardable once DriverEntry has returned.
    "/SECTION:INIT,ERD",
];

fn main() -> Result<(), wdk_build::ConfigError> {
    for argument in LINK_ARGUMENTS {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
    wdk_build::configure_wdk_binary_build()
}
