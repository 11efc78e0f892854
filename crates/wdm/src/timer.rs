//! Timers ("Timer Objects and DPCs").

use core::ops::Deref;

use wdk_sys::{_TIMER_TYPE, KDPC, KTIMER, LONG, PKDPC, PVOID, ntddk};

use crate::dpc::{DpcRoutine, remove_and_flush};
use crate::irql::Dispatch;
use crate::kernel::Kernel;
use crate::pool::{PoolBox, Tag};
use crate::status::Result;
use crate::time::Interval;

/// A timer and the DPC that it queues when it expires. Dropping it cancels it and waits until the routine runs nowhere.
pub struct Timer<C: DpcRoutine> {
    block: PoolBox<Block<C>>,
}

struct Block<C> {
    timer: Kernel<KTIMER>,
    dpc: Kernel<KDPC>,
    context: C,
}

impl<C: DpcRoutine> Timer<C> {
    /// A timer that is not set ("`KeInitializeTimerEx` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(tag: Tag, context: C) -> Result<Self> {
        let block = PoolBox::new(tag, Block { timer: Kernel::zeroed(), dpc: Kernel::zeroed(), context })?;
        // SAFETY: the object lies in nonpaged pool, where it stays until `drop` has waited for the routine.
        unsafe { ntddk::KeInitializeDpc(block.dpc.get(), Some(deferred::<C>), block.as_ptr().cast()) };
        // SAFETY: as above, and `drop` cancels it first.
        unsafe { ntddk::KeInitializeTimerEx(block.timer.get(), _TIMER_TYPE::NotificationTimer) };
        Ok(Self { block })
    }

    /// Sets it to expire once after `interval`; what it was set to before is forgotten ("`KeSetTimerEx` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn set(&self, interval: Interval) {
        self.set_with(interval, 0);
    }

    /// Sets it to expire after `interval` and then every `period_ms` milliseconds, at most 2^31 - 1 of them.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn set_periodic(&self, interval: Interval, period_ms: u32) {
        self.set_with(interval, LONG::try_from(period_ms).unwrap_or(LONG::MAX));
    }

    fn set_with(&self, interval: Interval, period: LONG) {
        // SAFETY: timer and DPC are initialised and live until the routine runs nowhere.
        unsafe {
            ntddk::KeSetTimerEx(self.block.timer.get(), interval.relative(), period, self.block.dpc.get());
        }
    }

    /// Cancels it; says whether it was set ("`KeCancelTimer` function"). The routine may still be about to run.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[expect(clippy::must_use_candidate, reason = "a timer that is not set does as well")]
    pub fn cancel(&self) -> bool {
        // SAFETY: the timer is initialised.
        let was_set = unsafe { ntddk::KeCancelTimer(self.block.timer.get()) };
        was_set != 0
    }
}

impl<C: DpcRoutine> Deref for Timer<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.block.context
    }
}

impl<C: DpcRoutine> Drop for Timer<C> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        self.cancel();
        remove_and_flush(&self.block.dpc);
    }
}

/// IRQL: DISPATCH_LEVEL.
unsafe extern "C" fn deferred<C: DpcRoutine>(_: PKDPC, context: PVOID, _: PVOID, _: PVOID) {
    // SAFETY: the block that `new` passed; it lives until this routine runs nowhere.
    let block = unsafe { &*context.cast::<Block<C>>() };
    // SAFETY: DPC routines run at DISPATCH_LEVEL.
    let _again = block.context.run(0, unsafe { Dispatch::assume() });
}
