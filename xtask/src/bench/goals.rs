//! What the figures must be.

use std::fmt;

use serde::Serialize;

/// What a figure must be.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// At most so many.
    AtMost(f64),
    /// At most so many times that of the driver in C.
    Times(f64),
}

impl Goal {
    /// Whether a figure is what it must be, beside that of the driver in C; not known without that.
    #[must_use]
    pub fn is_met(self, rust: f64, c: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(rust <= most),
            Self::Times(times) => c.map(|c| rust <= c * times),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::Times(times) => write!(f, "at most {times:.1} of C"),
        }
    }
}

/// Names of figures, in which * is any word, and what those must be. The first that fits counts.
const GOALS: &[(&str, Goal)] = &[
    ("request/software/*/instructions", Goal::Times(0.8)),
    ("request/edu/*/instructions", Goal::Times(1.0)),
    ("request/*/*/kernel-calls", Goal::Times(1.0)),
    ("request/*/*/atomics", Goal::Times(0.5)),
    ("lines/*/*", Goal::AtMost(0.0)),
    ("hold/*/growth", Goal::AtMost(1.05)),
    ("hold/*/*/*", Goal::Times(1.0)),
    ("processor/*/kernel-calls", Goal::AtMost(2.0)),
    ("memory/processor", Goal::AtMost(1024.0)),
    ("memory/stack", Goal::AtMost(4096.0)),
    ("image/file", Goal::Times(1.5)),
    ("floor/request/*/*/instructions", Goal::Times(1.1)),
];

/// Why a goal is not met, for figures with such names: what the listing beside it shows.
const WHY: &[(&str, &str)] = &[
    (
        "request/software/status/instructions",
        "A status takes no lock, and what it tells stands in 32 fields, each of which is one load and one store: nearly half of \
         the instructions are those. Three tenths are the way in and out of `dispatch_io`, which is one function for every request, because reads and \
         factorials take less that way: it saves the registers that those need. The rest adds up the counters that each processor has of its own; \
         the driver in C has one set of counters, which every request of every processor writes to.",
    ),
    (
        "hold/edu/0/instructions",
        "With 64 requests waiting it is less than C's: what is above C's does not depend on them. A sixth is `Journal::record`: eight events, for which C \
         takes more. `Edu::attach` and `allocate_bytes` make a block with an owner each for registers, adapter, DPC, interrupt and timer, which \
         `drop_in_place` ends again, where the driver in C has them in its device extension; `when_idle` is `PeerEduWaitUntilIdle`, and takes the \
         lock for each look at the device. `Gate::close`, `drain`, `open` and `release` know several reasons for one hold, a second thread that waits for \
         the first one's drain, and how long the hold was.",
    ),
    (
        "image/file",
        "The tables say where the code is written. The buffer pool, the plan of steering, the words that processors leave, and the \
         high memory thread have no counterpart in the driver in C. What is released by its owner is released in each function that can fail \
         between two acquisitions: drop glue and what `pool.rs` takes are each more than a tenth of the code. Optimised for size alone, with more \
         instructions for each request, the image would still be larger than the goal.",
    ),
];

/// Why the figure with this name is not what it must be.
#[must_use]
pub fn why(id: &str) -> Option<&'static str> {
    WHY.iter().find(|(pattern, _)| fits(pattern, id)).map(|(_, why)| *why)
}

/// What the figure with this name must be.
#[must_use]
pub fn of(id: &str) -> Option<Goal> {
    GOALS.iter().find(|(pattern, _)| fits(pattern, id)).map(|(_, goal)| *goal)
}

fn fits(pattern: &str, id: &str) -> bool {
    let (mut pattern, mut id) = (pattern.split('/'), id.split('/'));
    loop {
        match (pattern.next(), id.next()) {
            (None, None) => return true,
            (Some(wanted), Some(word)) if wanted == "*" || wanted == word => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_found_by_the_words_of_a_name() {
        assert_eq!(of("request/software/read/instructions"), Some(Goal::Times(0.8)));
        assert_eq!(of("floor/request/software/factorial/instructions"), Some(Goal::Times(1.1)));
        assert_eq!(of("request/software/read"), None);
        assert_eq!(of("request/software/read/instructions/more"), None);
    }

    #[test]
    fn a_goal_beside_the_driver_in_c_is_not_known_without_it() {
        assert_eq!(Goal::Times(0.5).is_met(1.0, None), None);
        assert_eq!(Goal::Times(0.5).is_met(1.0, Some(2.0)), Some(true));
        assert_eq!(Goal::Times(0.5).is_met(1.1, Some(2.0)), Some(false));
        assert_eq!(Goal::AtMost(2.0).is_met(3.0, Some(9.0)), Some(false));
    }
}
