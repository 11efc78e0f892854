//! Kernel calls that fail although the driver did nothing wrong, as any of them may.
//!
//! What fails in a run is part of the machine's input ([`Config::faults`](crate::config::Config::faults)): calls by their number among
//! those that can fail, or one call in so many. A run can also tell from where in the driver each such call came ([`Call`]): failing
//! every distinct one of them, run after run, is the systematic search.

mod calls;
#[cfg(test)]
mod complete;
mod steps;
mod table;

use std::cell::{Cell, RefCell};

use serde::{Deserialize, Serialize};

pub use self::calls::{Call, Site};
use self::{
    calls::Seen,
    steps::Steps,
    table::{CanFail, Failure},
};
use crate::{events::Kind, exports::Arguments, kernel::Kernel, machine::System};

/// How many frames are told of the place of a failure.
const FRAMES: usize = 6;

/// What is to fail in a run.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Calls that are to fail.
    pub faults: Vec<Fault>,
    /// Functions whose calls fail now and then.
    pub rates: Vec<Rate>,
    /// A device that is pulled out.
    pub unplugged: Option<Unplugged>,
    /// Whether [`Outcome::calls`](crate::machine::Outcome::calls) is to tell from where the calls that can fail came.
    pub watch: bool,
}

/// A call that is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Its number among the calls of the run that can fail, from 1.
    pub call: u64,
    /// In which of the ways that its page documents, from 0.
    pub failure: usize,
    /// What fails after it.
    pub lasting: Lasting,
}

/// A device that is pulled out between two kernel calls of drivers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Unplugged {
    /// Its number, from 1 in the order in which devices were plugged in.
    pub device: u32,
    /// At which kernel call of the run, from 1, whether that can fail or not.
    pub call: u64,
}

/// How long what a call failed for lasts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Lasting {
    /// For this call: the next one succeeds.
    Once,
    /// This function fails so from now on.
    Function,
    /// There is no memory from now on: every function fails that needs some.
    Memory,
}

impl Lasting {
    /// Each.
    pub const ALL: [Self; 3] = [Self::Once, Self::Function, Self::Memory];
}

/// A function whose calls fail now and then.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// Which; every function that can fail, if none.
    pub function: Option<String>,
    /// One call in so many fails, on average, in any of its ways; none for 0.
    pub one_in: u32,
}

impl Plan {
    /// One call in `one_in` fails, of whichever function.
    #[must_use]
    pub fn at_random(one_in: u32) -> Self {
        Self { rates: vec![Rate { function: None, one_in }], ..Self::default() }
    }

    /// One call of `function` in `one_in` fails.
    #[must_use]
    pub fn of_function(function: &str, one_in: u32) -> Self {
        Self { rates: vec![Rate { function: Some(function.into()), one_in }], ..Self::default() }
    }
}

/// What fails in a machine.
#[derive(Debug, Default)]
pub struct Faults {
    plan: RefCell<Plan>,
    /// Whether the plan says anything: there is nothing to look up for a call else.
    active: Cell<bool>,
    /// Calls so far that can fail.
    count: Cell<u64>,
    /// Functions that fail from now on, and how.
    failing: RefCell<Vec<(&'static str, usize)>>,
    without_memory: Cell<bool>,
    /// Calls that need memory until the one that finds none; 0 for none.
    until: Cell<u64>,
    /// What was made to fail, in order.
    failed: RefCell<Vec<&'static str>>,
    /// Where the calls were made that were to fail, in words.
    places: RefCell<Vec<String>>,
    seen: Seen,
    pub(crate) steps: Steps,
}

impl Faults {
    /// What fails as `plan` says.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let faults = Self::default();
        faults.follow(plan.clone());
        if let Some(Unplugged { device, call }) = plan.unplugged {
            faults.steps.unplug(call, device);
        }
        faults
    }

    fn follow(&self, plan: Plan) {
        self.active.set(plan.watch || !plan.faults.is_empty() || !plan.rates.is_empty());
        *self.plan.borrow_mut() = plan;
        self.failing.borrow_mut().clear();
        self.without_memory.set(false);
    }

    /// What the call of `name` returns instead of being made; `None` where it is made.
    #[inline]
    pub(crate) fn strike(&self, k: &Kernel, name: &'static str, arguments: Arguments) -> Option<u64> {
        if self.active.get() { self.look_up(k, name, arguments) } else { None }
    }

    #[cold]
    fn look_up(&self, k: &Kernel, name: &'static str, arguments: Arguments) -> Option<u64> {
        let row = table::find(name).filter(|row| row.concerns(arguments))?;
        let number = self.count.get() + 1;
        self.count.set(number);
        let failure = self.failure_of(k, number, row);
        if self.plan.borrow().watch {
            self.seen.note(k, number, row, failure.is_some());
        }
        let failure = failure?;
        self.failed.borrow_mut().push(name);
        k.record(|| {
            Kind::Note(format!("{name} fails with {:#x}: the plan of the run says so", failure.returned).into())
        });
        Some(failure.carry_out(arguments))
    }

    fn failure_of(&self, k: &Kernel, number: u64, row: &'static CanFail) -> Option<Failure> {
        let planned = self.plan.borrow().faults.iter().find(|fault| fault.call == number).copied();
        if let Some(Fault { failure, lasting, .. }) = planned {
            self.note_place(k, row.name, lasting);
            match lasting {
                Lasting::Once => {}
                Lasting::Function => self.failing.borrow_mut().push((row.name, failure)),
                Lasting::Memory => self.without_memory.set(true),
            }
            return row.failures.get(failure).copied();
        }
        let failing = self.failing.borrow().iter().find(|(name, _)| *name == row.name).map(|(_, failure)| *failure);
        if let Some(failure) = failing {
            return row.failures.get(failure).copied();
        }
        let memory = row.failures.iter().find(|failure| failure.is_memory).copied();
        if self.without_memory.get() {
            return memory;
        }
        if memory.is_some() && self.until.get() > 0 {
            self.until.update(|until| until - 1);
            return memory.filter(|_| self.until.get() == 0);
        }
        self.fails_by_chance(k, row).then(|| row.failures[k.choices.below(row.failures.len())])
    }

    fn note_place(&self, k: &Kernel, name: &str, lasting: Lasting) {
        let until = match lasting {
            Lasting::Once => "",
            Lasting::Function => ", as all later ones",
            Lasting::Memory => ", and there is no memory from then on",
        };
        let frames = k.exec.describe_stack(&k.exec.uninterrupted_stack());
        let frames: Vec<String> = frames.iter().take(FRAMES).map(ToString::to_string).collect();
        self.places.borrow_mut().push(format!("{name} was made to fail{until}: {}", frames.join(" < ")));
    }

    /// Where the calls were made that failed because the plan names them, in words.
    pub(crate) fn places(&self) -> Vec<String> {
        self.places.borrow().clone()
    }

    fn fails_by_chance(&self, k: &Kernel, row: &CanFail) -> bool {
        let plan = self.plan.borrow();
        let concerns = |rate: &&Rate| rate.function.as_ref().is_none_or(|function| function == row.name);
        plan.rates.iter().filter(concerns).any(|rate| k.choices.once_in(rate.one_in as usize))
    }

    /// Where the calls that can fail came from.
    pub(crate) fn take_seen(&self) -> Vec<Call> {
        self.seen.take()
    }
}

impl System {
    /// From now on calls fail as `plan` says; numbers go on from those that were there. What failed before does not any more.
    pub fn set_faults(&self, plan: Plan) {
        self.kernel.faults.follow(plan);
    }

    /// The `n`-th call from now on that needs memory finds none; none for 0. Later ones find some again.
    pub fn fail_call(&self, n: u64) {
        self.kernel.faults.until.set(n);
        self.kernel.faults.active.set(true);
    }

    /// Nothing fails any more.
    pub fn end_faults(&self) {
        self.set_faults(Plan::default());
    }

    /// Does something during which nothing fails; calls are not counted meanwhile.
    pub fn without_faults<T>(&self, action: impl FnOnce() -> T) -> T {
        let before = self.kernel.faults.active.replace(false);
        let result = action();
        self.kernel.faults.active.set(before);
        result
    }

    /// Whether calls fail from now on, or may.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let faults = &self.kernel.faults;
        faults.without_memory.get() || !faults.failing.borrow().is_empty() || !faults.plan.borrow().rates.is_empty()
    }

    /// Says what part of the scenario begins: the same place in the driver is another one there, as far as [`Call`] is concerned.
    pub fn begin_stage(&self, stage: &'static str) {
        self.kernel.faults.seen.stage.set(stage);
    }

    /// The functions that were made to fail so far, in order.
    #[must_use]
    pub fn failed_calls(&self) -> Vec<&'static str> {
        self.kernel.faults.failed.borrow().clone()
    }
}
