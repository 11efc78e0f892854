//! A search in processes, and in threads. This file is a program of its own: what runs tests has several threads, and searches fork only
//! where there is one.

use std::{
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process, thread,
};

use ntlab::{
    config::Config,
    explore::{self, Options, Results, Scenario, Tally},
    machine::{Machine, Outcome},
};
use serde::{Deserialize, Serialize};

const UNITS: u64 = 40;
/// Units that find something.
const BROKEN: [u64; 2] = [17, 23];

/// A machine in which nothing happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Idle {
    unit: u64,
    /// The process that searches.
    parent: u32,
    /// The unit whose process dies.
    dies: Option<u64>,
}

impl Scenario for Idle {
    fn name(&self) -> String {
        "idle".into()
    }

    fn images(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn run(&self, config: Config) -> Outcome<Result<Tally, String>> {
        if self.dies == Some(self.unit) {
            process::abort();
        }
        let outcome = Machine::new(config).expect("the machine makes sense").run(|system| system.sleep(1000));
        let forked = u64::from(process::id() != self.parent);
        outcome.map(|()| match self.unit {
            unit if BROKEN.contains(&unit) => Err("it is broken".into()),
            _ => Ok([("runs".into(), 1), ("in another process".into(), forked)].into()),
        })
    }
}

fn search(collect: bool, dies: Option<u64>) -> Results<Idle> {
    let parent = process::id();
    let options = Options { jobs: 3, collect, shrink_runs: 0, ..Options::default() };
    explore::run(UNITS, |unit| (Idle { unit, parent, dies }, Config::default().with_seed(unit)), &options)
}

fn in_a_thread(collect: bool) -> Results<Idle> {
    thread::spawn(move || search(collect, None)).join().expect("the search ends")
}

fn first_unit(results: &Results<Idle>) -> Option<u64> {
    results.findings.values().map(|found| found.first).min()
}

fn main() {
    for collect in [false, true] {
        let mut forked = search(collect, None);
        let mut threaded = in_a_thread(collect);
        let own = forked.tally.remove("in another process");
        assert_eq!(own, forked.tally.get("runs").copied(), "this thread is alone: every machine has another process");
        assert_eq!(threaded.tally.remove("in another process"), Some(0), "there are two threads: nothing is forked");
        assert_eq!(first_unit(&forked), Some(BROKEN[0]));
        assert_eq!(
            serde_json::to_value(&forked).expect("it can be written"),
            serde_json::to_value(&threaded).expect("it can be written"),
            "what is found does not depend on it"
        );
    }
    // What it says is looked at here, and needs not be printed.
    panic::set_hook(Box::new(|_| ()));
    let died = panic::catch_unwind(AssertUnwindSafe(|| search(true, Some(5))));
    drop(panic::take_hook());
    let message = died.expect_err("a search without one of its processes came to nothing");
    let message = message.downcast_ref::<String>().map_or("", String::as_str);
    assert!(message.contains("ended with signal: 6"), "{message}");
    println!("a search in processes is one in threads: ok");
}
