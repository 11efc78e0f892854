//! A machine that runs WDM driver images on Linux.

pub mod choices;
pub mod config;
pub mod events;
pub mod exec;
pub mod explore;
pub mod exports;
pub mod faults;
pub mod finding;
pub mod hot_add;
pub mod hw;
pub mod interleavings;
pub mod io;
pub mod irql;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod pnp;
pub mod power;
pub mod promise;
pub mod registry;
pub mod report;
pub mod rule;
pub mod scenario;
pub mod sched;
pub mod tracking;
pub mod user;
