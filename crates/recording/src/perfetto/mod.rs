//! A recording as a trace that opens in Perfetto's viewer, <https://ui.perfetto.dev>, and in what else reads its format.
//!
//! | track | has |
//! |---|---|
//! | additions | an instant for each processor and memory module that joined |
//! | processors, one each | slices: interrupts and DPCs; where nobody sees those, since when work is steered to it |
//! | a group for each device | slices: rebalances, holds, requests; counters: in flight, held |
//! | pool | counter: bytes |
//! | journal | an instant for each event of the driver, with its fields |

mod schema;
mod writer;

use prost::Message;

use crate::{
    ActivityKind, Event, Recording, RequestKind,
    derived::{Added, Ending, Hold, Rebalance},
    tracks, words,
};
use schema::Unit;
use writer::{Note, Slice, TrackId, Writer};

/// The trace, as the bytes of a file.
#[must_use]
pub fn encode(recording: &Recording) -> Vec<u8> {
    let mut writer = Writer::default();
    let root = writer.group(None, "hotadd", 0);
    additions(&mut writer, root, recording);
    processors(&mut writer, root, recording);
    for (rank, device) in (2..).zip(&recording.after().devices) {
        let group = writer.group(Some(root), &format!("device {}: {}", device.number, device.name), rank);
        requests(&mut writer, group, recording, device.number);
        gate(&mut writer, group, recording, device.number);
    }
    let pool = writer.counter(root, "pool", Unit::SizeBytes, 1000);
    let mut last = None;
    for sample in &recording.samples {
        if last.replace(sample.pool_bytes) != Some(sample.pool_bytes) {
            writer.count(pool, sample.time, sample.pool_bytes);
        }
    }
    journal(&mut writer, root, recording);
    writer.finish().encode_to_vec()
}

fn additions(writer: &mut Writer, root: TrackId, recording: &Recording) {
    let track = writer.track(root, "additions", 0);
    for hot_add in recording.hot_adds() {
        let name = match hot_add.what {
            Added::Processor { index, group, number } => format!("processor {index} ({group}:{number}) joined"),
            Added::Memory(bytes) => format!("{} MiB of memory joined", bytes >> 20),
        };
        writer.instant(track, hot_add.time, &name, "hot-add", Vec::new());
    }
}

fn processors(writer: &mut Writer, root: TrackId, recording: &Recording) {
    let group = writer.group(Some(root), "processors", 1);
    let (steered, is_seen) = (tracks::steered(recording), !recording.activities.is_empty());
    for (rank, (index, activities)) in (0..).zip(tracks::activities(recording)) {
        let places = recording.after().processors.iter().find(|processor| processor.index == index);
        let place = places.map(|processor| format!(" ({}:{})", processor.group, processor.number));
        let track = writer.track(group, &format!("processor {index}{}", place.unwrap_or_default()), rank);
        let slice = |begin, end, name| Slice { begin, end, name, category: "processor", notes: Vec::new() };
        let slices = activities.iter().map(|activity| {
            let name = match activity.kind {
                ActivityKind::Interrupt => "interrupt",
                ActivityKind::Dpc => "DPC",
            };
            slice(activity.begin, activity.end, name)
        });
        let steered = steered.get(&index).filter(|_| !is_seen).map(|&(begin, end)| slice(begin, end, "steered to"));
        writer.slices(track, steered.into_iter().chain(slices));
    }
}

fn requests(writer: &mut Writer, group: TrackId, recording: &Recording, device: u32) {
    // Tracks of one name are shown as one, with as many rows as it takes.
    for (rank, lane) in (10..).zip(tracks::lanes(recording, device)) {
        let track = writer.track(group, "requests", rank);
        let slices = lane.into_iter().map(|request| Slice {
            begin: request.begin,
            end: request.end,
            name: match request.kind {
                RequestKind::Factorial => "factorial",
                RequestKind::Read => "read",
                RequestKind::Write => "write",
            },
            category: "request",
            notes: if request.status == 0 {
                Vec::new()
            } else {
                vec![Note::text("status", words::status(request.status))]
            },
        });
        writer.slices(track, slices);
    }
}

/// What the device's gate did: rebalances and holds, and the counters.
fn gate(writer: &mut Writer, group: TrackId, recording: &Recording, device: u32) {
    let track = writer.track(group, "rebalances", 0);
    let rebalances = recording.rebalances();
    writer.slices(track, rebalances.iter().filter(|rebalance| rebalance.device == device).map(rebalance_slice));
    let track = writer.track(group, "holds", 1);
    let holds = recording.holds();
    writer.slices(track, holds.iter().filter(|hold| hold.device == device).map(hold_slice));
    let in_flight = writer.counter(group, "in flight", Unit::Count, 2);
    let held = writer.counter(group, "held", Unit::Count, 3);
    for sample in recording.samples.iter().filter(|sample| sample.device == device) {
        writer.count(in_flight, sample.time, sample.in_flight);
        writer.count(held, sample.time, sample.held);
    }
}

fn rebalance_slice(rebalance: &Rebalance) -> Slice<'static> {
    let name = match rebalance.ending {
        Ending::Restarted => "rebalance",
        Ending::Cancelled => "rebalance, cancelled",
        Ending::Refused => "rebalance, refused",
        Ending::Lost => "rebalance, device lost",
    };
    let affinity =
        rebalance.affinity.map(|(group, mask)| Note::text("interrupt affinity", format!("group {group}, {mask:#x}")));
    let Rebalance { begin, end, .. } = *rebalance;
    Slice { begin, end, name, category: "rebalance", notes: affinity.into_iter().collect() }
}

fn hold_slice(hold: &Hold) -> Slice<'static> {
    let drained = hold.drained.map(|time| Note::number("ns until nothing was in flight", time - hold.begin));
    let notes = [Note::text("why", words::reasons(hold.reasons)), Note::number("requests that waited", hold.waited)];
    Slice {
        begin: hold.begin,
        end: hold.end,
        name: "hold",
        category: "hold",
        notes: notes.into_iter().chain(drained).collect(),
    }
}

fn journal(writer: &mut Writer, root: TrackId, recording: &Recording) {
    let track = writer.track(root, "journal", 1001);
    for event in &recording.events {
        writer.instant(track, event.time, &event.kind.to_string(), "journal", notes(event));
    }
}

fn notes(event: &Event) -> Vec<Note> {
    let mut notes = vec![Note::text("what", words::sentence(event)), Note::number("sequence", event.sequence)];
    if event.device != 0 {
        notes.push(Note::number("device", event.device.into()));
    }
    if event.status != 0 {
        notes.push(Note::text("status", words::status(event.status)));
    }
    notes
}

#[cfg(test)]
mod tests;
