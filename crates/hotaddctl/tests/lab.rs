//! Every command on the devices of a machine in the lab, with the driver that ships.

use std::{fs, path::PathBuf, sync::LazyLock};

use recording::Recording;
use serde_json::Value;

/// What a command line came to: exit code, output, errors.
struct Ran {
    code: u8,
    out: String,
    err: String,
}

/// The driver that ships.
static DRIVER: LazyLock<PathBuf> =
    LazyLock::new(|| kit::driver("hotadd").unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys);

/// Runs `hotaddctl --lab --seed 1` on a machine with little to do.
fn lab(arguments: &[&str]) -> Ran {
    with_driver(&[&["hotaddctl", "--lab", "--seed", "1", "--requests", "8", "--memory", "1"], arguments].concat())
}

/// Runs a command line on the driver that ships, unless it names another.
fn with_driver(line: &[&str]) -> Ran {
    let named = ["--driver", DRIVER.to_str().expect("a path in UTF-8")];
    if line.contains(&"--driver") { run(line) } else { run(&[&line[..1], &named, &line[1..]].concat()) }
}

fn run(line: &[&str]) -> Ran {
    let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), anstream::StripStream::new(Vec::new()));
    let code = hotaddctl::run(line, &mut out, &mut err);
    let text = |stream: anstream::StripStream<Vec<u8>>| String::from_utf8(stream.into_inner()).expect("UTF-8");
    Ran { code, out: text(out), err: text(err) }
}

impl Ran {
    /// The output, of a run that was fine.
    fn fine(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.err, self.out);
        assert_eq!(self.err, "");
        self.out
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.fine()).expect("it is JSON")
    }
}

#[test]
fn list_tells_both_devices_and_the_processors_they_use_after_all_were_added() {
    let rows = lab(&["list", "--json"]).json();

    let told: Vec<_> = rows.as_array().expect("a list").iter().map(|row| (&row["engine"], &row["state"])).collect();
    assert_eq!(told, [(&"edu".into(), &"started".into()), (&"software".into(), &"started".into())]);
    assert_eq!(rows[0]["instance"].as_str().map(|path| path.starts_with(r"PCI\VEN_1234&DEV_11E8")), Some(true));
    assert_eq!((&rows[0]["processors_steered"], &rows[0]["processors_active"]), (&8.into(), &8.into()));
    assert_eq!(rows[0]["interrupt_affinity"], 0xFF, "the interrupt reaches all that were added");
}

#[test]
fn status_tells_what_each_processor_did_by_group_and_node() {
    let told = lab(&["--processors", "3", "--max", "12", "--groups", "2", "status", "--json"]).json();

    assert_eq!(told["driver_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told["gate"], "running");
    let groups = told["groups"].as_object().expect("groups");
    let processors: Vec<&Value> = groups
        .values()
        .flat_map(|nodes| nodes.as_object().expect("nodes").values())
        .flat_map(|processors| processors.as_array().expect("processors"))
        .collect();
    assert_eq!((groups.len(), processors.len()), (2, 12));
    assert!(processors.iter().all(|row| row["steered"] == true), "every processor may work: {told}");
    assert!(processors[..3].iter().all(|row| row["requests"].as_u64() > Some(0)), "those that are asked on do: {told}");
    assert!(told["pool_bytes"].as_u64() > told["pool_bytes_at_load"].as_u64());
}

#[test]
fn the_same_seed_is_the_same_status() {
    let status = || lab(&["--device", "1", "status"]).fine();
    let told = status();
    assert_eq!(status(), told);
    assert!(told.contains("hotadd.sys 0.") && told.contains(r"ROOT\HOTADD") && told.contains("steered to"), "{told}");
}

#[test]
fn selftest_passes_on_both_devices_while_processors_are_added() {
    for device in ["0", "1"] {
        let out = lab(&["--device", device, "selftest"]).fine();
        assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), out.lines().count(), "{out}");
        assert!(out.lines().count() > 10);
    }
}

#[test]
fn a_device_that_is_not_there_is_exit_code_3_and_the_error_says_what_shows_devices() {
    let ran = lab(&["--device", r"ROOT\NOTHING\0000", "status"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("none of the 2 devices") && ran.err.contains("`hotaddctl list`"), "{}", ran.err);
}

#[test]
fn without_the_lab_linux_has_no_device_and_says_what_to_use() {
    let ran = run(&["hotaddctl", "list"]);
    assert_eq!((ran.code, ran.err.lines().count()), (3, 1));
    assert!(ran.err.contains("--lab"), "{}", ran.err);
}

#[test]
fn options_that_make_no_sense_are_exit_code_2_in_one_line() {
    for (line, part) in [
        (&["hotaddctl", "--lab", "--processors", "9", "list"][..], "--processors 9 is more than --max 8"),
        (&["hotaddctl", "--lab", "--driver", "/nowhere.sys", "list"], "there is no such file"),
        (&["hotaddctl", "--lab", "lst"], "unrecognized subcommand 'lst'"),
        (&["hotaddctl", "--lab", "--seed", "1", "watch", "--from", "999999"], "the next event will have number"),
        (&["hotaddctl", "--lab", "--seed", "1", "send", "write", "--length", "4000"], "has room for 1 writes"),
    ] {
        let ran = with_driver(line);
        assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{}", ran.err);
        assert!(ran.err.contains(part), "{}", ran.err);
    }
}

#[test]
fn the_help_tells_the_exit_codes() {
    let help = run(&["hotaddctl", "--help"]).fine();
    for line in ["0  fine", "1  a promise", "2  wrong usage", "3  no device", "4  access denied"] {
        assert!(help.contains(line), "{help}");
    }
}

#[test]
fn without_a_command_the_help_is_shown_and_the_exit_code_is_2() {
    let ran = run(&["hotaddctl"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("Usage: hotaddctl") && ran.err.contains("selftest"), "{}", ran.err);
}

#[test]
fn watch_tells_every_event_in_its_order_until_all_were_added() {
    let out = lab(&["watch", "--from", "0", "--json"]).fine();

    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let sequences: Vec<u64> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert_eq!(sequences, (0..events.len() as u64).collect::<Vec<_>>(), "from the first on, without gaps");
    let count = |kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
    assert_eq!(count("ProcessorAddComplete"), 2 + 6, "those that were there, and those that were added");
    assert!(count("MemoryGrew") >= 2 && count("GateOpened") >= 6, "{out}");
}

#[test]
fn watch_without_json_is_a_line_for_each_event() {
    let json = lab(&["watch", "--from", "0", "--json"]).fine();
    let lines = lab(&["watch", "--from", "0"]).fine();
    assert_eq!(lines.lines().count(), json.lines().count());
    assert!(lines.contains("AddComplete: processor 7 (0:7) is there, 8 in all"), "{lines}");
}

#[test]
fn send_checks_every_answer_and_tells_how_long_they_took() {
    for kind in ["factorial", "read", "write"] {
        for device in ["0", "1"] {
            let line = ["--device", device, "send", kind, "--count", "300", "--concurrency", "8", "--json"];
            let told = lab(&line).json();
            assert_eq!((&told["requests"], &told["wrong"]), (&300.into(), &0.into()), "{kind} of {device}");
            let latency = &told["latency_us"];
            let figures = ["min", "p50", "p90", "p99", "p999", "max"].map(|name| latency[name].as_f64());
            assert!(figures.is_sorted() && figures[1] > Some(1.0), "microseconds: {told}");
        }
    }
}

#[test]
fn top_is_refused_where_there_is_no_terminal() {
    let ran = lab(&["watch", "--top"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--top needs a terminal"), "{}", ran.err);
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["hotaddctl", "completions", shell]).fine();
        for command in ["list", "status", "watch", "send", "selftest", "completions"] {
            assert!(script.contains(command), "{shell} and {command}");
        }
    }
}

#[test]
fn a_recording_has_the_machine_before_and_after_the_additions_and_becomes_a_trace() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("run.json");
    let name = file.to_str().expect("UTF-8");

    lab(&["record", name]).fine();

    let text = fs::read_to_string(&file).expect("it is written");
    let recording = Recording::from_json(&text).expect("it is a recording");
    let processors: Vec<usize> = recording.snapshots.iter().map(|snapshot| snapshot.processors.len()).collect();
    assert_eq!(processors, [2, 2, 8, 8], "at the beginning, before and after the additions, at the end");
    let requests = recording.snapshots.iter().map(|snapshot| snapshot.processors[0].requests);
    assert!(requests.is_sorted_by(|before, after| before < after), "work went on between them");
    assert!(!recording.requests.is_empty() && !recording.activities.is_empty(), "the lab tells what only it can see");
    assert_eq!(recording.events[0].sequence, 0);

    let told = run(&["hotaddctl", "report", name]).fine();
    assert!(told.contains("https://ui.perfetto.dev"), "{told}");
    let trace = fs::read(file.with_extension("pftrace")).expect("it is written");
    assert_eq!(trace, recording::perfetto::encode(&recording));
    let page = fs::read_to_string(file.with_extension("html")).expect("it is written");
    assert_eq!(page, recording::page::html(&recording));
}

#[test]
fn report_refuses_what_is_no_recording_in_one_line() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("run.json");
    fs::write(&file, "{}").expect("it is written");
    for file in [file.to_str().expect("UTF-8"), "/nowhere/run.json"] {
        let ran = run(&["hotaddctl", "report", file]);
        assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{}", ran.err);
        assert!(ran.err.contains(file), "{}", ran.err);
    }
}

#[test]
fn watch_etw_tells_as_many_events_as_the_journal() {
    let journal = lab(&["watch", "--from", "0"]).fine();
    let etw = lab(&["watch", "--from", "0", "--etw"]).fine();
    assert_eq!(etw.lines().count(), journal.lines().count());
    assert!(etw.lines().all(|line| line.contains("Hotadd")), "{etw}");
}

#[test]
fn options_of_the_lab_may_follow_the_command() {
    let line = ["hotaddctl", "list", "--lab", "--seed", "3", "--requests", "2", "--max", "3", "--json"];
    let rows = with_driver(&line).json();
    assert_eq!(rows[1]["processors_active"], 3);
}

#[test]
fn a_seed_that_was_drawn_is_told() {
    let ran = with_driver(&["hotaddctl", "--lab", "--requests", "2", "--max", "2", "list"]);
    let seed = ran.err.trim().strip_prefix("the seed of this run is ").map(str::parse::<u64>);
    assert!(ran.code == 0 && matches!(seed, Some(Ok(_))), "{}", ran.err);
}
