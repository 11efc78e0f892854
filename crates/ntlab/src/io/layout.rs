//! What the structures of the I/O manager look like where windows-sys is silent or wrong.
//!
//! windows-sys drops the alignment of members declared `POINTER_ALIGNMENT`, so its `Read`, `Write`, `Create`, `DeviceIoControl`,
//! `UsageNotification`, `Power`, `QueryDeviceText` and `ReadWriteConfig` stack location parameters lie at wrong offsets. On x64 each such
//! member starts a word of its own: the parameters of a stack location are four words, [`Words`].

use windows_sys::{
    Wdk::Foundation::{DEVICE_OBJECT, IO_STACK_LOCATION, IRP},
    Win32::{Foundation::NTSTATUS, System::Kernel::LIST_ENTRY},
};

use crate::{at, memory::Ptr};

/// The parameters of a stack location, word by word as on x64.
///
/// | request | words |
/// |---|---|
/// | create | security context, options, attributes and share access << 16, length of extended attributes |
/// | read, write | length, key, byte offset |
/// | device control | output length, input length, control code, type 3 input buffer |
/// | power, query and set | system context, type, state, shutdown type |
/// | PnP start | resources, translated resources |
/// | PnP device usage notification | in path, type |
/// | PnP query interface | type, size and version << 16, interface, specific data |
/// | PnP read or write configuration | which space, buffer, offset, length |
pub type Words = [u64; 4];

/// The size of a `DEVICE_OBJECT`: windows-sys drops its alignment to 16.
pub const DEVICE_OBJECT_SIZE: usize = size_of::<DEVICE_OBJECT>().next_multiple_of(16);

/// `DOE_UNLOAD_PENDING`: the driver is being unloaded.
pub const DOE_UNLOAD_PENDING: u32 = 0x1;
/// `DOE_DELETE_PENDING`: `IoDeleteDevice` has been called.
pub const DOE_DELETE_PENDING: u32 = 0x2;
/// `DOE_REMOVE_PENDING`: the stack is about to be removed.
pub const DOE_REMOVE_PENDING: u32 = 0x4;
/// `DOE_REMOVE_PROCESSED`: the stack has been removed.
pub const DOE_REMOVE_PROCESSED: u32 = 0x8;
/// `DOE_START_PENDING`: the stack has not been started.
pub const DOE_START_PENDING: u32 = 0x10;

/// `MDL_PAGES_LOCKED`.
pub const MDL_PAGES_LOCKED: i16 = 0x2;
/// `MDL_WRITE_OPERATION`: the pages were locked to be written.
pub const MDL_WRITE_OPERATION: i16 = 0x80;

/// The words of `location`'s parameters.
#[must_use]
pub const fn words(location: Ptr<IO_STACK_LOCATION>) -> Ptr<Words> {
    Ptr::new(location.address() + std::mem::offset_of!(IO_STACK_LOCATION, Parameters) as u64)
}

/// The pointer at `place`.
#[must_use]
#[inline]
pub fn load<T>(place: Ptr<*mut T>) -> Ptr<T> {
    Ptr::new(place.cast::<u64>().read())
}

/// Sets the pointer at `place`.
#[inline]
pub fn store<T>(place: Ptr<*mut T>, target: Ptr<T>) {
    place.cast::<u64>().write(target.address());
}

/// What a packet was when it was looked at: several of its members for one look at the page map.
#[derive(Clone, Copy)]
pub struct Packet {
    /// `Type`.
    pub kind: i16,
    /// `IoStatus.Status`.
    pub status: NTSTATUS,
    /// `StackCount`.
    pub count: i8,
    /// `CurrentLocation`.
    pub current: i8,
    /// `Cancel`.
    pub is_cancelled: bool,
    /// The address of its cancel routine; 0 for none.
    pub cancel_routine: u64,
    /// Its current stack location.
    pub location: Ptr<IO_STACK_LOCATION>,
}

impl Packet {
    /// A packet as it is now.
    #[must_use]
    #[inline]
    pub fn of(irp: Ptr<IRP>) -> Self {
        let packet = irp.readable();
        let location = at!(irp, Tail.Overlay.Anonymous2.Anonymous.CurrentStackLocation);
        Self {
            kind: packet.get(at!(irp, Type)),
            status: packet.get(at!(irp, IoStatus.Anonymous.Status)),
            count: packet.get(at!(irp, StackCount)),
            current: packet.get(at!(irp, CurrentLocation)),
            is_cancelled: packet.get(at!(irp, Cancel).cast::<u8>()) != 0,
            cancel_routine: packet.get(at!(irp, CancelRoutine).cast()),
            location: Ptr::new(packet.get(location.cast())),
        }
    }
}

/// A stack location, word by word: major and minor function, flags and control in the first, then the parameters, the device, the file, the
/// completion routine and its context.
pub type Location = [u64; size_of::<IO_STACK_LOCATION>() / size_of::<u64>()];

/// The members of a [`Location`] behind its parameters.
pub const LOCATION_DEVICE: usize = 5;
/// As above.
pub const LOCATION_FILE: usize = 6;
/// As above.
pub const LOCATION_ROUTINE: usize = 7;
/// As above.
pub const LOCATION_CONTEXT: usize = 8;

/// Makes an empty list, as `InitializeListHead`.
#[inline]
pub fn initialize_list(head: Ptr<LIST_ENTRY>) {
    head.cast::<[u64; 2]>().write([head.address(); 2]);
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use windows_sys::Wdk::Foundation::{DRIVER_OBJECT, FILE_OBJECT};

    use super::*;

    #[test]
    fn structures_have_the_sizes_of_windows_on_x64() {
        assert_eq!(size_of::<IRP>(), 208);
        assert_eq!(size_of::<IO_STACK_LOCATION>(), 72);
        let members = [
            (LOCATION_DEVICE, offset_of!(IO_STACK_LOCATION, DeviceObject)),
            (LOCATION_FILE, offset_of!(IO_STACK_LOCATION, FileObject)),
            (LOCATION_ROUTINE, offset_of!(IO_STACK_LOCATION, CompletionRoutine)),
            (LOCATION_CONTEXT, offset_of!(IO_STACK_LOCATION, Context)),
        ];
        assert!(members.iter().all(|(word, offset)| word * size_of::<u64>() == *offset));
        assert_eq!(size_of::<DRIVER_OBJECT>(), 336);
        assert_eq!(size_of::<FILE_OBJECT>(), 216);
        assert_eq!(DEVICE_OBJECT_SIZE, 336);
    }
}
