//! DPCs ("Introduction to DPC Objects").

use core::ops::Deref;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use wdk_sys::{_KDPC_IMPORTANCE, KDPC, PKDPC, PVOID, ntddk};

use crate::imports;
use crate::irql::{Dispatch, Passive};
use crate::kernel::Kernel;
use crate::pool::{PoolBox, Tag};
use crate::processors::ProcessorNumber;
use crate::status::{Result, check};

/// What a DPC does.
pub trait DpcRoutine: Send + Sync + 'static {
    /// Whether [`DpcRoutine::run`] ever asks to be queued once more.
    const RUNS_AGAIN: bool = true;

    /// Runs for each time that it was queued; `argument` is that of the call that queued it. IRQL: DISPATCH_LEVEL.
    fn run(&self, argument: usize, dispatch: Dispatch<'_>) -> Again;
}

/// Whether a DPC has more to do than one run should take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Again {
    /// It is done.
    No,
    /// Queue it once more, with the same argument, if [`DpcRoutine::RUNS_AGAIN`]. The DPC of a timer waits for the timer instead.
    Yes,
}

/// How urgent a DPC is ("`KeSetImportanceDpc` function").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Importance {
    /// At the end of the queue; a DPC for another processor may wait there.
    Medium,
    /// At the end of the queue; a DPC for another processor is delivered at once.
    MediumHigh,
    /// At the start of the queue.
    High,
}

/// A DPC and what it works on. Dropping it waits until the routine runs nowhere.
pub struct Dpc<C: DpcRoutine> {
    block: PoolBox<Block<C>>,
}

/// In this order, so that the address of the DPC, which every interrupt asks for, is the block's.
#[repr(C)]
struct Block<C> {
    dpc: Kernel<KDPC>,
    /// Set when it is being dropped: it does not queue itself any more.
    closing: AtomicBool,
    context: C,
}

impl<C: DpcRoutine> Dpc<C> {
    /// A DPC that is not queued ("`KeInitializeDpc` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, context: C) -> Result<Self> {
        Ok(Self::initialize(PoolBox::new(
            tag,
            Block { dpc: Kernel::zeroed(), closing: AtomicBool::new(false), context },
        )?))
    }

    /// The same on the NUMA node `node` where the system can and has memory there.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// As for [`Dpc::new`].
    pub fn new_on_node(tag: Tag, context: C, node: Option<u16>, passive: Passive<'_>) -> Result<Self> {
        let block = Block { dpc: Kernel::zeroed(), closing: AtomicBool::new(false), context };
        Ok(Self::initialize(PoolBox::new_on_node(tag, block, node, passive)?))
    }

    fn initialize(block: PoolBox<Block<C>>) -> Self {
        // SAFETY: the object lies in nonpaged pool, where it stays until `drop` has waited for the routine.
        unsafe { ntddk::KeInitializeDpc(block.dpc.get(), Some(deferred::<C>), block.as_ptr().cast()) };
        Self { block }
    }

    /// Makes it run on one processor ("`KeSetTargetProcessorDpcEx` function"). Without a target it runs where it is
    /// queued. One that is queued already may still run on the processor that it had before.
    ///
    /// IRQL: any.
    ///
    /// # Errors
    ///
    /// `INVALID_PARAMETER` where there is no such processor.
    pub fn set_target(&self, processor: ProcessorNumber) -> Result {
        let mut number = processor.raw();
        // SAFETY: the DPC is initialised, and the kernel reads its target once when it is queued; the number outlives
        // the call.
        check(unsafe { ntddk::KeSetTargetProcessorDpcEx(self.block.dpc.get(), &raw mut number) })
    }

    /// Sets how urgent it is ("`KeSetImportanceDpc` function").
    ///
    /// IRQL: any.
    pub fn set_importance(&mut self, importance: Importance) {
        let importance = match importance {
            Importance::Medium => _KDPC_IMPORTANCE::MediumImportance,
            Importance::MediumHigh => _KDPC_IMPORTANCE::MediumHighImportance,
            Importance::High => _KDPC_IMPORTANCE::HighImportance,
        };
        // SAFETY: the exclusive borrow keeps it from being queued meanwhile.
        unsafe { ntddk::KeSetImportanceDpc(self.block.dpc.get(), importance) };
    }

    /// Queues it; says whether it was not queued before ("`KeInsertQueueDpc` function"). Where it was, it runs once for
    /// both, with the earlier argument.
    ///
    /// IRQL: any.
    #[expect(clippy::must_use_candidate, reason = "a DPC that is queued already does as well")]
    pub fn queue(&self, argument: usize) -> bool {
        let argument: PVOID = ptr::without_provenance_mut(argument);
        // SAFETY: the DPC is initialised and lives until the routine runs nowhere; the argument is a number to the
        // kernel.
        let inserted = unsafe { imports::KeInsertQueueDpc(self.block.dpc.get(), argument, ptr::null_mut()) };
        inserted != 0
    }
}

impl<C: DpcRoutine> Deref for Dpc<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.block.context
    }
}

impl<C: DpcRoutine> Drop for Dpc<C> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        if C::RUNS_AGAIN {
            self.block.closing.store(true, Ordering::Release);
            // Ends runs that may not have seen that; what those have queued is next.
            remove_and_flush(&self.block.dpc);
        }
        remove_and_flush(&self.block.dpc);
    }
}

/// Takes a DPC out of its queue and waits until its routine runs nowhere ("`KeFlushQueuedDpcs` function"). Nobody
/// queues it again.
///
/// IRQL: PASSIVE_LEVEL.
pub fn remove_and_flush(dpc: &Kernel<KDPC>) {
    // SAFETY: the DPC is initialised.
    unsafe { ntddk::KeRemoveQueueDpc(dpc.get()) };
    // SAFETY: at PASSIVE_LEVEL, where values with a DPC are dropped.
    unsafe { ntddk::KeFlushQueuedDpcs() };
}

/// IRQL: DISPATCH_LEVEL.
unsafe extern "C" fn deferred<C: DpcRoutine>(_: PKDPC, context: PVOID, argument: PVOID, _: PVOID) {
    // SAFETY: the block that `new` passed; it lives until this routine runs nowhere.
    let block = unsafe { &*context.cast::<Block<C>>() };
    // SAFETY: DPC routines run at DISPATCH_LEVEL.
    let again = block.context.run(argument.addr(), unsafe { Dispatch::assume() });
    if C::RUNS_AGAIN && again == Again::Yes && !block.closing.load(Ordering::Acquire) {
        // SAFETY: the DPC is initialised and lives until this routine runs nowhere.
        unsafe { imports::KeInsertQueueDpc(block.dpc.get(), argument, ptr::null_mut()) };
    }
}
