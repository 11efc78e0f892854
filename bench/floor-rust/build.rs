//! Gives the linker what a WDM driver needs.

fn main() -> Result<(), wdk_build::ConfigError> {
    println!("cargo::rustc-cdylib-link-arg=/SECTION:INIT,ERD");
    wdk_build::configure_wdk_binary_build()
}
