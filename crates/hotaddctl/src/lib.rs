//! `hotaddctl`: what an operator sees of hotadd.sys, and asks of it.
//!
//! The same on Windows, with real devices, as on Linux, with devices in a machine of the lab (`--lab`): both are a [`device::Host`], and
//! nothing else in this crate knows the difference.

mod cli;
pub mod client;
pub mod device;
pub mod failure;
#[cfg(test)]
mod fake;
mod follow;
#[cfg(target_os = "linux")]
mod lab;
mod list;
pub mod ntstatus;
mod record;
mod selftest;
mod send;
mod status;
pub mod stop;
mod styles;
mod top;
mod watch;
#[cfg(windows)]
mod windows;
mod words;

pub use cli::run;
