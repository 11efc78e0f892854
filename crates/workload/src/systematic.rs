//! The systematic search for what a failure breaks, run after run until no new call stack appears.
//!
//! Every call of the driver's that can fail, told apart by function, stage of the [`life`](crate::life) and call stack, fails once in each way that its
//! page documents, with and without later success.
//!
//! A search can be split: each of N shards runs its part of the cases, and what they found [merges](Results::merge). What one shard's
//! runs have shown for the first time is another shard's to run: merge and go on until nothing [remains](Results::remaining).

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use ntlab::{
    config::Config,
    faults::{Call, Fault, Lasting, Plan, Site},
    machine::{Machine, System},
};
use serde::{Deserialize, Serialize};

/// The input of a run: with the same driver, the same run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Case {
    /// The machine's seed.
    pub seed: u64,
    /// What fails.
    pub faults: Vec<Fault>,
}

/// One part of a search: part `index`, from 0, of `count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Which.
    pub index: u32,
    /// Of how many.
    pub count: NonZero<u32>,
}

impl Shard {
    /// The search as a whole.
    pub const WHOLE: Self = Self { index: 0, count: NonZero::<u32>::MIN };

    /// Whether a case is its to run. The sum is that of FNV-1a, which is the same everywhere.
    fn has(self, site: &Site, way: Way) -> bool {
        let stack = site.stack.iter().flat_map(|offset| offset.to_le_bytes());
        let bytes = site.stage.bytes().chain(site.function.bytes()).chain(stack);
        let ways = [way.failure.to_le_bytes()[0], way.lasting as u8];
        let sum =
            bytes.chain(ways).fold(0x811C_9DC5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        sum % self.count == self.index
    }
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Way {
    /// In which of the ways that its page documents.
    pub failure: usize,
    /// What fails after it.
    pub lasting: Lasting,
}

/// A distinct call that can fail, and what has been done about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// From where it comes.
    pub site: Site,
    /// A run in which it is made.
    pub first: Case,
    /// Its number in that run.
    pub number: u64,
    /// In how many ways it can fail.
    pub failures: usize,
    /// In which it has failed.
    pub done: BTreeSet<Way>,
}

impl Known {
    fn ways(&self) -> impl Iterator<Item = Way> {
        let ways = (0..self.failures).flat_map(|failure| Lasting::ALL.map(|lasting| Way { failure, lasting }));
        // Without any memory it does not matter how the first call failed.
        ways.filter(|way| way.failure == 0 || way.lasting != Lasting::Memory)
    }

    fn missing(&self) -> impl Iterator<Item = Way> {
        self.ways().filter(|way| !self.done.contains(way))
    }

    fn case(&self, way: Way) -> Case {
        let mut case = self.first.clone();
        case.faults.push(Fault { call: self.number, failure: way.failure, lasting: way.lasting });
        case
    }
}

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Broken {
    /// What happened, in words.
    pub what: String,
    /// The run that shows it.
    pub case: Case,
}

/// What a search has come to.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Results {
    /// The distinct calls that can fail, in order.
    pub known: Vec<Known>,
    /// Runs so far.
    pub runs: u64,
    /// What broke.
    pub broken: Vec<Broken>,
}

impl Results {
    /// Takes in what another shard came to.
    pub fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.broken.extend(other.broken);
        self.broken.sort();
        self.broken.dedup();
        let mut by_site: BTreeMap<Site, Known> = std::mem::take(&mut self.known).into_iter().map(keyed).collect();
        for known in other.known {
            match by_site.get_mut(&known.site) {
                Some(own) => own.done.extend(&known.done),
                None => drop(by_site.insert(known.site.clone(), known)),
            }
        }
        self.known = by_site.into_values().collect();
    }

    /// How many failures of known calls have not been tried.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.known.iter().map(|known| known.missing().count()).sum()
    }

    /// How many distinct calls each function has.
    #[must_use]
    pub fn functions(&self) -> BTreeMap<&str, usize> {
        let mut functions = BTreeMap::new();
        for known in &self.known {
            *functions.entry(&*known.site.function).or_default() += 1;
        }
        functions
    }
}

fn keyed(known: Known) -> (Site, Known) {
    (known.site.clone(), known)
}

/// A systematic search.
#[derive(Clone, Debug)]
pub struct Search<'s> {
    /// The driver.
    pub sys: &'s Path,
    /// What is lived with the driver: its whole [`life`](crate::life::live), or a part.
    pub life: fn(&System, &Path),
    /// The machine, but for its seed and what fails.
    pub machine: Config,
    /// Seeds of the runs without a failure that it starts from.
    pub seeds: u64,
    /// The part of it to do.
    pub shard: Shard,
    /// Host threads that run machines.
    pub threads: NonZero<usize>,
}

/// What a run came to.
struct Run {
    calls: Vec<Call>,
    broken: Option<String>,
}

impl Search<'_> {
    /// Goes on from `results`, at first empty, until no case of this shard is left, or `go_on`, which is asked before each round, says to
    /// stop.
    #[must_use]
    pub fn run(&self, mut results: Results, mut go_on: impl FnMut(&Results) -> bool) -> Results {
        let mut cases: Vec<(Case, Option<(Site, Way)>)> = if results.known.is_empty() {
            (0..self.seeds).map(|seed| (Case { seed, faults: Vec::new() }, None)).collect()
        } else {
            self.cases(&results)
        };
        while !cases.is_empty() && go_on(&results) {
            let runs = self.run_all(&cases);
            for ((case, failing), run) in cases.into_iter().zip(runs) {
                note(&mut results, case, failing, run);
            }
            cases = self.cases(&results);
        }
        results
    }

    /// Runs one case: what broke, if anything.
    #[must_use]
    pub fn run_case(&self, case: &Case) -> Option<String> {
        self.run_one(case).broken
    }

    /// What there is to do for this shard. No more than a round should take, so that what is new is known before the next.
    fn cases(&self, results: &Results) -> Vec<(Case, Option<(Site, Way)>)> {
        let own = |known: &Known, way: &Way| self.shard.has(&known.site, *way);
        let cases = |known: &'_ Known| -> Vec<(Case, Option<(Site, Way)>)> {
            let missing = known.missing().filter(|way| own(known, way));
            missing.map(|way| (known.case(way), Some((known.site.clone(), way)))).collect()
        };
        results.known.iter().flat_map(cases).take(256).collect()
    }

    fn run_all(&self, cases: &[(Case, Option<(Site, Way)>)]) -> Vec<Run> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut runs = Vec::new();
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some((case, _)) = cases.get(place) else { return runs };
                runs.push((place, self.run_one(case)));
            }
        };
        let mut runs: Vec<(usize, Run)> = thread::scope(|scope| {
            let mut others = Vec::new();
            for _ in 1..self.threads.get() {
                others.push(scope.spawn(work));
            }
            let mut runs = work();
            runs.extend(others.into_iter().flat_map(|other| other.join().expect("a run's panic is caught")));
            runs
        });
        runs.sort_by_key(|(place, _)| *place);
        runs.into_iter().map(|(_, run)| run).collect()
    }

    fn run_one(&self, case: &Case) -> Run {
        let plan = Plan { faults: case.faults.clone(), watch: true, ..Plan::default() };
        let machine = Machine::new(self.machine.clone().with_seed(case.seed).with_faults(plan));
        let machine = machine.expect("the machine makes sense");
        let lived = panic::catch_unwind(AssertUnwindSafe(|| machine.run(|system| (self.life)(system, self.sys))));
        match lived {
            Ok(outcome) => {
                let places = outcome.failed.join("\n");
                let broken = outcome.result.err().map(|report| format!("{report}\n{places}"));
                Run { calls: outcome.calls, broken }
            }
            Err(payload) => Run { calls: Vec::new(), broken: Some(message(&*payload)) },
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Takes in what a run came to.
fn note(results: &mut Results, case: Case, failing: Option<(Site, Way)>, run: Run) {
    results.runs += 1;
    for Call { site, number, failures, failed } in run.calls {
        let place = results.known.binary_search_by(|known| known.site.cmp(&site));
        let Err(place) = place else { continue };
        let mut known = Known { site, first: case.clone(), number, failures, done: BTreeSet::new() };
        if failed {
            // It failed in this run as it would in one of its own.
            known.done = known.ways().filter(|way| way.failure == 0).collect();
        }
        results.known.insert(place, known);
    }
    if let Some((site, way)) = failing
        && let Ok(place) = results.known.binary_search_by(|known| known.site.cmp(&site))
    {
        results.known[place].done.insert(way);
    }
    if let Some(what) = run.broken {
        results.broken.push(Broken { what, case });
        results.broken.sort();
    }
}
