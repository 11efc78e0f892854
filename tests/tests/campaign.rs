//! A campaign that is spread over machines comes to the same as in one go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
};

use hotadd_tests::{small, sys};
use ntlab::{config::Config, faults::Site, machine::System};
use serde_json::{Value, json};
use workload::systematic::{Results, Search, Shard, Way};
use xtask::campaign::{self, Options, Part};

const SHARDS: u32 = 3;
/// 4 seeds of the demo.
const ONE_IN: NonZero<u32> = NonZero::new(2_500).expect("it is not 0");
/// In so many turns all shards must have run what they have left to each other.
const TURNS: u32 = 6;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("campaign-{name}.json"))
}

/// What the campaign writes, but for the host's time.
fn written(options: Options, name: &str) -> Value {
    let options = Options { json: Some(file(name)), ..options };
    let code = campaign::run(&options, || Ok(sys().to_owned())).expect("the campaign runs");
    assert_eq!(code, ExitCode::SUCCESS, "nothing is found");
    let text = fs::read_to_string(file(name)).expect("the results are there");
    let mut results: Value = serde_json::from_str(&text).expect("they are JSON");
    let parts = results["parts"].as_object_mut().expect("there are parts");
    for (_, part) in parts {
        part["host_seconds"].take();
    }
    results
}

#[test]
fn the_merged_shards_of_units_are_the_whole() {
    let seeds = || Options { only: vec![Part::Seeds], one_in: ONE_IN, ..Options::default() };
    let whole = written(seeds(), "whole");
    let names: Vec<String> = (0..SHARDS).map(|index| format!("shard-{index}")).collect();
    for (index, name) in names.iter().enumerate() {
        let shard = format!("{index}/{SHARDS}").parse().expect("it is a shard");
        let part = written(Options { shard, ..seeds() }, name);
        assert_ne!(part, whole);
    }
    let merge = names.iter().map(|name| file(name)).collect();
    assert_eq!(written(Options { merge, ..Options::default() }, "merged"), whole);
    assert_eq!(whole["parts"]["seeds"]["found"]["Units"]["tally"]["requests"], 4 * 200);
}

/// A short life: a device without hardware comes, or fails to, and the driver is unloaded.
fn start_and_end(system: &System, sys: &Path) {
    system.install(workload::package(sys));
    system.plug(workload::software());
    workload::life::end(system);
}

fn search(index: u32, count: NonZero<u32>) -> Search<'static> {
    Search {
        sys: sys(),
        life: start_and_end,
        machine: Config { processors: 1, ..small() },
        seeds: 1,
        shard: Shard { index, count },
        threads: NonZero::<usize>::MIN,
    }
}

/// What was tried of which calls, and what broke.
fn tried(results: &Results) -> (BTreeMap<&Site, &BTreeSet<Way>>, Vec<&str>) {
    let known = results.known.iter().map(|known| (&known.site, &known.done)).collect();
    (known, results.broken.iter().map(|broken| &*broken.what).collect())
}

/// The same search in one go, and by shards that are merged turn after turn.
fn searched() -> (Results, Results) {
    let go_on = |_: &Results| true;
    let whole = search(0, NonZero::<u32>::MIN).run(Results::default(), go_on);
    let mut merged = Results::default();
    for _ in 0..TURNS {
        let from = merged.clone();
        for index in 0..SHARDS {
            let shard = search(index, NonZero::new(SHARDS).expect("there are some"));
            merged.merge(shard.run(Results { runs: 0, ..from.clone() }, go_on));
        }
        if merged.remaining() == 0 {
            break;
        }
    }
    (whole, merged)
}

#[test]
fn shards_of_the_faults_that_go_on_from_what_all_have_found_try_what_the_whole_tries() {
    let (whole, merged) = searched();
    assert_eq!((whole.remaining(), merged.remaining()), (0, 0));
    assert!(tried(&merged) == tried(&whole), "{:?} and {:?}", merged.functions(), whole.functions());
    assert!(whole.known.len() > 40, "a start makes calls that can fail: {:?}", whole.functions());
    assert_eq!(whole.broken, []);

    // The command line does the same with files: what is done is done, and what is missing is told.
    let faults =
        |found: &Results| json!({ "parts": { "faults": { "found": { "Faults": found }, "host_seconds": 1.0 } } });
    let write = |name: &str, results: &Results| {
        fs::write(file(name), faults(results).to_string()).expect("there is room");
        file(name)
    };
    let from = Some(write("all", &merged));
    let gone_on = written(Options { from, ..Options::default() }, "gone-on");
    assert_eq!(gone_on["parts"]["faults"]["found"], json!({ "Faults": Results { runs: 0, ..merged.clone() } }));

    let (half, rest) = merged.known.split_at(merged.known.len() / 2);
    let part = |known: &[_], runs| Results { known: known.to_vec(), runs, broken: Vec::new() };
    let merge = vec![write("half", &part(half, 3)), write("rest", &part(rest, 4))];
    let both = written(Options { merge, ..Options::default() }, "both");
    assert_eq!(both["parts"]["faults"]["found"], json!({ "Faults": Results { runs: 7, ..merged } }));
}
