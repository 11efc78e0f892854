//! The machine's memory: one reserved range of addresses, and who may touch which page of it.

mod pointer;

pub use pointer::Ptr;
