//! One value for each processor, found by the processor's index without a lock ("Dynamic Hardware Partitioning Driver
//! Design").
//!
//! A value goes through what its processor goes through: [`PerProcessor::insert`] in AddStart, from whose end on code
//! may run on the processor; [`PerProcessor::commit`] in AddComplete; [`PerProcessor::remove`] in AddFailure.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::irql::{Dispatch, Passive};
use crate::lock::SpinLock;
use crate::pool::{PoolArray, PoolBox, Tag};
use crate::processors::{self, AddedProcessor};
use crate::status::{NtStatus, Result};

/// A table with room for every processor that there can ever be.
pub struct PerProcessor<T: Send + Sync + 'static> {
    slots: PoolArray<Slot<T>>,
    /// The index after the highest that has ever had a value.
    end: AtomicUsize,
    /// Held while a value leaves the table and while all are looked at.
    walk: SpinLock<()>,
    tag: Tag,
}

/// Where a value is and what may be done with it, in one word: pool blocks are aligned, so that the low bits are free for the state.
///
/// # Invariants
///
/// The pointer is null or came from `PoolBox::into_raw` with the table's tag. Unless the state is [`ADDED`], neither changes any more.
struct Slot<T>(AtomicPtr<T>);

/// Only its processor may look the value up. Without a state, others may too: to them the word is the pointer as it is.
const ADDED: usize = 1;
/// The value was taken out of use, but its processor runs, and code there may look at it.
const WITHDRAWN: usize = 2;
const STATE: usize = ADDED | WITHDRAWN;

impl<T> Slot<T> {
    const fn empty() -> Self {
        const { assert!(align_of::<T>() > STATE, "the low bits of a pointer are free") };
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Puts a value in that only its processor looks up; says whether the slot was empty.
    fn put(&self, value: *mut T) -> bool {
        let word = value.map_addr(|address| address | ADDED);
        self.0.compare_exchange(ptr::null_mut(), word, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// The value, unless it was withdrawn.
    fn load(&self) -> Option<NonNull<T>> {
        let word = self.0.load(Ordering::Acquire);
        if word.addr() & WITHDRAWN != 0 {
            return None;
        }
        NonNull::new(word.map_addr(|address| address & !STATE))
    }

    /// The value, if it is committed.
    #[inline]
    fn committed(&self) -> Option<&T> {
        let word = self.0.load(Ordering::Acquire);
        if word.addr() & STATE != 0 {
            return None;
        }
        // SAFETY: a committed value stays until the table is dropped, which has the slot; without a state the word is null or its address.
        unsafe { word.as_ref() }
    }

    /// Gives a value that was only added this state, or none; says whether there was one.
    fn mark(&self, state: usize) -> bool {
        self.change_added(|word| word.map_addr(|address| address & !STATE | state)).is_ok()
    }

    /// Takes out a value that was only added.
    fn take(&self) -> *mut T {
        let word = self.change_added(|_| ptr::null_mut()).unwrap_or(ptr::null_mut());
        word.map_addr(|address| address & !STATE)
    }

    /// Changes the word of a value that was only added; returns what it was.
    fn change_added(&self, change: impl Fn(*mut T) -> *mut T) -> core::result::Result<*mut T, *mut T> {
        let change_if = |word: *mut T| (word.addr() & STATE == ADDED).then(|| change(word));
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, change_if)
    }
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
        let slots = PoolArray::from_fn(tag, room, |_| Slot::empty())?;
        Ok(Self { slots, end: AtomicUsize::new(0), walk: SpinLock::new(()), tag })
    }

    /// How many processors it has room for.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn room(&self) -> usize {
        self.slots.len()
    }

    /// The index after the highest that has ever had a value.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn end(&self) -> usize {
        self.end.load(Ordering::Relaxed)
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.slots.get(usize::try_from(index).ok()?)
    }

    /// Gives the processor its value; from now on [`PerProcessor::current`] finds it there. Takes one call of the kernel, for the memory.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, `INVALID_PARAMETER` where the index is beyond the table,
    /// `INVALID_DEVICE_STATE` where the processor has a value already; the value is dropped.
    pub fn insert(&self, processor: AddedProcessor, value: T, _: Passive<'_>) -> Result {
        let slot = self.slot(processor.index).ok_or(NtStatus::INVALID_PARAMETER)?;
        let raw = PoolBox::new(self.tag, value)?.into_raw();
        self.end.fetch_max((processor.index as usize).saturating_add(1), Ordering::Relaxed);
        if slot.put(raw) {
            return Ok(());
        }
        self.reclaim(raw);
        Err(NtStatus::INVALID_DEVICE_STATE)
    }

    /// Makes the value one that others may look up by index; it stays until the table is dropped. Says whether there is one.
    ///
    /// IRQL: any.
    pub fn commit(&self, index: u32) -> bool {
        self.slot(index).is_some_and(|slot| slot.mark(0))
    }

    /// Takes the value of a processor that was not added out of the table and drops it; a committed one stays.
    ///
    /// Where the processor runs all the same, because it is the registration that failed, the value is only hidden, and
    /// dropped with the table: code on that processor may be looking at it.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn remove(&self, processor: AddedProcessor, _: Passive<'_>) {
        let Some(slot) = self.slot(processor.index) else { return };
        if processors::index_of(processor.number).is_some() {
            slot.mark(WITHDRAWN);
            return;
        }
        let raw = {
            let _walk = self.walk.lock();
            slot.take()
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
        let value = self.slot(processors::current())?.load()?;
        // SAFETY: this processor runs, so that `remove` hides its value but keeps it; it lives as long as the table.
        Some(unsafe { value.as_ref() })
    }

    /// The value of any processor that is committed.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.slot(index)?.committed()
    }

    /// The values of all processors that are committed, with their indexes.
    ///
    /// IRQL: any.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> + Clone {
        let used = self.slots.get(..self.end()).unwrap_or(&self.slots);
        (0_u32..).zip(used).filter_map(|(index, slot)| Some((index, slot.committed()?)))
    }

    /// Whether [`PerProcessor::get`] finds the processor.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn is_committed(&self, index: u32) -> bool {
        self.get(index).is_some()
    }

    /// Calls `visit` for the processor `index`, committed or not, if it has a value.
    ///
    /// IRQL: <= DISPATCH_LEVEL; `visit` runs at DISPATCH_LEVEL under a spin lock and must be short.
    pub fn inspect<R>(&self, index: u32, visit: impl FnOnce(&T) -> R) -> Option<R> {
        let slot = self.slot(index)?;
        slot.load()?;
        let _walk = self.walk.lock();
        let value = slot.load()?;
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
            let word = slot.0.swap(ptr::null_mut(), Ordering::Acquire);
            self.reclaim(word.map_addr(|address| address & !STATE));
        }
    }
}

/// How many processors get their value of an [`OnDemand`] together.
const TOGETHER: usize = 64;

/// A value for each processor, made with those of its neighbours when one is first needed. They stay until the table is dropped.
pub struct OnDemand<T: Send + Sync + 'static> {
    /// Null, or from `PoolArray::into_raw` of [`TOGETHER`] values with the tag.
    chunks: PoolArray<AtomicPtr<T>>,
    tag: Tag,
}

impl<T: Default + Send + Sync + 'static> OnDemand<T> {
    /// An empty table with room for `room` processors.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, room: usize) -> Result<Self> {
        let chunks = PoolArray::from_fn(tag, room.div_ceil(TOGETHER), |_| AtomicPtr::new(ptr::null_mut()))?;
        Ok(Self { chunks, tag })
    }

    /// The value of the processor `index`; none where there is no memory for it.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = usize::try_from(index).ok()?;
        let chunk = self.chunks.get(index / TOGETHER)?;
        let first = NonNull::new(chunk.load(Ordering::Acquire)).or_else(|| self.make(chunk))?;
        // SAFETY: the remainder is below the number of values in the chunk.
        let value = unsafe { first.add(index % TOGETHER) };
        // SAFETY: a value stays until the table is dropped.
        Some(unsafe { value.as_ref() })
    }

    #[cold]
    fn make(&self, chunk: &AtomicPtr<T>) -> Option<NonNull<T>> {
        let new = PoolArray::from_fn(self.tag, TOGETHER, |_| T::default()).ok()?.into_raw();
        match chunk.compare_exchange(ptr::null_mut(), new.as_ptr(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(new),
            Err(other) => {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { PoolArray::from_raw(self.tag, new, TOGETHER) });
                NonNull::new(other)
            }
        }
    }

    /// The values there are, in groups of neighbours, each with the index of its first.
    ///
    /// IRQL: any.
    pub fn groups(&self) -> impl Iterator<Item = (usize, &[T])> {
        self.chunks.iter().enumerate().filter_map(|(position, chunk)| {
            let first = NonNull::new(chunk.load(Ordering::Acquire))?;
            // SAFETY: so many values are there, and stay until the table is dropped.
            Some((position.wrapping_mul(TOGETHER), unsafe { NonNull::slice_from_raw_parts(first, TOGETHER).as_ref() }))
        })
    }
}

impl<T: Send + Sync + 'static> Drop for OnDemand<T> {
    /// IRQL: that of dropping a `T`.
    fn drop(&mut self) {
        for chunk in &*self.chunks {
            if let Some(first) = NonNull::new(chunk.swap(ptr::null_mut(), Ordering::Acquire)) {
                // SAFETY: by what `chunks` says; the table is gone.
                drop(unsafe { PoolArray::from_raw(self.tag, first, TOGETHER) });
            }
        }
    }
}

/// A count that one processor adds to without an atomic operation, and others seldom.
#[derive(Default)]
pub struct LocalCount {
    here: AtomicU64,
    elsewhere: AtomicU64,
}

impl LocalCount {
    /// Adds one, on the processor that the count belongs to. On another, the sum would lack what was counted at the same time.
    ///
    /// IRQL: DISPATCH_LEVEL.
    pub fn add_here(&self, _: Dispatch<'_>) {
        // At DISPATCH_LEVEL nothing else that adds here comes between the two.
        self.here.store(self.here.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Adds one, anywhere.
    ///
    /// IRQL: any.
    pub fn add(&self) {
        self.elsewhere.fetch_add(1, Ordering::Relaxed);
    }

    /// How many that are.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.here.load(Ordering::Relaxed).wrapping_add(self.elsewhere.load(Ordering::Relaxed))
    }
}
