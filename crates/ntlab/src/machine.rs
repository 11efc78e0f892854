//! A machine from power-on to the end of a scenario.

use std::{cell::Cell, collections::BTreeSet};

use crate::{
    choices::Tape,
    config::{Config, ConfigError},
    events::Event,
    exec::{self, BlockStart, StackFrame},
    faults::Call,
    finding::Finding,
    interleavings::Pair,
    kernel::Kernel,
    promise::{self, Quiet},
    report::Report,
    sched::Stop,
};

/// A machine that has not been switched on.
#[derive(Debug)]
pub struct Machine {
    config: Config,
}

/// What a scenario has of the running machine: everything a user process or an administrator can do to it.
#[derive(Debug)]
pub struct System {
    pub(crate) kernel: Kernel,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What the scenario returned, or why the machine stopped.
    pub result: Result<T, Box<Report>>,
    /// The seed that decides the run.
    pub seed: u64,
    /// Virtual nanoseconds it took.
    pub elapsed: u64,
    /// The trace, all of it where [`Config::keep_trace`] asks for it, else the last events.
    pub events: Vec<Event>,
    /// How many kernel calls drivers made.
    pub kernel_calls: u64,
    /// The calls that can fail, each distinct one once, where [`Plan::watch`](crate::faults::Plan::watch) asks for them.
    pub calls: Vec<Call>,
    /// Where the calls were made that failed because [`Plan::faults`](crate::faults::Plan::faults) names them, in words.
    pub failed: Vec<String>,
    /// How many scheduling points there were.
    pub points: u64,
    /// What was drawn, where [`Config::keep_tape`] asks for it.
    pub tape: Option<Tape>,
    /// What followed what on different processors and threads, where [`Config::keep_interleavings`] asks for it.
    pub interleavings: BTreeSet<Pair>,
}

impl<T> Outcome<T> {
    /// The same with another result of the scenario.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        let Self { result, seed, elapsed, events, kernel_calls, calls, failed, points, tape, interleavings } = self;
        Outcome {
            result: result.map(change),
            seed,
            elapsed,
            events,
            kernel_calls,
            calls,
            failed,
            points,
            tape,
            interleavings,
        }
    }
}

impl Machine {
    /// A machine made as `config` says.
    ///
    /// # Errors
    ///
    /// What is wrong with `config`.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config })
    }

    /// Switches the machine on and runs `scenario` as the first thread of a user process, until it returns or something stops the
    /// machine.
    ///
    /// # Panics
    ///
    /// Where `scenario` panics, as a failed assertion does, unless [`Config::report_panics`] asks for a report of it: the message is followed
    /// by the seed. And where the host cannot run the machine.
    pub fn run<T>(self, scenario: impl for<'k> FnOnce(&'k System) -> T) -> Outcome<T> {
        let system = System { kernel: Kernel::new(self.config) };
        let k = &system.kernel;
        let entered = exec::enter(k).expect("the host runs the machine");
        let result = Cell::new(None);
        let quiet = k.config.report_panics.then(Quiet::begin);
        let stop = {
            let threads = Threads(k);
            let body = Box::new(|k: &Kernel| {
                result.set(Some(scenario(&system)));
                k.sched.stop(Stop::Done);
            });
            // SAFETY: `threads` forgets the threads at the end of this block; `system`, `result` and `scenario` outlive it.
            let thread = unsafe { k.sched.start_thread(k, "scenario", body) };
            k.sched.users.borrow_mut().insert(thread);
            let stop = k.sched.run(k);
            drop(threads);
            stop
        };
        let result = judge(k, stop, result.into_inner());
        if result.is_ok() {
            // A driver that did what it must not may have done it anywhere.
            k.memory.space.keep();
            k.exec.keep_code();
        }
        let outcome = Outcome {
            result,
            seed: k.config.seed,
            elapsed: k.now(),
            events: k.log.take(),
            kernel_calls: k.faults.steps.count(),
            calls: k.faults.take_seen(),
            failed: k.faults.places(),
            points: k.sched.points(),
            tape: k.choices.take_tape(),
            interleavings: k.interleavings.take(k),
        };
        drop((entered, quiet));
        outcome
    }
}

/// While it lives, threads can run.
struct Threads<'k>(&'k Kernel);

impl Drop for Threads<'_> {
    fn drop(&mut self) {
        self.0.sched.forget_threads();
    }
}

fn judge<T>(k: &Kernel, stop: Stop, result: Option<T>) -> Result<T, Box<Report>> {
    let payload = match (stop, result) {
        (Stop::Done, Some(result)) => return Ok(result),
        (Stop::Done, None) => unreachable!("the scenario is done when it has returned"),
        (Stop::Unwound(payload), _) => payload,
    };
    match payload.downcast::<Finding>() {
        Ok(finding) => Err(Box::new(Report::new(k, *finding))),
        Err(payload) => {
            let report = k.config.report_panics;
            let sentence = if report { promise::sentence(&*payload) } else { promise::message(&*payload).to_owned() };
            let lines = [vec![sentence], k.faults.places()].concat().join("\n");
            if report {
                return Err(Box::new(Report::new(k, Finding::broken_promise(lines))));
            }
            panic!("{lines}\nthe seed of this run is {}", k.config.seed)
        }
    }
}

impl System {
    /// Starts another thread of the user process. It ends with the machine at the latest.
    pub fn spawn<'k>(&'k self, name: &str, body: impl FnOnce(&'k Self) + 'k) {
        let k = &self.kernel;
        // SAFETY: a `&'k System` exists only inside `Machine::run`, which forgets the threads before the system, or anything that was
        // borrowed for as long as it, is gone.
        let thread = unsafe { k.sched.start_thread(k, name, Box::new(move |_| body(self))) };
        k.sched.users.borrow_mut().insert(thread);
    }

    /// Lets virtual time pass.
    pub fn sleep(&self, ns: u64) {
        self.kernel.sleep(ns);
    }

    /// Lets virtual time pass until `condition` holds; `what` is waited for, in the report of a run in which it never does.
    pub fn wait_until(&self, what: &'static str, condition: impl Fn() -> bool) {
        self.kernel.block_until(what, |_| condition(), None);
    }

    /// Virtual nanoseconds since the machine started.
    pub const fn now(&self) -> u64 {
        self.kernel.now()
    }

    /// How many instructions of drivers have run; None where the machine does not count them ([`Config::count_instructions`]).
    pub fn driver_instructions(&self) -> Option<u64> {
        self.kernel.exec.instructions(&self.kernel)
    }

    /// The starts of basic blocks of drivers that have run since [`System::forget_driver_blocks`]; none where the machine neither counts
    /// instructions nor notes blocks ([`Config::note_blocks`]).
    pub fn driver_blocks(&self) -> BTreeSet<BlockStart> {
        self.kernel.exec.blocks()
    }

    /// Forgets which blocks have run.
    pub fn forget_driver_blocks(&self) {
        self.kernel.exec.forget_blocks();
    }

    /// How many of [`System::driver_blocks`] there are.
    pub fn count_driver_blocks(&self) -> usize {
        self.kernel.exec.count_blocks()
    }

    /// All basic blocks of the drivers that were loaded, as far as they can be known without running them, each with its function, file and
    /// line, and those that it is inlined in; none where the machine does not note blocks ([`Config::note_blocks`]).
    pub fn known_driver_blocks(&self) -> Vec<(BlockStart, Vec<StackFrame>)> {
        self.kernel.exec.describe_blocks(&self.kernel.exec.known_blocks())
    }
}
