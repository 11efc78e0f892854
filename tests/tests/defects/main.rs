//! The verifier's checks, each shown to fire: `tests/defects` breaks one rule at a time, and its correct twin passes.
//!
//! A line of a topic's table is two tests: `defect_…`, in which the run must be stopped with the right bug check at the line of the driver
//! that has the comment `// DEFECT …`, with a report that says all it has to, and `correct_…`, in which the same thing done well must run, and
//! unload, without a finding.

/// The tests of a topic, one line for each defect: its name, the bug check's code, a pattern for its first parameter, and the scenario.
macro_rules! defects {
    ($($name:ident => $code:literal, $first:pat, $scenario:expr;)*) => {
        /// The defects that have tests here.
        pub const TESTED: &[&str] = &[$(stringify!($name)),*];

        pastey::paste! {$(
            #[test]
            fn [<defect_ $name>]() {
                let first = $scenario.stops(file!(), stringify!($name), $code);
                assert!(matches!(first, $first), "the first parameter is {first:#x}");
            }

            #[test]
            fn [<correct_ $name>]() {
                $scenario.passes(stringify!($name));
            }
        )*}
    };
}

mod report;
mod scenario;
mod sources;

mod attach;
mod callbacks;
mod completion;
mod dma;
mod hot_add;
mod interrupts;
mod io;
mod irql;
mod locks;
mod mutexes;
mod paging;
mod pool;
mod queue;
mod removal;
mod security;
mod stack;
mod system_irps;
mod tracking;

/// The driver's sources, and what is tested of them.
const TOPICS: [(&str, &[&str]); 18] = [
    ("attach.rs", attach::TESTED),
    ("callbacks.rs", callbacks::TESTED),
    ("completion.rs", completion::TESTED),
    ("dma.rs", dma::TESTED),
    ("hot_add.rs", hot_add::TESTED),
    ("interrupts.rs", interrupts::TESTED),
    ("io.rs", io::TESTED),
    ("irql.rs", irql::TESTED),
    ("locks.rs", locks::TESTED),
    ("mutexes.rs", mutexes::TESTED),
    ("paging.rs", paging::TESTED),
    ("pool.rs", pool::TESTED),
    ("queue.rs", queue::TESTED),
    ("removal.rs", removal::TESTED),
    ("security.rs", security::TESTED),
    ("stack.rs", stack::TESTED),
    ("system_irps.rs", system_irps::TESTED),
    ("tracking.rs", tracking::TESTED),
];
