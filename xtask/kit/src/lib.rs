//! Builds the workspace's WDM drivers, on Linux as on Windows, with the genuine `wdk` crates; drivers in C; and, on Linux, programs for
//! Windows.
//!
//! On Windows the crates are used as published, over the installed WDK. On Linux the same locked versions are used over
//! a kit staged from the public-domain headers of mingw-w64 (`stage.rs`), with small edits of `wdk-build` (`vendor.rs`),
//! the only one that asks what host it runs on.

mod build;
mod c;
mod headers;
mod identity;
#[cfg(unix)]
mod program;
mod stage;
mod staged;
mod vendor;

pub use build::{Artifacts, TARGET, bindings, cargo, clippy, doc, driver, root};
pub use c::{c_driver, c_driver_in};
pub use identity::settle;
#[cfg(unix)]
pub use program::{PROGRAM_TARGET, program, run_under_wine, wine, wine_libraries, wine_server};
pub use stage::{Requirement, missing};
