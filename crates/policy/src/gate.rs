//! The gate that every device request passes: who may pass, who waits, and who lets whom go, as a state machine.
//!
//! The driver keeps this state under a lock, and counts the requests in flight in a cache-aware rundown protection, which this module only
//! calls "the count".

use hotadd_abi::Gate as Mode;

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
    /// Count requests and pass them on, as long as [`State::lets_go`]; when none is left, [`State::run`].
    Pass,
    /// Stop: the gate was closed meanwhile.
    Stop,
}

/// Whether requests in flight are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Usable,
    /// Somebody waits for it to be zero.
    Draining,
    /// Zero until it is made usable again.
    Drained,
}

/// The gate's state.
#[derive(Debug, Clone, Copy)]
pub struct State {
    mode: Mode,
    /// Why it is closed.
    reasons: u32,
    count: Count,
    /// Somebody lets held requests go.
    releasing: bool,
}

impl State {
    /// A gate that holds requests for `reasons`, with a count that can be used.
    #[must_use]
    pub const fn held(reasons: u32) -> Self {
        Self { mode: Mode::Holding, reasons, count: Count::Usable, releasing: false }
    }

    /// What the gate does with a new request.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Why it is closed.
    #[must_use]
    pub const fn reasons(&self) -> u32 {
        self.reasons
    }

    /// Closes the gate for `reason`, on top of those it is closed for already.
    #[must_use]
    pub const fn close(&mut self, reason: u32) -> Closing {
        self.reasons |= reason;
        if matches!(self.mode, Mode::Running) {
            self.mode = Mode::Holding;
        }
        self.end_count()
    }

    /// Closes the gate for good.
    #[must_use]
    pub const fn refuse(&mut self) -> Closing {
        self.mode = Mode::Refusing;
        self.end_count()
    }

    const fn end_count(&mut self) -> Closing {
        match self.count {
            Count::Usable => {
                self.count = Count::Draining;
                Closing::Drain
            }
            Count::Draining => Closing::Join,
            Count::Drained => Closing::Done,
        }
    }

    /// The count is zero. Returns whether held requests are to be let go, because the gate was opened meanwhile.
    #[must_use]
    pub const fn drained(&mut self) -> bool {
        self.count = Count::Drained;
        self.begin_release()
    }

    /// Takes `reasons` back. Returns whether held requests are to be let go.
    #[must_use]
    pub const fn open(&mut self, reasons: u32) -> bool {
        self.reasons &= !reasons;
        self.begin_release()
    }

    const fn begin_release(&mut self) -> bool {
        if !self.may_open() || self.releasing {
            return false;
        }
        self.releasing = true;
        true
    }

    /// Whether it holds requests without a reason, and nobody waits for the count.
    const fn may_open(&self) -> bool {
        self.reasons == 0 && matches!(self.mode, Mode::Holding) && !matches!(self.count, Count::Draining)
    }

    /// What one who lets held requests go does next.
    #[must_use]
    pub const fn release(&mut self) -> Releasing {
        if !self.may_open() {
            self.releasing = false;
            return Releasing::Stop;
        }
        if matches!(self.count, Count::Usable) { Releasing::Pass } else { Releasing::Recount }
    }

    /// The count can be used again.
    pub const fn recounted(&mut self) {
        self.count = Count::Usable;
    }

    /// Whether a held request that was counted may pass.
    #[must_use]
    pub const fn lets_go(&self) -> bool {
        self.may_open() && matches!(self.count, Count::Usable)
    }

    /// No request is held any more while [`Self::lets_go`]: from now on they pass without waiting.
    pub const fn run(&mut self) {
        self.releasing = false;
        self.mode = Mode::Running;
    }
}
