//! What the page is made of: a recording as its scripts want it. Times are nanoseconds since the recording began.

use serde::Serialize;

use crate::{
    Origin, Recording, Snapshot,
    derived::{Added, Ending},
    tracks, words,
};

/// The data of the page.
#[derive(Serialize)]
pub struct Page {
    origin: String,
    command: Option<String>,
    span: u64,
    figures: Vec<Figure>,
    warning: Option<String>,
    additions: Vec<Addition>,
    tracks: Vec<Track>,
    counters: Vec<Counter>,
    periods: Vec<String>,
    processors: Vec<Processor>,
    holds: Vec<Hold>,
    devices: Vec<String>,
    events: Vec<EventRow>,
}

/// A figure at the top.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    value: String,
    note: String,
}

#[derive(Serialize)]
struct Addition {
    time: u64,
    name: String,
    is_processor: bool,
}

/// A row of the timeline.
#[derive(Serialize)]
struct Track {
    name: String,
    /// What its slices are called; they have a place in this list.
    kinds: Vec<String>,
    /// Slices beside each other that a row may have.
    lanes: usize,
    /// For each slice its lane, its kind, its beginning since the beginning of the one before, and how long it took.
    slices: Vec<u64>,
}

#[derive(Serialize)]
struct Counter {
    name: String,
    is_bytes: bool,
    /// Times and values in turn.
    points: Vec<u64>,
}

/// A processor, and what it did in each period, for a millisecond.
#[derive(Serialize)]
struct Processor {
    name: String,
    is_new: bool,
    requests: Vec<f64>,
    dpcs: Vec<f64>,
    interrupts: Vec<f64>,
}

#[derive(Serialize)]
struct Hold {
    device: u32,
    begin: u64,
    duration: u64,
    waited: u64,
    why: String,
}

#[derive(Serialize)]
struct EventRow {
    sequence: u64,
    time: u64,
    device: u32,
    kind: String,
    text: String,
    is_addition: bool,
}

impl Page {
    /// The page of a recording.
    pub fn new(recording: &Recording) -> Self {
        let (start, end) = recording.span();
        let (origin, command) = origin(&recording.origin);
        let names: Vec<String> = recording.after().devices.iter().map(|device| device.name.clone()).collect();
        Self {
            origin,
            command,
            span: end - start,
            figures: figures(recording),
            warning: (recording.missed != 0)
                .then(|| format!("{} events were overwritten before they were read", recording.missed)),
            additions: additions(recording, start),
            tracks: rows(recording, start),
            counters: counters(recording, start),
            periods: ["before", "after"].map(str::to_owned).to_vec(),
            processors: processors(recording),
            holds: holds(recording, start),
            devices: names,
            events: events(recording, start),
        }
    }
}

fn origin(origin: &Origin) -> (String, Option<String>) {
    match origin {
        Origin::Lab { seed, command } => (format!("a machine of the lab, seed {seed}"), command.clone()),
        Origin::Windows { computer } => (format!("Windows on {computer}"), None),
    }
}

fn figures(recording: &Recording) -> Vec<Figure> {
    let (before, after) = (recording.before(), recording.after());
    let total = |count: fn(&crate::Device) -> u64| {
        let of = |snapshot: &Snapshot| snapshot.devices.iter().map(count).sum::<u64>();
        of(after).saturating_sub(of(before))
    };
    let holds = recording.holds();
    let longest = holds.iter().map(crate::derived::Hold::duration).max().unwrap_or_default();
    let rebalances = recording.rebalances();
    let restarted = rebalances.iter().filter(|rebalance| rebalance.ending == Ending::Restarted).count();
    let figure = |name, value, note| Figure { name, value, note };
    vec![
        figure(
            "processors",
            format!("{} → {}", before.processors.len(), after.processors.len()),
            format!("of at most {}", after.processors_maximum),
        ),
        figure(
            "memory",
            format!("{} → {}", gib(before.memory_bytes), gib(after.memory_bytes)),
            format!("buffer pool {} → {} KiB", before.pool_bytes >> 10, after.pool_bytes >> 10),
        ),
        figure(
            "requests",
            grouped(total(|device| device.accepted)),
            format!(
                "{} cancelled, {} failed",
                grouped(total(|device| device.cancelled)),
                grouped(total(|device| device.failed))
            ),
        ),
        figure("rebalances", rebalances.len().to_string(), format!("{restarted} with a restart of the device")),
        figure("longest hold", duration(longest), format!("of {} holds", holds.len())),
        figure("events", grouped(recording.events.len() as u64), format!("{} missed", recording.missed)),
    ]
}

fn gib(bytes: u64) -> String {
    let hundredths = bytes.saturating_mul(100) >> 30;
    if hundredths.is_multiple_of(100) {
        format!("{} GiB", hundredths / 100)
    } else {
        format!("{}.{:02} GiB", hundredths / 100, hundredths % 100)
    }
}

/// A count with a thin space between thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join("\u{202F}")
}

fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..1_000_000 => format!("{} µs", ns / 1_000),
        _ => format!("{}.{:02} ms", ns / 1_000_000, ns / 10_000 % 100),
    }
}

fn additions(recording: &Recording, start: u64) -> Vec<Addition> {
    let added = recording.hot_adds().into_iter().map(|hot_add| {
        let name = match hot_add.what {
            Added::Processor { index, group, number } => format!("processor {index} ({group}:{number})"),
            Added::Memory(bytes) => gib(bytes),
        };
        let is_processor = matches!(hot_add.what, Added::Processor { .. });
        Addition { time: hot_add.time - start, name, is_processor }
    });
    added.collect()
}

/// Slices in the form of [`Track::slices`], from lanes, kinds, beginnings and ends in order of beginnings.
fn packed(slices: impl IntoIterator<Item = (usize, usize, u64, u64)>, start: u64) -> Vec<u64> {
    let mut last = start;
    let mut packed = Vec::new();
    for (lane, kind, begin, end) in slices {
        packed.extend([lane as u64, kind as u64, begin - last, end - begin]);
        last = begin;
    }
    packed
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The rows of the timeline, from above.
fn rows(recording: &Recording, start: u64) -> Vec<Track> {
    let (steered, is_seen) = (tracks::steered(recording), !recording.activities.is_empty());
    let mut rows = Vec::new();
    for (index, activities) in tracks::activities(recording) {
        let activities = activities.iter().map(|activity| (0, activity.kind as usize, activity.begin, activity.end));
        let steered = steered.get(&index).filter(|_| !is_seen).map(|&(begin, end)| (0, 2, begin, end));
        let kinds = named(&["interrupt", "DPC", "steered to"]);
        let slices = packed(activities.chain(steered), start);
        rows.push(Track { name: format!("CPU {index}"), kinds, lanes: 1, slices });
    }
    for device in &recording.after().devices {
        if !recording.requests.is_empty() {
            rows.push(requests(recording, start, device));
        }
        rows.push(holds_and_rebalances(recording, start, device));
    }
    rows
}

fn requests(recording: &Recording, start: u64, device: &crate::Device) -> Track {
    let lanes = tracks::lanes(recording, device.number);
    let mut slices: Vec<_> = lanes
        .iter()
        .enumerate()
        .flat_map(|(number, lane)| {
            lane.iter().map(move |request| (number, request.kind as usize, request.begin, request.end))
        })
        .collect();
    slices.sort_by_key(|slice| slice.2);
    Track {
        name: format!("{} requests", device.name),
        kinds: named(&["factorial", "read", "write"]),
        lanes: lanes.len().max(1),
        slices: packed(slices, start),
    }
}

fn holds_and_rebalances(recording: &Recording, start: u64, device: &crate::Device) -> Track {
    let rebalances = recording.rebalances();
    let rebalances = rebalances.iter().filter(|rebalance| rebalance.device == device.number);
    let holds = recording.holds();
    let holds = holds.iter().filter(|hold| hold.device == device.number);
    let mut slices: Vec<_> = rebalances
        .map(|rebalance| (0, 0, rebalance.begin, rebalance.end))
        .chain(holds.map(|hold| (1, 1, hold.begin, hold.end)))
        .collect();
    slices.sort_by_key(|slice| slice.2);
    let kinds = named(&["rebalance", "hold"]);
    Track { name: format!("{} gate", device.name), kinds, lanes: 2, slices: packed(slices, start) }
}

fn counters(recording: &Recording, start: u64) -> Vec<Counter> {
    let mut counters = Vec::new();
    if recording.samples.is_empty() {
        return counters;
    }
    for device in &recording.after().devices {
        let samples = || recording.samples.iter().filter(|sample| sample.device == device.number);
        let points =
            |value: fn(&crate::Sample) -> u64| changes(samples().map(|sample| (sample.time - start, value(sample))));
        for (what, points) in [("in flight", points(|sample| sample.in_flight)), ("held", points(|sample| sample.held))]
        {
            counters.push(Counter { name: format!("{} {what}", device.name), is_bytes: false, points });
        }
    }
    let pool = changes(recording.samples.iter().map(|sample| (sample.time - start, sample.pool_bytes)));
    counters.push(Counter { name: "pool".to_owned(), is_bytes: true, points: pool });
    counters
}

/// Times and values in turn, of the first point, of each where the value changes, and of the last.
fn changes(points: impl Iterator<Item = (u64, u64)>) -> Vec<u64> {
    let mut kept: Vec<(u64, u64)> = Vec::new();
    let mut last = None;
    for (time, value) in points {
        if kept.last().is_none_or(|&(_, before)| before != value) {
            kept.push((time, value));
        }
        last = Some((time, value));
    }
    kept.extend(last.filter(|last| kept.last() != Some(last)));
    kept.into_iter().flat_map(<[u64; 2]>::from).collect()
}

/// The first period ends with the last snapshot before the first addition, the second begins with the first one after the last.
fn processors(recording: &Recording) -> Vec<Processor> {
    let hot_adds = recording.hot_adds();
    let (first, last) = (recording.before(), recording.after());
    let until = hot_adds.first().map_or(first, |addition| {
        let before = recording.snapshots.iter().rfind(|snapshot| snapshot.time <= addition.time);
        before.unwrap_or(first)
    });
    let since = hot_adds.last().map_or(first, |addition| {
        let after = recording.snapshots.iter().find(|snapshot| snapshot.time >= addition.time);
        after.unwrap_or(last)
    });
    let rates = |index: u32, count: fn(&crate::Processor) -> u64| {
        [(first, until), (since, last)].map(|(begin, end)| rate(begin, end, index, count)).to_vec()
    };
    let row = |processor: &crate::Processor| Processor {
        name: format!("CPU {}", processor.index),
        is_new: first.processors.iter().all(|known| known.index != processor.index),
        requests: rates(processor.index, |processor| processor.requests),
        dpcs: rates(processor.index, |processor| processor.dpcs),
        interrupts: rates(processor.index, |processor| processor.interrupts),
    };
    last.processors.iter().map(row).collect()
}

/// How much a processor did in a millisecond between two snapshots.
#[allow(clippy::cast_precision_loss, reason = "it is drawn")]
fn rate(begin: &Snapshot, end: &Snapshot, index: u32, count: fn(&crate::Processor) -> u64) -> f64 {
    let of =
        |snapshot: &Snapshot| snapshot.processors.iter().find(|processor| processor.index == index).map_or(0, count);
    let ns = end.time.saturating_sub(begin.time);
    if ns == 0 { 0.0 } else { of(end).saturating_sub(of(begin)) as f64 * 1e6 / ns as f64 }
}

fn holds(recording: &Recording, start: u64) -> Vec<Hold> {
    let row = |hold: crate::derived::Hold| Hold {
        device: hold.device,
        begin: hold.begin - start,
        duration: hold.duration(),
        waited: hold.waited,
        why: words::reasons(hold.reasons),
    };
    recording.holds().into_iter().map(row).collect()
}

fn events(recording: &Recording, start: u64) -> Vec<EventRow> {
    let additions: Vec<u64> = recording.hot_adds().iter().map(|hot_add| hot_add.sequence).collect();
    let row = |event: &crate::Event| EventRow {
        sequence: event.sequence,
        time: event.time - start,
        device: event.device,
        kind: event.kind.to_string(),
        text: words::sentence(event),
        is_addition: additions.contains(&event.sequence),
    };
    recording.events.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_packed_as_differences() {
        assert_eq!(packed([(0, 1, 110, 120), (2, 0, 115, 115)], 100), [0, 1, 10, 10, 2, 0, 5, 0]);
    }

    #[test]
    fn of_a_counter_only_changes_and_the_last_value_are_kept() {
        assert_eq!(changes([(0, 5), (1, 5), (2, 6), (3, 6), (4, 6)].into_iter()), [0, 5, 2, 6, 4, 6]);
        assert_eq!(changes([(0, 5)].into_iter()), [0, 5]);
        assert!(changes(std::iter::empty()).is_empty());
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(grouped(1_234_567).replace('\u{202F}', " "), "1 234 567");
        assert_eq!([gib(4 << 30), gib((4 << 30) + (1 << 29))], ["4 GiB", "4.50 GiB"]);
        let durations = [999, 10_500, 10_184_500].map(duration);
        assert_eq!(durations, ["999 ns", "10 µs", "10.18 ms"]);
    }

    #[test]
    fn rates_are_for_a_millisecond_of_the_time_between_two_snapshots() {
        let at = |time, requests| Snapshot {
            time,
            processors: vec![crate::Processor { index: 3, requests, ..crate::Processor::default() }],
            ..Snapshot::default()
        };
        let rate = |index| rate(&at(0, 10), &at(2_000_000, 40), index, |processor| processor.requests);
        assert!((rate(3) - 15.0).abs() < 1e-9 && rate(4).abs() < 1e-9);
    }
}
