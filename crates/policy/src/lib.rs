//! The decisions of `hotadd.sys` that need no kernel: plain values in, plain values out, tested on the host.
#![no_std]

pub mod gate;
pub mod interrupt;
pub mod journal;
pub mod parameters;
pub mod pnp;
pub mod pool;
pub mod power;
pub mod steering;
pub mod work;
