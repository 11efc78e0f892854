use std::{fs, path::Path};

use super::*;

/// The exit code of a command line, and its error if it has one.
fn ended(arguments: &[&str]) -> (u8, String) {
    let ended = match Arguments::try_parse_from([&["ntlab"], arguments].concat()) {
        Ok(arguments) => run(arguments.command),
        Err(error) => Err(error.into()),
    };
    (code(&ended), ended.err().map(|error| format!("{error:#}")).unwrap_or_default())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

#[test]
fn a_bad_scenario_file_is_one_line_with_its_place_and_exit_code_2() {
    let directory = tempfile::tempdir().expect("there is room");
    let file = directory.path().join("scenario.toml");
    fs::write(&file, "[machine]\nprocesors = 1\n[driver]\n").expect("there is room");
    let (code, error) = ended(&["explore", text(&file), "--driver", "x.sys"]);
    let begins = format!("{}:2:1: unknown field `procesors`", file.display());
    assert!(code == 2 && error.starts_with(&begins) && !error.contains('\n'), "{code} {error}");
}

#[test]
fn files_that_are_not_there_and_wrong_options_have_exit_code_2() {
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/../ntlab/tests/scenarios/history.toml");
    for (arguments, part) in [
        (vec!["explore", "missing.toml"], "missing.toml: No such file"),
        (vec!["explore", scenario], "no driver image is named"),
        (vec!["explore", scenario, "--driver", "missing.sys"], "there is no such driver image"),
        (vec!["explore", scenario, "--policy", "pct:0"], "\"0\" is no depth"),
        (vec!["explore", scenario, "--shard", "3/3"], "a shard is I/N"),
        (vec!["explore", scenario, "--preempt", "often"], "written instructions:N"),
        (vec!["replay", scenario], "history.toml"),
    ] {
        let (code, error) = ended(&arguments);
        assert!(code == 2 && error.contains(part), "{arguments:?}: {code} {error}");
    }
}

#[test]
fn what_explore_finds_replay_repeats() {
    let racy = kit::driver("racy").expect("the driver builds").sys;
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/../ntlab/tests/scenarios/last-message.toml");
    let directory = tempfile::tempdir().expect("there is room");
    let out = directory.path().join("replay.json");
    let explore =
        ["explore", scenario, "--driver", text(&racy), "--seeds", "200", "--shrink", "50", "--out", text(&out)];
    assert_eq!(ended(&explore), (1, String::new()));
    assert_eq!(ended(&["replay", text(&out)]), (1, String::new()));
}
