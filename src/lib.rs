//! `hotadd.sys`.
#![no_std]
