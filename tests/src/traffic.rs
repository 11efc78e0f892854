//! Load on both devices, and what must be true of it at the end.

use hotadd_abi::Status;
use ntlab::user;
use workload::{Counts, Load, Manner, Plan, Target};

use crate::{Bench, PATIENCE};

/// How long a lane waits, at most, before its next request: while the `edu` device does nothing for a while, as in a rebalance, the
/// software device would answer many thousands.
const PAUSE: u64 = 100_000;
/// The same where the `edu` device does not answer for long.
const LONG_PAUSE: u64 = 100_000_000;

/// A load through two handles of each device.
pub struct Traffic<'k> {
    bench: Bench<'k>,
    load: Load<'k>,
}

impl<'k> Traffic<'k> {
    /// Keeps about `lanes` requests in flight, of which one in eight is cancelled.
    #[must_use]
    pub fn start(bench: Bench<'k>, lanes: u32, seed: u64) -> Self {
        Self::start_with(bench, lanes, seed, Manner { pause: PAUSE, ..Manner::default() })
    }

    /// The same without pauses.
    #[must_use]
    pub fn start_dense(bench: Bench<'k>, lanes: u32, seed: u64) -> Self {
        Self::start_with(bench, lanes, seed, Manner::default())
    }

    /// The same where requests may fail with one of `expected`.
    #[must_use]
    pub fn start_expecting(bench: Bench<'k>, lanes: u32, seed: u64, expected: &'static [user::Status]) -> Self {
        Self::start_with(bench, lanes, seed, Manner { expected, pause: PAUSE, ..Manner::default() })
    }

    /// The same with long pauses, for scenarios that last long.
    #[must_use]
    pub fn start_sparse(bench: Bench<'k>, lanes: u32, seed: u64, expected: &'static [user::Status]) -> Self {
        Self::start_with(bench, lanes, seed, Manner { expected, pause: LONG_PAUSE, ..Manner::default() })
    }

    fn start_with(bench: Bench<'k>, lanes: u32, seed: u64, manner: Manner) -> Self {
        let (edu, software) = (Target::new(bench.open_edu()), Target::new(bench.open_software()));
        let targets = [edu.clone(), software.clone(), edu.and(bench.open_edu()), software.and(bench.open_software())];
        let plan = Plan { lanes, seed, cancel_one_in: 8 };
        Self { bench, load: Load::start_with(bench.system, &targets, plan, manner) }
    }

    /// Lets it run until so many more requests have ended.
    ///
    /// # Panics
    ///
    /// Where they do not end.
    pub fn run(&self, requests: u64) {
        assert!(self.load.run(requests, PATIENCE), "requests end: {:?}", self.load.counts());
    }

    /// Ends it. Every request has ended exactly once, with the right result.
    ///
    /// # Panics
    ///
    /// Where that is not so, or what the devices say to `statuses` does not add up to it.
    pub fn stop(self, statuses: impl FnOnce() -> Vec<Status>) -> Counts {
        let (counts, broken) = self.load.stop(PATIENCE);
        assert_eq!(broken, Vec::<String>::new(), "every answer is right");
        assert_eq!(counts.lost, 0, "no request is lost: {:?}", self.bench.system.outstanding_requests());
        let statuses = statuses();
        let sum = |of: fn(&Status) -> u64| statuses.iter().map(of).sum::<u64>();
        assert_eq!(sum(|status| status.completed), counts.completed, "what succeeded is counted once");
        assert_eq!(sum(|status| status.cancelled), counts.cancelled, "what was cancelled is counted once");
        assert_eq!(
            sum(|status| status.accepted),
            sum(|status| status.completed + status.cancelled + status.failed),
            "what was accepted has ended"
        );
        assert_eq!(sum(|status| status.held), 0, "nothing waits at the gate");
        counts
    }

    /// Ends it on devices that both work, where no request may have failed.
    ///
    /// # Panics
    ///
    /// As [`Traffic::stop`], and where a request failed.
    #[allow(clippy::must_use_candidate, reason = "what it is called for is what it checks")]
    pub fn stop_unharmed(self) -> Counts {
        let bench = self.bench;
        let counts = self.stop(|| bench.statuses());
        assert_eq!(counts.failed, 0, "no request fails");
        counts
    }
}
