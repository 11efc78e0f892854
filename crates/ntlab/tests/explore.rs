//! Exploring the schedules of a driver with races (`racy.sys`): what is found, how soon, how small it becomes, and that it comes again.

use std::{path::PathBuf, sync::OnceLock};

use ntlab::{
    config::{Config, Policy},
    explore::{self, Found, Options, Results, Shard},
    scenario::Scenario,
};

/// Seeds among which the race is found.
const SEEDS: u64 = 600;

fn image(package: &str) -> PathBuf {
    kit::driver(package).unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys
}

fn racy() -> PathBuf {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| image("racy")).clone()
}

fn scenario(text: &str, image: PathBuf) -> Scenario {
    let mut scenario = Scenario::parse(text).expect("the file makes sense");
    scenario.driver.image = image;
    scenario
}

fn last_message() -> Scenario {
    scenario(include_str!("scenarios/last-message.toml"), racy())
}

fn history() -> Scenario {
    scenario(include_str!("scenarios/history.toml"), racy())
}

fn config(scenario: &Scenario) -> Config {
    scenario.config().expect("the machine makes sense")
}

fn search(scenario: &Scenario, config: &Config, units: u64, options: &Options) -> Results<Scenario> {
    explore::run(units, |unit| (scenario.clone(), config.clone().with_seed(unit)), options)
}

fn only<S>(results: &Results<S>) -> (&String, &Found<S>) {
    let (key, found) = results.findings.first_key_value().expect("something is found");
    assert_eq!(results.findings.len(), 1, "{:?}", results.findings.keys());
    (key, found)
}

fn size(scenario: &Scenario) -> usize {
    let threads = scenario.threads.iter().map(|thread| thread.steps.len() * thread.repeat as usize);
    threads.sum::<usize>() + scenario.before.len() + scenario.after.len()
}

#[test]
fn a_race_is_found_soon_and_becomes_small_and_comes_again_byte_for_byte() {
    let scenario = last_message();
    let results = search(&scenario, &config(&scenario), SEEDS, &Options::default());
    let (key, found) = only(&results);
    assert!(key.contains("copy_to"), "{key}");
    assert!(found.repeats, "{found:?}");

    let small = &found.replay.scenario;
    assert!(size(small) < size(&scenario), "{small:?}");
    assert!(found.shrunk.draws < found.shrunk.draws_before, "{:?}", found.shrunk);

    let written = serde_json::to_string(&found.replay).expect("it can be written");
    let replay: explore::Replay<Scenario> = serde_json::from_str(&written).expect("it can be read");
    for _ in 0..2 {
        assert_eq!(replay.run(), Ok(Some(found.replay.report.clone())));
    }
}

#[test]
fn what_was_found_in_a_long_schedule_needs_a_few_switches_and_ends_the_same() {
    let scenario = last_message();
    let dense = Config { switch_every: 2, ..config(&scenario) };
    let results = search(&scenario, &dense, SEEDS, &Options::default());
    let (key, found) = only(&results);
    let Found { replay, shrunk, .. } = found;
    assert!(shrunk.draws_before >= 20, "{shrunk:?}");
    assert!(shrunk.draws <= 4, "{shrunk:?}: {:?}", replay.config.tape);
    assert!(size(&replay.scenario) <= 5, "{:?}", replay.scenario);
    assert_eq!((&replay.finding, replay.run()), (key, Ok(Some(replay.report.clone()))));
}

/// In how many of `units` a race is found.
fn count(scenario: &Scenario, config: &Config, units: u64) -> u64 {
    let options = Options { collect: true, shrink_runs: 0, ..Options::default() };
    search(scenario, config, units, &options).findings.values().map(|found| found.count).sum()
}

#[test]
fn a_race_that_needs_a_long_delay_is_found_by_priorities_and_hardly_by_uniform_chance() {
    const UNITS: u64 = 300;
    let scenario = history();
    let uniform = config(&scenario);
    let policy = explore::pct(&scenario, &uniform, 4);
    let by_priorities = count(&scenario, &Config { policy, ..uniform.clone() }, UNITS);
    let by_chance = count(&scenario, &uniform, UNITS);
    assert!(by_priorities >= 8 && by_priorities >= 3 * by_chance, "{by_priorities} and {by_chance} of {UNITS}");
}

#[test]
fn what_is_found_depends_on_the_seeds_and_not_on_how_many_threads_search() {
    let scenario = last_message();
    let with_jobs = |jobs| {
        let options = Options { jobs, shrink_runs: 20, ..Options::default() };
        let results = search(&scenario, &config(&scenario), SEEDS, &options);
        serde_json::to_string(&results).expect("they can be written")
    };
    assert_eq!(with_jobs(1), with_jobs(3));
}

#[test]
fn the_same_mailbox_with_a_lock_has_no_finding() {
    let scenario = scenario(include_str!("scenarios/last-message.toml"), image("foreign"));
    let uniform = config(&scenario);
    let policy = explore::pct(&scenario, &uniform, 3);
    for config in [uniform.clone(), Config { policy, ..uniform }] {
        let results = search(&scenario, &config, 60, &Options::default());
        assert_eq!((results.findings.len(), results.units), (0, 60));
        assert!(results.covered.pairs() > 20 && results.new_in_last_tenth() <= results.covered.pairs() / 10);
    }
}

#[test]
fn parts_of_a_search_merge_to_the_whole() {
    let scenario = last_message();
    let options = Options { collect: true, shrink_runs: 5, ..Options::default() };
    let whole = search(&scenario, &config(&scenario), 60, &options);
    let part = |index| {
        let options = Options { shard: Shard { index, count: 3 }, ..options.clone() };
        search(&scenario, &config(&scenario), 60, &options)
    };
    let mut merged = part(2);
    merged.merge(part(0));
    merged.merge(part(1));
    let text = |results: &Results<Scenario>| serde_json::to_string(results).expect("they can be written");
    assert_eq!(text(&merged), text(&whole));
}

#[test]
fn a_recorded_schedule_repeats_a_run_event_for_event_under_any_policy() {
    let scenario = scenario(include_str!("scenarios/last-message.toml"), image("foreign"));
    let uniform = Config { keep_trace: true, keep_tape: true, ..config(&scenario) };
    let policy = explore::pct(&scenario, &uniform, 3);
    for config in [uniform.clone(), Config { switch_every: 1, ..uniform.clone() }, Config { policy, ..uniform }] {
        for seed in 0..8 {
            let first = scenario.run(config.clone().with_seed(seed));
            let tape = first.tape.clone();
            assert!(tape.as_ref().is_some_and(|tape| !tape.draws.is_empty()), "seed {seed}");
            // Where everything is played back, nothing is left for the policy.
            let played = Config { tape, policy: Policy::Uniform, ..config.clone().with_seed(seed) };
            let second = scenario.run(played);
            assert_eq!((first.points, &first.tape), (second.points, &second.tape), "seed {seed}");
            assert!(first.events == second.events, "seed {seed}");
        }
    }
}

#[test]
fn an_image_that_changed_is_not_taken_for_the_one_a_finding_was_made_with() {
    let scenario = last_message();
    let options = Options { shrink_runs: 1, ..Options::default() };
    let mut results = search(&scenario, &config(&scenario), SEEDS, &options);
    let (_, found) = results.findings.pop_first().expect("something is found");
    let mut replay = found.replay;
    replay.images[0].1 = "0".repeat(64);
    let refused = replay.run().expect_err("the hash is another").to_string();
    assert!(refused.contains("is not the image this was found with"), "{refused}");
}
