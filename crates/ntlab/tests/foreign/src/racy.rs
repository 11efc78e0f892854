//! Messages without a lock: two races, one easy to find and one that needs a long delay at the right place.

use core::{array, cell::UnsafeCell, ptr};

use wdk_sys::{NTSTATUS, ntddk::KeQueryPerformanceCounter};

use crate::{Message, NO_MESSAGE};

/// How many messages back a reader of the history is safe.
const HISTORY: usize = 16;

/// What a device keeps. Requests with offset 0 are about the last message, others about the history.
pub struct Messages {
    last: UnsafeCell<Message>,
    history: [UnsafeCell<Message>; HISTORY],
    /// How many messages the history had.
    written: UnsafeCell<usize>,
}

impl Messages {
    pub fn new() -> Self {
        let nothing = || UnsafeCell::new(NO_MESSAGE);
        Self { last: nothing(), history: array::from_fn(|_| nothing()), written: UnsafeCell::new(0) }
    }

    /// Frees all messages.
    pub fn empty(&self) {
        for place in self.history.iter().chain([&self.last]) {
            // SAFETY: the device is being removed: nobody else is here.
            unsafe { place.get().replace(NO_MESSAGE) }.free();
        }
    }

    /// The first race: a writer may free the message between the look at it and the copy.
    #[expect(clippy::unnecessary_wraps, reason = "its counterpart can fail")]
    pub fn copy_to(&self, buffer: &mut [u8], offset: i64) -> Result<usize, NTSTATUS> {
        let message = if offset == 0 {
            // SAFETY: not so: a writer may be here too.
            unsafe { self.last.get().read() }
        } else {
            self.newest()
        };
        note_time();
        Ok(message.copy_to(buffer))
    }

    /// The second race: while a reader is here, as many messages may be written as the history has places.
    const fn newest(&self) -> Message {
        // SAFETY: not so: a writer may be here too.
        let written = unsafe { self.written.get().read() };
        let place = self.history[written.wrapping_sub(1) % HISTORY].get();
        // SAFETY: as above.
        unsafe { place.read() }
    }

    pub fn copy_from(&self, buffer: &mut [u8], offset: i64) -> Result<usize, NTSTATUS> {
        let message = Message::new(buffer)?;
        // SAFETY: not so: another writer may be here too.
        let written = unsafe { self.written.get().read() };
        let place = if offset == 0 { &self.last } else { &self.history[written % HISTORY] };
        // SAFETY: as above.
        let before = unsafe { place.get().replace(message) };
        if offset != 0 {
            // SAFETY: as above.
            unsafe { self.written.get().write(written + 1) };
        }
        before.free();
        Ok(buffer.len())
    }
}

/// A kernel call.
fn note_time() {
    // SAFETY: the frequency is not asked for.
    let _ = unsafe { KeQueryPerformanceCounter(ptr::null_mut()) };
}
