//! The one source of everything that is left to chance in a run.

use std::cell::RefCell;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator seeded once for each run: same image, scenario and seed, same choices.
#[derive(Debug)]
pub struct Choices {
    generator: RefCell<ChaCha8Rng>,
}

impl Choices {
    /// The generator of a run with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { generator: RefCell::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// One of `0..count`; 0 where `count` is 0 or 1, without using up a random number.
    pub fn below(&self, count: usize) -> usize {
        if count < 2 { 0 } else { self.generator.borrow_mut().random_range(0..count) }
    }

    /// True once in `n` on average; never for 0.
    pub fn once_in(&self, n: usize) -> bool {
        n != 0 && self.below(n) == 0
    }

    /// A number from `lowest..=highest`.
    pub fn between(&self, lowest: u64, highest: u64) -> u64 {
        if lowest >= highest { lowest } else { self.generator.borrow_mut().random_range(lowest..=highest) }
    }
}
