//! Which processor goes next, and which thread on it.

use std::{any::Any, panic, rc::Rc, thread};

use super::{
    Affinity, Processor, Sched, Stop, Thread, ThreadId,
    fiber::{Body, Fiber, Suspender},
    thread::{State, ThreadExit},
};
use crate::{
    events::Kind,
    exec,
    finding::Finding,
    io::{lost, object, remove_lock},
    irql::{DISPATCH_LEVEL, PASSIVE_LEVEL},
    kernel::Kernel,
    memory::Ptr,
    rule::Rule,
};

/// The code of a thread.
pub type ThreadBody<'k> = Box<dyn FnOnce(&Kernel) + 'k>;

impl Sched {
    /// Runs the machine until something stops it.
    pub(crate) fn run(&self, k: &Kernel) -> Stop {
        self.plan_changes(k);
        loop {
            self.poll(k);
            if let Some(stop) = self.stopped.take() {
                return stop;
            }
            match self.next_processor(k) {
                Some(processor) => self.step(k, processor),
                None => self.pass_idle_time(k),
            }
        }
    }

    pub(crate) fn stop(&self, stop: Stop) {
        let mut stopped = self.stopped.borrow_mut();
        if stopped.is_none() {
            *stopped = Some(stop);
        }
    }

    fn stop_with(&self, finding: Finding) {
        self.stop(Stop::Unwound(Box::new(finding)));
    }

    fn next_processor(&self, k: &Kernel) -> Option<u32> {
        let runnable = self.runnable.borrow();
        if let Some(chosen) = self.chosen.take().filter(|&chosen| runnable.contains(chosen)) {
            return Some(chosen);
        }
        let next = || runnable.get(k.choices.next(runnable.len(), |_| self.next_runnable(k)));
        (runnable.len() > 0).then(next)
    }

    fn pass_idle_time(&self, k: &Kernel) {
        if !self.clock.skip() {
            self.stop_with(self.hang(k, Rule::AllWait, "nothing can run and nothing is due"));
        } else if self.now() > self.time_limit {
            self.stop_with(self.hang(k, Rule::TimeLimit, "the scenario takes longer than its time limit"));
        } else {
            let rang = panic::catch_unwind(panic::AssertUnwindSafe(|| self.ring(k)));
            rang.unwrap_or_else(|payload| self.stop(Stop::Unwound(exec::at_base(payload))));
        }
    }

    /// A finding that says what every thread waits for, and where in the driver.
    pub(super) fn hang(&self, k: &Kernel, rule: Rule, why: &str) -> Finding {
        let threads = self.threads.borrow();
        let waiting = threads.iter().flatten().filter(|thread| !thread.idle).map(|thread| describe(k, thread));
        let waiting: Vec<String> = waiting.collect();
        let spinning = self.spinning.borrow();
        let locks: Vec<String> =
            spinning.iter().map(|(processor, _)| format!("processor {processor} spins on a lock")).collect();
        let in_driver = |thread: &Rc<Thread>| !k.exec.driver_stack_of(thread.context.get()).is_empty();
        if matches!(rule, Rule::AllWait)
            && locks.is_empty()
            && !threads.iter().flatten().any(in_driver)
            && let Some(lost) = lost::find(k, u64::MAX, "nothing is left to be done")
        {
            return lost;
        }
        let all = [waiting, locks].concat().join("; ");
        let finding = rule.broken([0; 3], format!("{why}: {all}"));
        let finding = threads.iter().flatten().fold(finding, |finding, thread| {
            let stack = k.exec.driver_stack_of(thread.context.get());
            finding.with_stack(format!("{} (thread {}) is", thread.name, thread.id.0), &stack)
        });
        remove_lock::with_holders(k, finding)
    }

    /// What is found where a processor runs driver code on and on, and calls no kernel function.
    pub fn spun(&self, k: &Kernel) -> Finding {
        let processor = self.current_processor();
        let sentence = format!("processor {} runs in the driver for ever, without a kernel call", processor.index);
        Rule::Spins.broken([k.irql().0.into(), 0, 0], sentence)
    }

    /// Lets a processor go on until its thread suspends itself.
    fn step(&self, k: &Kernel, index: u32) {
        let processor = self.processor(index).expect("who can run is active");
        self.running.set(processor.into());
        let Some(thread) = self.thread_for(k, processor) else { return self.rest(index) };
        k.memory.space.set_irql(processor.irql());
        self.turns.ran(index, thread.id.0);
        if processor.last.replace(thread.id) != thread.id && !thread.idle {
            k.record(|| Kind::Dispatch(thread.id.0));
        }
        Self::resume(k, &thread);
        if thread.state.get() != State::Running {
            self.part(k, processor, &thread);
        }
    }

    fn thread_for(&self, k: &Kernel, processor: &Processor) -> Option<Rc<Thread>> {
        let current = processor.thread.borrow().clone();
        if current.is_some() {
            return current;
        }
        let idle = || (processor.pending.get() > PASSIVE_LEVEL).then(|| self.idle_thread(k, processor));
        let next = idle().or_else(|| self.take_ready(k, processor))?;
        assign(&next, processor);
        Some(next)
    }

    /// The thread of a processor does not go on: another one does, or none.
    fn part(&self, k: &Kernel, processor: &Processor, thread: &Rc<Thread>) {
        thread.irql.set(processor.irql());
        processor.thread.take();
        processor.current.set(ThreadId(0));
        let next = if processor.pending.get() > PASSIVE_LEVEL { None } else { self.take_ready(k, processor) };
        match thread.state.get() {
            State::Ready => self.make_ready(k, thread),
            State::Ended => self.retire(thread),
            State::Running | State::Waiting | State::Polling => (),
        }
        if let Some(next) = next {
            assign(&next, processor);
        } else if processor.pending.get() == PASSIVE_LEVEL && !self.give_ready_thread(k, processor.index) {
            self.rest(processor.index);
        }
    }

    fn retire(&self, thread: &Thread) {
        self.threads.borrow_mut()[thread.id.0 as usize - 1] = None;
        thread.fiber.take();
    }

    /// Gives an idle processor a thread that waits for one.
    pub(super) fn give_ready_thread(&self, k: &Kernel, index: u32) -> bool {
        let Some(processor) = self.processor(index) else { return false };
        let Some(thread) = self.take_ready(k, processor) else { return false };
        assign(&thread, processor);
        self.kick(index);
        true
    }

    /// One of the threads that wait for a processor and may run on this one.
    fn take_ready(&self, k: &Kernel, processor: &Processor) -> Option<Rc<Thread>> {
        let mut ready = self.ready.borrow_mut();
        let first = k.choices.next(ready.len(), |_| self.next_ready(k, &ready));
        let allowed = |position: &usize| may_run(&ready[*position], processor);
        let position = (first..ready.len()).chain(0..first).find(allowed)?;
        ready.remove(position)
    }

    /// A thread can go on: on an idle processor, the one it ran on last or any, or as soon as one is free.
    pub(super) fn make_ready(&self, k: &Kernel, thread: &Rc<Thread>) {
        thread.state.set(State::Ready);
        if let Some(processor) = self.find_idle(k, thread) {
            assign(thread, processor);
            return self.kick(processor.index);
        }
        self.ready.borrow_mut().push_back(Rc::clone(thread));
        self.turns.changed();
    }

    fn find_idle(&self, k: &Kernel, thread: &Thread) -> Option<&Processor> {
        let idle = self.idle.borrow();
        if idle.len() == 0 {
            return None;
        }
        let last = thread.processor.get();
        let choice = k.choices.next(idle.len() + 1, |choices| choices.random(idle.len() + 1));
        if choice == 0 && idle.contains(last) {
            return self.processor(last).filter(|processor| may_run(thread, processor));
        }
        let first = choice.saturating_sub(1);
        let candidates = (first..idle.len()).chain(0..first);
        candidates
            .filter_map(|position| self.processor(idle.get(position)))
            .find(|processor| may_run(thread, processor))
    }

    /// Lets another thread have the processor.
    pub(super) fn give_way(&self, k: &Kernel, thread: &Rc<Thread>) {
        thread.state.set(State::Ready);
        self.pause(k, thread);
    }

    /// Suspends the current thread; when it goes on, what came for its processor meanwhile is delivered.
    pub(super) fn pause(&self, k: &Kernel, thread: &Thread) {
        Self::suspend(k, thread);
        if self.current_processor().has_deliverable() {
            self.deliver(k);
        }
    }

    /// Suspends the current thread.
    pub(super) fn suspend(k: &Kernel, thread: &Thread) {
        let context = k.exec.save();
        thread.context.set(context);
        thread.top.set((&raw const context).addr() as u64);
        // SAFETY: this is called by the thread itself, so that its fiber is the one that runs.
        unsafe { thread.suspender.get().suspend() };
        thread.context.take();
        k.exec.restore(context);
    }

    /// Lets the fiber of a thread go on until it suspends itself or ends.
    fn resume(k: &Kernel, thread: &Thread) {
        let ended = thread.fiber.borrow_mut().as_mut().expect("a thread that has ended is not current").resume();
        if let Some(stack) = ended {
            k.exec.stacks.give_back_host_stack(stack);
            thread.state.set(State::Ended);
        }
    }

    /// Lets every polling thread look at its condition.
    fn poll(&self, k: &Kernel) {
        let mut position = 0;
        loop {
            let Some(thread) = self.polling.borrow().get(position).cloned() else { return };
            Self::resume(k, &thread);
            match thread.state.get() {
                State::Polling => position += 1,
                State::Ended => {
                    self.polling.borrow_mut().remove(position);
                    self.retire(&thread);
                }
                State::Ready | State::Running | State::Waiting => {
                    self.polling.borrow_mut().remove(position);
                    self.make_ready(k, &thread);
                }
            }
        }
    }

    /// The thread moves if it may not run where it does.
    #[inline]
    pub(super) fn obey_affinity(&self, k: &Kernel) {
        let processor = self.current_processor();
        let must_move = |thread: &Rc<Thread>| !thread.idle && !may_run(thread, processor);
        if processor.thread.borrow().as_ref().is_some_and(must_move) {
            self.move_away(k);
        }
    }

    #[cold]
    fn move_away(&self, k: &Kernel) {
        if !thread::panicking() {
            self.give_way(k, &self.current_thread());
        }
    }

    /// Sets where the current thread may run, moves it there, and returns what it was.
    pub fn set_affinity(&self, k: &Kernel, affinity: Option<Affinity>) -> Option<Affinity> {
        let before = self.current_thread().affinity.replace(affinity);
        if k.irql() < DISPATCH_LEVEL {
            self.obey_affinity(k);
        }
        before
    }

    pub(crate) fn spawn(&self, k: &Kernel, name: &str, body: Box<dyn FnOnce(&Kernel)>) -> ThreadId {
        // SAFETY: the body borrows nothing.
        unsafe { self.start_thread(k, name, body) }
    }

    /// The same for a thread whose `KTHREAD` counts references; returns its address. The thread holds one until it ends.
    pub fn spawn_counted(&self, k: &Kernel, name: &str, body: impl FnOnce(&Kernel) + 'static) -> u64 {
        // SAFETY: the body borrows nothing.
        let thread = unsafe { self.make_thread(k, name, false, Box::new(body)) };
        let address = self.thread_object(k, &thread);
        thread.counted.set(true);
        object::add(k, address, object::Kind::Thread, move |k| {
            k.memory.free_object(Ptr::<u8>::new(address));
        });
        self.begin_thread(k, &thread);
        address
    }

    /// Makes a thread that can run.
    ///
    /// # Safety
    ///
    /// [`Sched::forget_threads`] is called before anything `body` borrows, and before `k`, is gone.
    pub(crate) unsafe fn start_thread(&self, k: &Kernel, name: &str, body: ThreadBody<'_>) -> ThreadId {
        // SAFETY: as the caller promises.
        let thread = unsafe { self.make_thread(k, name, false, body) };
        self.begin_thread(k, &thread);
        thread.id
    }

    fn begin_thread(&self, k: &Kernel, thread: &Rc<Thread>) {
        k.record(|| Kind::ThreadStarted((*thread.name).into()));
        self.make_ready(k, thread);
    }

    /// # Safety
    ///
    /// As for [`Sched::start_thread`].
    unsafe fn make_thread(&self, k: &Kernel, name: &str, idle: bool, body: ThreadBody<'_>) -> Rc<Thread> {
        let mut threads = self.threads.borrow_mut();
        let id = ThreadId(u32::try_from(threads.len()).expect("a run has less than 4 billion threads") + 1);
        let thread = Rc::new(Thread::new(id, name, idle));
        let kernel: *const Kernel = k;
        let start: Body<'_> = Box::new(move |suspender| {
            // SAFETY: the kernel outlives its threads, as the caller of `start_thread` promises.
            let k = unsafe { &*kernel };
            run_thread(k, suspender, body);
        });
        // SAFETY: as the caller promises: `forget_threads` drops the fiber, if it has not ended before.
        let fiber = unsafe { Fiber::new(k.exec.stacks.host_stack(), start) };
        thread.fiber.replace(Some(fiber));
        threads.push(Some(Rc::clone(&thread)));
        thread
    }

    fn idle_thread(&self, k: &Kernel, processor: &Processor) -> Rc<Thread> {
        let mut idle = processor.idle_thread.borrow_mut();
        let make = || {
            let body = Box::new(|k: &Kernel| k.sched.serve_idle(k));
            // SAFETY: the body borrows nothing.
            unsafe { self.make_thread(k, "idle", true, body) }
        };
        Rc::clone(idle.get_or_insert_with(make))
    }

    /// What an idle processor does when something is pending.
    fn serve_idle(&self, k: &Kernel) {
        let thread = self.current_thread();
        loop {
            self.deliver(k);
            thread.state.set(State::Waiting);
            Self::suspend(k, &thread);
        }
    }

    /// Ends all threads where they are: what they own is leaked, since frames of the driver may be among theirs.
    pub(crate) fn forget_threads(&self) {
        for processor in self.active() {
            processor.thread.take();
            processor.current.set(ThreadId(0));
            processor.idle_thread.take();
        }
        self.ready.take();
        self.polling.take();
        let threads = self.threads.take();
        for thread in threads.iter().flatten() {
            thread.fiber.take();
        }
    }
}

/// From the first to the last moment of a thread.
fn run_thread(k: &Kernel, suspender: Suspender, body: ThreadBody<'_>) {
    let thread = k.sched.current_thread();
    thread.suspender.set(suspender);
    let stack = k.exec.stacks.kernel_stack();
    k.exec.restore(stack.context());
    let result: Result<(), Box<dyn Any + Send>> = panic::catch_unwind(panic::AssertUnwindSafe(|| body(k)));
    k.exec.stacks.give_back_kernel_stack(stack);
    match result.map_err(exec::at_base) {
        Err(payload) if !payload.is::<ThreadExit>() => {
            if payload.is::<Finding>() {
                k.exec.note_place(k);
            }
            k.sched.stop(Stop::Unwound(payload));
        }
        Ok(()) | Err(_) => {
            if let Some(finding) = Sched::ends_with_locks(&thread) {
                k.sched.stop_with(finding);
            }
            end_thread(k, &thread);
        }
    }
}

fn end_thread(k: &Kernel, thread: &Thread) {
    k.record(|| Kind::ThreadEnded);
    k.sched.signal_end(k, thread);
    if thread.counted.get() {
        object::dereference(k, thread.object.get());
    }
}

/// Makes a thread the current one of a processor without one.
fn assign(thread: &Rc<Thread>, processor: &Processor) {
    thread.state.set(State::Running);
    thread.processor.set(processor.index);
    processor.irql.set(thread.irql.get());
    processor.current.set(thread.id);
    let before = processor.thread.replace(Some(Rc::clone(thread)));
    debug_assert!(before.is_none(), "processor {} has a thread", processor.index);
}

fn may_run(thread: &Thread, processor: &Processor) -> bool {
    let allows = |affinity: Affinity| {
        affinity.group == processor.place.group && affinity.mask >> processor.place.number & 1 != 0
    };
    thread.affinity.get().is_none_or(allows)
}

fn describe(k: &Kernel, thread: &Thread) -> String {
    let Thread { name, id, .. } = thread;
    let does = match thread.state.get() {
        State::Waiting | State::Polling => format!("waits: {}", thread.what.get()),
        State::Ready | State::Running | State::Ended => "runs".into(),
    };
    let stack = k.exec.describe_stack(&k.exec.driver_stack_of(thread.context.get()));
    let place = stack.first().map(|frame| format!(" in {frame}")).unwrap_or_default();
    format!("{name} (thread {}) {does}{place}", id.0)
}
