//! The processors: a block for each, made when it is announced, steered to once it is there.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use hotadd_abi::{Event, EventKind, ProcessorStatistics};
use hotadd_policy::steering::Processor;
use wdm::dpc::Dpc;
use wdm::irql::Passive;
use wdm::per_processor::PerProcessor;
use wdm::pool::PoolArc;
use wdm::processors::{self, AddedProcessor, ProcessorChange, ProcessorNumber};
use wdm::queue::CancelSafeQueue;
use wdm::status::{NtStatus, Result};
use wdm::time;
use wdm::work::WorkItem;

use crate::Shared;
use crate::TAG;
use crate::journal::Journal;
use crate::memory::BufferPool;
use crate::notifications::Refresh;
use crate::requests::Queued;
use crate::steering::Steering;

/// What the driver keeps for one processor, on that processor's node.
pub struct Block {
    index: u32,
    number: ProcessorNumber,
    /// Known for sure only from AddComplete on: the system may not tell the node of a processor that is not active.
    node: AtomicU16,
    joined_at: u64,
    /// How many requests this processor has dealt out.
    turn: AtomicU32,
    early: AtomicU32,
    interrupts: AtomicU64,
    dpcs: AtomicU64,
    requests: AtomicU64,
    /// What the software engine is to do on this processor.
    pub pending: CancelSafeQueue<Queued>,
    /// Where its requests go when they are done.
    pub pool: PoolArc<BufferPool>,
}

impl Block {
    fn new(
        added: AddedProcessor,
        node: Option<u16>,
        pool: PoolArc<BufferPool>,
        passive: Passive<'_>,
    ) -> Result<Dpc<Self>> {
        let pending = CancelSafeQueue::new_on_node(TAG, node, passive)?;
        let block = Self {
            index: added.index,
            number: added.number,
            node: AtomicU16::new(node.unwrap_or(0)),
            joined_at: time::now(),
            turn: AtomicU32::new(0),
            early: AtomicU32::new(0),
            interrupts: AtomicU64::new(0),
            dpcs: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            pending,
            pool,
        };
        Dpc::new_on_node(TAG, block, node, passive)
    }

    fn node(&self) -> u16 {
        self.node.load(Ordering::Relaxed)
    }

    /// Counts a DPC of this block.
    pub fn count_dpc(&self) {
        self.dpcs.fetch_add(1, Ordering::Relaxed);
    }

    fn statistics(&self, steered: bool) -> ProcessorStatistics {
        ProcessorStatistics {
            index: self.index,
            group: self.number.group,
            number: self.number.number,
            steered: steered.into(),
            node: self.node().into(),
            early_requests: self.early.load(Ordering::Relaxed),
            interrupts: self.interrupts.load(Ordering::Relaxed),
            dpcs: self.dpcs.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            joined_at: self.joined_at,
        }
    }
}

/// All processors, by index.
pub struct Processors {
    table: PerProcessor<Dpc<Block>>,
    steering: Steering,
    known: AtomicU32,
    pool: PoolArc<BufferPool>,
}

impl Processors {
    /// A table without blocks, with room for all the processors that there can ever be.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(pool: PoolArc<BufferPool>, passive: Passive<'_>) -> Result<Self> {
        let table = PerProcessor::new(TAG, passive)?;
        let steering = Steering::new(table.room())?;
        Ok(Self { table, steering, known: AtomicU32::new(0), pool })
    }

    /// The most processors there can ever be.
    pub fn room(&self) -> u32 {
        u32::try_from(self.table.room()).unwrap_or(u32::MAX)
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
        let node = processors::node_of(added.number);
        self.table.insert(added, node, Block::new(added, node, self.pool.clone(), passive)?, passive)?;
        self.known.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// AddComplete: the next plan steers to it. Here, and not in AddStart, because the kernel need not accept a
    /// processor as the target of a DPC before it runs.
    fn join(&self, added: AddedProcessor) -> Result {
        let targeted = self.table.inspect(added.index, |block| {
            if let Some(node) = processors::node_of(added.number) {
                block.node.store(node, Ordering::Relaxed);
            }
            block.set_target(added.number)
        });
        targeted.ok_or(NtStatus::NOT_FOUND)??;
        self.table.commit(added.index);
        Ok(())
    }

    /// AddFailure: the block goes.
    fn dismiss(&self, added: AddedProcessor, passive: Passive<'_>) {
        self.table.remove(added, passive);
        self.known.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes a new plan from the processors that have joined. Returns how many were steered to before, and are now.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn rebuild_plan(&self) -> (u32, u32) {
        let joined = (0..self.room()).filter_map(|index| self.table.get(index));
        self.steering.rebuild(joined.map(|block| Processor { index: block.index, node: block.node() }))
    }

    /// The block that takes the next request of this processor; `None` only before the first plan.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn steer(&self) -> Option<&Dpc<Block>> {
        let requester = self.table.current();
        let (index, turn) = requester.map_or_else(
            || (processors::current().0, 0),
            |block| (block.index, block.turn.fetch_add(1, Ordering::Relaxed)),
        );
        if let Some(block) = requester.filter(|block| !self.table.is_committed(block.index)) {
            block.early.fetch_add(1, Ordering::Relaxed);
        }
        self.table.get(self.steering.pick(index, turn)?)
    }

    /// Counts an interrupt on this processor.
    ///
    /// IRQL: any.
    pub fn count_interrupt(&self) {
        self.count(|block| &block.interrupts);
    }

    /// Counts a DPC on this processor.
    ///
    /// IRQL: any.
    pub fn count_dpc(&self) {
        self.count(|block| &block.dpcs);
    }

    /// Counts a finished request on this processor.
    ///
    /// IRQL: any.
    pub fn count_request(&self) {
        self.count(|block| &block.requests);
    }

    /// A processor without a block is served all the same, uncounted.
    fn count(&self, counter: impl FnOnce(&Block) -> &AtomicU64) {
        if let Some(block) = self.table.current() {
            counter(block).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The queues of the processors that are steered to.
    pub fn queues(&self) -> impl Iterator<Item = &CancelSafeQueue<Queued>> {
        (0..self.room()).filter_map(|index| self.table.get(index)).map(|block| &block.pending)
    }

    /// What is known of the processor `index`.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn statistics(&self, index: u32) -> Option<ProcessorStatistics> {
        let steered = self.table.is_committed(index);
        self.table.inspect(index, |block| block.statistics(steered))
    }
}

/// The processor change callback.
pub struct Changes {
    pub shared: PoolArc<Shared>,
    pub refresh: PoolArc<WorkItem<Refresh>>,
}

impl Changes {
    fn record(&self, kind: EventKind, added: AddedProcessor, status: NtStatus) {
        record(&self.shared.journal, kind, added, status, self.shared.processors.known());
    }
}

impl ProcessorChange for Changes {
    fn add_start(&self, added: AddedProcessor, passive: Passive<'_>) -> Result {
        let admitted = self.shared.processors.admit(added, passive);
        match admitted {
            Ok(()) => self.record(EventKind::ProcessorAddStart, added, NtStatus::SUCCESS),
            Err(status) => self.record(EventKind::ProcessorVetoed, added, status),
        }
        admitted
    }

    fn add_complete(&self, added: AddedProcessor, _: Passive<'_>) {
        // If it cannot be a target it is served where it asks, and nothing is steered to it; the event tells.
        let joined = self.shared.processors.join(added);
        self.record(EventKind::ProcessorAddComplete, added, joined.err().unwrap_or(NtStatus::SUCCESS));
        self.refresh.queue();
    }

    fn add_failure(&self, added: AddedProcessor, status: NtStatus, passive: Passive<'_>) {
        self.shared.processors.dismiss(added, passive);
        self.record(EventKind::ProcessorAddFailure, added, status);
    }
}

fn record(journal: &Journal, kind: EventKind, added: AddedProcessor, status: NtStatus, known: u32) {
    let event = Event {
        processor: added.index,
        group: added.number.group.into(),
        number: added.number.number.into(),
        status: status.raw(),
        count: known.into(),
        ..Event::default()
    };
    journal.record(kind, event);
}
