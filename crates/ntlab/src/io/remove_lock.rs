//! Remove locks ("Using Remove Locks").

use windows_sys::{
    Wdk::System::SystemServices::IO_REMOVE_LOCK_COMMON_BLOCK,
    Win32::Foundation::{NTSTATUS, STATUS_DELETE_PENDING, STATUS_SUCCESS},
};

use super::irp::IO_MANAGER_VIOLATION;
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

/// A remove lock of a driver that was built without `DBG`: its public block, which is all there is.
pub type RemoveLock = Ptr<IO_REMOVE_LOCK_COMMON_BLOCK>;

/// Makes a remove lock (`IoInitializeRemoveLock`). A lock that was waited on must not be made again.
pub fn initialize(k: &Kernel, lock: RemoveLock, size: u32) {
    if size as usize != size_of::<IO_REMOVE_LOCK_COMMON_BLOCK>() {
        Finding::not_modelled(format!(
            "IoInitializeRemoveLockEx: a remove lock of {size} bytes, as in drivers built with DBG"
        ))
        .raise();
    }
    at!(lock, Removed).cast::<u32>().write(0);
    at!(lock, IoCount).write(1);
    k.sched.initialize_event(at!(lock, RemoveEvent), true, false);
}

fn is_removed(lock: RemoveLock) -> bool {
    at!(lock, Removed).cast::<u8>().read() != 0
}

/// Takes the lock, unless the device is being removed (`IoAcquireRemoveLock`).
pub fn acquire(k: &Kernel, lock: RemoveLock) -> NTSTATUS {
    let count = at!(lock, IoCount);
    count.write(count.read() + 1);
    if !is_removed(lock) {
        return STATUS_SUCCESS;
    }
    release(k, lock);
    STATUS_DELETE_PENDING
}

/// Gives the lock back (`IoReleaseRemoveLock`).
pub fn release(k: &Kernel, lock: RemoveLock) {
    let count = at!(lock, IoCount);
    let left = count.read() - 1;
    if left < 0 || left == 0 && !is_removed(lock) {
        Finding::bug_check(
            IO_MANAGER_VIOLATION,
            [0x200, 0, lock.address(), 0],
            "a remove lock was released more often than acquired",
        )
        .raise();
    }
    count.write(left);
    if left == 0 {
        k.sched.set_event(k, at!(lock, RemoveEvent));
    }
}

/// Gives the lock back for the last time and waits until everybody has (`IoReleaseRemoveLockAndWait`).
pub fn release_and_wait(k: &Kernel, lock: RemoveLock) {
    if is_removed(lock) {
        Finding::bug_check(
            IO_MANAGER_VIOLATION,
            [0x200, 0, lock.address(), 0],
            "IoReleaseRemoveLockAndWait was called twice for a remove lock",
        )
        .raise();
    }
    at!(lock, Removed).cast::<u8>().write(1);
    release(k, lock);
    let count = at!(lock, IoCount);
    if count.read() < 1 {
        Finding::bug_check(
            IO_MANAGER_VIOLATION,
            [0x200, 0, lock.address(), 0],
            "IoReleaseRemoveLockAndWait was called without an acquisition of its own",
        )
        .raise();
    }
    release(k, lock);
    if count.read() > 0 {
        k.sched.wait_for_event(k, at!(lock, RemoveEvent), "a remove lock");
    }
}
