//! Interrupts and DPCs: what runs on a processor when its IRQL lets it.

use std::{array, mem::offset_of, ops::Range};

use windows_sys::Wdk::Foundation::{KDPC, KDPC_0_0};

use super::{Interrupt, Processor, Sched};
use crate::{at, events::Kind, finding::Finding, irql::DISPATCH_LEVEL, kernel::Kernel, memory::Ptr, timeline::What};

impl Sched {
    pub(crate) fn interrupt(&self, processor: u32, interrupt: Interrupt) {
        let target = self.processor(processor).expect("interrupts are routed to active processors");
        target.pend(interrupt);
        self.kick(processor);
    }

    /// Takes back an interrupt that is pending and has not been delivered.
    pub fn withdraw_interrupt(&self, processor: u32, vector: u32) {
        if let Some(processor) = self.processor(processor) {
            processor.withdraw(vector);
        }
    }

    /// Runs all that is pending above the IRQL of the current processor, on the stack of its current thread.
    #[inline(never)]
    pub(super) fn deliver(&self, k: &Kernel) {
        let processor = self.current_processor();
        k.exec.interrupt(|| {
            while processor.has_deliverable() {
                match processor.take_interrupt() {
                    Some(interrupt) => Self::serve(k, processor, &interrupt),
                    None => Self::run_dpcs(k, processor),
                }
            }
        });
    }

    fn serve(k: &Kernel, processor: &Processor, interrupt: &Interrupt) {
        let (before, begin) = (processor.irql(), k.now());
        Self::set_irql(k, processor, interrupt.irql);
        k.record(|| Kind::Interrupt { vector: interrupt.vector });
        (interrupt.handler)(k);
        k.timeline.end(k, What::Interrupt { vector: interrupt.vector }, begin);
        Self::set_irql(k, processor, before);
    }

    fn run_dpcs(k: &Kernel, processor: &Processor) {
        let before = processor.irql();
        Self::set_irql(k, processor, DISPATCH_LEVEL);
        processor.in_dpc.set(true);
        loop {
            let next = processor.dpcs.borrow_mut().pop_front();
            processor.find_pending();
            let Some(dpc) = next else { break };
            let words = dpc.cast::<Words>();
            // Word by word: some of them were just written.
            let object: Words = array::from_fn(|word| words.readable().get(words.element(word)));
            processor.dpc.set(dpc.address());
            processor.dpc_routine.set(object[ROUTINE]);
            let begin = k.now();
            run_dpc(k, dpc, &object);
            k.timeline.end(k, What::Dpc, begin);
            processor.dpc.set(0);
            processor.dpc_routine.set(0);
            processor.dpcs_over.set(processor.dpcs_over.get() + 1);
        }
        processor.in_dpc.set(false);
        Self::set_irql(k, processor, before);
    }

    /// Makes a DPC object without a target.
    pub fn initialize_dpc(&self, dpc: Ptr<KDPC>, routine: u64, context: u64) {
        if self.is_queued(dpc) {
            let sentence = "a DPC is initialised while it is queued";
            Finding::bug_check(TIMER_OR_DPC_INVALID, [1, dpc.address(), 0, 0], sentence).raise();
        }
        dpc.write(KDPC::default());
        at!(dpc, Anonymous.Anonymous).write(KDPC_0_0 { Type: DPC_OBJECT, Importance: MEDIUM_IMPORTANCE, Number: 0 });
        at!(dpc, DeferredRoutine).cast().write(routine);
        at!(dpc, DeferredContext).cast().write(context);
    }

    /// Whether a DPC is queued, or running.
    pub(crate) fn has_dpc(&self, dpc: Ptr<KDPC>) -> bool {
        self.is_queued(dpc) || self.active().any(|processor| processor.dpc.get() == dpc.address())
    }

    fn is_queued(&self, dpc: Ptr<KDPC>) -> bool {
        let runnable = self.runnable.borrow();
        let mut processors = (0..runnable.len()).filter_map(|position| self.processor(runnable.get(position)));
        processors.any(|processor| processor.dpcs.borrow().contains(&dpc))
    }

    /// Sets the processor to which a DPC is queued from now on.
    pub fn set_dpc_target(&self, dpc: Ptr<KDPC>, index: u32) {
        check_dpc(dpc);
        at!(dpc, Anonymous.Anonymous.Number).write(TARGET + narrow(index));
    }

    /// Sets where in the queue a DPC is put from now on.
    pub fn set_dpc_importance(&self, dpc: Ptr<KDPC>, importance: u8) {
        check_dpc(dpc);
        at!(dpc, Anonymous.Anonymous.Importance).write(importance);
    }

    /// Queues a DPC to the processor it is targeted to, or to the current one; false if it is queued already.
    pub fn queue_dpc(&self, k: &Kernel, dpc: Ptr<KDPC>, arguments: [u64; 2]) -> bool {
        self.queue_dpc_near(k, dpc, arguments, self.processor_index())
    }

    /// The same, and `near` is where it goes if it has no target.
    pub(super) fn queue_dpc_near(&self, k: &Kernel, dpc: Ptr<KDPC>, arguments: [u64; 2], near: u32) -> bool {
        let words = dpc.cast::<Words>();
        let [kind, importance, low, high, ..] = words.readable().get(words.element(0)).to_le_bytes();
        if kind != DPC_OBJECT {
            refuse_dpc(dpc);
        }
        if words.readable().get(words.element(DATA)) != 0 {
            return false;
        }
        let target = u16::from_le_bytes([low, high]).checked_sub(TARGET).map_or(near, u32::from);
        at!(dpc, SystemArgument1).cast().write([arguments[0], arguments[1], QUEUED + u64::from(target)]);
        self.insert_dpc(k, dpc, target, importance);
        true
    }

    fn insert_dpc(&self, k: &Kernel, dpc: Ptr<KDPC>, target: u32, importance: u8) {
        let processor = self.processor(target).expect("DPCs are targeted to active processors only");
        let mut queue = processor.dpcs.borrow_mut();
        if importance == HIGH_IMPORTANCE {
            queue.push_front(dpc);
        } else {
            queue.push_back(dpc);
        }
        drop(queue);
        processor.dpcs_queued.set(processor.dpcs_queued.get() + 1);
        processor.pending.set(processor.pending.get().max(DISPATCH_LEVEL));
        k.record(|| Kind::DpcQueued { target });
        self.kick(target);
    }

    /// Takes a DPC out of its queue; false if it is in none.
    pub fn remove_dpc(&self, dpc: Ptr<KDPC>) -> bool {
        check_dpc(dpc);
        let Some(target) = at!(dpc, DpcData).cast::<u64>().read().checked_sub(QUEUED) else { return false };
        let processor = u32::try_from(target).ok().and_then(|target| self.processor(target));
        let Some(processor) = processor else { overwritten(dpc).raise() };
        processor.dpcs.borrow_mut().retain(|&queued| queued != dpc);
        processor.find_pending();
        processor.dpcs_over.set(processor.dpcs_over.get() + 1);
        at!(dpc, DpcData).cast().write(0_u64);
        true
    }

    pub(super) fn check_freed_dpcs(&self, range: &Range<u64>) {
        let runnable = self.runnable.borrow();
        let mut processors = (0..runnable.len()).filter_map(|position| self.processor(runnable.get(position)));
        let queued = processors.find_map(|processor| {
            processor.dpcs.borrow().iter().map(|dpc| dpc.address()).find(|dpc| range.contains(dpc))
        });
        if let Some(dpc) = queued {
            let sentence = "memory is freed that holds a DPC which is queued";
            Finding::bug_check(TIMER_OR_DPC_INVALID, [1, dpc, range.start, range.end], sentence).raise();
        }
    }

    /// Stops the run if a DPC is queued or runs whose routine lies in these addresses, of a driver image.
    pub(super) fn check_unloaded_dpcs(&self, image: &Range<u64>, name: &str) {
        let routine = |dpc: &Ptr<KDPC>| at!(*dpc, DeferredRoutine).cast::<u64>().read();
        let is_own = |routine: &u64| image.contains(routine);
        let queued = self.active().find_map(|processor| processor.dpcs.borrow().iter().map(routine).find(is_own));
        let running = || self.active().map(|processor| processor.dpc_routine.get()).find(is_own);
        if let Some(routine) = queued.or_else(running) {
            let what = if queued.is_some() { "is queued" } else { "runs" };
            let sentence = format!("{name} is unloaded while a DPC of it {what}");
            Finding::bug_check(TIMER_OR_DPC_INVALID, [2, routine, image.start, image.end], sentence)
                .with_stack("its routine", &[routine])
                .raise();
        }
    }

    /// Waits until every DPC that is queued now, on any processor, is over.
    pub fn flush_dpcs(&self, k: &Kernel) {
        let queued: Vec<(u32, u64)> =
            self.active().map(|processor| (processor.index, processor.dpcs_queued.get())).collect();
        for (processor, queued) in queued.iter().filter_map(|&(index, queued)| Some((self.processor(index)?, queued))) {
            if processor.dpcs_over.get() < queued {
                k.block_until("KeFlushQueuedDpcs", |_| processor.dpcs_over.get() >= queued, None);
            }
        }
    }
}

fn narrow(index: u32) -> u16 {
    u16::try_from(index).expect("there are at most 2,048 processors")
}

/// The type of a DPC object; a threaded DPC has another.
const DPC_OBJECT: u8 = 19;
/// `MediumImportance`.
const MEDIUM_IMPORTANCE: u8 = 1;
/// `HighImportance`: to the front of the queue.
const HIGH_IMPORTANCE: u8 = 2;
/// Added to the index in `KDPC.Number`, which is 0 for a DPC without a target.
const TARGET: u16 = 0x800;
/// `KDPC.DpcData` of a queued DPC, less the index of the processor.
const QUEUED: u64 = 0x1000;
/// `TIMER_OR_DPC_INVALID`.
pub const TIMER_OR_DPC_INVALID: u32 = 0xC7;

/// A DPC object, word by word: type, importance and target in the first.
type Words = [u64; size_of::<KDPC>() / size_of::<u64>()];
const ROUTINE: usize = offset_of!(KDPC, DeferredRoutine) / size_of::<u64>();
const CONTEXT: usize = offset_of!(KDPC, DeferredContext) / size_of::<u64>();
/// The first of the system arguments: the second and [`DATA`] follow.
const ARGUMENTS: usize = offset_of!(KDPC, SystemArgument1) / size_of::<u64>();
const DATA: usize = offset_of!(KDPC, DpcData) / size_of::<u64>();
const _: () = assert!(DATA == ARGUMENTS + 2);

fn check_dpc(dpc: Ptr<KDPC>) {
    if at!(dpc, Anonymous.Anonymous.Type).read() != DPC_OBJECT {
        refuse_dpc(dpc);
    }
}

#[cold]
fn refuse_dpc(dpc: Ptr<KDPC>) -> ! {
    Finding::bug_check(TIMER_OR_DPC_INVALID, [1, dpc.address(), 0, 0], "a DPC that was not initialised").raise()
}

fn overwritten(dpc: Ptr<KDPC>) -> Finding {
    Finding::bug_check(TIMER_OR_DPC_INVALID, [1, dpc.address(), 0, 0], "a DPC that was overwritten while it was queued")
}

fn run_dpc(k: &Kernel, dpc: Ptr<KDPC>, object: &Words) {
    if object[DATA] < QUEUED {
        overwritten(dpc).raise();
    }
    at!(dpc, DpcData).cast().write(0_u64);
    let arguments = [dpc.address(), object[CONTEXT], object[ARGUMENTS], object[ARGUMENTS + 1]];
    k.call("DPC", object[ROUTINE], &arguments);
}
