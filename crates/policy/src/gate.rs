//! The gate that every device request passes: who may pass, who waits, and who lets whom go, as a state machine.
//!
//! The driver keeps this state under the lock of the queue in which requests are held, and counts the requests in
//! flight in a cache-aware rundown protection, which this module only calls "the count".

use hotadd_abi::Gate as Mode;

/// What to do with a request that did not pass at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The gate has just opened: try again.
    Retry,
    /// Put it at the end of the queue.
    Hold,
    /// Fail it.
    Refuse,
}

/// What one who closed the gate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Wait until the count is zero, then tell [`State::drained`].
    Drain,
    /// Somebody else is waiting for that: wait until they are done.
    Join,
    /// Nothing is in flight.
    Done,
}

/// What one who lets held requests go does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Releasing {
    /// Make the count usable again, tell [`State::recounted`], and ask again.
    Recount,
    /// Count one request, then ask [`State::take`]; if it cannot be counted, ask again.
    Count,
    /// Stop: the gate was closed meanwhile, or somebody else is letting requests go.
    Stop,
}

/// What one who lets held requests go does with the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Take the first request out and pass it on.
    First,
    /// Stop: none is left, and the gate is running.
    Finished,
    /// The gate was closed meanwhile: ask [`State::release`] again.
    Ask,
}

/// The gate's state.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
pub struct State {
    /// Why it is closed.
    reasons: u32,
    /// Requests pass without waiting.
    passing: bool,
    /// The count can be used.
    countable: bool,
    /// Somebody waits for the count to be zero.
    draining: bool,
    /// Somebody lets held requests go.
    releasing: bool,
    refusing: bool,
}

impl State {
    /// A gate that holds requests for `reasons`, with a count that can be used.
    #[must_use]
    pub const fn held(reasons: u32) -> Self {
        Self { reasons, passing: false, countable: true, draining: false, releasing: false, refusing: false }
    }

    /// What the gate does with a new request.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        if self.refusing {
            Mode::Refusing
        } else if self.passing {
            Mode::Running
        } else {
            Mode::Holding
        }
    }

    /// Why it is closed.
    #[must_use]
    pub const fn reasons(&self) -> u32 {
        self.reasons
    }

    /// What to do with a request that could not be counted, or came while the gate was not running.
    #[must_use]
    pub const fn admit(&self) -> Admission {
        match self.mode() {
            Mode::Running => Admission::Retry,
            Mode::Holding => Admission::Hold,
            Mode::Refusing => Admission::Refuse,
        }
    }

    /// Closes the gate for `reason`, on top of those it is closed for already.
    #[must_use]
    pub const fn close(&mut self, reason: u32) -> Closing {
        self.reasons |= reason;
        self.shut()
    }

    /// Closes the gate for good.
    #[must_use]
    pub const fn refuse(&mut self) -> Closing {
        self.refusing = true;
        self.shut()
    }

    const fn shut(&mut self) -> Closing {
        self.passing = false;
        if self.countable {
            self.countable = false;
            self.draining = true;
            return Closing::Drain;
        }
        if self.draining { Closing::Join } else { Closing::Done }
    }

    /// The count is zero. Returns whether held requests are to be let go, because the gate was opened meanwhile.
    #[must_use]
    pub const fn drained(&mut self) -> bool {
        self.draining = false;
        self.begin_release()
    }

    /// Takes `reasons` back. Returns whether held requests are to be let go.
    #[must_use]
    pub const fn open(&mut self, reasons: u32) -> bool {
        self.reasons &= !reasons;
        self.begin_release()
    }

    const fn begin_release(&mut self) -> bool {
        if !self.may_open() || self.passing || self.releasing || self.draining {
            return false;
        }
        self.releasing = true;
        true
    }

    const fn may_open(&self) -> bool {
        self.reasons == 0 && !self.refusing
    }

    /// What one who lets held requests go does next.
    #[must_use]
    pub const fn release(&mut self) -> Releasing {
        if !self.may_open() || self.draining {
            self.releasing = false;
            return Releasing::Stop;
        }
        if self.countable { Releasing::Count } else { Releasing::Recount }
    }

    /// The count can be used again.
    pub const fn recounted(&mut self) {
        self.countable = true;
    }

    /// What one who lets held requests go, and has counted one, does with the queue.
    #[must_use]
    pub const fn take(&mut self, queue_is_empty: bool) -> Take {
        if !self.may_open() || !self.countable {
            return Take::Ask;
        }
        if !queue_is_empty {
            return Take::First;
        }
        self.releasing = false;
        self.passing = true;
        Take::Finished
    }
}
