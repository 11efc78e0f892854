//! Makes a finding small: first the scenario, then the schedule.

use std::collections::BTreeSet;

use super::{
    Found, Replay, Scenario, Shrunk,
    attempt::{Failure, attempt},
    replay::images,
    simpler::{WAYS, Way, weight, without},
};
use crate::{
    choices::{Draw, Tape},
    config::Config,
};

/// How many seeds a smaller scenario is tried with, besides the recorded schedule.
const SEEDS: u64 = 8;

/// A search for something smaller that ends the same way.
struct Shrinker<S> {
    scenario: S,
    config: Config,
    failure: Failure,
    /// What was drawn; none where a schedule cannot be recorded.
    tape: Option<Tape>,
    /// The schedules that were tried with the scenario.
    tried: BTreeSet<Vec<Draw>>,
    runs: u64,
    budget: u64,
    steps: u64,
}

/// Makes what was found in unit `first` small, with at most `budget` runs.
pub(super) fn shrink<S: Scenario>(
    (scenario, config): (S, Config),
    failure: Failure,
    first: u64,
    budget: u64,
) -> Found<S> {
    let mut shrinker =
        Shrinker { scenario, config, failure, tape: None, tried: BTreeSet::new(), runs: 0, budget, steps: 0 };
    // Once more, to have its schedule.
    let repeats = shrinker.try_out(shrinker.scenario.clone(), shrinker.config.clone());
    let before = shrinker.draws();
    if repeats {
        shrinker.shrink_scenario();
        shrinker.shrink_schedule();
    }
    let Shrinker { scenario, config, failure, tape, runs, steps, .. } = shrinker;
    let images = images(&scenario);
    let draws = tape.as_ref().map_or(0, |tape| tape.draws.len());
    let config = Config { tape, keep_tape: false, ..config };
    let replay = Replay { scenario, config, images, finding: failure.key, report: failure.report };
    Found {
        count: 1,
        first,
        repeats,
        replay,
        shrunk: Shrunk { draws_before: before, draws, scenario_steps: steps, runs },
    }
}

impl<S: Scenario> Shrinker<S> {
    fn draws(&self) -> usize {
        self.tape.as_ref().map_or(0, |tape| tape.draws.len())
    }

    /// Runs something; keeps it where it ends as before.
    fn try_out(&mut self, scenario: S, config: Config) -> bool {
        self.runs += 1;
        let config = Config { keep_tape: true, ..config };
        let ended = attempt(&scenario, config.clone());
        match ended.result {
            Err(failure) if failure.key == self.failure.key => {
                (self.scenario, self.config) = (scenario, config);
                (self.failure, self.tape) = (failure, ended.tape);
                true
            }
            _ => false,
        }
    }

    const fn has_budget(&self) -> bool {
        self.runs < self.budget
    }

    /// Takes the first smaller scenario that ends as before, again and again.
    fn shrink_scenario(&mut self) {
        while self.scenario.shrink().into_iter().any(|smaller| self.ends_alike(&smaller)) {
            self.steps += 1;
            self.tried.clear();
        }
    }

    fn ends_alike(&mut self, smaller: &S) -> bool {
        let recorded = self.tape.clone().map(|tape| Config { tape: Some(tape), ..self.config.clone() });
        let seed = self.config.seed;
        let seeds = (seed..seed.saturating_add(SEEDS)).map(|seed| Config { seed, tape: None, ..self.config.clone() });
        #[allow(clippy::needless_collect, reason = "they are made of what changes below")]
        let configs: Vec<Config> = recorded.into_iter().chain(seeds).collect();
        configs.into_iter().any(|config| self.has_budget() && self.try_out(smaller.clone(), config))
    }

    /// Makes the schedule simpler in all ways, until none helps.
    fn shrink_schedule(&mut self) {
        loop {
            let before = self.weight();
            self.take_out_spans();
            for way in WAYS {
                self.go(way);
            }
            if self.weight() == before || !self.has_budget() {
                return;
            }
        }
    }

    fn weight(&self) -> (usize, u64, u64) {
        weight(self.schedule())
    }

    fn schedule(&self) -> &[Draw] {
        self.tape.as_ref().map_or(&[], |tape| &tape.draws)
    }

    /// Takes draws out, large spans first, then one by one.
    fn take_out_spans(&mut self) {
        let mut span = self.draws();
        while span > 0 && self.has_budget() {
            self.take_out(span);
            span /= 2;
        }
    }

    /// Tries to do without each span of so many draws, the last first: a schedule is decided at its beginning.
    fn take_out(&mut self, span: usize) {
        let mut end = self.draws();
        while end > 0 && self.has_budget() {
            let start = end.saturating_sub(span);
            self.try_schedule(without(self.schedule(), start..end));
            end = start.min(self.draws());
        }
    }

    /// Tries a way at each draw, the last first, as long as it helps there.
    fn go(&mut self, way: Way) {
        let mut at = self.draws();
        while at > 0 && self.has_budget() {
            at -= 1;
            while at < self.draws() {
                let tried = way(self.schedule(), at);
                if !tried.into_iter().any(|draws| self.try_schedule(draws)) {
                    break;
                }
            }
        }
    }

    /// Keeps a schedule that ends as before; one that was tried already does not.
    fn try_schedule(&mut self, draws: Vec<Draw>) -> bool {
        if !self.has_budget() || !self.tried.insert(draws.clone()) {
            return false;
        }
        let config = Config { tape: Some(Tape { draws }), ..self.config.clone() };
        self.try_out(self.scenario.clone(), config)
    }
}
