//! All state of one machine, and what its parts ask of the scheduler.

use std::rc::Rc;

use windows_sys::Wdk::Foundation::{KDPC, KEVENT};

use crate::{
    choices::Choices,
    config::{Checks, Config},
    counting::Counting,
    events::{Keeping, Kind, Log},
    exec::Exec,
    exports::Export,
    faults::Faults,
    hot_add::HotAdd,
    hw::Hardware,
    interleavings::Interleavings,
    io::Io,
    irql::Irql,
    memory::{Memory, Ptr},
    pnp::Pnp,
    power::Power,
    registry::Registry,
    sched::{AlarmId, Interrupt, Processor, Sched, Thread, ThreadId},
    timeline::Timeline,
    tracking::Tracking,
};

/// One simulated machine: what its kernel knows. Lives on one OS thread; every part has interior mutability, and no part keeps a
/// borrow over a call into the driver or a scheduling point.
#[derive(Debug)]
pub struct Kernel {
    /// What the machine was made of.
    pub config: Config,
    /// Everything that is left to chance.
    pub choices: Choices,
    /// Processors, threads, virtual time.
    pub sched: Sched,
    /// What runs driver code.
    pub exec: Exec,
    /// Memory.
    pub memory: Memory,
    /// Drivers, devices, IRPs, files.
    pub io: Io,
    /// The registry.
    pub registry: Registry,
    /// PCI functions and the interrupt controller.
    pub hardware: Hardware,
    /// The Plug and Play manager.
    pub pnp: Pnp,
    /// The power manager.
    pub power: Power,
    /// Processors and memory that are added.
    pub hot_add: HotAdd,
    /// Calls that are to fail.
    pub faults: Faults,
    /// What drivers have made and must take back.
    pub tracking: Tracking,
    /// Which code followed which on another processor or thread.
    pub interleavings: Interleavings,
    /// What took time, from when to when.
    pub timeline: Timeline,
    /// What driver code does, while somebody counts it.
    pub counting: Counting,
    /// The trace of the run.
    pub log: Log,
}

impl Kernel {
    /// The kernel of a machine that was checked.
    pub(crate) fn new(config: Config) -> Self {
        let memory = Memory::new(config.memory);
        memory.seed(config.seed);
        memory.space.set_checks(config.checks);
        memory.pool.place(config.special_pool);
        let keeping = match config.checks {
            _ if config.keep_trace => Keeping::All,
            Checks::Traces | Checks::All => Keeping::Last,
            Checks::Calls => Keeping::Nothing,
        };
        Self {
            choices: Choices::of(&config),
            sched: Sched::new(&config),
            exec: Exec::new(&memory.space, &config),
            memory,
            io: Io::default(),
            registry: Registry::default(),
            hardware: Hardware::default(),
            pnp: Pnp::default(),
            power: Power::default(),
            hot_add: HotAdd::default(),
            faults: Faults::new(&config.faults),
            tracking: Tracking::default(),
            interleavings: Interleavings::new(config.keep_interleavings),
            timeline: Timeline::new(config.keep_timeline),
            counting: Counting::default(),
            log: Log::new(keeping),
            config,
        }
    }

    /// Adds an event to the trace.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "where no trace is kept, the event is not even made")]
    pub fn record(&self, kind: impl FnOnce() -> Kind) {
        self.log.record(self, kind);
    }

    /// What a kernel call does before its function runs: charges its time, checks its IRQL contract, notes it in the trace and is a
    /// scheduling point.
    #[inline]
    pub fn enter(&self, export: &'static Export) {
        self.sched.enter(self, export);
    }

    /// What a kernel call does after its function ran: it is a scheduling point once more.
    #[inline]
    pub fn leave(&self) {
        self.sched.leave(self);
    }

    /// The IRQL of the current processor.
    #[inline]
    pub const fn irql(&self) -> Irql {
        self.current_processor().irql()
    }

    /// Raises the IRQL of the current processor and returns what it was; a lower one is a finding.
    #[inline]
    pub fn raise_irql(&self, to: Irql) -> Irql {
        self.sched.raise_irql(self, to)
    }

    /// Lowers the IRQL of the current processor; delivers what it held off. A higher one is a finding.
    #[inline]
    pub fn lower_irql(&self, to: Irql) {
        self.sched.lower_irql(self, to);
    }

    /// The processor that runs.
    #[inline]
    pub const fn current_processor(&self) -> &Processor {
        self.sched.current_processor()
    }

    /// The index of the processor that runs.
    pub const fn processor_index(&self) -> u32 {
        self.sched.processor_index()
    }

    /// The thread that runs.
    #[inline]
    pub fn current_thread(&self) -> Rc<Thread> {
        self.sched.current_thread()
    }

    /// The thread that runs; 0 while none does.
    #[inline]
    pub const fn thread_id(&self) -> ThreadId {
        self.sched.thread_id()
    }

    /// Virtual nanoseconds since the machine started.
    pub const fn now(&self) -> u64 {
        self.sched.now()
    }

    /// Calls the driver's `function` on the current thread's kernel stack. IRQL and spin locks must be the same afterwards; `what` is
    /// what the trace and findings call it.
    #[inline]
    pub fn call(&self, what: &'static str, function: u64, arguments: &[u64]) -> u64 {
        self.sched.call(self, what, function, arguments)
    }

    /// A scheduling point: due alarms, interrupts and DPCs are delivered, and another processor or thread may go on.
    pub fn preempt(&self) {
        self.sched.preempt(self);
    }

    /// Keeps the current processor busy for `ns`; interrupts are still served. For work that takes virtual time.
    pub fn stall(&self, ns: u64) {
        self.sched.stall(self, ns);
    }

    /// Makes the current thread wait until [`Kernel::wake`] is called for it, true, or until virtual time `deadline`, false. A wake that
    /// came since the last `park` ends this one at once, so that none is missed. Cheap: for the paths of requests.
    pub fn park(&self, what: &'static str, deadline: Option<u64>) -> bool {
        self.sched.park(self, what, deadline)
    }

    /// Ends the [`Kernel::park`] of a thread, now or the next one; does nothing for a thread that has ended.
    pub fn wake(&self, thread: ThreadId) {
        self.sched.wake(self, thread);
    }

    /// Makes the current thread wait until `condition` holds, true, or until virtual time `deadline`, false. The condition is looked
    /// at whenever the machine switches: for PnP and tests, not for the paths of requests.
    pub fn block_until(&self, what: &'static str, condition: impl Fn(&Self) -> bool, deadline: Option<u64>) -> bool {
        self.sched.block_until(self, what, &condition, deadline)
    }

    /// Makes the current thread wait for `ns`.
    pub fn sleep(&self, ns: u64) {
        self.sched.delay(self, "delay", self.now() + ns);
    }

    /// Makes an event in the machine's memory: a notification event, which stays signalled, or a synchronization event.
    pub fn initialize_event(&self, event: Ptr<KEVENT>, notification: bool, signalled: bool) {
        self.sched.initialize_event(event, notification, signalled);
    }

    /// Signals an event and returns its state before.
    pub fn set_event(&self, event: Ptr<KEVENT>) -> i32 {
        self.sched.set_event(self, event)
    }

    /// Makes the current thread wait for an event.
    pub fn wait_for_event(&self, event: Ptr<KEVENT>, what: &'static str) {
        self.sched.wait_for_event(self, event, what);
    }

    /// The address of the current thread's `KTHREAD`.
    pub fn current_thread_object(&self) -> u64 {
        self.sched.thread_object(self, &self.current_thread())
    }

    /// Does `action` in `ns` from now. It is hardware's or the clock's: it must not call the driver and must not wait; it may pend
    /// interrupts, queue DPCs, wake threads, set events.
    pub fn after(&self, ns: u64, action: impl FnOnce(&Self) + 'static) -> AlarmId {
        self.sched.after(ns, Box::new(action))
    }

    /// Takes an alarm back; false if it has gone off or was taken back.
    pub fn cancel_alarm(&self, alarm: AlarmId) -> bool {
        self.sched.cancel_alarm(alarm)
    }

    /// Makes a thread of the system process that runs `body` at `PASSIVE_LEVEL`.
    pub fn spawn(&self, name: &str, body: impl FnOnce(&Self) + 'static) -> ThreadId {
        self.sched.spawn(self, name, Box::new(body))
    }

    /// Queues a DPC with two arguments to the processor it is targeted to, or to the current one; false if it is queued already.
    pub fn queue_dpc(&self, dpc: Ptr<KDPC>, arguments: [u64; 2]) -> bool {
        self.sched.queue_dpc(self, dpc, arguments)
    }

    /// Pends an interrupt on a processor. It is delivered there as soon as the IRQL is below its own; a vector that is already pending
    /// there stays pending once, as in a local APIC.
    pub fn interrupt(&self, processor: u32, interrupt: Interrupt) {
        self.sched.interrupt(processor, interrupt);
    }
}
