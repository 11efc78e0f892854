//! Control codes of `hotadd.sys` and their structures.
#![no_std]
