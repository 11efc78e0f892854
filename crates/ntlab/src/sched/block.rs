//! Threads that wait, and what ends their waits.

use std::{rc::Rc, thread};

use super::{Sched, Thread, ThreadId, level::VERIFIER, thread::State};
use crate::{events::Kind, finding::Finding, irql::DISPATCH_LEVEL, kernel::Kernel, rule::Rule};

/// `STATUS_SUCCESS`.
pub const SUCCESS: i32 = 0;
/// `STATUS_TIMEOUT`.
pub const TIMEOUT: i32 = 0x102;
/// Wait at `DISPATCH_LEVEL` or above.
const WAIT_AT_DISPATCH: u64 = 0x3B;

impl Sched {
    /// Makes the current thread wait until it is [unblocked](Self::unblock); returns the status that was given there.
    fn block(&self, k: &Kernel, what: &'static str) -> i32 {
        let thread = self.check_wait(k, what);
        // What unwinds a stopped thread must not switch to another.
        if thread::panicking() {
            return SUCCESS;
        }
        thread.what.set(what);
        thread.state.set(State::Waiting);
        k.record(|| Kind::Wait(what));
        self.pause(k, &thread);
        k.record(|| Kind::WaitEnded(thread.woken.get()));
        thread.woken.get()
    }

    /// Stops the run if the current code may not wait.
    pub(super) fn check_wait(&self, k: &Kernel, what: &'static str) -> Rc<Thread> {
        let irql = k.irql();
        if irql >= DISPATCH_LEVEL {
            let sentence = format!("{what}: a wait at {irql}; threads may wait below DISPATCH_LEVEL only");
            Finding::bug_check(VERIFIER, [WAIT_AT_DISPATCH, irql.0.into(), 0, 0], sentence).raise();
        }
        let thread = self.current_thread();
        assert!(!thread.idle && !self.in_alarm.get(), "{what}: only threads wait");
        thread
    }

    /// Stops the run if the current thread runs a callback that must not block. A short wait for who owns a mutex is none.
    pub(super) fn check_may_block(&self, what: &str) {
        if self.current_thread().must_not_block.get() {
            let sentence = format!("{what}: a wait in a PnP notification callback, which must not block");
            Rule::NotificationBlocks.broken([0; 3], sentence).raise();
        }
    }

    /// Ends the wait of a thread.
    pub(super) fn unblock(&self, k: &Kernel, thread: &Rc<Thread>, status: i32) {
        debug_assert_eq!(thread.state.get(), State::Waiting, "{} does not wait", thread.name);
        thread.woken.set(status);
        thread.waits.set(thread.waits.get() + 1);
        self.make_ready(k, thread);
    }

    /// Waits until the thread is unblocked or virtual time `deadline`, which is `STATUS_TIMEOUT`.
    pub(super) fn block_with_deadline(&self, k: &Kernel, what: &'static str, deadline: Option<u64>) -> i32 {
        let Some(deadline) = deadline else { return self.block(k, what) };
        let thread = self.check_wait(k, what);
        let wait = thread.waits.get();
        let alarm = k.after(deadline.saturating_sub(self.now()), move |k| {
            if thread.state.get() == State::Waiting && thread.waits.get() == wait {
                k.sched.forget_waiter(&thread);
                k.sched.unblock(k, &thread, TIMEOUT);
            }
        });
        let status = self.block(k, what);
        self.cancel_alarm(alarm);
        status
    }

    /// Makes the current thread wait until virtual time `deadline`.
    pub fn delay(&self, k: &Kernel, what: &'static str, deadline: u64) {
        self.check_may_block(what);
        self.block_with_deadline(k, what, Some(deadline));
    }

    pub(crate) fn park(&self, k: &Kernel, what: &'static str, deadline: Option<u64>) -> bool {
        let thread = self.check_wait(k, what);
        if thread.token.take() {
            return true;
        }
        thread.parked.set(true);
        let status = self.block_with_deadline(k, what, deadline);
        thread.parked.set(false);
        status == SUCCESS
    }

    pub(crate) fn wake(&self, k: &Kernel, thread: ThreadId) {
        let Some(thread) = self.thread(thread) else { return };
        if thread.parked.get() && thread.state.get() == State::Waiting {
            self.unblock(k, &thread, SUCCESS);
        } else {
            thread.token.set(true);
        }
    }

    /// A thread that has not ended.
    pub fn thread(&self, id: ThreadId) -> Option<Rc<Thread>> {
        let position = (id.0 as usize).checked_sub(1)?;
        self.threads.borrow().get(position)?.clone()
    }

    pub(crate) fn block_until(
        &self,
        k: &Kernel,
        what: &'static str,
        condition: &dyn Fn(&Kernel) -> bool,
        deadline: Option<u64>,
    ) -> bool {
        let thread = self.check_wait(k, what);
        let late = || deadline.is_some_and(|deadline| self.now() >= deadline);
        // So that idle time passes no further than the deadline.
        let alarm = deadline.map(|deadline| k.after(deadline.saturating_sub(self.now()), |_| ()));
        let mut holds = condition(k);
        while !holds && !late() && !thread::panicking() {
            self.poll_until(k, what, &thread, &|| condition(k) || late());
            holds = condition(k);
        }
        alarm.map(|alarm| self.cancel_alarm(alarm));
        holds
    }

    /// Waits until the run loop, which lets polling threads look, has seen that the condition holds.
    fn poll_until(&self, k: &Kernel, what: &'static str, thread: &Rc<Thread>, condition: &dyn Fn() -> bool) {
        thread.what.set(what);
        thread.state.set(State::Polling);
        k.record(|| Kind::Wait(what));
        self.polling.borrow_mut().push(Rc::clone(thread));
        self.turns.polls();
        Self::suspend(k, thread);
        while !condition() {
            Self::suspend(k, thread);
        }
        thread.state.set(State::Ready);
        self.pause(k, thread);
        k.record(|| Kind::WaitEnded(SUCCESS));
    }
}
