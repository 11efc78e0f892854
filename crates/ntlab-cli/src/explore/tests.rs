//! `ntlab explore` and `ntlab replay`, with the racy driver of crates/ntlab/tests/racy.

use std::fs;

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::{Arguments, Command, code};

const LAST_MESSAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ntlab/tests/scenarios/last-message.toml");

/// What a command line comes to: an exit code, the error's line, and what is printed.
fn ended(arguments: &[&str]) -> (u8, String, String) {
    let mut out = Vec::new();
    let ended = match Arguments::try_parse_from([&["ntlab"], arguments].concat()) {
        Ok(Arguments { command: Command::Explore(options) }) => explore(&options, &mut out),
        Ok(Arguments { command: Command::Replay { file } }) => replay(&file, &mut out),
        Ok(_) => panic!("neither explore nor replay: {arguments:?}"),
        Err(error) => Err(error.into()),
    };
    let error = ended.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    (code(&ended), error, String::from_utf8(out).expect("UTF-8"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

fn driver(package: &str) -> PathBuf {
    kit::driver(package).unwrap_or_else(|error| panic!("{package} builds: {error:#}")).sys
}

/// Explores the racy driver; what repeats the race goes to `out`.
fn find_race(out: &Path, options: &[&str]) -> (u8, String, String) {
    let racy = driver("racy");
    let line =
        ["explore", LAST_MESSAGE, "--driver", text(&racy), "--seeds", "600", "--shrink", "200", "--out", text(out)];
    ended(&[&line, options].concat())
}

#[test]
fn a_bad_scenario_file_is_one_line_with_its_place_and_exit_code_2() {
    let directory = tempfile::tempdir().expect("there is room");
    let file = directory.path().join("scenario.toml");
    fs::write(&file, "[machine]\nprocesors = 1\n[driver]\n").expect("there is room");
    let (code, error, printed) = ended(&["explore", text(&file), "--driver", "x.sys"]);
    let begins = format!("{}:2:1: unknown field `procesors`", file.display());
    assert!(code == 2 && error.starts_with(&begins) && !error.contains('\n'), "{code} {error}");
    assert_eq!(printed, "");
}

#[test]
fn files_that_are_not_there_and_wrong_options_have_exit_code_2() {
    for (arguments, part) in [
        (vec!["explore", "missing.toml"], "missing.toml: No such file"),
        (vec!["explore", LAST_MESSAGE], "no driver image is named"),
        (vec!["explore", LAST_MESSAGE, "--driver", "missing.sys"], "there is no such driver image"),
        (vec!["explore", LAST_MESSAGE, "--policy", "pct:0"], "\"0\" is no depth"),
        (vec!["explore", LAST_MESSAGE, "--shard", "3/3"], "a shard is I/N"),
        (vec!["explore", LAST_MESSAGE, "--preempt", "often"], "written instructions:N"),
        (vec!["explore", LAST_MESSAGE, "--preempt", "instructions:0"], "written instructions:N"),
        (vec!["replay", "missing.json"], "missing.json: No such file"),
        (vec!["replay", LAST_MESSAGE], "last-message.toml"),
    ] {
        let (code, error, _) = ended(&arguments);
        assert!(code == 2 && error.contains(part), "{arguments:?}: {code} {error}");
    }
}

#[test]
fn real_hardware_cannot_be_explored_or_replayed_and_one_line_says_so() {
    let directory = tempfile::tempdir().expect("there is room");
    let file = directory.path().join("scenario.toml");
    let scenario = "[driver]\n[[device]]\nname = \"edu\"\nhardware = { edu = { qemu = true } }\n";
    fs::write(&file, scenario).expect("there is room");
    let (code, error, printed) = ended(&["explore", text(&file), "--driver", text(&driver("racy"))]);
    let begins = format!("{}: no run with real hardware (`qemu = true`) is the same again", file.display());
    assert!(code == 2 && error.starts_with(&begins) && !error.contains('\n'), "{code} {error}");
    assert_eq!(printed, "");

    let replayed = directory.path().join("replay.json");
    find_race(&replayed, &[]);
    let mut replay: Value = serde_json::from_slice(&fs::read(&replayed).expect("it is there")).expect("JSON");
    replay["scenario"]["device"] = serde_json::json!([{ "name": "edu", "hardware": { "edu": { "qemu": true } } }]);
    fs::write(&replayed, replay.to_string()).expect("there is room");
    let (code, error, _) = ended(&["replay", text(&replayed)]);
    assert!(code == 2 && error.contains("no run with real hardware") && !error.contains('\n'), "{code} {error}");
}

#[test]
fn the_command_that_explore_prints_repeats_the_report_to_the_same_end() {
    let directory = tempfile::tempdir().expect("there is room");
    let out = directory.path().join("a replay.json");
    let (code, error, printed) = find_race(&out, &[]);
    assert_eq!((code, error.as_str()), (1, ""), "{printed}");

    let command = printed.lines().find_map(|line| line.strip_prefix("to repeat this: ")).expect("there is a command");
    let words = shlex::split(command).expect("a shell takes it");
    let words: Vec<&str> = words.iter().map(String::as_str).skip_while(|word| *word != "replay").collect();
    let (code, error, repeated) = ended(&words);
    assert_eq!((code, error.as_str()), (1, ""));
    assert!(printed.starts_with(repeated.trim_end()), "{repeated}\n{printed}");
}

#[test]
fn a_replay_of_another_image_is_refused_in_one_line_with_exit_code_2() {
    let directory = tempfile::tempdir().expect("there is room");
    let out = directory.path().join("replay.json");
    assert_eq!(find_race(&out, &["--json"]).0, 1);
    let image = directory.path().join("other.sys");
    fs::copy(driver("foreign"), &image).expect("there is room");
    let written = fs::read_to_string(&out).expect("it was written");
    fs::write(&out, written.replace(text(&driver("racy")), text(&image))).expect("there is room");

    let (code, error, printed) = ended(&["replay", text(&out)]);
    assert_eq!((code, error.lines().count(), printed.as_str()), (2, 1, ""), "{error}");
    assert!(error.contains("other.sys is not the image this was found with"), "{error}");
}

#[test]
fn with_json_the_results_are_printed_for_programs() {
    let directory = tempfile::tempdir().expect("there is room");
    let out = directory.path().join("replay.json");
    let (code, _, printed) = find_race(&out, &["--json"]);
    let results: Value = serde_json::from_str(&printed).expect("it is JSON");
    assert_eq!((code, &results["replays"]), (1, &Value::from(vec![text(&out)])));
    let found = results["findings"].as_object().and_then(|all| all.values().next()).expect("something is found");
    assert!(found["replay"]["report"].as_str().is_some_and(|report| report.contains("copy_to")), "{found}");
    assert_eq!(results["units"].as_u64(), found["first"].as_u64().map(|first| first + 1), "it stops at the first");
}

#[test]
fn where_nothing_is_found_the_exit_code_is_0_and_no_file_is_written() {
    let directory = tempfile::tempdir().expect("there is room");
    let out = directory.path().join("replay.json");
    let image = driver("foreign");
    let line = ["explore", LAST_MESSAGE, "--driver", text(&image), "--out", text(&out)];
    for options in [["--seeds", "40", "--shard", "1/2"], ["--seeds", "4", "--preempt", "instructions:50"]] {
        let (code, error, printed) = ended(&[&line[..], &options].concat());
        assert_eq!((code, error.as_str()), (0, ""), "{printed}");
        assert!(printed.contains("0 kinds of findings"), "{printed}");
    }
    assert!(!out.exists());
}
