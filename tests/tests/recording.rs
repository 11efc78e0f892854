//! A recording of a run: what the lab saw is what the driver counted, it depends on the seed alone, and its pictures show what is in it.
//!
//! It is left in `target/tmp` as `recording.json`, its page as `recording.html`, and what a browser shows of that as PNG.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use hotadd_abi::EventKind;
use hotadd_tests::{browser::Browser, recorded};
use recording::{
    ActivityKind, Origin, Recording, Snapshot,
    derived::{Added, Ending, Hold},
    page, perfetto,
};
use serde_json::{Value, json};

const SEED: u64 = 7;

/// What was sent, and the recording.
static RECORDED: LazyLock<(u64, Recording)> = LazyLock::new(|| recorded(SEED));
static RECORDING: LazyLock<&Recording> = LazyLock::new(|| &RECORDED.1);

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn written(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = file(name);
    fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

#[test]
fn two_runs_with_the_same_seed_are_recorded_byte_for_byte_alike() {
    let text = RECORDING.to_json().expect("it makes sense");
    assert!(text == recorded(SEED).1.to_json().expect("it makes sense"), "the two recordings of seed {SEED} differ");
    written("recording.json", &text);
    assert!(Recording::from_json(&text).expect("it can be read") == **RECORDING, "it is not read as it was written");
}

#[test]
fn its_requests_are_those_that_the_driver_counted() {
    let after = RECORDING.after();
    for device in &after.devices {
        let requests = RECORDING.requests.iter().filter(|request| request.device == device.number);
        let succeeded = requests.clone().filter(|request| request.status == 0).count() as u64;
        assert_eq!((requests.count() as u64, succeeded), (device.accepted, device.completed), "{}", device.name);
    }
    let mut finished: BTreeMap<u32, u64> = BTreeMap::new();
    for request in &RECORDING.requests {
        *finished.entry(request.processor.expect("the lab knows it")).or_default() += 1;
    }
    assert_eq!(RECORDING.requests.len() as u64, RECORDED.0);
    assert_eq!(finished.keys().copied().collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}

#[test]
fn its_interrupts_and_dpcs_cover_those_that_the_driver_counted() {
    for processor in &RECORDING.after().processors {
        let of = |kind| {
            let activities = RECORDING.activities.iter();
            activities.filter(|activity| (activity.kind, activity.processor) == (kind, processor.index)).count() as u64
        };
        let (interrupts, dpcs) = (of(ActivityKind::Interrupt), of(ActivityKind::Dpc));
        assert_eq!(interrupts, processor.interrupts, "interrupts of processor {}", processor.index);
        assert!(dpcs >= processor.dpcs, "{dpcs} DPCs of processor {}, not {}", processor.index, processor.dpcs);
    }
}

#[test]
fn activities_of_a_processor_nest() {
    for processor in 0..8 {
        let mut open: Vec<u64> = Vec::new();
        for activity in RECORDING.activities.iter().filter(|activity| activity.processor == processor) {
            while open.last().is_some_and(|&end| end <= activity.begin) {
                open.pop();
            }
            assert!(open.last().is_none_or(|&end| activity.end <= end), "{activity:?} outlasts what it interrupted");
            open.push(activity.end);
        }
    }
}

#[test]
fn additions_holds_and_rebalances_follow_from_its_journal() {
    let added: Vec<Added> = RECORDING.hot_adds().iter().map(|hot_add| hot_add.what).collect();
    let processors = added.iter().filter(|what| matches!(what, Added::Processor { .. })).count();
    assert_eq!((processors, added.len()), (6, 8), "{added:?}");
    let holds = RECORDING.holds();
    assert_eq!(holds.len(), RECORDING.events_of(EventKind::GateOpened).count() - 2, "two of them were a first start");
    assert!(holds.iter().all(|hold| hold.duration() > 0 && hold.drained.is_some()));
    let rebalances = RECORDING.rebalances();
    let ended = |ending| rebalances.iter().filter(|rebalance| rebalance.ending == ending).count();
    assert_eq!((ended(Ending::Restarted), ended(Ending::Cancelled), rebalances.len()), (6, 6, 12));
    let last = rebalances.iter().rfind(|rebalance| rebalance.affinity.is_some()).expect("the edu was restarted");
    assert_eq!(last.affinity, Some((0, 0xFF)));
}

#[test]
fn it_tells_where_it_comes_from_and_the_machine_before_and_after() {
    assert!(matches!(RECORDING.origin, Origin::Lab { seed: SEED, command: Some(_) }));
    let counts: Vec<usize> = RECORDING.snapshots.iter().map(|snapshot| snapshot.processors.len()).collect();
    assert_eq!(counts, [2, 2, 8, 8]);
    assert_eq!(RECORDING.after().memory_bytes - RECORDING.before().memory_bytes, 2 << 30);
    assert_eq!(RECORDING.missed, 0);
    assert!(RECORDING.samples.iter().any(|sample| sample.held > 0));
    assert!(RECORDING.samples.iter().any(|sample| sample.in_flight > 0));
}

/// What Perfetto's own schema makes of the trace.
fn read_perfetto() -> Vec<Value> {
    let python = xtask::setup::perfetto().expect("cargo xtask setup installs Perfetto's reader");
    let trace = written("recording.pftrace", perfetto::encode(&RECORDING));
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/read_perfetto.py");
    let read = Command::new(python).arg(reader).arg(trace).output().expect("Python runs");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).expect("it prints JSON")
}

#[test]
fn perfetto_reads_every_slice_instant_and_counter_of_its_trace() {
    let tracks = read_perfetto();
    let slices = |path: &str, name: &str| {
        let tracks = tracks.iter().filter(|track| track["path"].as_str().is_some_and(|text| text.starts_with(path)));
        let slices = tracks.flat_map(|track| track["slices"].as_array().into_iter().flatten());
        let times = slices.filter(|slice| slice[0] == name).map(|slice| (slice[1].as_u64(), slice[2].as_u64()));
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        times
    };
    let sorted = |times: Vec<(u64, u64)>| {
        let mut times: Vec<_> = times.into_iter().map(|(begin, end)| (Some(begin), Some(end))).collect();
        times.sort_unstable();
        times
    };
    for (kind, name) in [(ActivityKind::Interrupt, "interrupt"), (ActivityKind::Dpc, "DPC")] {
        let activities = RECORDING.activities.iter().filter(|activity| activity.kind == kind);
        let expected = sorted(activities.map(|activity| (activity.begin, activity.end)).collect());
        assert_eq!(slices("hotadd/processors/processor ", name), expected);
    }
    let requests = sorted(RECORDING.requests.iter().map(|request| (request.begin, request.end)).collect());
    let read = ["factorial", "read", "write"].map(|name| slices("hotadd/device ", name)).concat();
    assert_eq!(sorted(read.into_iter().filter_map(|(begin, end)| Some((begin?, end?))).collect()), requests);
    let holds = sorted(RECORDING.holds().iter().map(|hold| (hold.begin, hold.end)).collect());
    assert_eq!(slices("hotadd/device ", "hold"), holds);
    assert_eq!(slices("hotadd/device 1: edu/rebalances", "rebalance").len(), 6);
    assert_eq!(slices("hotadd/device 2: software/rebalances", "rebalance, cancelled").len(), 6);

    let track = |path: &str| tracks.iter().find(|track| track["path"] == path).unwrap_or_else(|| panic!("{path}"));
    let count = |path: &str, what: &str| track(path)[what].as_array().map_or(0, Vec::len);
    assert_eq!(
        (count("hotadd/additions", "instants"), count("hotadd/journal", "instants")),
        (8, RECORDING.events.len())
    );
    let samples = RECORDING.samples.iter().filter(|sample| sample.device == 1);
    let held: Value = samples.map(|sample| json!([sample.time, sample.held])).collect();
    assert_eq!(track("hotadd/device 1: edu/held")["values"], held);
    let pool = track("hotadd/pool");
    assert_eq!(
        (&pool["unit"], &pool["values"][0][1]),
        (&json!("UNIT_SIZE_BYTES"), &json!(RECORDING.before().pool_bytes))
    );
}

/// The page in a browser.
fn browse(name: &str) -> Browser {
    browse_of(name, &RECORDING)
}

/// The page of a recording in a browser.
fn browse_of(name: &str, recording: &Recording) -> Browser {
    let page = written(&format!("{name}.html"), page::html(recording));
    Browser::open(&page)
}

/// A number that the timeline tells of itself.
fn timeline(browser: &mut Browser, what: &str) -> u64 {
    let text = browser.evaluate(&format!("document.getElementById('timeline').dataset.{what}"));
    text.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{what} is {text}"))
}

/// The bins that the histogram has to show, and how many holds of each device are in each.
fn histogram() -> Value {
    let all = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000];
    let durations = || RECORDING.holds().into_iter().map(|hold| hold.duration() / 1_000);
    let (shortest, longest) =
        (durations().min().expect("there are holds"), durations().max().expect("there are holds"));
    let first = all.iter().rposition(|&end| end <= shortest).expect("holds last a microsecond at least");
    let last = all.iter().position(|&end| end > longest).expect("holds last less than 100 ms");
    let ends = &all[first..=last];
    let name = |us: u64| if us < 1_000 { format!("{us} µs") } else { format!("{} ms", us / 1_000) };
    let names: Vec<_> = ends.windows(2).map(|bin| format!("{} – {}", name(bin[0]), name(bin[1]))).collect();
    let holds = RECORDING.holds();
    let count = |device, bin: &[u64]| {
        let is_in = |hold: &&Hold| hold.device == device && (bin[0]..bin[1]).contains(&(hold.duration() / 1_000));
        holds.iter().filter(is_in).count()
    };
    let counts = [1, 2].map(|device| ends.windows(2).map(|bin| count(device, bin)).collect::<Vec<_>>());
    assert_eq!(counts.concat().iter().sum::<usize>(), holds.len());
    json!([names, counts])
}

#[test]
fn its_page_shows_the_right_counts_without_complaint_and_loads_nothing() {
    let mut browser = browse("counts");
    let all =
        RECORDING.requests.len() + RECORDING.activities.len() + RECORDING.holds().len() + RECORDING.rebalances().len();
    assert_eq!(timeline(&mut browser, "slices"), all as u64);
    assert_eq!(browser.evaluate("document.querySelectorAll('#events tbody tr').length"), RECORDING.events.len());
    assert_eq!(browser.evaluate("document.getElementById('holds').dataset.count"), RECORDING.holds().len().to_string());
    let figures = browser.evaluate("[...document.querySelectorAll('.figure')].map(each => each.innerText).join('|')");
    let figures = figures.as_str().expect("there are figures").replace('\u{202F}', "").to_lowercase();
    let requests = RECORDED.0;
    for figure in ["processors\n2 → 8", "memory\n1 gib → 3 gib", "rebalances\n12", &format!("requests\n{requests}")]
    {
        assert!(figures.contains(figure), "{figure:?} is not in {figures:?}");
    }
    let chart = |id: &str| format!("echarts.getInstanceByDom(document.getElementById('{id}')).getOption()");
    let processors =
        browser.evaluate(&format!("{}.series.map(each => each.data.map(value => value > 0))", chart("processors")));
    assert_eq!(processors[0], json!([true, true, false, false, false, false, false, false]));
    assert_eq!(processors[1], json!(vec![true; 8]));
    let drawn =
        browser.evaluate(&format!("(o => [o.xAxis[0].data, o.series.map(each => each.data)])({})", chart("holds")));
    assert_eq!(drawn, histogram());
    browser.evaluate("filter.value = 'edu query_stop'; filter.dispatchEvent(new Event('input'))");
    assert_eq!(browser.evaluate("document.querySelectorAll('#events tbody tr:not([hidden])').length"), 6);
    assert_eq!(browser.complaints(), [] as [String; 0]);
    assert!(
        browser.requested().iter().all(|address| address.starts_with("file:///") && address.ends_with("counts.html"))
    );
    assert!(!browser.requested().is_empty());
}

#[test]
fn the_wheel_zooms_its_timeline_and_an_event_is_found_there() {
    let mut browser = browse("zoom");
    let span = |browser: &mut Browser| timeline(browser, "to") - timeline(browser, "from");
    let (whole, slices) = (span(&mut browser), timeline(&mut browser, "slices"));
    let (begin, end) = RECORDING.span();
    assert_eq!(whole, end - begin);
    let place = browser
        .evaluate("(r => [r.x + r.width / 2, r.y + 80])(document.getElementById('timeline').getBoundingClientRect())");
    let at = |index: usize| place[index].as_f64().expect("it is somewhere");
    for _ in 0..20 {
        browser.wheel(at(0), at(1), -240.0);
    }
    let near = span(&mut browser);
    assert!(near < whole / 2 && near > 0, "{near} of {whole} ns");
    assert!(timeline(&mut browser, "slices") < slices);
    browser.picture(&file("recording-zoomed.png"));
    browser.evaluate("reset.click()");
    assert_eq!(span(&mut browser), whole);
    browser.evaluate("document.querySelectorAll('#events tbody tr')[60].click()");
    let time = RECORDING.events[60].time - begin;
    assert!(timeline(&mut browser, "from") <= time && time <= timeline(&mut browser, "to"));
    assert!(span(&mut browser) <= 1_000_000);
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn it_is_light_or_dark_as_its_reader_prefers() {
    let mut browser = browse("recording");
    browser.size(1440, 1160);
    let background = "getComputedStyle(document.body).backgroundColor";
    let shown = ["light", "dark"].map(|scheme| {
        browser.prefer(scheme);
        browser.picture(&file(&format!("recording-{scheme}.png")));
        browser.evaluate(background)
    });
    assert_eq!(shown, ["rgb(244, 245, 247)", "rgb(14, 17, 22)"]);
    let text = "echarts.getInstanceByDom(document.getElementById('timeline')).getOption().yAxis[0].axisLabel.color";
    assert_eq!(browser.evaluate(text), "#e4e8ee", "the charts are dark too");
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn a_page_of_a_journal_alone_or_of_nothing_is_shown_without_complaint_and_tells_what_was_missed() {
    let origin = Origin::Windows { computer: "LAB7".to_owned() };
    let at = |time| Snapshot { time, ..RECORDING.before().clone() };
    let mut nothing = Recording::begin(origin.clone(), at(5));
    nothing.snapshots.push(at(5));
    let mut journal = Recording { origin, missed: 3, ..RECORDING.clone() };
    journal.requests.clear();
    journal.activities.clear();
    journal.samples.clear();
    for (name, recording, events) in [("nothing", nothing, 0), ("journal", journal, RECORDING.events.len())] {
        let mut browser = browse_of(name, &recording);
        assert_eq!(browser.evaluate("document.querySelectorAll('#events tbody tr').length"), events);
        assert_eq!(browser.evaluate("document.getElementById('origin').textContent"), "Windows on LAB7");
        assert_eq!(browser.evaluate("!document.getElementById('warning').hidden"), recording.missed != 0);
        let legend = browser.evaluate("document.getElementById('legend').innerText.replace(/\\s+/g, ' ').trim()");
        assert_eq!(legend, if events == 0 { "steered to" } else { "steered to rebalance hold" });
        assert_eq!(browser.complaints(), [] as [String; 0], "the page of {name}");
        browser.picture(&file(&format!("{name}.png")));
    }
}
