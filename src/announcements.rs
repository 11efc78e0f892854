//! Processors that were announced to the driver, until the journal has taken note of it.
//!
//! The processor change callback must be quick: it leaves a word here, without a lock and without a call of the kernel. Whoever uses the
//! journal next, the work item that the callback queues at the latest, makes an event of it.

use core::sync::atomic::{AtomicU64, Ordering};

use hotadd_abi::{Event, EventKind};
use wdm::pool::PoolArray;
use wdm::processors::{AddedProcessor, ProcessorNumber};
use wdm::status::Result;

use crate::TAG;

/// How many there is room for: a burst of 64 processors, twice, with AddStart and AddComplete.
const ROOM: usize = 256;

/// What was announced.
#[derive(Clone, Copy)]
pub struct Announced {
    pub kind: EventKind,
    pub processor: AddedProcessor,
    /// How many processors the driver knew then.
    pub known: u32,
}

impl Announced {
    /// The event, without its number and time.
    pub fn event(&self) -> Event {
        Event {
            kind: self.kind.code(),
            processor: self.processor.index,
            group: self.processor.number.group.into(),
            number: self.processor.number.number.into(),
            count: self.known.into(),
            ..Event::default()
        }
    }

    /// As one word, not zero; none where a number is larger than any system has.
    fn pack(&self) -> Option<u64> {
        let index = u16::try_from(self.processor.index).ok()?;
        let known = u16::try_from(self.known).ok()?;
        let kind = u8::try_from(self.kind.code()).ok()?;
        let group = u8::try_from(self.processor.number.group).ok()?;
        let [known_low, known_high] = known.to_le_bytes();
        let [index_low, index_high] = index.to_le_bytes();
        let number = self.processor.number.number;
        Some(u64::from_le_bytes([kind, group, number, known_low, known_high, index_low, index_high, 1]))
    }

    fn unpack(word: u64) -> Option<Self> {
        let [kind, group, number, known_low, known_high, index_low, index_high, _] = word.to_le_bytes();
        let index = u16::from_le_bytes([index_low, index_high]).into();
        let known = u16::from_le_bytes([known_low, known_high]).into();
        let number = ProcessorNumber { group: group.into(), number };
        Some(Self { kind: EventKind::from_code(kind.into())?, processor: AddedProcessor { index, number }, known })
    }
}

/// The words, in order.
pub struct Announcements {
    /// Zero where there is none.
    words: PoolArray<AtomicU64>,
    /// How many were left, and how many were taken, ever.
    left: AtomicU64,
    taken: AtomicU64,
}

impl Announcements {
    /// None yet.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new() -> Result<Self> {
        let words = PoolArray::from_fn(TAG, ROOM, |_| AtomicU64::new(0))?;
        Ok(Self { words, left: AtomicU64::new(0), taken: AtomicU64::new(0) })
    }

    fn word(&self, number: u64) -> Option<&AtomicU64> {
        let length = u64::try_from(self.words.len()).ok()?;
        self.words.get(usize::try_from(number.checked_rem(length)?).ok()?)
    }

    /// Leaves one; says whether there was room.
    ///
    /// IRQL: any.
    pub fn leave(&self, announced: Announced) -> bool {
        let Some(word) = announced.pack() else { return false };
        let taken = self.taken.load(Ordering::Acquire);
        let next = |left: u64| (left.wrapping_sub(taken) < ROOM as u64).then(|| left.wrapping_add(1));
        let Ok(number) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) else { return false };
        let Some(place) = self.word(number) else { return false };
        place.store(word, Ordering::Release);
        true
    }

    /// Whether there is none at this moment.
    ///
    /// IRQL: any.
    pub fn is_empty(&self) -> bool {
        self.left.load(Ordering::Acquire) == self.taken.load(Ordering::Relaxed)
    }

    /// Takes the first. One taker at a time.
    ///
    /// IRQL: any.
    pub fn take(&self) -> Option<Announced> {
        let number = self.taken.load(Ordering::Relaxed);
        let place = self.word(number)?;
        if place.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let announced = Announced::unpack(place.swap(0, Ordering::Acquire));
        self.taken.store(number.wrapping_add(1), Ordering::Release);
        announced
    }
}
