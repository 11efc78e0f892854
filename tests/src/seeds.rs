//! Seeds: each test that leaves something to chance runs with several, always the same.

use std::{env, path::Path, thread};

const SEED: &str = "HOTADD_SEED";

/// Whether tests run with all of their seeds, so that what is left to chance has happened with one of them.
#[must_use]
pub fn with_all_seeds() -> bool {
    env::var_os(SEED).is_none()
}

/// Runs `test` with `count` seeds, or with the one in `HOTADD_SEED`.
///
/// # Panics
///
/// Where `HOTADD_SEED` is no number, and where `test` does.
pub fn each_seed(count: u64, mut test: impl FnMut(u64)) {
    let chosen = env::var(SEED).ok().map(|text| text.parse().expect("HOTADD_SEED is a number"));
    let seeds = chosen.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let _failure = when_failing(|| eprintln!("to repeat this: {}", command(seed)));
        test(seed);
    }
}

/// Calls `tell` if the test fails while what is returned lives.
pub const fn when_failing<F: Fn()>(tell: F) -> OnFailure<F> {
    OnFailure { tell }
}

pub struct OnFailure<F: Fn()> {
    tell: F,
}

impl<F: Fn()> Drop for OnFailure<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            (self.tell)();
        }
    }
}

/// The command that runs the current test again with one seed.
#[must_use]
pub fn command(seed: u64) -> String {
    let thread = thread::current();
    // With one test thread, tests run on the main one, which says nothing of the test.
    let test = thread.name().filter(|name| *name != "main").map(|name| format!(" -- --exact {name}"));
    let program = env::args().next().unwrap_or_default();
    let file = Path::new(&program).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let file = file.rsplit_once('-').map_or(file.as_str(), |(name, _)| name);
    format!("HOTADD_SEED={seed} cargo test --package hotadd-tests --test {file}{}", test.unwrap_or_default())
}
