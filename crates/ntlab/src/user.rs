//! What user processes can do: open devices, ask them for something, wait, cancel, close.
//!
//! ```no_run
//! use ntlab::{config::Config, machine::Machine, user::{Access, Request}};
//!
//! # const INTERFACE: (u32, u16, u16, [u8; 8]) = (0, 0, 0, [0; 8]);
//! let outcome = Machine::new(Config::default()).unwrap().run(|system| {
//!     let device = system.open_interface(INTERFACE, 0, Access::ReadWrite).unwrap();
//!     let pending = device.submit(Request::Read { offset: 0, length: 16 });
//!     device.write(0, b"in the meantime").unwrap();
//!     assert_eq!(pending.wait().output.len(), 16);
//! });
//! outcome.result.unwrap();
//! ```

use std::{borrow::Borrow, cell::Cell, fmt, str::FromStr};

use windows_sys::Win32::{
    Foundation::{
        NTSTATUS, STATUS_ACCESS_DENIED, STATUS_BUFFER_TOO_SMALL, STATUS_CANCELLED, STATUS_DELETE_PENDING,
        STATUS_DEVICE_NOT_READY, STATUS_DISK_FULL, STATUS_END_OF_FILE, STATUS_INFO_LENGTH_MISMATCH,
        STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_BUFFER_SIZE, STATUS_INVALID_DEVICE_REQUEST,
        STATUS_INVALID_PARAMETER, STATUS_IO_TIMEOUT, STATUS_NO_SUCH_DEVICE, STATUS_NOT_SUPPORTED,
        STATUS_OBJECT_NAME_NOT_FOUND, STATUS_PENDING, STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
    },
    Storage::FileSystem::{FILE_READ_DATA, FILE_WRITE_DATA, SYNCHRONIZE},
};

pub use crate::io::{
    interface::Class,
    request::Request,
    trace::TraceEvent,
    tracelogging::{Field as TraceField, Value as TraceValue},
};
use crate::{
    io::{
        file::{self, FileId},
        interface, request,
        trace::{self, Session},
    },
    kernel::Kernel,
    machine::System,
    memory::Ptr,
    sched::Affinity,
};

/// An NTSTATUS that prints as its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub NTSTATUS);

impl Status {
    /// `STATUS_SUCCESS`.
    pub const SUCCESS: Self = Self(STATUS_SUCCESS);

    /// Whether it is a success or information, as `NT_SUCCESS`.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 >= 0
    }
}

macro_rules! status_names {
    ($($name:ident)*) => {
        /// The name of a status, where the lab knows it.
        const fn status_name(status: NTSTATUS) -> Option<&'static str> {
            match status {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }

        /// The status with this name.
        fn named(name: &str) -> Option<NTSTATUS> {
            match name {
                $(stringify!($name) => Some($name),)*
                _ => None,
            }
        }
    };
}
status_names! {
    STATUS_ACCESS_DENIED STATUS_BUFFER_TOO_SMALL STATUS_CANCELLED STATUS_DELETE_PENDING STATUS_DEVICE_NOT_READY STATUS_DISK_FULL
    STATUS_END_OF_FILE STATUS_INFO_LENGTH_MISMATCH STATUS_INSUFFICIENT_RESOURCES STATUS_INVALID_BUFFER_SIZE
    STATUS_INVALID_DEVICE_REQUEST STATUS_INVALID_PARAMETER STATUS_IO_TIMEOUT STATUS_NOT_SUPPORTED STATUS_NO_SUCH_DEVICE
    STATUS_OBJECT_NAME_NOT_FOUND STATUS_PENDING STATUS_SUCCESS STATUS_UNSUCCESSFUL
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match status_name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Status {}

impl FromStr for Status {
    type Err = String;

    /// A name as the documents have it, or a hexadecimal number after `0x`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = || u32::from_str_radix(text.strip_prefix("0x")?, 16).ok().map(u32::cast_signed);
        named(text).or_else(number).map(Self).ok_or_else(|| format!("\"{text}\" is no status that has a name here"))
    }
}

/// The access a handle is opened with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Neither reading nor writing: enough for control codes that ask for no access.
    Attributes,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    const fn mask(self) -> u32 {
        SYNCHRONIZE
            | match self {
                Self::Attributes => 0,
                Self::Read => FILE_READ_DATA,
                Self::Write => FILE_WRITE_DATA,
                Self::ReadWrite => FILE_READ_DATA | FILE_WRITE_DATA,
            }
    }
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Its status.
    pub status: Status,
    /// The driver's `IoStatus.Information`.
    pub information: u64,
    /// What the driver returned: nothing for an error, else as many bytes as the information says.
    pub output: Vec<u8>,
}

impl Completion {
    /// Itself where its status is a success.
    ///
    /// # Errors
    ///
    /// Its status.
    pub const fn success(&self) -> Result<&Self, Status> {
        if self.status.is_success() { Ok(self) } else { Err(self.status) }
    }
}

impl System {
    /// Opens a device by its name or a symbolic link, such as `\\.\Name`.
    ///
    /// # Errors
    ///
    /// The I/O manager's or the driver's status.
    pub fn open(&self, path: &str, access: Access) -> Result<Handle<'_>, Status> {
        let kernel = &self.kernel;
        kernel.preempt();
        file::open(kernel, path, access.mask())
            .map(|file| Handle { kernel, file: Cell::new(Some(file)) })
            .map_err(Status)
    }

    /// Binds the current thread to an active processor from now on, as `SetThreadGroupAffinity` does; false where none has that index.
    #[must_use]
    pub fn bind(&self, processor: u32) -> bool {
        let kernel = &self.kernel;
        let Some(place) = kernel.sched.processor(processor).map(|processor| processor.place) else { return false };
        kernel.sched.set_affinity(kernel, Some(Affinity { group: place.group, mask: 1 << place.number }));
        true
    }

    /// The symbolic links of the enabled interfaces of a class, sorted.
    #[must_use]
    pub fn interfaces(&self, class: impl Into<Class>) -> Vec<String> {
        interface::enabled(&self.kernel, class.into())
    }

    /// Opens the enabled interface of a class with this number.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_NAME_NOT_FOUND` if there are not as many, or what [`System::open`] says.
    pub fn open_interface(&self, class: impl Into<Class>, number: usize, access: Access) -> Result<Handle<'_>, Status> {
        let links = self.interfaces(class);
        let link = links.get(number).ok_or(Status(STATUS_OBJECT_NAME_NOT_FOUND))?;
        self.open(link, access)
    }

    /// Waits until one of the requests has ended, and returns its position.
    ///
    /// # Panics
    ///
    /// Without requests, for which nothing could be waited.
    #[must_use]
    pub fn wait_any(&self, pending: &[&Pending<'_>]) -> usize {
        assert!(!pending.is_empty(), "wait_any without requests");
        loop {
            let done = pending.iter().position(|pending| pending.is_done());
            if let Some(position) = done {
                return position;
            }
            let all_watched = pending.iter().all(|pending| pending.watch());
            if all_watched {
                self.kernel.park("any of several requests", None);
            }
        }
    }

    /// Starts to listen to an ETW provider, whether a driver has registered it already or will: to all events up to `level`.
    pub fn trace(&self, provider: impl Into<Class>, level: u8) {
        trace::start(&self.kernel, Session { provider: provider.into(), level, keywords: u64::MAX });
    }

    /// Takes what the providers that are listened to have written since.
    #[must_use]
    pub fn trace_events(&self) -> Vec<TraceEvent> {
        self.kernel.io.trace.take_events()
    }

    /// What drivers still have: requests that were sent and not completed, one a line.
    #[must_use]
    pub fn outstanding_requests(&self) -> Vec<String> {
        self.kernel.io.irps.outstanding()
    }
}

/// Memory of the user process, until it is dropped.
pub struct UserMemory<'k> {
    kernel: &'k Kernel,
    start: Ptr<u8>,
    length: usize,
}

impl fmt::Debug for UserMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserMemory").field("length", &self.length).finish_non_exhaustive()
    }
}

impl System {
    /// Allocates memory of the user process, holding `data`. It ends at a page that is not there.
    #[must_use]
    pub fn user_memory(&self, data: &[u8]) -> UserMemory<'_> {
        let start = self.kernel.memory.allocate_user(data.len());
        start.write_bytes(data);
        UserMemory { kernel: &self.kernel, start, length: data.len() }
    }
}

impl UserMemory<'_> {
    /// Its address, for [`Request::ControlAt`].
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.start.address()
    }

    /// What it holds.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        self.start.read_bytes(self.length)
    }
}

impl Drop for UserMemory<'_> {
    fn drop(&mut self) {
        // A machine that is stopping has lost its memory with it.
        if !std::thread::panicking() {
            self.kernel.memory.free_user(self.start, self.length);
        }
    }
}

/// An open handle. Closing it, or dropping it, sends `IRP_MJ_CLEANUP`, and `IRP_MJ_CLOSE` as soon as no request is left.
pub struct Handle<'k> {
    kernel: &'k Kernel,
    file: Cell<Option<FileId>>,
}

impl fmt::Debug for Handle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.file.get()).finish()
    }
}

impl<'k> Handle<'k> {
    /// Sends a request and does not wait for it.
    #[must_use = "dropping it leaves the request to itself"]
    pub fn submit(&self, request: impl Borrow<Request>) -> Pending<'k> {
        let kernel = self.kernel;
        kernel.preempt();
        let Some(file) = self.file.get() else {
            return Pending { kernel, state: State::Refused(STATUS_INVALID_PARAMETER) };
        };
        let sent = request::submit(kernel, file, request.borrow());
        Pending { kernel, state: sent.map_or_else(State::Refused, State::Sent) }
    }

    /// Sends a control code and waits: what the driver returned.
    ///
    /// # Errors
    ///
    /// The request's status.
    pub fn device_control(&self, code: u32, input: &[u8], output: usize) -> Result<Vec<u8>, Status> {
        self.ask(&Request::Control { code, input: input.to_vec(), output }).map(|done| done.output)
    }

    /// Reads and waits.
    ///
    /// # Errors
    ///
    /// The request's status.
    pub fn read(&self, offset: i64, length: usize) -> Result<Vec<u8>, Status> {
        self.ask(&Request::Read { offset, length }).map(|done| done.output)
    }

    /// Writes and waits: how many bytes were written.
    ///
    /// # Errors
    ///
    /// The request's status.
    pub fn write(&self, offset: i64, data: &[u8]) -> Result<u64, Status> {
        self.ask(&Request::Write { offset, data: data.to_vec() }).map(|done| done.information)
    }

    fn ask(&self, request: &Request) -> Result<Completion, Status> {
        let done = self.submit(request).wait();
        if done.status.is_success() { Ok(done) } else { Err(done.status) }
    }

    /// Cancels what was asked of the handle and has not ended, by whichever thread, as `CancelIoEx` without an `OVERLAPPED` does.
    pub fn cancel_all(&self) {
        if let Some(file) = self.file.get() {
            request::cancel_all(self.kernel, file);
        }
    }

    /// Closes the handle.
    pub fn close(self) {
        self.close_for_all();
    }

    /// Closes the handle though other threads may be using it: what they ask of it from now on fails.
    pub fn close_for_all(&self) {
        if let Some(file) = self.file.take() {
            file::close(self.kernel, file);
        }
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        // A machine that is stopping runs no driver any more.
        if !std::thread::panicking() {
            self.close_for_all();
        }
    }
}

#[derive(Clone, Copy)]
enum State {
    /// With this number.
    Sent(u32),
    /// Refused with this status.
    Refused(NTSTATUS),
    /// Its result was taken.
    Taken,
}

/// A request that was sent. Dropping it leaves the request to itself.
pub struct Pending<'k> {
    kernel: &'k Kernel,
    state: State,
}

impl fmt::Debug for Pending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("done", &self.is_done()).finish_non_exhaustive()
    }
}

impl Pending<'_> {
    /// Whether it has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self.state {
            State::Sent(index) => request::is_done(self.kernel, index),
            State::Refused(_) | State::Taken => true,
        }
    }

    /// Has the current thread woken when it ends; false if it has.
    #[inline]
    fn watch(&self) -> bool {
        match self.state {
            State::Sent(index) => request::watch(self.kernel, index),
            State::Refused(_) | State::Taken => false,
        }
    }

    /// Waits until it has ended.
    #[must_use]
    #[inline]
    pub fn wait(mut self) -> Completion {
        while self.watch() {
            self.kernel.park("a request", None);
        }
        self.take()
    }

    /// Waits at most `ns`: how it ended, or itself if it has not.
    ///
    /// # Errors
    ///
    /// Itself.
    pub fn wait_for(mut self, ns: u64) -> Result<Completion, Self> {
        let deadline = self.kernel.now() + ns;
        while self.watch() {
            if self.kernel.now() >= deadline {
                return Err(self);
            }
            self.kernel.park("a request", Some(deadline));
        }
        Ok(self.take())
    }

    #[inline]
    fn take(&mut self) -> Completion {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Refused(status) => Completion { status: Status(status), information: 0, output: Vec::new() },
            State::Sent(index) => request::take(self.kernel, index),
            State::Taken => unreachable!("who takes a result gives the request up"),
        }
    }

    /// Cancels it, as `CancelIoEx` does: it ends with `STATUS_CANCELLED`, unless the driver was faster. Whether a driver was told.
    #[allow(clippy::must_use_candidate, reason = "cancelling is its effect")]
    pub fn cancel(&self) -> bool {
        match self.state {
            State::Sent(index) if !self.is_done() => request::cancel(self.kernel, index),
            _ => false,
        }
    }
}

impl Drop for Pending<'_> {
    #[inline]
    fn drop(&mut self) {
        if let State::Sent(index) = self.state {
            request::abandon(self.kernel, index);
        }
    }
}
