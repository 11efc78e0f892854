//! The machine's hardware besides processors and memory.

pub mod edu;
pub mod pci;
