//! The processors: a block for each, made when it is announced, and a lane for the software engine, once it is there.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hotadd_abi::{Event, EventKind, ProcessorStatistics};
use hotadd_policy::steering::Processor;
use wdm::dpc::{Dpc, Importance};
use wdm::irp_list::IrpList;
use wdm::irql::Passive;
use wdm::per_processor::{LocalCount, PerProcessor};
use wdm::pool::PoolArc;
use wdm::processors::{self, AddedProcessor, ProcessorChange, ProcessorNumber};
use wdm::status::{NtStatus, Result};
use wdm::work::WorkItem;

use crate::announcements::Announced;
use crate::notifications::Refresh;
use crate::requests::{Here, Passed};
use crate::steering::Steering;
use crate::{Shared, TAG};

/// What code on a processor needs from the moment it may run there. Alone on its cache lines, which that processor writes to.
#[repr(align(64))]
pub struct Block {
    index: u32,
    number: ProcessorNumber,
    /// Requests that it dealt out to others.
    turn: AtomicU32,
    early: AtomicU32,
    interrupts: AtomicU64,
    dpcs: LocalCount,
    requests: LocalCount,
}

impl Block {
    fn new(added: AddedProcessor) -> Self {
        Self {
            index: added.index,
            number: added.number,
            turn: AtomicU32::new(0),
            early: AtomicU32::new(0),
            interrupts: AtomicU64::new(0),
            dpcs: LocalCount::default(),
            requests: LocalCount::default(),
        }
    }
}

/// What the software engine needs to work on a processor, on its node. Made after AddComplete: the system may not tell the node of a
/// processor that is not active, nor take it for the target of a DPC.
#[repr(align(64))]
pub struct Lane {
    pub index: u32,
    node: u16,
    joined_at: u64,
    pub dpcs: LocalCount,
    pub requests: LocalCount,
    /// What is to be done here.
    pub pending: IrpList<Passed>,
}

/// All processors, by index.
pub struct Processors {
    blocks: PerProcessor<Block>,
    lanes: PerProcessor<Dpc<Lane>>,
    steering: Steering,
    /// The most processors there can ever be.
    room: u32,
    known: AtomicU32,
}

impl Processors {
    /// Tables without entries, with room for all the processors that there can ever be.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(passive: Passive<'_>) -> Result<Self> {
        let blocks = PerProcessor::new(TAG, passive)?;
        let lanes = PerProcessor::new(TAG, passive)?;
        let steering = Steering::new(blocks.room())?;
        let room = u32::try_from(blocks.room()).unwrap_or(u32::MAX);
        Ok(Self { blocks, lanes, steering, room, known: AtomicU32::new(0) })
    }

    /// The most processors there can ever be.
    pub const fn room(&self) -> u32 {
        self.room
    }

    /// The index after the highest that has ever had a block.
    pub fn end(&self) -> usize {
        self.blocks.end()
    }

    /// How many have a block.
    pub fn known(&self) -> u32 {
        self.known.load(Ordering::Relaxed)
    }

    /// How many are steered to.
    pub fn steered(&self) -> u32 {
        self.steering.count()
    }

    /// AddStart: gives the processor its block. It may run our code as soon as this returns.
    fn admit(&self, added: AddedProcessor, passive: Passive<'_>) -> Result {
        self.blocks.insert(added, Block::new(added), passive)?;
        self.known.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// AddFailure: the block goes.
    fn dismiss(&self, added: AddedProcessor, passive: Passive<'_>) {
        self.blocks.remove(added, passive);
        self.known.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives a lane to each processor that runs and has none, and makes a new plan. Where a lane fails, its processor is served where
    /// it asks, nothing is steered to it, and the next call tries again.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn join(&self, passive: Passive<'_>) -> Joined {
        let mut status = NtStatus::SUCCESS;
        for (index, block) in self.blocks.iter() {
            if self.lanes.get(index).is_none()
                && let Err(error) = self.add_lane(block, passive)
            {
                status = error;
            }
        }
        let lanes = self.lanes.iter().map(|(index, lane)| Processor { index, node: lane.node });
        let (before, now) = self.steering.rebuild(lanes);
        Joined { before, now, status }
    }

    fn add_lane(&self, block: &Block, passive: Passive<'_>) -> Result {
        let node = processors::node_of(block.number);
        let lane = Lane {
            index: block.index,
            node: node.unwrap_or(0),
            joined_at: wdm::time::now(),
            dpcs: LocalCount::default(),
            requests: LocalCount::default(),
            pending: IrpList::new(),
        };
        let mut lane = Dpc::new_on_node(TAG, lane, node, passive)?;
        // With medium importance, what another processor queues may wait for a clock tick.
        lane.set_importance(Importance::MediumHigh);
        lane.set_target(block.number)?;
        match self.lanes.insert(AddedProcessor { index: block.index, number: block.number }, lane, passive) {
            // Somebody else was quicker.
            Err(NtStatus::INVALID_DEVICE_STATE) => {}
            inserted => inserted?,
        }
        self.lanes.commit(block.index);
        Ok(())
    }

    /// The lane for a request of the processor that this runs on: its own, unless that is busy. Where nothing is steered to, the
    /// processor's index.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[inline]
    pub fn steer(&self) -> core::result::Result<&Dpc<Lane>, u32> {
        let index = processors::current();
        match self.lanes.get(index) {
            Some(lane) if lane.pending.is_empty() => Ok(lane),
            _ => self.steer_elsewhere(index).ok_or(index),
        }
    }

    #[cold]
    fn steer_elsewhere(&self, index: u32) -> Option<&Dpc<Lane>> {
        let block = self.blocks.current();
        if let Some(block) = block.filter(|block| !self.blocks.is_committed(block.index)) {
            block.early.fetch_add(1, Ordering::Relaxed);
        }
        let free = |index| self.lanes.get(index).is_some_and(|lane| lane.pending.is_empty());
        let turn = || block.map_or(0, |block| block.turn.fetch_add(1, Ordering::Relaxed));
        self.lanes.get(self.steering.pick(index, free, turn)?)
    }

    /// Counts an interrupt on this processor.
    ///
    /// IRQL: any.
    pub fn count_interrupt(&self) {
        // A processor without a block is served all the same, uncounted.
        if let Some(block) = self.blocks.current() {
            block.interrupts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a DPC of the `edu` engine, and the request if that is done.
    ///
    /// IRQL: DISPATCH_LEVEL.
    #[inline]
    pub fn count_dpc(&self, here: Here<'_>, is_done: bool) {
        match (self.blocks.get(here.processor), here.dispatch) {
            (Some(block), Some(dispatch)) => {
                block.dpcs.add_here(dispatch);
                if is_done {
                    block.requests.add_here(dispatch);
                }
            }
            // Before AddComplete; a processor without a block is served all the same, uncounted.
            _ => {
                self.blocks.inspect(here.processor, |block| {
                    block.dpcs.add();
                    if is_done {
                        block.requests.add();
                    }
                });
            }
        }
    }

    /// What is known of the processor `index`.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn statistics(&self, index: u32) -> Option<ProcessorStatistics> {
        let lane = self.lanes.get(index);
        let both = |of_block: &LocalCount, of_lane: fn(&Lane) -> &LocalCount| {
            of_block.get().wrapping_add(lane.map_or(0, |lane| of_lane(lane).get()))
        };
        self.blocks.inspect(index, |block| ProcessorStatistics {
            index,
            group: block.number.group,
            number: block.number.number,
            steered: lane.is_some().into(),
            node: lane.map_or(0, |lane| lane.node.into()),
            early_requests: block.early.load(Ordering::Relaxed),
            interrupts: block.interrupts.load(Ordering::Relaxed),
            dpcs: both(&block.dpcs, |lane| &lane.dpcs),
            requests: both(&block.requests, |lane| &lane.requests),
            joined_at: lane.map_or(0, |lane| lane.joined_at),
        })
    }
}

/// How many processors were steered to before, and are now, and how a lane failed.
pub struct Joined {
    pub before: u32,
    pub now: u32,
    pub status: NtStatus,
}

/// The processor change callback. AddStart and AddComplete make one call of the kernel each, for the block and for the work item: what
/// can be done later is done there, and the journal is told without its lock.
pub struct Changes {
    pub shared: PoolArc<Shared>,
    pub refresh: PoolArc<WorkItem<Refresh>>,
}

impl Changes {
    #[inline(never)]
    fn announce(&self, kind: EventKind, added: AddedProcessor) {
        let announced = Announced { kind, processor: added, known: self.shared.processors.known() };
        if !self.shared.journal.announce(announced) {
            self.shared.journal.record(kind, announced.event());
        }
    }

    fn record(&self, kind: EventKind, added: AddedProcessor, status: NtStatus) {
        let announced = Announced { kind, processor: added, known: self.shared.processors.known() };
        self.shared.journal.record(kind, Event { status: status.raw(), ..announced.event() });
    }
}

impl ProcessorChange for Changes {
    fn add_start(&self, added: AddedProcessor, passive: Passive<'_>) -> Result {
        let admitted = self.shared.processors.admit(added, passive);
        match admitted {
            Ok(()) => self.announce(EventKind::ProcessorAddStart, added),
            Err(status) => self.record(EventKind::ProcessorVetoed, added, status),
        }
        admitted
    }

    fn add_complete(&self, added: AddedProcessor, _: Passive<'_>) {
        self.shared.processors.blocks.commit(added.index);
        self.announce(EventKind::ProcessorAddComplete, added);
        self.refresh.queue();
    }

    fn add_failure(&self, added: AddedProcessor, status: NtStatus, passive: Passive<'_>) {
        self.shared.processors.dismiss(added, passive);
        self.record(EventKind::ProcessorAddFailure, added, status);
    }
}
