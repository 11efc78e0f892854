//! One value for each processor, found by the processor's index without a lock ("Dynamic Hardware Partitioning Driver
//! Design").
//!
//! A value goes through what its processor goes through: [`PerProcessor::insert`] in AddStart, from whose end on code
//! may run on the processor; [`PerProcessor::commit`] in AddComplete; [`PerProcessor::remove`] in AddFailure.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::irql::Passive;
use crate::lock::SpinLock;
use crate::pool::{PoolArray, PoolBox, Tag};
use crate::processors::{self, AddedProcessor};
use crate::status::{NtStatus, Result};

/// A table with room for every processor that there can ever be.
pub struct PerProcessor<T: Send + Sync + 'static> {
    slots: PoolArray<Slot<T>>,
    /// Held while a value leaves the table and while all are looked at.
    walk: SpinLock<()>,
    tag: Tag,
}

/// # Invariants
///
/// `value` is null or came from `PoolBox::into_raw` with the table's tag. Once `committed` is set, neither changes any
/// more.
struct Slot<T> {
    value: AtomicPtr<T>,
    committed: AtomicBool,
    /// The value was taken out of use, but its processor runs, and code there may look at it.
    withdrawn: AtomicBool,
}

impl<T: Send + Sync + 'static> PerProcessor<T> {
    /// An empty table for the processors that there can ever be ("`KeQueryMaximumProcessorCountEx` function").
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, _: Passive<'_>) -> Result<Self> {
        let room = usize::try_from(processors::maximum_count()).unwrap_or(0);
        let slots = PoolArray::from_fn(tag, room, |_| Slot {
            value: AtomicPtr::new(ptr::null_mut()),
            committed: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
        })?;
        Ok(Self { slots, walk: SpinLock::new(()), tag })
    }

    /// How many processors it has room for.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn room(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.slots.get(usize::try_from(index).ok()?)
    }

    /// Gives the processor its value, on the NUMA node `node` where the system can; from now on
    /// [`PerProcessor::current`] finds it there.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, `INVALID_PARAMETER` where the index is beyond the table,
    /// `INVALID_DEVICE_STATE` where the processor has a value already; the value is dropped.
    pub fn insert(&self, processor: AddedProcessor, node: Option<u16>, value: T, passive: Passive<'_>) -> Result {
        let slot = self.slot(processor.index).ok_or(NtStatus::INVALID_PARAMETER)?;
        let raw = PoolBox::new_on_node(self.tag, value, node, passive)?.into_raw();
        if slot.value.compare_exchange(ptr::null_mut(), raw, Ordering::Release, Ordering::Relaxed).is_ok() {
            return Ok(());
        }
        self.reclaim(raw);
        Err(NtStatus::INVALID_DEVICE_STATE)
    }

    /// Makes the value one that others may look up by index; it stays until the table is dropped.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn commit(&self, index: u32) {
        if let Some(slot) = self.slot(index) {
            let _walk = self.walk.lock();
            let present = !slot.value.load(Ordering::Relaxed).is_null() && !slot.withdrawn.load(Ordering::Relaxed);
            slot.committed.store(present, Ordering::Release);
        }
    }

    /// Takes the value of a processor that was not added out of the table and drops it; a committed one stays.
    ///
    /// Where the processor runs all the same, because it is the registration that failed, the value is only hidden, and
    /// dropped with the table: code on that processor may be looking at it.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn remove(&self, processor: AddedProcessor, _: Passive<'_>) {
        let Some(slot) = self.slot(processor.index) else { return };
        let raw = {
            let _walk = self.walk.lock();
            if slot.committed.load(Ordering::Relaxed) {
                return;
            }
            if processors::index_of(processor.number).is_some() {
                slot.withdrawn.store(true, Ordering::Release);
                return;
            }
            slot.value.swap(ptr::null_mut(), Ordering::AcqRel)
        };
        self.reclaim(raw);
    }

    /// The value of the processor on which this is called.
    ///
    /// The value stays valid when the thread moves to another processor: one that runs has been added, and an added
    /// processor never leaves.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn current(&self) -> Option<&T> {
        let slot = self.slot(processors::current().0)?;
        let value = NonNull::new(slot.value.load(Ordering::Acquire))?;
        if slot.withdrawn.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: this processor runs, so that `remove` hides its value but keeps it; it lives as long as the table.
        Some(unsafe { value.as_ref() })
    }

    /// The value of any processor that is committed.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        let slot = self.slot(index)?;
        if !slot.committed.load(Ordering::Acquire) {
            return None;
        }
        let value = NonNull::new(slot.value.load(Ordering::Acquire))?;
        // SAFETY: a committed value stays until the table is dropped.
        Some(unsafe { value.as_ref() })
    }

    /// Whether [`PerProcessor::get`] finds the processor.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn is_committed(&self, index: u32) -> bool {
        self.slot(index).is_some_and(|slot| slot.committed.load(Ordering::Acquire))
    }

    /// Calls `visit` for the processor `index`, committed or not, if it has a value.
    ///
    /// IRQL: <= DISPATCH_LEVEL; `visit` runs at DISPATCH_LEVEL under a spin lock and must be short.
    pub fn inspect<R>(&self, index: u32, visit: impl FnOnce(&T) -> R) -> Option<R> {
        let slot = self.slot(index)?;
        if slot.value.load(Ordering::Relaxed).is_null() {
            return None;
        }
        let _walk = self.walk.lock();
        let value = NonNull::new(slot.value.load(Ordering::Acquire))?;
        if slot.withdrawn.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: values leave the table only under the lock, which is held.
        Some(visit(unsafe { value.as_ref() }))
    }

    /// Drops a value that is in the table no more.
    fn reclaim(&self, raw: *mut T) {
        if let Some(raw) = NonNull::new(raw) {
            // SAFETY: by the invariant of `Slot`; the caller has taken the only pointer to it.
            drop(unsafe { PoolBox::from_raw(self.tag, raw) });
        }
    }
}

impl<T: Send + Sync + 'static> Drop for PerProcessor<T> {
    /// IRQL: that of dropping a `T`.
    fn drop(&mut self) {
        for slot in &*self.slots {
            self.reclaim(slot.value.swap(ptr::null_mut(), Ordering::Acquire));
        }
    }
}
