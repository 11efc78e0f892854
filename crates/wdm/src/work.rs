//! Work items ("System Worker Threads").

use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use wdk_sys::{_IO_WORKITEM, _WORK_QUEUE_TYPE, PDEVICE_OBJECT, PIO_WORKITEM, PVOID, ntddk};

use crate::device::{Device, Function, NewDevice};
use crate::driver::DriverObject;
use crate::event::{Event, EventKind};
use crate::irql::Passive;
use crate::pool::{PoolBox, Tag};
use crate::status::{NtStatus, Result};

/// What a work item does.
pub trait WorkRoutine: Send + Sync + 'static {
    /// Runs at least once after each time that it was queued, in a system thread. IRQL: PASSIVE_LEVEL.
    fn run(&self, passive: Passive<'_>);
}

/// What a work item belongs to: it is kept in memory, with the driver's code, while the item is queued or runs.
pub trait WorkOwner: sealed::Sealed {}

mod sealed {
    use super::PDEVICE_OBJECT;

    pub trait Sealed {
        fn io_object(&self) -> PDEVICE_OBJECT;
    }
}

impl WorkOwner for DriverObject {}
impl<F: Function> WorkOwner for Device<F> {}
impl<F: Function> WorkOwner for NewDevice<F> {}

impl sealed::Sealed for DriverObject {
    fn io_object(&self) -> PDEVICE_OBJECT {
        // IoAllocateWorkItem takes either kind of object.
        self.as_ptr().cast()
    }
}

impl<F: Function> sealed::Sealed for Device<F> {
    fn io_object(&self) -> PDEVICE_OBJECT {
        self.as_ptr()
    }
}

impl<F: Function> sealed::Sealed for NewDevice<F> {
    fn io_object(&self) -> PDEVICE_OBJECT {
        self.as_ptr()
    }
}

/// A work item and what it works on. Dropping it waits until the routine runs nowhere, so not from the routine itself.
pub struct WorkItem<C: WorkRoutine> {
    block: PoolBox<Block<C>>,
}

struct Block<C> {
    item: NonNull<_IO_WORKITEM>,
    /// Set from being queued until the routine starts.
    queued: AtomicBool,
    /// One for each time that the item is queued or runs, and one for the owner.
    users: AtomicU32,
    /// Set by whoever ends as the last user, after the owner.
    unused: Event,
    context: C,
}

// SAFETY: the kernel's work item may be queued by any thread.
unsafe impl<C: Send> Send for Block<C> {}
// SAFETY: as above.
unsafe impl<C: Sync> Sync for Block<C> {}

impl<C: WorkRoutine> WorkItem<C> {
    /// A work item that is not queued ("`IoAllocateWorkItem` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, owner: &impl WorkOwner, context: C) -> Result<Self> {
        // SAFETY: the owner is a live driver or device object of ours.
        let item = unsafe { ntddk::IoAllocateWorkItem(owner.io_object()) };
        let item = NonNull::new(item).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        let block = Event::new(tag, EventKind::Notification, false).and_then(|unused| {
            PoolBox::new(tag, Block { item, queued: AtomicBool::new(false), users: AtomicU32::new(1), unused, context })
        });
        Ok(Self { block: block.inspect_err(|_| free(item))? })
    }

    /// Queues it; says whether it was not queued before ("`IoQueueWorkItemEx` function"). Where it was, it runs once
    /// for both. While it runs it can be queued again, and may then run twice at a time.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn queue(&self) -> bool {
        if self.block.queued.swap(true, Ordering::AcqRel) {
            return false;
        }
        // Cannot overflow: there are as many as runs at a time, and the owner.
        self.block.users.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the item is not queued, and lives with its context until the routine has run.
        unsafe {
            ntddk::IoQueueWorkItemEx(
                self.block.item.as_ptr(),
                Some(work::<C>),
                _WORK_QUEUE_TYPE::DelayedWorkQueue,
                self.block.as_ptr().cast(),
            );
        }
        true
    }
}

impl<C: WorkRoutine> Deref for WorkItem<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.block.context
    }
}

impl<C: WorkRoutine> Drop for WorkItem<C> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        if self.block.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            // SAFETY: PASSIVE_LEVEL by contract.
            self.block.unused.wait(unsafe { Passive::assume() });
        }
        free(self.block.item);
    }
}

fn free(item: NonNull<_IO_WORKITEM>) {
    // SAFETY: the item was allocated by us, is not queued and not used again.
    unsafe { ntddk::IoFreeWorkItem(item.as_ptr()) };
}

/// IRQL: PASSIVE_LEVEL.
unsafe extern "C" fn work<C: WorkRoutine>(_: PVOID, context: PVOID, _: PIO_WORKITEM) {
    // SAFETY: the block that `queue` passed; it lives until this run is no user any more.
    let block = unsafe { &*context.cast::<Block<C>>() };
    block.queued.store(false, Ordering::Release);
    // SAFETY: system worker threads run at PASSIVE_LEVEL.
    block.context.run(unsafe { Passive::assume() });
    // The owner waits for the event once it has found that it is not the last. The block may be gone as soon as that is over.
    if block.users.fetch_sub(1, Ordering::AcqRel) == 1 {
        block.unused.set();
    }
}
