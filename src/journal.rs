//! The journal: a ring of numbered, time-stamped events, read from a cursor or waited for.

use core::sync::atomic::{AtomicU64, Ordering};

use hotadd_abi::{Event, EventKind, JournalOutput, Wire};
use hotadd_policy::journal::{capacity, slot, window};
use wdm::irp::{FileId, IrpRef, PendedIrp};
use wdm::lock::SpinLock;
use wdm::pool::PoolArray;
use wdm::queue::{CancelSafeQueue, QueuedContext};
use wdm::status::{NtStatus, Result};
use wdm::time;

use crate::announcements::{Announced, Announcements};
use crate::parameters::Parameters;
use crate::requests::output;
use crate::{TAG, trace};

/// The ring and those who wait for it to grow.
pub struct Journal {
    ring: SpinLock<Ring>,
    /// The ring's, published: written with the lock held.
    next: AtomicU64,
    /// Taken with the ring's lock held.
    announcements: Announcements,
    waiters: CancelSafeQueue<Waiter>,
    most_waiters: usize,
}

struct Ring {
    events: PoolArray<Event>,
    next: u64,
}

/// A pended wait, and the first event it is for.
struct Waiter {
    cursor: u64,
}

impl QueuedContext for Waiter {}

impl Journal {
    /// An empty journal of at least the length that the parameters ask for.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        let events = PoolArray::from_fn(TAG, capacity(parameters.journal_events()), |_| Event::default())?;
        let waiters = CancelSafeQueue::new(TAG)?;
        let ring = SpinLock::new(Ring { events, next: 0 });
        let most_waiters = parameters.journal_waiters();
        Ok(Self { ring, next: AtomicU64::new(0), announcements: Announcements::new()?, waiters, most_waiters })
    }

    /// Leaves word of a processor, for an event that comes before all that are recorded from now on; its time is that when it is
    /// recorded. Makes no call of the kernel. Says whether there was room.
    ///
    /// IRQL: any.
    pub fn announce(&self, announced: Announced) -> bool {
        self.announcements.leave(announced)
    }

    /// Records what was announced.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    pub fn take_announcements(&self) {
        if !self.announcements.is_empty() {
            self.record_announcements();
        }
    }

    #[cold]
    fn record_announcements(&self) {
        let mut told = false;
        while let Some(event) = self.take_announcement() {
            trace::event(&event);
            told = true;
        }
        if told {
            self.wake();
        }
    }

    fn take_announcement(&self) -> Option<Event> {
        let mut ring = self.ring.lock();
        let mut event = self.announcements.take()?.event();
        self.push(&mut ring, &mut event);
        Some(event)
    }

    /// Records an event, traces it, and answers those who wait. What `event` says of its number, time and kind is
    /// overwritten.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock, because requests are completed.
    pub fn record(&self, kind: EventKind, mut event: Event) {
        self.take_announcements();
        event.kind = kind.code();
        let is_awaited = {
            let mut ring = self.ring.lock();
            self.push(&mut ring, &mut event);
            // Looked at with the lock: who comes to wait after that finds the event.
            !self.waiters.is_empty()
        };
        trace::event(&event);
        if is_awaited {
            self.wake();
        }
    }

    fn push(&self, ring: &mut Ring, event: &mut Event) {
        ring.push(event);
        self.next.store(ring.next, Ordering::Release);
    }

    /// The number of the next event.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn next(&self) -> u64 {
        self.take_announcements();
        self.next.load(Ordering::Acquire)
    }

    /// The same of what is recorded, asked for with the lock: what comes later finds who waits by now.
    fn recorded(&self) -> u64 {
        self.ring.lock().next
    }

    /// Copies the events from `cursor` on to the output; returns how many bytes that took, and how many events.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INVALID_PARAMETER` where the cursor is beyond the next event, `BUFFER_TOO_SMALL` where not even one event fits.
    pub fn read(&self, irp: &IrpRef, cursor: u64, output_length: usize) -> Result<(usize, u32)> {
        self.take_announcements();
        self.copy(irp, cursor, output_length)
    }

    fn copy(&self, irp: &IrpRef, cursor: u64, output_length: usize) -> Result<(usize, u32)> {
        let found = {
            let ring = self.ring.lock();
            window(cursor, ring.next, ring.events.len() as u64).ok_or(NtStatus::INVALID_PARAMETER)?
        };
        let room = output_length.saturating_sub(JournalOutput::SIZE) / Event::SIZE;
        if room == 0 {
            return Err(NtStatus::BUFFER_TOO_SMALL);
        }
        let mut at = JournalOutput::SIZE;
        let mut count = 0;
        let wanted = usize::try_from(found.available).unwrap_or(usize::MAX).min(room);
        for (sequence, _) in (found.first..).zip(0..wanted) {
            // One that was overwritten just now ends the batch; the next read tells that it was missed.
            let Some(event) = self.ring.lock().get(sequence) else { break };
            at = at.saturating_add(output(irp, at, &event)?);
            count += 1;
        }
        let next = found.first.saturating_add(u64::from(count));
        let front = JournalOutput { next, missed: found.missed, count, reserved: 0 };
        output(irp, 0, &front)?;
        Ok((at, count))
    }

    /// Completes the request with the events from `cursor` on, now if there are any, else when one comes.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    pub fn wait(&self, irp: PendedIrp, cursor: u64) {
        self.take_announcements();
        let Some((irp, waiter)) = self.answer(irp, Waiter { cursor }) else { return };
        if self.waiters.len() >= self.most_waiters {
            return irp.complete(NtStatus::INSUFFICIENT_RESOURCES);
        }
        if let Err((irp, _)) = self.waiters.insert(irp, waiter) {
            return irp.complete(NtStatus::DELETE_PENDING);
        }
        self.take_announcements();
        if self.recorded() != cursor {
            // An event came between looking and waiting, and whoever recorded it may have found nobody waiting.
            self.wake();
        }
    }

    /// Answers all who wait for an event that is there. The others stay in the queue: the cleanup of a handle would miss one that was
    /// taken out to be put back. One who waits for an event after `next` has come meanwhile, and stays too: there is nothing for him yet.
    fn wake(&self) {
        loop {
            let next = self.recorded();
            let Some(mut waiting) = self.waiters.remove_next_where(|waiter| waiter.cursor < next) else { return };
            // Again where all events were overwritten while they were copied.
            while let Some(still) = self.answer(waiting.0, waiting.1) {
                waiting = still;
            }
        }
    }

    /// Completes the request unless there is no event for it yet; then it comes back.
    fn answer(&self, irp: PendedIrp, waiter: Waiter) -> Option<(PendedIrp, Waiter)> {
        let Some(control) = irp.device_control() else {
            irp.complete(NtStatus::INVALID_DEVICE_REQUEST);
            return None;
        };
        match self.copy(&irp, waiter.cursor, control.output_length) {
            Ok((_, 0)) => return Some((irp, waiter)),
            Ok((bytes, _)) => irp.complete_with(NtStatus::SUCCESS, bytes),
            Err(status) => irp.complete(status),
        }
        None
    }

    /// Ends the waits that came through a handle.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn cancel_waits(&self, file: FileId) {
        while let Some((irp, _)) = self.waiters.remove_next_of(file) {
            irp.complete(NtStatus::CANCELLED);
        }
    }
}

impl Ring {
    /// Numbers and stamps the event and overwrites the oldest with it.
    fn push(&mut self, event: &mut Event) {
        (event.sequence, event.time) = (self.next, time::now());
        if let Some(place) = slot(self.next, self.events.len()).and_then(|slot| self.events.get_mut(slot)) {
            *place = *event;
        }
        self.next = self.next.wrapping_add(1);
    }

    /// The event of this number, unless it was overwritten or has not happened.
    fn get(&self, sequence: u64) -> Option<Event> {
        let event = *self.events.get(slot(sequence, self.events.len())?)?;
        (sequence < self.next && event.sequence == sequence).then_some(event)
    }
}
