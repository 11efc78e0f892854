//! The demo: what it writes depends on its options and its seed alone, but for what the host's clock says.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use hotadd_tests::{each_seed, sys};
use ntlab::{config::Config, machine::Machine};
use recording::Recording;
use serde_json::{Map, Value};
use workload::Demo;
use workload::{Hardware, MachineOptions};
use xtask::demo::{self, Options};

/// The demo as it is without options, but that it writes its results to `json` alone.
fn quiet(json: &Path) -> Options {
    Options { json: Some(json.to_owned()), quiet: true, ..Options::default() }
}

/// The results of a demo with few requests, as it writes them to the file `name`.
fn results(seed: u64, name: &str) -> Map<String, Value> {
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let record = Some(recording_beside(&json));
    let options = Options {
        machine: MachineOptions { seed: Some(seed), requests: 8, ..MachineOptions::default() },
        record,
        ..quiet(&json)
    };
    let code = demo::run(&options, || Ok(sys().to_owned())).expect("the demo runs");
    assert_eq!(code, ExitCode::SUCCESS, "every promise is kept");
    let text = fs::read_to_string(json).expect("the results are there");
    serde_json::from_str(&text).expect("they are a JSON object")
}

/// Where a demo that writes its results to `json` writes its recording.
fn recording_beside(json: &Path) -> PathBuf {
    json.with_extension("recording.json")
}

fn without_host(results: Map<String, Value>) -> Map<String, Value> {
    results.into_iter().filter(|(name, _)| !name.starts_with("host_")).collect()
}

#[test]
fn no_request_is_lost_and_every_processor_works() {
    let results = results(3, "promises.json");
    let count = |name: &str| results[name].as_u64().expect("it is a count");
    assert_eq!((count("failed"), count("lost")), (0, 0));
    assert_eq!(count("submitted"), count("completed") + count("cancelled"));
    assert!(count("cancelled") > 0);
    let processors = results["processors"].as_array().expect("there is a list");
    assert_eq!(processors.len(), 8);
    for processor in processors {
        let after = &processor["requests"]["after"];
        assert!(after.as_u64() > Some(0), "{processor}");
    }
    assert_eq!(results["broken"], Value::Array(Vec::new()));
}

#[test]
fn the_demo_without_options_comes_to_its_end_under_full_load() {
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plain.json");
    let code = demo::run(
        &Options { machine: MachineOptions { seed: Some(1), ..MachineOptions::default() }, ..quiet(&json) },
        || Ok(sys().to_owned()),
    );
    assert_eq!(code.expect("the demo runs"), ExitCode::SUCCESS, "every promise is kept");
}

#[test]
fn two_runs_with_the_same_seed_end_the_same_but_for_the_clock_of_the_host() {
    let [first, second] = ["first.json", "second.json"].map(|name| results(5, name));
    assert!(first.contains_key("host_seconds"));
    assert_eq!(without_host(first), without_host(second));
    let recordings = ["first.json", "second.json"].map(|name| {
        let file = recording_beside(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::read_to_string(file).expect("the recording is there")
    });
    assert!(recordings[0] == recordings[1], "the recordings of seed 5 differ");
    let recording = Recording::from_json(&recordings[0]).expect("it can be read");
    assert_eq!((recording.before().processors.len(), recording.after().processors.len()), (2, 8));
    assert!(!recording.requests.is_empty() && !recording.activities.is_empty());
}

#[test]
fn another_seed_ends_differently() {
    assert_ne!(
        without_host(results(6, "six.json"))["elapsed_us"],
        without_host(results(7, "seven.json"))["elapsed_us"]
    );
}

#[test]
fn the_short_demo_sends_its_200_requests_and_keeps_every_promise() {
    each_seed(24, |seed| {
        let machine = Machine::new(Config::default().with_seed(seed)).expect("the machine makes sense");
        let outcome = machine.run(|system| Demo::with_seed(seed).play(system, sys()));
        let done = outcome.result.unwrap_or_else(|report| panic!("{report}")).expect("every promise is kept");
        assert_eq!(["requests", "processors added", "rebalances"].map(|what| done[what]), [200, 6, 6], "{done:?}");
    });
}

/// What a demo that runs in a process of its own writes to stderr, which is the whole process's.
fn said_alone(name: &str, alone: &str, path: Option<&str>) -> String {
    let mut again = Command::new(env::current_exe().expect("the host knows it"));
    again.args(["--exact", name, "--nocapture"]).env(alone, "1").envs(path.map(|path| ("PATH", path)));
    let ended = again.output().expect("it starts");
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

#[test]
fn a_broken_promise_ends_with_the_command_that_repeats_it_and_exit_code_1() {
    const ALONE: &str = "HOTADD_TEST_BROKEN_PROMISE";
    // One request at a time stays in the group of those who send it: the other group's processors get none.
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.json");
    let machine = MachineOptions { seed: Some(9), max: 128, groups: 2, requests: 1, ..MachineOptions::default() };
    let options = Options { machine, ..quiet(&json) };
    if env::var_os(ALONE).is_some() {
        let code = demo::run(&options, || Ok(sys().to_owned()));
        assert_eq!(code.expect("the demo runs"), ExitCode::FAILURE);
        return;
    }
    let name = "a_broken_promise_ends_with_the_command_that_repeats_it_and_exit_code_1";
    let said = said_alone(name, ALONE, None);
    let lines: Vec<&str> = said.lines().rev().take(2).collect();
    let command = "cargo xtask demo --seed 9 --processors 2 --max 128 --groups 2 --memory 4 --requests 1";
    assert_eq!(lines[0], format!("to repeat this: {command}"), "{said}");
    let broken = lines[1].strip_prefix("broken promise: ").expect("the promise comes before");
    let results: Value = serde_json::from_slice(&fs::read(json).expect("it is there")).expect("JSON");
    assert_eq!(results["broken"], Value::from(vec![broken]));
}

#[test]
fn without_qemu_the_demo_on_real_hardware_names_the_package_in_one_line() {
    const ALONE: &str = "HOTADD_TEST_WITHOUT_QEMU";
    if env::var_os(ALONE).is_some() {
        let options = Options {
            machine: MachineOptions { hardware: Hardware::Qemu, ..MachineOptions::default() },
            quiet: true,
            ..Options::default()
        };
        let code = demo::run(&options, || unreachable!("nothing is built for a demo that cannot run"));
        assert_eq!(code.expect("it says why, and ends"), ExitCode::from(2));
        return;
    }
    let name = "without_qemu_the_demo_on_real_hardware_names_the_package_in_one_line";
    let said =
        "qemu-system-x86_64 is not installed; on Debian: apt-get install --no-install-recommends qemu-system-x86\n";
    assert_eq!(said_alone(name, ALONE, Some("/nonexistent")), said, "programs are not found");
}
