//! Build script of `hotadd`: gives the linker what a WDM driver needs, from `wdk_build::Config`.

fn main() -> Result<(), wdk_build::ConfigError> {
    wdk_build::configure_wdk_binary_build()
}
