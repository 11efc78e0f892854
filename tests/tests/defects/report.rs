//! What the report of every finding has to say.

use ntlab::report::Report;
use serde_json::Value;

/// How many events a report shows.
const EVENTS: usize = 40;

/// The report of a run with this seed, which `command` repeats, says everything: the bug check by name with four parameters, a sentence, where
/// the driver was by function, file and line, IRQL, processor and thread, the last events, the seed and the command.
pub fn check(report: &Report, seed: u64, command: &str) {
    let said = serde_json::to_value(report).expect("a report can be written as JSON");
    let has = |holds: bool, what: &str| assert!(holds, "the report lacks {what}: {report}");
    has(said["bug_check"]["code"].is_u64() && said["bug_check"]["name"].is_string(), "the name of the bug check");
    has(said["bug_check"]["parameters"].as_array().is_some_and(|all| all.len() == 4), "the parameters");
    has(said["sentence"].as_str().is_some_and(|sentence| sentence.contains(' ')), "a sentence");
    has(["irql", "processor", "thread"].iter().all(|part| said["place"][part].is_u64()), "IRQL, processor or thread");
    let frames = frames(&said);
    has(frames.iter().any(|frame| frame["module"] == "defects"), "the driver's stack");
    let is_located = |frame: &&&Value| frame["function"].is_string() && frame["line"][1].is_u64();
    let unknown = frames.iter().filter(|frame| frame["module"] == "defects").find(|frame| !is_located(frame));
    has(unknown.is_none(), "function, file or line of a frame");
    has(are_last(said["events"].as_array().expect("a list")), "the last events");
    has(said["seed"] == seed, "the seed");
    has(said["repeat"] == command, "the command");
    check_text(report, &said, command);
}

/// Where the driver was, and where it was when what the finding is about began.
fn frames(said: &Value) -> Vec<&Value> {
    let related = said["related"].as_array().into_iter().flatten().map(|related| &related["stack"]);
    let stacks = related.chain([&said["place"]["stack"]]);
    stacks.filter_map(Value::as_array).flatten().collect()
}

/// Whether the events follow each other, and are as many as there were, or as a report shows.
fn are_last(events: &[Value]) -> bool {
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["number"].as_u64()).collect();
    let Some(last) = numbers.last() else { return false };
    let all = usize::try_from(last + 1).expect("runs are short");
    numbers.is_sorted_by(|a, b| a + 1 == *b) && numbers.len() == EVENTS.min(all)
}

/// What is printed says the same.
fn check_text(report: &Report, said: &Value, command: &str) {
    let text = report.to_string();
    let place = &said["place"];
    let where_ = format!("on processor {}, thread {}", place["processor"], place["thread"]);
    let bug_check = &said["bug_check"];
    let mut parts = vec![where_, format!("the seed of this run is {}", said["seed"]), command.to_owned()];
    parts.extend([&bug_check["name"], &said["sentence"]].map(|part| part.as_str().unwrap_or_default().to_owned()));
    parts.extend(strings(&bug_check["parameters"]));
    parts.extend(frames(said).iter().filter_map(|frame| frame["function"].as_str()).map(str::to_owned));
    let numbers = said["events"].as_array().into_iter().flatten().map(|event| format!("\n  {} ", event["number"]));
    parts.extend(numbers);
    for part in parts {
        assert!(text.contains(&part), "what is printed lacks \"{part}\": {text}");
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
