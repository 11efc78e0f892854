//! The decisions of `hotadd.sys` that need no kernel.
#![no_std]
