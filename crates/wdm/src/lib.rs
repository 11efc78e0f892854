//! Safe building blocks for WDM drivers, over `wdk-sys`.
//!
//! Registrations, connections and mappings are values and end when they are dropped; where the kernel can, dropping
//! waits until no handler runs any more. Values of this crate must be dropped before the driver unloads: leaking one
//! (`core::mem::forget`) leaves the kernel with a pointer to code that is gone. Every function says at which IRQL it
//! may be called, and where it costs nothing a token from [`irql`] says it in the types. Nothing here panics; whatever
//! allocates can fail.
#![no_std]

pub use wdk_sys;

pub mod device;
pub mod dma;
pub mod dpc;
pub mod driver;
pub mod etw;
pub mod event;
mod imports;
pub mod interrupt;
pub mod io_space;
pub mod irp;
pub mod irp_list;
pub mod irql;
mod kernel;
pub mod lock;
pub mod memory;
pub mod notify;
pub mod per_processor;
pub mod pool;
mod power;
pub mod processors;
pub mod queue;
pub mod registry;
mod remove_lock;
pub mod resources;
pub mod rundown;
pub mod status;
pub mod string;
pub mod thread;
pub mod time;
pub mod timer;
pub mod work;
