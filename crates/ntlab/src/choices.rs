//! The one source of everything that is left to chance in a run: what is drawn can be recorded, and played back.
//!
//! In every draw 0 is what is ordinary: no switch, no event, no delay. A recording so is no more than the draws that are not 0, and a
//! schedule becomes simpler when draws are taken out of it.

use std::cell::{Cell, RefCell};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// What a draw is for. Each stream is numbered on its own, so that a change in one leaves the others where they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Whether another processor or thread goes on though the current one could; numbered by scheduling point.
    Switch,
    /// Which processor or thread goes on where one must be chosen.
    Next,
    /// What hardware and Windows do.
    Event,
}

const STREAMS: usize = 3;

/// A draw that was not 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(from = "(Stream, u64, u64, u64)", into = "(Stream, u64, u64, u64)")]
pub struct Draw {
    /// What for.
    pub stream: Stream,
    /// Its number in the stream.
    pub at: u64,
    /// It was one of `0..of`.
    pub of: u64,
    /// What was drawn.
    pub value: u64,
}

impl From<(Stream, u64, u64, u64)> for Draw {
    fn from((stream, at, of, value): (Stream, u64, u64, u64)) -> Self {
        Self { stream, at, of, value }
    }
}

impl From<Draw> for (Stream, u64, u64, u64) {
    fn from(draw: Draw) -> Self {
        (draw.stream, draw.at, draw.of, draw.value)
    }
}

/// The draws of a run that were not 0, by stream and number.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tape {
    /// The draws.
    pub draws: Vec<Draw>,
}

/// The draws of one stream.
#[derive(Debug, Default)]
struct Track {
    /// How many draws there were; the number of the next one.
    count: Cell<u64>,
    /// What is played back.
    planned: Vec<Draw>,
    /// The first of `planned` that has not passed.
    position: Cell<usize>,
}

impl Track {
    /// The first planned draw from number `at` on. Numbers only grow.
    fn planned_from(&self, at: u64) -> Option<&Draw> {
        let mut position = self.position.get();
        while self.planned.get(position).is_some_and(|draw| draw.at < at) {
            position += 1;
        }
        self.position.set(position);
        self.planned.get(position)
    }

    /// What is played back as draw number `at` of `0..of`: 0 where nothing was recorded, or a draw from another number of choices.
    fn planned_value(&self, at: u64, of: u64) -> u64 {
        let planned = self.planned_from(at);
        planned.filter(|draw| draw.at == at && draw.of == of && draw.value < of).map_or(0, |draw| draw.value)
    }
}

/// Everything a run leaves to chance: drawn by a generator with a seed, or played back. Same image, scenario and seed or tape, same run.
#[derive(Debug)]
pub struct Choices {
    generator: RefCell<ChaCha8Rng>,
    tracks: [Track; STREAMS],
    plays: bool,
    recorded: Option<RefCell<Vec<Draw>>>,
}

impl Choices {
    /// The draws of a run with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let generator = ChaCha8Rng::seed_from_u64(seed).into();
        Self { generator, tracks: Default::default(), plays: false, recorded: None }
    }

    /// The draws of a machine made as `config` says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut choices = Self::new(config.seed);
        choices.recorded = config.keep_tape.then(RefCell::default);
        if let Some(tape) = &config.tape {
            choices.plays = true;
            for draw in &tape.draws {
                choices.tracks[draw.stream as usize].planned.push(*draw);
            }
            choices.tracks.iter_mut().for_each(|track| track.planned.sort_unstable());
        }
        choices
    }

    /// Whether draws are played back.
    pub const fn plays(&self) -> bool {
        self.plays
    }

    /// One of `0..count`; 0, the ordinary one, where `count` is 0 or 1, which is no draw.
    pub fn below(&self, count: usize) -> usize {
        self.draw(Stream::Event, count, |choices| choices.random(count))
    }

    /// True once in `n` on average; never for 0.
    pub fn once_in(&self, n: usize) -> bool {
        n != 0 && self.below(n) == n - 1
    }

    /// A number from `lowest..=highest`, of which `lowest` is the ordinary one.
    pub fn between(&self, lowest: u64, highest: u64) -> u64 {
        if lowest >= highest {
            return lowest;
        }
        let of = (highest - lowest).saturating_add(1);
        let number = self.tracks[Stream::Event as usize].count.get();
        lowest + self.decide(Stream::Event, number, of, |choices| choices.generator.borrow_mut().random_range(0..of))
    }

    /// Who goes on, of `0..count`, where somebody must be chosen: what `policy` says, or what was recorded.
    pub fn next(&self, count: usize, policy: impl FnOnce(&Self) -> usize) -> usize {
        self.draw(Stream::Next, count, policy)
    }

    /// What happens at a scheduling point, of `0..count`: what `policy` says, or what was recorded.
    pub fn switch(&self, point: u64, count: usize, policy: impl FnOnce(&Self) -> usize) -> usize {
        self.tracks[Stream::Switch as usize].count.set(point);
        self.draw(Stream::Switch, count, policy)
    }

    /// The scheduling point, `point` or a later one, at which a switch was recorded.
    pub fn planned_switch(&self, point: u64) -> Option<u64> {
        self.tracks[Stream::Switch as usize].planned_from(point).map(|draw| draw.at)
    }

    /// One of `0..count` for a policy: what it makes of it is recorded, not this.
    pub fn random(&self, count: usize) -> usize {
        if count < 2 { 0 } else { self.generator.borrow_mut().random_range(0..count) }
    }

    /// The draws that were not 0.
    pub fn take_tape(&self) -> Option<Tape> {
        let mut draws = self.recorded.as_ref()?.take();
        draws.sort_unstable();
        Some(Tape { draws })
    }

    fn draw(&self, stream: Stream, count: usize, policy: impl FnOnce(&Self) -> usize) -> usize {
        if count < 2 {
            return 0;
        }
        let number = self.tracks[stream as usize].count.get();
        let value = self.decide(stream, number, count as u64, |choices| policy(choices) as u64);
        usize::try_from(value).unwrap_or(0)
    }

    fn decide(&self, stream: Stream, at: u64, of: u64, policy: impl FnOnce(&Self) -> u64) -> u64 {
        let track = &self.tracks[stream as usize];
        track.count.set(at + 1);
        let value = if self.plays { track.planned_value(at, of) } else { policy(self) };
        if value != 0
            && let Some(recorded) = &self.recorded
        {
            recorded.borrow_mut().push(Draw { stream, at, of, value });
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some draws of each kind.
    fn draws(choices: &Choices) -> Vec<u64> {
        let numbers = (1..40).map(|n| match n % 4 {
            0 => choices.below(n) as u64,
            1 => choices.between(3, n as u64),
            2 => choices.next(n, |choices| choices.random(n)) as u64,
            _ => choices.switch(n as u64, n, |choices| choices.random(n)) as u64,
        });
        numbers.collect()
    }

    fn playing(draws: Vec<Draw>) -> Choices {
        Choices::of(&Config { tape: Some(Tape { draws }), keep_tape: true, ..Config::default() })
    }

    #[test]
    fn what_was_recorded_is_played_back_and_recorded_again() {
        let first = Choices::of(&Config { seed: 7, keep_tape: true, ..Config::default() });
        let drawn = draws(&first);
        let tape = first.take_tape().expect("it was recorded");
        assert!(tape.draws.len() > 20 && tape.draws.iter().all(|draw| draw.value != 0));
        let again = playing(tape.draws.clone());
        assert_eq!(draws(&again), drawn);
        assert_eq!(again.take_tape(), Some(tape));
    }

    #[test]
    fn a_draw_that_was_not_recorded_or_was_of_another_number_is_the_ordinary_one() {
        let draw = |at, of| Draw { stream: Stream::Event, at, of, value: 2 };
        let choices = playing(vec![draw(0, 3), draw(1, 5), draw(3, 4)]);
        assert_eq!([3, 4, 4, 4, 4].map(|count| choices.below(count)), [2, 0, 0, 2, 0]);
        assert_eq!(choices.between(10, 20), 10);
        assert!(!choices.once_in(2));
    }

    #[test]
    fn a_recording_is_the_same_after_it_was_written_down() {
        let choices = Choices::of(&Config { seed: 1, keep_tape: true, ..Config::default() });
        draws(&choices);
        let tape = choices.take_tape().expect("it was recorded");
        let text = serde_json::to_string(&tape).expect("it can be written");
        assert_eq!(serde_json::from_str::<Tape>(&text).expect("it can be read"), tape);
    }
}
