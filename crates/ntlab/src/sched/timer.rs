//! Timers of drivers.

use std::ops::Range;

use windows_sys::Wdk::{Foundation::KDPC, System::SystemServices::KTIMER};

use super::{
    AlarmId, Sched,
    deliver::TIMER_OR_DPC_INVALID,
    wait::object_type::{NOTIFICATION_TIMER, SYNCHRONIZATION_TIMER},
};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds in the unit of Windows.
const UNIT: u64 = 100;
/// System time when a machine starts, in units of 100 ns since 1601: 1 January 2026.
pub const SYSTEM_TIME_AT_START: u64 = 134_116_992_000_000_000;

/// A timer that is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetTimer {
    alarm: AlarmId,
    /// Where the driver set it; 0 where none did.
    caller: u64,
}

impl SetTimer {
    fn finding(self, timer: u64, range: &Range<u64>, sentence: &str) -> Finding {
        let finding = Finding::bug_check(TIMER_OR_DPC_INVALID, [0, timer, range.start, range.end], sentence);
        if self.caller == 0 { finding } else { finding.with_stack("set at", &[self.caller]) }
    }
}

impl Sched {
    /// The virtual time that a driver means: negative is from now, positive is system time; both in units of 100 ns.
    pub const fn due(&self, time: i64) -> u64 {
        let units = time.unsigned_abs();
        if time < 0 {
            return self.now().saturating_add(units.saturating_mul(UNIT));
        }
        units.saturating_sub(SYSTEM_TIME_AT_START).saturating_mul(UNIT)
    }

    /// Makes a timer that is not set.
    pub fn initialize_timer(&self, timer: Ptr<KTIMER>, notification: bool) {
        if self.timers.borrow().contains_key(&timer.address()) {
            let sentence = "a timer is initialised while it is set";
            Finding::bug_check(TIMER_OR_DPC_INVALID, [0, timer.address(), 0, 0], sentence).raise();
        }
        let kind = if notification { NOTIFICATION_TIMER } else { SYNCHRONIZATION_TIMER };
        self.initialize_object(timer.cast(), kind, 0);
        at!(timer, DueTime).write(0);
        at!(timer, Dpc).cast().write(0_u64);
        at!(timer, Period).write(0);
    }

    /// Sets a timer to go off in `ns`, and then every `period` milliseconds unless that is 0; returns whether it was set.
    pub fn set_timer(&self, k: &Kernel, timer: Ptr<KTIMER>, ns: u64, period: u32, dpc: Ptr<KDPC>) -> bool {
        check(timer);
        let was_set = self.cancel_timer(timer);
        let caller = k.exec.caller();
        at!(timer, Header.SignalState).write(0);
        at!(timer, Dpc).cast().write(dpc.address());
        at!(timer, Period).write(period);
        self.start_timer(k, timer, ns, self.processor_index(), caller);
        was_set
    }

    fn start_timer(&self, k: &Kernel, timer: Ptr<KTIMER>, ns: u64, processor: u32, caller: u64) {
        at!(timer, DueTime).write(self.now().saturating_add(ns) / UNIT);
        let alarm = k.after(ns, move |k| k.sched.expire(k, timer, processor));
        self.timers.borrow_mut().insert(timer.address(), SetTimer { alarm, caller });
    }

    /// A timer goes off. Its DPC is queued to its target, or to the processor on which the timer was set.
    fn expire(&self, k: &Kernel, timer: Ptr<KTIMER>, processor: u32) {
        let caller = self.timers.borrow_mut().remove(&timer.address()).map_or(0, |set| set.caller);
        at!(timer, Header.SignalState).write(1);
        self.signalled(k, timer.cast());
        let period = at!(timer, Period).read();
        if period != 0 {
            self.start_timer(k, timer, u64::from(period) * MILLISECOND, processor, caller);
        }
        let dpc: Ptr<KDPC> = Ptr::new(at!(timer, Dpc).cast::<u64>().read());
        if !dpc.is_null() {
            self.queue_dpc_near(k, dpc, [0, 0], processor);
        }
    }

    /// Takes a timer back; false if it was not set.
    pub fn cancel_timer(&self, timer: Ptr<KTIMER>) -> bool {
        let set = self.timers.borrow_mut().remove(&timer.address());
        set.is_some_and(|set| self.cancel_alarm(set.alarm))
    }

    pub(super) fn check_freed_timers(&self, range: &Range<u64>) {
        if let Some((&timer, set)) = self.timers.borrow().range(range.clone()).next() {
            set.finding(timer, range, "memory is freed that holds a timer which is set").raise();
        }
    }

    /// Stops the run if a timer is set that lies in these addresses, of a driver image, or whose DPC would run there.
    pub(super) fn check_unloaded_timers(&self, image: &Range<u64>, name: &str) {
        let timers = self.timers.borrow();
        let calls = |timer: u64| {
            let dpc = at!(Ptr::<KTIMER>::new(timer), Dpc).cast::<u64>().read();
            dpc != 0 && image.contains(&at!(Ptr::<KDPC>::new(dpc), DeferredRoutine).cast::<u64>().read())
        };
        let left =
            timers.iter().find(|(timer, set)| image.contains(timer) || image.contains(&set.caller) || calls(**timer));
        if let Some((&timer, set)) = left {
            set.finding(timer, image, &format!("{name} is unloaded while a timer of it is set")).raise();
        }
    }
}

/// Stops the run if what lies there is no timer.
fn check(timer: Ptr<KTIMER>) {
    let kind = at!(timer, Header.Anonymous.Anonymous2.Type).read();
    if ![NOTIFICATION_TIMER, SYNCHRONIZATION_TIMER].contains(&kind) {
        let sentence = "a timer is used that was not initialised";
        Finding::bug_check(TIMER_OR_DPC_INVALID, [0, timer.address(), 0, 0], sentence).raise();
    }
}
