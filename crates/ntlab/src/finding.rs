//! What stops a run: a defect of the driver, something the lab does not model, or a promise of the scenario that broke.

use std::panic;

/// Why a run was stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The driver broke a rule: Driver Verifier's bug check code and its four parameters.
    BugCheck {
        /// Bug check code.
        code: u32,
        /// Bug check parameters.
        parameters: [u64; 4],
    },
    /// The driver asked for behaviour that the lab does not model. Never a verdict on the driver.
    NotModelled,
    /// What the scenario expected of the driver did not come true.
    BrokenPromise,
}

/// A finding: raised where it is noticed, carried out of the simulated machine, reported with stack and last events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Why.
    pub cause: Cause,
    /// One sentence in plain words.
    pub sentence: String,
    /// Where the driver was when what it is about began: what that place is, and return addresses, innermost first.
    pub stacks: Vec<(String, Vec<u64>)>,
}

impl Finding {
    /// A defect of the driver.
    #[must_use]
    pub fn bug_check(code: u32, parameters: [u64; 4], sentence: impl Into<String>) -> Self {
        Self { cause: Cause::BugCheck { code, parameters }, sentence: sentence.into(), stacks: Vec::new() }
    }

    /// A promise that the driver broke, as the scenario says it.
    #[must_use]
    pub fn broken_promise(sentence: impl Into<String>) -> Self {
        Self { cause: Cause::BrokenPromise, ..Self::not_modelled(sentence) }
    }

    /// Something the lab does not model; `sentence` names it.
    #[must_use]
    pub fn not_modelled(sentence: impl Into<String>) -> Self {
        Self { cause: Cause::NotModelled, sentence: sentence.into(), stacks: Vec::new() }
    }

    /// Adds where the driver was earlier, such as "allocated at"; nothing where no driver code was on that stack.
    #[must_use]
    pub fn with_stack(mut self, what: impl Into<String>, stack: &[u64]) -> Self {
        if !stack.is_empty() {
            self.stacks.push((what.into(), stack.to_vec()));
        }
        self
    }

    /// Stops the run, without the panic hook: a finding is no panic of the lab. The unwinding ends at the border to the image or at the base of the coroutine, which hand it to the scheduler.
    pub fn raise(self) -> ! {
        panic::resume_unwind(Box::new(self))
    }
}
