//! Safe building blocks for WDM drivers.
#![no_std]
