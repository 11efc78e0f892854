//! The I/O manager: driver and device objects, IRPs and their way through device stacks, files, handles, interfaces.
//!
//! Everything a driver sees lies in the machine's memory in its documented layout; what only the lab needs to know about it (who may
//! complete an IRP, what is attached where) is kept here. Functions take the kernel and hold no borrow over a call into a driver.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "structures of Windows have narrow fields for sizes, counts, codes and status values, which are small"
)]

pub(crate) mod attached;
pub mod buffer;
pub mod cancel;
pub mod csq;
pub mod device;
pub mod driver;
pub mod file;
pub mod handle;
pub mod interface;
pub mod irp;
pub mod layout;
mod leaks;
pub(crate) mod lost;
pub mod mdl;
pub mod name;
pub mod object;
mod packet;
pub mod property;
pub mod remove_lock;
pub mod request;
pub(crate) mod rules;
pub mod send;
pub mod string;
pub mod trace;
pub mod tracelogging;
pub mod work_item;

use std::{cell::RefCell, collections::BTreeSet};

use crate::{
    exports::{resource::Resources, wmi::Wmi},
    memory::Ptr,
};

/// What the I/O manager of one machine knows.
#[derive(Debug, Default)]
pub struct Io {
    pub(crate) buffers: buffer::Buffers,
    pub(crate) cancel: cancel::CancelLock,
    /// Where the lock routines of cancel-safe queues store IRQLs; a place for each that runs at once.
    pub(crate) csq_levels: RefCell<Vec<Ptr<u64>>>,
    pub(crate) devices: device::Devices,
    pub(crate) drivers: driver::Drivers,
    pub(crate) files: file::Files,
    /// Handles of the system process.
    pub handles: handle::Handles,
    pub(crate) interfaces: interface::Interfaces,
    pub(crate) irps: packet::Irps,
    /// Memory descriptor lists that drivers allocated.
    pub(crate) mdls: RefCell<BTreeSet<u64>>,
    pub(crate) names: name::Names,
    pub(crate) objects: object::Objects,
    pub(crate) properties: property::Properties,
    pub(crate) timers: crate::exports::io_timer::DeviceTimers,
    pub(crate) requests: request::Requests,
    pub(crate) resources: Resources,
    pub(crate) trace: trace::Trace,
    pub(crate) wmi: Wmi,
    pub(crate) work_items: work_item::WorkItems,
    pub(crate) remove_locks: remove_lock::RemoveLocks,
}

#[cfg(test)]
mod tests;
