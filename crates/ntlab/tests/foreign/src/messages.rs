//! The last message, under a spin lock.

use core::{cell::UnsafeCell, mem};

use wdk_sys::{
    KSPIN_LOCK, NTSTATUS,
    ntddk::{KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock},
};

use crate::{Message, NO_MESSAGE};

/// What a device keeps.
pub struct Messages {
    lock: UnsafeCell<KSPIN_LOCK>,
    /// Guarded by `lock`.
    last: UnsafeCell<Message>,
}

impl Messages {
    pub const fn new() -> Self {
        Self { lock: UnsafeCell::new(0), last: UnsafeCell::new(NO_MESSAGE) }
    }

    /// Exchanges the message.
    fn exchange(&self, use_it: impl FnOnce(&mut Message)) {
        // SAFETY: the lock lies in the extension; zero is a lock that is free.
        let level = unsafe { KeAcquireSpinLockRaiseToDpc(self.lock.get()) };
        // SAFETY: the lock is held until below.
        use_it(unsafe { &mut *self.last.get() });
        // SAFETY: taken above.
        unsafe { KeReleaseSpinLock(self.lock.get(), level) };
    }

    /// Frees the message.
    pub fn empty(&self) {
        let mut last = NO_MESSAGE;
        self.exchange(|message| last = mem::replace(message, NO_MESSAGE));
        last.free();
    }

    /// Copies the message to a buffer; how much of it.
    #[expect(clippy::unnecessary_wraps, reason = "its counterpart can fail")]
    pub fn copy_to(&self, buffer: &mut [u8], _offset: i64) -> Result<usize, NTSTATUS> {
        let mut copied = 0;
        self.exchange(|message| copied = message.copy_to(buffer));
        Ok(copied)
    }

    /// Makes a message of a buffer's contents.
    pub fn copy_from(&self, buffer: &mut [u8], _offset: i64) -> Result<usize, NTSTATUS> {
        let mut last = Message::new(buffer)?;
        self.exchange(|message| mem::swap(message, &mut last));
        last.free();
        Ok(buffer.len())
    }
}
