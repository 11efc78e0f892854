//! IRQL, kernel calls and calls into the driver.

use super::{Processor, Sched, ThreadId};
use crate::{
    events::Kind,
    exports::{Export, callbacks, contract},
    finding::Finding,
    irql::{DISPATCH_LEVEL, HIGH_LEVEL, Irql},
    kernel::Kernel,
};

/// `DRIVER_VERIFIER_DETECTED_VIOLATION`.
pub const VERIFIER: u32 = 0xC4;
/// Picoseconds that an instruction takes where instructions take time: some three a nanosecond.
const INSTRUCTION_TIME: u64 = 333;
const RAISED_TO_LOWER: u64 = 0x30;
const LOWERED_TO_HIGHER: u64 = 0x31;
/// Parameter 4 of that: "New IRQL is invalid inside a DPC routine".
const INSIDE_DPC: u64 = 1;

impl Sched {
    /// The IRQL and the index of the processor that ran last, and the thread that it ran.
    pub(crate) const fn last_place(&self) -> (Irql, u32, ThreadId) {
        let processor = self.current_processor();
        (processor.irql(), processor.index, processor.last.get())
    }

    #[inline]
    pub(crate) fn enter(&self, k: &Kernel, export: &'static Export) {
        let irql = self.current_processor().irql();
        if !export.irql.contains(irql) {
            refuse(k, export, irql);
        }
        k.record(|| Kind::KernelCall(export.name));
        self.preempt(k);
    }

    /// A scheduling point.
    #[inline]
    pub(crate) fn preempt(&self, k: &Kernel) {
        if self.clock.pass(self.share.get()) {
            self.ring(k);
        }
        self.leave(k);
    }

    /// What a kernel call does after its function ran: a scheduling point that takes no time. What the driver does next is so not bound
    /// to what it asked the kernel for: another processor may come in between.
    #[inline]
    pub(crate) fn leave(&self, k: &Kernel) {
        if self.current_processor().has_deliverable() {
            self.deliver(k);
        }
        if self.turns.pass() {
            self.switch(k);
        }
    }

    /// A scheduling point between two instructions of the driver, of which so many have run since the last.
    pub(crate) fn pass_instructions(&self, k: &Kernel, count: u64) {
        let busy = self.runnable.borrow().len().max(1) as u64;
        if self.clock.pass(count * INSTRUCTION_TIME / busy) {
            self.ring(k);
        }
        self.leave(k);
    }

    /// Sets the IRQL and what hangs on it.
    #[inline]
    pub(super) fn set_irql(k: &Kernel, processor: &Processor, to: Irql) {
        processor.irql.set(to);
        k.memory.space.set_irql(to);
    }

    pub(crate) fn raise_irql(&self, k: &Kernel, to: Irql) -> Irql {
        let processor = self.current_processor();
        let from = processor.irql();
        if to < from || to > HIGH_LEVEL {
            refuse_raise(from, to);
        }
        Self::set_irql(k, processor, to);
        processor.changed_at.set(k.exec.caller());
        from
    }

    pub(crate) fn lower_irql(&self, k: &Kernel, to: Irql) {
        let processor = self.current_processor();
        let from = processor.irql();
        if to > from {
            refuse_lower(from, to, 0);
        }
        if to < DISPATCH_LEVEL {
            Self::check_none_held(processor, to);
            if processor.in_dpc() {
                refuse_lower(from, to, INSIDE_DPC);
            }
        }
        Self::set_irql(k, processor, to);
        processor.changed_at.set(k.exec.caller());
        if processor.has_deliverable() {
            self.deliver(k);
        }
        if to < DISPATCH_LEVEL && from >= DISPATCH_LEVEL {
            self.obey_affinity(k);
        }
    }

    pub(crate) fn call(&self, k: &Kernel, what: &'static str, function: u64, arguments: &[u64]) -> u64 {
        assert!(!self.in_alarm.get(), "{what}: hardware and the clock do not call drivers");
        let before = self.current_processor();
        let (irql, locks) = (before.irql(), before.locks.borrow().len());
        debug_assert!(
            callbacks::find(what).is_none_or(|callback| callback.irql.contains(irql)),
            "the kernel calls {what} at {irql}"
        );
        k.record(|| Kind::CallDriver(what));
        k.interleavings.pass(k, function);
        let apcs_disabled = self.apcs_disabled();
        let value = crate::exec::call(k, what, function, arguments);
        let after = self.current_processor();
        if after.irql() != irql {
            let first = arguments.first().copied().unwrap_or_default();
            refuse_change(after, what, function, first, irql);
        }
        Self::check_held(after, what, locks);
        if self.apcs_disabled() != apcs_disabled {
            self.refuse_apcs(what, function, apcs_disabled);
        }
        k.record(|| Kind::DriverReturned(what));
        value
    }

    #[cold]
    fn refuse_apcs(&self, what: &str, function: u64, before: usize) -> ! {
        callbacks::changed_apcs(what, function, [before, self.apcs_disabled()], self.disabled_at()).raise()
    }
}

#[cold]
fn refuse(k: &Kernel, export: &Export, irql: Irql) -> ! {
    contract::wrong_level(k, export, irql).raise()
}

#[cold]
fn refuse_raise(from: Irql, to: Irql) -> ! {
    let parameters = [RAISED_TO_LOWER, from.0.into(), to.0.into(), 0];
    Finding::bug_check(VERIFIER, parameters, format!("KeRaiseIrql from {from} to {to}, which is not higher")).raise()
}

/// `why` is the last parameter of the bug check.
#[cold]
fn refuse_lower(from: Irql, to: Irql, why: u64) -> ! {
    let sentence = if why == INSIDE_DPC {
        format!("KeLowerIrql from {from} to {to} in a DPC, which runs at {DISPATCH_LEVEL}")
    } else {
        format!("KeLowerIrql from {from} to {to}, which is higher")
    };
    Finding::bug_check(VERIFIER, [LOWERED_TO_HIGHER, from.0.into(), to.0.into(), why], sentence).raise()
}

/// A callback has returned at another level than `irql`, at which it was called.
#[cold]
fn refuse_change(processor: &Processor, what: &str, function: u64, first: u64, irql: Irql) -> ! {
    let finding = callbacks::changed_level(what, function, first, irql, processor.irql());
    finding.with_stack("the IRQL was last changed", &[processor.changed_at.get()]).raise()
}
