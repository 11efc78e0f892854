//! Buffers of requests: system buffers of the I/O manager, buffers of user processes, locked ones too.
//!
//! They end at a page that faults, and are kept by length, so that a request in a steady state allocates nothing.

use std::cell::{Cell, RefCell};

use super::irp::IO_MANAGER_VIOLATION;
use crate::{
    config::Checks,
    finding::Finding,
    kernel::Kernel,
    memory::{Arena, PAGE, PageKind, Ptr, unwritten::SYSTEM_BUFFER},
};

/// What fresh buffers of user processes hold: nothing a driver could rely on.
const FRESH: u8 = 0xC5;
/// What buffers hold that no request has any more, and the bytes between a buffer and the page that faults.
const STALE: u8 = 0xD5;
/// Buffers start at multiples of this.
const ALIGNMENT: usize = 16;
/// The length of the user's memory that drivers are not told of.
const NOT_FOR_DRIVERS: u64 = 1 << 20;
/// As many bytes before a buffer are looked at when it is given back.
const BEFORE: usize = 64;

/// Whose memory a buffer is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// As long as the rest of a buffer's words: buffers are copied at every request, and padding is copied in pieces.
#[repr(u64)]
pub enum Place {
    /// The system's: `IRP.AssociatedIrp.SystemBuffer`.
    System,
    /// A user process's, locked and described by an MDL: at the address that the system has it mapped at.
    Locked,
    /// A user process's, at the user's address.
    User,
}

impl Place {
    const fn arena(self) -> (Arena, PageKind) {
        match self {
            Self::System => (Arena::Pool, PageKind::NonPagedPool),
            Self::Locked => (Arena::Pool, PageKind::User),
            Self::User => (Arena::User, PageKind::User),
        }
    }
}

/// A buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Its first byte.
    pub start: Ptr<u8>,
    /// Its length.
    pub length: usize,
    place: Place,
}

impl Buffer {
    /// The bytes between it and the page that faults.
    const fn behind(self) -> Self {
        let length = self.length.next_multiple_of(ALIGNMENT) - self.length;
        Self { start: self.start.offset(self.length), length, ..self }
    }

    /// Bytes before it, in its page.
    fn before(self) -> Self {
        let length = BEFORE.min((self.start.address() % PAGE) as usize);
        Self { start: Ptr::new(self.start.address() - length as u64), length, ..self }
    }
}

#[derive(Debug)]
struct Kept {
    place: Place,
    length: usize,
    buffers: Vec<Buffer>,
}

/// Buffers that no request has. A driver that writes to one all the same is found when it is used again.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    kept: RefCell<Vec<Kept>>,
    /// 0 until it is needed.
    not_for_drivers: Cell<u64>,
}

/// A buffer that starts with `data`.
pub fn take(k: &Kernel, place: Place, length: usize, data: &[u8]) -> Buffer {
    let kept =
        k.io.buffers
            .kept
            .borrow_mut()
            .iter_mut()
            .find(|kept| kept.place == place && kept.length == length)
            .and_then(|kept| kept.buffers.pop());
    if let Some(buffer) = &kept {
        reveal(k, buffer);
    }
    if let Some(buffer) = &kept
        && k.config.checks >= Checks::Traces
    {
        check_stale(k, buffer, "a driver wrote to the buffer of a request after it had completed it");
    }
    let buffer = kept.unwrap_or_else(|| make(k, place, length));
    match place {
        Place::System if k.config.checks < Checks::Traces => {}
        Place::System => k.memory.fill_unwritten(buffer.start, length, SYSTEM_BUFFER),
        Place::User | Place::Locked => buffer.start.fill(length, FRESH),
    }
    buffer.start.write_bytes(data);
    hide(k, &buffer);
    buffer
}

/// Keeps drivers from a buffer at a user's address until they probe it.
fn hide(k: &Kernel, buffer: &Buffer) {
    set_user_pages(k, buffer, PageKind::UserUnprobed);
}

/// Lets the lab itself use a buffer at a user's address again: drivers are done with it.
pub fn reveal(k: &Kernel, buffer: &Buffer) {
    set_user_pages(k, buffer, PageKind::User);
}

fn set_user_pages(k: &Kernel, buffer: &Buffer, kind: PageKind) {
    if buffer.place == Place::User {
        set_pages(k, buffer, kind);
    }
}

/// Says whether the pages of a buffer are locked for reading only.
pub fn set_read_only(k: &Kernel, buffer: &Buffer, read_only: bool) {
    set_pages(k, buffer, if read_only { PageKind::LockedReadOnly } else { PageKind::User });
}

fn set_pages(k: &Kernel, buffer: &Buffer, kind: PageKind) {
    let start = buffer.start.address() / PAGE * PAGE;
    let length = (buffer.length as u64).next_multiple_of(PAGE);
    k.memory.space.protect(start, length, kind);
}

/// A user's address that drivers are not told of to use: where the I/O manager copies for them.
pub fn not_for_drivers(k: &Kernel) -> u64 {
    let place = &k.io.buffers.not_for_drivers;
    if place.get() == 0 {
        let start = k.memory.space.take(Arena::User, NOT_FOR_DRIVERS);
        k.memory.space.mark(start, NOT_FOR_DRIVERS, PageKind::UserUnprobed);
        place.set(start);
    }
    place.get()
}

fn make(k: &Kernel, place: Place, length: usize) -> Buffer {
    let pages = (length as u64).next_multiple_of(PAGE);
    let (arena, kind) = place.arena();
    let first = k.memory.space.take(arena, pages + PAGE);
    k.memory.space.open(first, pages, kind);
    if place != Place::User {
        k.memory.space.mark(first + pages, PAGE, PageKind::BufferGuard);
    }
    let start = first + pages - length.next_multiple_of(ALIGNMENT) as u64;
    let buffer = Buffer { start: Ptr::new(start), length, place };
    for part in [buffer, buffer.behind(), buffer.before()] {
        part.start.fill(part.length, STALE);
    }
    buffer
}

/// Ends a buffer: from now on its pages fault.
pub fn retire(k: &Kernel, buffer: Buffer) {
    check_around(k, &buffer);
    let pages = (buffer.length as u64).next_multiple_of(PAGE);
    let first = buffer.start.address() / PAGE * PAGE;
    k.memory.space.close(first, pages, PageKind::PacketFreed);
    k.memory.physical.forget(first, pages);
    k.memory.space.give_back(buffer.place.arena().0, first, pages + PAGE);
}

fn check_around(k: &Kernel, buffer: &Buffer) {
    if k.config.checks < Checks::Traces {
        return;
    }
    check_stale(k, &buffer.behind(), "a driver wrote beyond the end of the buffer of a request");
    check_stale(k, &buffer.before(), "a driver wrote before the start of the buffer of a request");
}

/// Gives a buffer back.
pub fn give_back(k: &Kernel, buffer: Buffer) {
    check_around(k, &buffer);
    if k.config.checks >= Checks::Traces {
        buffer.start.fill(buffer.length, STALE);
    }
    hide(k, &buffer);
    let mut all = k.io.buffers.kept.borrow_mut();
    let same = |kept: &&mut Kept| kept.place == buffer.place && kept.length == buffer.length;
    if let Some(kept) = all.iter_mut().find(same) {
        kept.buffers.push(buffer);
    } else {
        all.push(Kept { place: buffer.place, length: buffer.length, buffers: vec![buffer] });
    }
}

/// Stops the run with `sentence` unless the bytes are as nobody may have changed them.
fn check_stale(k: &Kernel, buffer: &Buffer, sentence: &str) {
    if k.memory.space.first_other(buffer.start.address(), buffer.length as u64, STALE).is_some() {
        let parameters = [0x200, 0, buffer.start.address(), buffer.length as u64];
        Finding::bug_check(IO_MANAGER_VIOLATION, parameters, sentence).raise();
    }
}
