//! How devices are reached: on Windows, or in a machine of the lab.

use std::time::Duration;

use recording::{Origin, Recording};

use crate::{failure::Failure, ntstatus::NtStatus};

/// Where devices are.
pub trait Host {
    /// The devices that are there, in the order of their instance paths.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    fn places(&self) -> Result<Vec<Place>, Failure>;

    /// Opens a device.
    ///
    /// # Errors
    ///
    /// The device is gone, or who runs this may not.
    fn open(&self, place: &Place, access: Access) -> Result<Box<dyn Device + '_>, Failure>;

    /// The time since some moment, which never goes back.
    fn now(&self) -> Duration;

    /// Lets time pass for somebody who looks on: as much in real time, of which a hundredth is enough in the lab.
    fn pause(&self, time: Duration);

    /// How long is waited for something before looking around: often enough for whoever takes samples.
    fn tick(&self) -> Duration;

    /// What a recording that is made here says of where it comes from.
    fn origin(&self) -> Origin;

    /// Adds to a recording what is known here and the driver does not tell: in the lab, requests, interrupts and DPCs.
    fn complete(&self, recording: &mut Recording);

    /// What the driver has written to ETW since this was last asked, one line each; none where others listen to it.
    fn traced(&self) -> Option<Vec<String>>;

    /// Whether nothing will happen any more: the lab has played all there was, or the user wants no more.
    fn is_over(&self) -> bool;
}

/// Where a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its number in the list of all.
    pub index: usize,
    /// Its instance path.
    pub instance: String,
    /// The symbolic link of its interface.
    pub link: String,
}

/// What a handle is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Requests that need no access.
    Nothing,
    /// Those that read.
    Read,
    /// All.
    ReadWrite,
}

/// What a device is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// A control code.
    Control {
        /// The code.
        code: u32,
        /// Its input.
        input: Vec<u8>,
        /// Bytes that the output may have.
        output: usize,
    },
    /// A read.
    Read {
        /// Where in the device's buffer.
        offset: i64,
        /// How many bytes.
        length: usize,
    },
    /// A write.
    Write {
        /// Where in the device's buffer.
        offset: i64,
        /// The bytes.
        data: Vec<u8>,
    },
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Its status.
    pub status: NtStatus,
    /// Bytes that were moved.
    pub bytes: usize,
    /// What came back; nothing for a write or an error.
    pub output: Vec<u8>,
}

impl Completion {
    /// A request that was refused where it was sent.
    #[must_use]
    pub const fn refused(status: NtStatus) -> Self {
        Self { status, bytes: 0, output: Vec::new() }
    }
}

/// An open device. Dropping it cancels what it was asked, and closes it.
pub trait Device {
    /// Sends a request and does not wait for it. `ticket` tells it from others when it ends.
    fn submit(&mut self, ticket: u64, request: Request);

    /// Waits until any request has ended, at most for `patience`: its ticket, and how it ended. Nothing is waited for where none is on its way.
    fn wait(&mut self, patience: Duration) -> Option<(u64, Completion)>;

    /// Cancels all that was asked; each request still ends, with `STATUS_CANCELLED` or otherwise.
    fn cancel(&mut self);
}
