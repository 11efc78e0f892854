//! The buffer pool, sized from physical memory, and the look at how much of that there is.

use core::sync::atomic::{AtomicU64, Ordering};

use hotadd_abi::{Event, EventKind};
use hotadd_policy::pool::{BUFFER_BYTES, buffers};
use wdm::irql::Passive;
use wdm::lock::SpinLock;
use wdm::memory;
use wdm::pool::{PoolArc, PoolArray, PoolBox};
use wdm::status::Result;

use crate::TAG;
use crate::journal::Journal;
use crate::requests::Buffer;

/// Lists among which free buffers are spread, so that processors seldom meet at one.
const SHARDS: usize = 16;

/// Free buffers for transfers.
pub struct BufferPool {
    shards: PoolArray<Shard>,
    /// How many there are, free or in use.
    total: AtomicU64,
    /// How many it keeps at most, where so many were needed at a time.
    most: u64,
}

/// A list on a cache line of its own.
#[repr(align(64))]
struct Shard(SpinLock<List>);

/// A list of buffers, linked through themselves.
#[derive(Default)]
struct List(Option<PoolBox<Buffer>>);

impl List {
    fn push(&mut self, mut buffer: PoolBox<Buffer>) {
        buffer.next = self.0.take();
        self.0 = Some(buffer);
    }

    fn pop(&mut self) -> Option<PoolBox<Buffer>> {
        let mut buffer = self.0.take()?;
        self.0 = buffer.next.take();
        Some(buffer)
    }
}

impl Drop for List {
    /// One by one: dropping the first alone would nest as deep as the list is long.
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl BufferPool {
    /// A pool without buffers.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    fn new(most: u64) -> Result<Self> {
        let shards = PoolArray::from_fn(TAG, SHARDS, |_| Shard(SpinLock::new(List::default())))?;
        Ok(Self { shards, total: AtomicU64::new(0), most })
    }

    /// The shards, beginning with the one for `list`.
    fn shards_from(&self, list: u32) -> impl Iterator<Item = &Shard> {
        let start = list as usize % SHARDS;
        self.shards.iter().cycle().skip(start).take(SHARDS)
    }

    /// A buffer from the pool, or beyond it where the pool is empty. Who often takes and gives back on one processor names the same
    /// `list`, any number, and meets nobody there.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where the pool is empty and there is no memory.
    pub fn take(&self, list: u32) -> Result<PoolBox<Buffer>> {
        let free = self.shards_from(list).find_map(|shard| shard.0.lock().pop());
        free.map_or_else(|| self.add(), Ok)
    }

    fn add(&self) -> Result<PoolBox<Buffer>> {
        let buffer = Buffer::new()?;
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(buffer)
    }

    /// Gives a buffer back. It stays, so that as many at a time need no memory again, up to the most that the pool may have.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn put(&self, buffer: PoolBox<Buffer>, list: u32) {
        if self.total.load(Ordering::Relaxed) > self.most {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if let Some(shard) = self.shards.get(list as usize % SHARDS) {
            shard.0.lock().push(buffer);
        }
    }

    /// Makes the pool `wanted` buffers large, if it is smaller.
    ///
    /// IRQL: PASSIVE_LEVEL, because it takes long.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory; what could be had stays.
    fn grow(&self, wanted: u64, _: Passive<'_>) -> Result {
        // Counted first, so that two who grow the pool at once do not go beyond.
        let count_one = |total: u64| (total < wanted).then(|| total.saturating_add(1));
        for shard in self.shards.iter().cycle() {
            if self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_one).is_err() {
                break;
            }
            let buffer = Buffer::new().inspect_err(|_| {
                self.total.fetch_sub(1, Ordering::Relaxed);
            })?;
            shard.0.lock().push(buffer);
        }
        Ok(())
    }

    /// How many bytes the buffers have.
    pub fn bytes(&self) -> u64 {
        // Cannot overflow: so many bytes there are.
        self.total.load(Ordering::Relaxed).wrapping_mul(BUFFER_BYTES)
    }
}

/// What is known of physical memory, and the pool that follows it.
pub struct Memory {
    pub pool: PoolArc<BufferPool>,
    /// The most bytes the pool takes.
    most: u64,
    physical_at_load: u64,
    pool_at_load: u64,
    physical: AtomicU64,
}

impl Memory {
    /// Looks at physical memory and makes the pool for it.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, or what the look failed with.
    pub fn new(most: u64, passive: Passive<'_>) -> Result<Self> {
        let physical = memory::physical_bytes(passive)?;
        let pool = PoolArc::new(TAG, BufferPool::new(buffers(u64::MAX, most))?)?;
        pool.grow(buffers(physical, most), passive)?;
        let pool_at_load = pool.bytes();
        Ok(Self { pool, most, physical_at_load: physical, pool_at_load, physical: AtomicU64::new(physical) })
    }

    /// Physical memory in bytes, when loaded and at the last look.
    pub fn physical(&self) -> (u64, u64) {
        (self.physical_at_load, self.physical.load(Ordering::Relaxed))
    }

    /// The pool's bytes, when loaded and now.
    pub fn pool_bytes(&self) -> (u64, u64) {
        (self.pool_at_load, self.pool.bytes())
    }

    /// Whether there is more physical memory than at the last look.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn has_grown(&self, passive: Passive<'_>) -> bool {
        memory::physical_bytes(passive).is_ok_and(|physical| physical > self.physical.load(Ordering::Relaxed))
    }

    /// Looks at physical memory again; where there is more, the pool grows. However often it is called for one
    /// addition, it does that once.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn refresh(&self, journal: &Journal, passive: Passive<'_>) {
        // Where the look fails, what was known stays, and the next notification looks again.
        let Ok(physical) = memory::physical_bytes(passive) else { return };
        let before = self.physical.fetch_max(physical, Ordering::Relaxed);
        if physical > before {
            journal.record(EventKind::MemoryGrew, Event { before, count: physical, ..Event::default() });
        }
        let bytes = self.pool.bytes();
        // Also where memory is as it was: what could not be had last time may be there now.
        let grown = self.pool.grow(buffers(physical.max(before), self.most), passive);
        let event = Event { before: bytes, count: self.pool.bytes(), ..Event::default() };
        if event.count > bytes {
            journal.record(EventKind::PoolGrew, event);
        }
        if let Err(status) = grown {
            journal.record(EventKind::PoolGrowthFailed, Event { status: status.raw(), ..event });
        }
    }
}
