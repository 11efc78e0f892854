//! Which processor takes which request: the plan of [`hotadd_policy::steering`], kept so that everybody reads it
//! without a lock.
//!
//! There are two rows. One is read; a new plan is written to the other, which then becomes the one that is read, in one
//! store. Both were allocated for all the processors that there can ever be, so a new plan cannot fail. Somebody who
//! still reads the old row while the plan after the next is written to it picks a processor from either: every word in
//! it is a processor that work may be steered to.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hotadd_policy::steering::{Processor, Seat, arrange};
use wdm::lock::SpinLock;
use wdm::pool::PoolArray;
use wdm::status::Result;

use crate::TAG;

/// The plan.
pub struct Steering {
    rows: [Row; 2],
    /// How many sit in the row that is read, and which row that is, in the lowest bit.
    live: AtomicU32,
    /// Held by whoever writes a plan.
    writer: SpinLock<()>,
}

struct Row {
    /// The processor at each position.
    order: PoolArray<AtomicU32>,
    /// The packed [`Seat`] of each processor, by its index; zero where it has none.
    seats: PoolArray<AtomicU64>,
}

impl Row {
    fn new(room: usize) -> Result<Self> {
        Ok(Self {
            order: PoolArray::from_fn(TAG, room, |_| AtomicU32::new(0))?,
            seats: PoolArray::from_fn(TAG, room, |_| AtomicU64::new(0))?,
        })
    }

    fn set(&self, processor: Processor, seat: Seat) {
        if let Some(place) = self.order.get(usize::from(seat.position)) {
            place.store(processor.index, Ordering::Relaxed);
        }
        if let Some(place) = self.seats.get(processor.index as usize) {
            place.store(seat.pack(), Ordering::Relaxed);
        }
    }

    fn seat(&self, index: u32) -> Option<Seat> {
        Seat::unpack(self.seats.get(index as usize)?.load(Ordering::Relaxed))
    }
}

impl Steering {
    /// A plan without processors, with room for `room`.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(room: usize) -> Result<Self> {
        Ok(Self { rows: [Row::new(room)?, Row::new(room)?], live: AtomicU32::new(0), writer: SpinLock::new(()) })
    }

    const fn row(&self, live: u32) -> &Row {
        let [even, odd] = &self.rows;
        if live & 1 == 0 { even } else { odd }
    }

    /// The processor for a request of the processor `requester`: one of its node that is `free`, itself first, else the one whose `turn`
    /// it is among all; `None` while there is no plan.
    ///
    /// IRQL: any.
    pub fn pick(&self, requester: u32, free: impl Fn(u32) -> bool, turn: impl FnOnce() -> u32) -> Option<u32> {
        let live = self.live.load(Ordering::Acquire);
        let row = self.row(live);
        let count = u16::try_from(live >> 1).unwrap_or(u16::MAX);
        let at = |position: u16| Some(row.order.get(usize::from(position))?.load(Ordering::Relaxed));
        // A processor without a seat is served as if it sat at the front, on no node.
        let seat = row.seat(requester).unwrap_or(Seat { position: 0, node_start: 0, node_end: 0 });
        let near = seat.neighbours(count).filter_map(at).find(|processor| free(*processor));
        near.or_else(|| at(seat.anybody(turn(), count)?))
    }

    /// How many processors the plan steers to.
    ///
    /// IRQL: any.
    pub fn count(&self) -> u32 {
        self.live.load(Ordering::Relaxed) >> 1
    }

    /// Makes a new plan and puts it in force. Returns how many processors the plan before steered to, and this one
    /// does.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn rebuild(&self, processors: impl Iterator<Item = Processor> + Clone) -> (u32, u32) {
        let _writer = self.writer.lock();
        let live = self.live.load(Ordering::Relaxed);
        let next = self.row(live ^ 1);
        let room = u16::try_from(next.order.len()).unwrap_or(u16::MAX);
        let count = arrange(processors, room, |processor, seat| next.set(processor, seat));
        self.live.store(u32::from(count) << 1 | (live & 1 ^ 1), Ordering::Release);
        (live >> 1, count.into())
    }
}
