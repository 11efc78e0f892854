//! Synchronous notification of added processors ("`KeRegisterProcessorChangeCallback` function").

use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, Ordering};

use wdk_sys::{
    _KE_PROCESSOR_CHANGE_NOTIFY_STATE as State, KE_PROCESSOR_CHANGE_ADD_EXISTING, PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
    PNTSTATUS, PVOID, STATUS_SUCCESS, STATUS_UNSUCCESSFUL, ntddk,
};

use super::ProcessorNumber;
use crate::irql::Passive;
use crate::pool::{PoolBox, Tag};
use crate::status::{NtStatus, Result};

/// A processor that is being added. It may not be active, so no look-up is of use: all there is to know is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AddedProcessor {
    /// Its index.
    pub index: u32,
    /// Its group and number.
    pub number: ProcessorNumber,
}

/// What a driver does when processors are added. Each addition is AddStart, then AddComplete or AddFailure.
pub trait ProcessorChange: Send + Sync + 'static {
    /// The processor is about to be added: makes what code that runs on it needs, as it may run as soon as this
    /// returns. IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// An error vetoes the processor. Whoever returns one gets no AddFailure for it, so nothing may be left of it.
    fn add_start(&self, processor: AddedProcessor, passive: Passive<'_>) -> Result;

    /// The processor runs. IRQL: PASSIVE_LEVEL.
    fn add_complete(&self, processor: AddedProcessor, passive: Passive<'_>);

    /// The processor was not added after all, for the reason `status`. IRQL: PASSIVE_LEVEL.
    fn add_failure(&self, processor: AddedProcessor, status: NtStatus, passive: Passive<'_>);
}

/// A registration for added processors, which includes those that are there already. Dropping it ends it.
pub struct ProcessorChangeCallback<C: ProcessorChange> {
    block: PoolBox<Block<C>>,
    handle: NonNull<core::ffi::c_void>,
}

// SAFETY: the registration may be ended by any thread.
unsafe impl<C: ProcessorChange> Send for ProcessorChangeCallback<C> {}
// SAFETY: a shared registration gives out nothing but `&C`.
unsafe impl<C: ProcessorChange> Sync for ProcessorChangeCallback<C> {}

struct Block<C> {
    /// The last error of `add_start`: registering needs it, as the kernel's return value does not tell.
    veto: AtomicI32,
    context: C,
}

impl<C: ProcessorChange> ProcessorChangeCallback<C> {
    /// Registers; before it returns, AddStart and then AddComplete have come for every active processor.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What `add_start` returned for one of them; AddFailure has come for those before it. `INSUFFICIENT_RESOURCES`
    /// where there is no memory, `UNSUCCESSFUL` where the kernel refuses for another reason.
    pub fn register(tag: Tag, context: C, _: Passive<'_>) -> Result<Self> {
        let block = PoolBox::new(tag, Block { veto: AtomicI32::new(STATUS_SUCCESS), context })?;
        // SAFETY: PASSIVE_LEVEL by the token; the block lives until the registration has ended.
        let handle = unsafe {
            ntddk::KeRegisterProcessorChangeCallback(
                Some(changed::<C>),
                block.as_ptr().cast(),
                KE_PROCESSOR_CHANGE_ADD_EXISTING,
            )
        };
        let veto = block.veto.load(Ordering::Relaxed);
        let Some(handle) = NonNull::new(handle) else {
            return Err(NtStatus::new(if veto == STATUS_SUCCESS { STATUS_UNSUCCESSFUL } else { veto }));
        };
        // A registration that came about although a processor was refused ends here by being dropped.
        let registration = Self { block, handle };
        NtStatus::new(veto).ok().map(|()| registration)
    }
}

impl<C: ProcessorChange> Deref for ProcessorChangeCallback<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.block.context
    }
}

impl<C: ProcessorChange> Drop for ProcessorChangeCallback<C> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: the handle is this registration's; no callback runs once the function has returned.
        unsafe { ntddk::KeDeregisterProcessorChangeCallback(self.handle.as_ptr()) };
    }
}

/// IRQL: PASSIVE_LEVEL.
unsafe extern "C" fn changed<C: ProcessorChange>(
    context: PVOID,
    change: PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
    operation_status: PNTSTATUS,
) {
    // SAFETY: `register` passed the block, which lives until the registration has ended.
    let block = unsafe { &*context.cast::<Block<C>>() };
    // SAFETY: the kernel passes a structure that lives for this call.
    let change = unsafe { change.read() };
    // SAFETY: the callback is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    let processor = AddedProcessor { index: change.NtNumber, number: ProcessorNumber::from_raw(change.ProcNumber) };
    match change.State {
        State::KeProcessorAddStartNotify => {
            if let Err(veto) = block.context.add_start(processor, passive) {
                block.veto.store(veto.raw(), Ordering::Relaxed);
                // SAFETY: the kernel passes a place for it, which may be written in AddStart, with an error only.
                unsafe { operation_status.write(veto.raw()) };
            }
        }
        State::KeProcessorAddCompleteNotify => block.context.add_complete(processor, passive),
        State::KeProcessorAddFailureNotify => {
            block.context.add_failure(processor, NtStatus::new(change.Status), passive);
        }
        // No other state is documented; there is nothing that one could ask for.
        _ => {}
    }
}
