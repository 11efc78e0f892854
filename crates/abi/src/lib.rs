//! What `hotadd.sys` and its users agree on: the device interface, the control codes, their structures and the
//! journal's events.
//!
//! All structures have a fixed little-endian layout without padding ([`Wire`]). Reserved fields are zero, both ways.
//!
//! # What a request ends with
//!
//! Every control code checks in this order, writes nothing unless it succeeds, and ends with
//!
//! | NTSTATUS | when |
//! |---|---|
//! | `STATUS_ACCESS_DENIED` | the handle lacks the access that the code's bits ask for (the I/O manager's answer) |
//! | `STATUS_INVALID_DEVICE_REQUEST` | the control code is unknown |
//! | `STATUS_INFO_LENGTH_MISMATCH` | the input is not exactly as long as the code's input structure |
//! | `STATUS_INVALID_PARAMETER` | a reserved field is not zero, or a field is out of its range |
//! | `STATUS_BUFFER_TOO_SMALL` | the output does not hold the structure, and, for lists, one entry |
//!
//! Requests that reach the device, which are [`IOCTL_HOTADD_FACTORIAL`], reads and writes, can also end with
//!
//! | NTSTATUS | when |
//! |---|---|
//! | `STATUS_CANCELLED` | it was cancelled, or its handle was closed |
//! | `STATUS_IO_TIMEOUT` | the device did not answer in time and was reset |
//! | `STATUS_DELETE_PENDING` | the device has been removed |
//! | `STATUS_INSUFFICIENT_RESOURCES` | memory ran out before the request was accepted |
//!
//! # Reads and writes
//!
//! They move bytes between the caller and the device's buffer of [`BUFFER_BYTES`] bytes, of which the first
//! [`Status::buffer_bytes`] can be reached (the `edu` engine leaves the last byte alone, which older QEMU cannot
//! reach). The byte offset is where in that buffer the transfer starts.
//!
//! | NTSTATUS | when |
//! |---|---|
//! | `STATUS_SUCCESS` | all of it was moved; a length of 0 moves nothing, at any offset from 0 to the end |
//! | `STATUS_INVALID_PARAMETER` | the offset is negative, or offset and length overflow |
//! | `STATUS_END_OF_FILE` | a read starts beyond the end, or at the end with a length other than 0 |
//! | `STATUS_INVALID_BUFFER_SIZE` | a read or write that starts inside reaches over the end |
//! | `STATUS_DISK_FULL` | a write starts beyond the end, or at the end with a length other than 0 |
#![no_std]

mod event;
mod version;
mod wire;

pub use event::{Event, EventKind};
pub use version::Version;
#[doc(hidden)]
pub use wire::put_at;
pub use wire::{Wire, WireError};

use wire::wire;

/// The device interface class under which every device of hotadd appears, `{6093C858-810B-4477-9654-1CB3CDD434B4}`, as
/// the fields of a `GUID`.
pub const INTERFACE_CLASS: (u32, u16, u16, [u8; 8]) =
    (0x6093_C858, 0x810B, 0x4477, [0x96, 0x54, 0x1C, 0xB3, 0xCD, 0xD4, 0x34, 0xB4]);

/// The ETW provider `Hotadd`, `{CDF4AFC0-7793-5B37-FE52-55FE53685FE9}`, which `TraceLogging` makes of that name. It writes every event of the
/// journal, as `docs/tracing.md` describes.
pub const TRACE_PROVIDER: (u32, u16, u16, [u8; 8]) =
    (0xCDF4_AFC0, 0x7793, 0x5B37, [0xFE, 0x52, 0x55, 0xFE, 0x53, 0x68, 0x5F, 0xE9]);

/// The size of the device's buffer in bytes.
pub const BUFFER_BYTES: u32 = 4096;

/// The control code's device type: the first of those free for vendors.
const DEVICE_TYPE: u32 = 0x8000;
const FILE_ANY_ACCESS: u32 = 0;
const FILE_READ_ACCESS: u32 = 1;
const FILE_WRITE_ACCESS: u32 = 2;

/// `CTL_CODE` with `METHOD_BUFFERED`.
const fn control_code(function: u32, access: u32) -> u32 {
    DEVICE_TYPE << 16 | access << 14 | function << 2
}

/// Computes a factorial modulo 2^32: [`FactorialInput`] to [`FactorialOutput`]. Needs write access.
pub const IOCTL_HOTADD_FACTORIAL: u32 = control_code(0x800, FILE_WRITE_ACCESS);

/// Reads the driver's and the device's state: no input, to [`Status`]. Any handle may; it never waits, whatever state
/// the device is in.
pub const IOCTL_HOTADD_STATUS: u32 = control_code(0x801, FILE_ANY_ACCESS);

/// Reads statistics of processors: [`ProcessorsInput`] to [`ProcessorsOutput`], followed by its
/// [`ProcessorsOutput::count`] times [`ProcessorStatistics`]. Any handle may; it never waits.
pub const IOCTL_HOTADD_PROCESSORS: u32 = control_code(0x802, FILE_ANY_ACCESS);

/// Reads the journal: [`JournalInput`] to [`JournalOutput`], followed by its [`JournalOutput::count`] times [`Event`],
/// which may be none. Needs read access; it never waits.
pub const IOCTL_HOTADD_JOURNAL_READ: u32 = control_code(0x803, FILE_READ_ACCESS);

/// The same as [`IOCTL_HOTADD_JOURNAL_READ`], but waits, cancellable, for the next event where that would return none.
///
/// Needs read access. Ends with `STATUS_CANCELLED` when cancelled or its handle is closed, `STATUS_DELETE_PENDING` when
/// the device is removed, and `STATUS_INSUFFICIENT_RESOURCES` when too many requests wait already.
pub const IOCTL_HOTADD_JOURNAL_WAIT: u32 = control_code(0x804, FILE_READ_ACCESS);

wire! {
    /// Input of [`IOCTL_HOTADD_FACTORIAL`].
    pub struct FactorialInput: 8 {
        /// Whose factorial.
        pub number: u32,
        @reserved reserved: u32,
    }
}

wire! {
    /// Output of [`IOCTL_HOTADD_FACTORIAL`].
    pub struct FactorialOutput: 8 {
        /// The factorial modulo 2^32.
        pub factorial: u32,
        /// The index of the processor on which the request was finished.
        pub processor: u32,
    }
}

wire! {
    /// Input of [`IOCTL_HOTADD_PROCESSORS`].
    pub struct ProcessorsInput: 8 {
        /// The lowest processor index wanted; to page through more processors than one output holds.
        pub first: u32,
        @reserved reserved: u32,
    }
}

wire! {
    /// Front of the output of [`IOCTL_HOTADD_PROCESSORS`].
    pub struct ProcessorsOutput: 8 {
        /// How many [`ProcessorStatistics`] follow, in ascending order of index.
        pub count: u32,
        /// The `first` with which to ask for more, or 0 when there are no more.
        pub next: u32,
    }
}

wire! {
    /// What is known of one processor.
    pub struct ProcessorStatistics: 48 {
        /// The system's index of the processor.
        pub index: u32,
        /// Its group.
        pub group: u16,
        /// Its number in the group.
        pub number: u8,
        /// 1 when work is steered to it, which begins soon after AddComplete.
        pub steered: u8,
        /// Its NUMA node.
        pub node: u32,
        /// Times a request arrived on it before AddComplete.
        pub early_requests: u32,
        /// Device interrupts it took.
        pub interrupts: u64,
        /// Deferred procedure calls of the driver that ran on it.
        pub dpcs: u64,
        /// Device requests that finished on it.
        pub requests: u64,
        /// When it joined, in 100 ns units of interrupt time.
        pub joined_at: u64,
    }
}

wire! {
    /// Input of [`IOCTL_HOTADD_JOURNAL_READ`] and [`IOCTL_HOTADD_JOURNAL_WAIT`].
    pub struct JournalInput: 16 {
        /// The sequence number of the first event wanted: 0 for the oldest kept, then [`JournalOutput::next`]. Beyond
        /// the next event to come is `STATUS_INVALID_PARAMETER`.
        pub cursor: u64,
        @reserved reserved: u64,
    }
}

wire! {
    /// Front of the output of [`IOCTL_HOTADD_JOURNAL_READ`] and [`IOCTL_HOTADD_JOURNAL_WAIT`].
    pub struct JournalOutput: 24 {
        /// The cursor with which to read on.
        pub next: u64,
        /// How many events from the cursor on were overwritten before they were read; they are skipped.
        pub missed: u64,
        /// How many [`Event`]s follow.
        pub count: u32,
        @reserved reserved: u32,
    }
}

wire! {
    /// Output of [`IOCTL_HOTADD_STATUS`]: of the driver as a whole and of the device that was asked.
    pub struct Status: 200 {
        /// The most processors there can ever be.
        pub processors_maximum: u32,
        /// Processors active in all groups.
        pub processors_active: u32,
        /// Processors that have a block of their own in the driver.
        pub processors_known: u32,
        /// Processors that work is steered to.
        pub processors_steered: u32,
        /// See [`Gate`].
        pub gate: u32,
        /// Why the gate is not running: a sum of the constants in [`hold`].
        pub hold_reasons: u32,
        /// See [`PnpState`].
        pub pnp_state: u32,
        /// See [`EngineKind`].
        pub engine: u32,
        /// See [`InterruptMode`].
        pub interrupt_mode: u32,
        /// How many interrupt lines or messages are connected.
        pub interrupt_messages: u32,
        /// The processor group of [`Status::interrupt_affinity`].
        pub interrupt_group: u32,
        /// The device's power state: 0 for D0, 3 for D3.
        pub power_state: u32,
        /// The processors that the device's interrupt, or the first of its messages, is connected to.
        pub interrupt_affinity: u64,
        /// How many bytes of the device's buffer reads and writes can reach.
        pub buffer_bytes: u64,
        /// Device requests accepted, each of which is counted once in one of the next three when it is completed.
        pub accepted: u64,
        /// Accepted requests that succeeded.
        pub completed: u64,
        /// Accepted requests that were cancelled.
        pub cancelled: u64,
        /// Accepted requests that failed.
        pub failed: u64,
        /// Requests that wait at the closed gate now; those that wait for their turn at a device while it is open are none of them.
        pub held: u64,
        /// Bytes in the buffer pool when the driver was loaded.
        pub pool_bytes_at_load: u64,
        /// Bytes in the buffer pool now.
        pub pool_bytes: u64,
        /// Bytes of physical memory when the driver was loaded.
        pub memory_bytes_at_load: u64,
        /// Bytes of physical memory when the driver last looked.
        pub memory_bytes: u64,
        /// How often the device was stopped for other resources and started again.
        pub rebalances: u64,
        /// How long the last hold lasted, in 100 ns units, from closing the gate to opening it.
        pub last_hold_duration: u64,
        /// How many requests waited during the last hold.
        pub last_hold_waited: u64,
        /// How many requests had to wait at the gate since the device was added.
        pub waited: u64,
        /// How often the device did not answer in time.
        pub timeouts: u64,
        /// The sequence number that the next event will have.
        pub journal_next: u64,
        /// The interrupt time now, in 100 ns units.
        pub now: u64,
        /// The driver's [`Version`].
        pub driver_version: u32,
        /// Which of the driver's devices this is: what its events have as [`Event::device`].
        pub device: u32,
    }
}

/// Reasons for which the gate holds requests, as bits of [`Status::hold_reasons`].
pub mod hold {
    /// The device has not been started, or its last start failed.
    pub const NOT_STARTED: u32 = 1;
    /// The device is stopped, or about to be, for other resources.
    pub const PNP_STOP: u32 = 2;
    /// The device is not in D0.
    pub const POWER: u32 = 4;
    /// The device may be about to be removed.
    pub const QUERY_REMOVE: u32 = 8;
}

/// Defines an enumeration that crosses the border as `u32`.
macro_rules! codes {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$meta])*
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant = $code,)*
        }

        impl $name {
            /// All values, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As it crosses the border.
            #[must_use]
            pub const fn code(self) -> u32 {
                self as u32
            }

            /// From how it crosses the border; `None` for a value that this version does not know.
            #[must_use]
            pub const fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// What the gate does with a device request.
    pub enum Gate {
        /// Passes it on.
        Running = 0,
        /// Keeps it, in order, until it runs again.
        Holding = 1,
        /// Fails it: the device has been removed.
        Refusing = 2,
    }
}

codes! {
    /// The device's state under PnP.
    pub enum PnpState {
        /// Added, never started.
        NotStarted = 0,
        /// Running.
        Started = 1,
        /// Asked whether it can be stopped; requests are held.
        StopPending = 2,
        /// Stopped for other resources; requests are held.
        Stopped = 3,
        /// Asked whether it can be removed; requests are held.
        RemovePending = 4,
        /// Gone without being asked.
        SurpriseRemoved = 5,
        /// Removed.
        Removed = 6,
    }
}

codes! {
    /// What processes device requests.
    pub enum EngineKind {
        /// None: the device is not started.
        None = 0,
        /// Registers, interrupts and DMA of an `edu` device.
        Edu = 1,
        /// Deferred procedure calls, where there is no hardware.
        Software = 2,
    }
}

codes! {
    /// How interrupts reach the driver.
    pub enum InterruptMode {
        /// They do not.
        None = 0,
        /// Through a line, which may be shared.
        Line = 1,
        /// As messages.
        Message = 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_codes_carry_their_function_their_access_and_the_buffered_method() {
        assert_eq!(IOCTL_HOTADD_FACTORIAL, 0x8000_A000);
        assert_eq!(IOCTL_HOTADD_STATUS, 0x8000_2004);
        assert_eq!(IOCTL_HOTADD_PROCESSORS, 0x8000_2008);
        assert_eq!(IOCTL_HOTADD_JOURNAL_READ, 0x8000_600C);
        assert_eq!(IOCTL_HOTADD_JOURNAL_WAIT, 0x8000_6010);
    }

    #[test]
    fn a_structure_survives_the_way_to_bytes_and_back() {
        let input = FactorialInput { number: 0x0102_0304, reserved: 0 };
        let mut bytes = [0xFF; 10];
        let rest = input.write_to(&mut bytes).map(|rest| rest.len());
        assert_eq!(rest, Some(2));
        assert_eq!(bytes, [4, 3, 2, 1, 0, 0, 0, 0, 0xFF, 0xFF]);
        assert_eq!(FactorialInput::from_bytes(&bytes), Ok(input));
    }

    #[test]
    fn what_is_written_in_place_has_the_bytes_of_the_structure() {
        let mut bytes = [0xFF; ProcessorsOutput::SIZE];
        write_in_place!(&mut bytes, ProcessorsOutput {
            let count = 7;
            next: count + 1,
            count: count,
        });
        assert_eq!(bytes, ProcessorsOutput { count: 7, next: 8 }.to_bytes());
    }

    #[test]
    fn too_few_bytes_are_neither_read_nor_written() {
        let mut bytes = [7; FactorialInput::SIZE - 1];
        assert_eq!(FactorialInput::from_bytes(&bytes), Err(WireError::TooShort));
        assert!(FactorialInput::default().write_to(&mut bytes).is_none());
        assert_eq!(bytes, [7; FactorialInput::SIZE - 1]);
    }

    #[test]
    fn a_reserved_field_that_is_not_zero_is_refused() {
        assert_eq!(FactorialInput::from_bytes(&[0, 0, 0, 0, 0, 0, 0, 1]), Err(WireError::Reserved));
    }

    #[test]
    fn every_code_of_an_enumeration_leads_back_to_its_value() {
        for &kind in EventKind::ALL {
            assert_eq!(EventKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(EventKind::from_code(0), None);
        assert_eq!(Gate::from_code(3), None);
    }
}
