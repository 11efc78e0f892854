//! Writing packets: tracks, interned names, and everything in order of time.

use std::{collections::BTreeMap, iter};

use super::schema::{
    ChildTracksOrdering, CounterDescriptor, DebugAnnotation, INCREMENTAL_STATE_CLEARED, InternedData, InternedName,
    NEEDS_INCREMENTAL_STATE, Trace, TracePacket, TrackDescriptor, TrackEvent, Type, Unit,
};

/// All packets are of one sequence.
const SEQUENCE: u32 = 1;

/// A track.
#[derive(Clone, Copy, Debug)]
pub struct TrackId(u64);

/// Something that took time.
#[derive(Clone, Debug)]
pub struct Slice<'a> {
    pub begin: u64,
    pub end: u64,
    pub name: &'a str,
    pub category: &'a str,
    pub notes: Vec<Note>,
}

/// A named value of a slice or an instant.
#[derive(Clone, Debug)]
pub struct Note(DebugAnnotation);

impl Note {
    /// With a text.
    pub fn text(name: &str, value: String) -> Self {
        Self(DebugAnnotation { name: name.to_owned(), string_value: Some(value), ..DebugAnnotation::default() })
    }

    /// With a number.
    pub fn number(name: &str, value: u64) -> Self {
        Self(DebugAnnotation { name: name.to_owned(), uint_value: Some(value), ..DebugAnnotation::default() })
    }
}

/// A trace that is being made.
#[derive(Debug, Default)]
pub struct Writer {
    tracks: Vec<TrackDescriptor>,
    names: BTreeMap<String, u64>,
    categories: BTreeMap<String, u64>,
    /// With their times; those of a track in an order that nests.
    events: Vec<(u64, TrackEvent)>,
}

impl Writer {
    /// A track that has tracks.
    pub fn group(&mut self, parent: Option<TrackId>, name: &str, rank: i32) -> TrackId {
        self.add(parent, name, rank, None)
    }

    /// A track with slices and instants.
    pub fn track(&mut self, parent: TrackId, name: &str, rank: i32) -> TrackId {
        self.add(Some(parent), name, rank, None)
    }

    /// A track with a counter.
    pub fn counter(&mut self, parent: TrackId, name: &str, unit: Unit, rank: i32) -> TrackId {
        self.add(Some(parent), name, rank, Some(CounterDescriptor { unit: unit.into() }))
    }

    fn add(&mut self, parent: Option<TrackId>, name: &str, rank: i32, counter: Option<CounterDescriptor>) -> TrackId {
        let uuid = self.tracks.len() as u64 + 1;
        self.tracks.push(TrackDescriptor {
            uuid,
            name: name.to_owned(),
            parent_uuid: parent.map(|TrackId(uuid)| uuid),
            counter,
            child_ordering: ChildTracksOrdering::Explicit.into(),
            sibling_order_rank: rank,
        });
        TrackId(uuid)
    }

    /// Adds slices that come in order of their beginnings, what encloses before what is enclosed.
    pub fn slices<'a>(&mut self, track: TrackId, slices: impl IntoIterator<Item = Slice<'a>>) {
        let mut open: Vec<u64> = Vec::new();
        for slice in slices {
            while let Some(end) = open.pop_if(|end| *end <= slice.begin) {
                self.events.push((end, event(track, Type::SliceEnd)));
            }
            let begin = self.named(track, Type::SliceBegin, slice.name, slice.category, slice.notes);
            self.events.push((slice.begin, begin));
            open.push(slice.end);
        }
        while let Some(end) = open.pop() {
            self.events.push((end, event(track, Type::SliceEnd)));
        }
    }

    /// Adds something that took no time.
    pub fn instant(&mut self, track: TrackId, time: u64, name: &str, category: &str, notes: Vec<Note>) {
        let instant = self.named(track, Type::Instant, name, category, notes);
        self.events.push((time, instant));
    }

    /// Adds a value of a counter.
    pub fn count(&mut self, track: TrackId, time: u64, value: u64) {
        let counter_value = Some(i64::try_from(value).unwrap_or(i64::MAX));
        self.events.push((time, TrackEvent { counter_value, ..event(track, Type::Counter) }));
    }

    fn named(&mut self, track: TrackId, kind: Type, name: &str, category: &str, notes: Vec<Note>) -> TrackEvent {
        TrackEvent {
            name_iid: Some(intern(&mut self.names, name)),
            category_iids: vec![intern(&mut self.categories, category)],
            debug_annotations: notes.into_iter().map(|Note(annotation)| annotation).collect(),
            ..event(track, kind)
        }
    }

    /// The trace: names and tracks, then events in order of time.
    pub fn finish(mut self) -> Trace {
        // Stable: what is of one time stays as its track has it.
        self.events.sort_by_key(|(time, _)| *time);
        let names = InternedData { event_categories: interned(self.categories), event_names: interned(self.names) };
        let first = TracePacket {
            interned_data: Some(names),
            sequence_flags: INCREMENTAL_STATE_CLEARED | NEEDS_INCREMENTAL_STATE,
            ..packet()
        };
        let tracks = self.tracks.into_iter().map(|track| TracePacket { track_descriptor: Some(track), ..packet() });
        let events = self.events.into_iter().map(|(time, event)| TracePacket {
            timestamp: Some(time),
            track_event: Some(event),
            sequence_flags: NEEDS_INCREMENTAL_STATE,
            ..packet()
        });
        Trace { packet: iter::once(first).chain(tracks).chain(events).collect() }
    }
}

fn packet() -> TracePacket {
    TracePacket { trusted_packet_sequence_id: SEQUENCE, ..TracePacket::default() }
}

fn event(TrackId(track_uuid): TrackId, kind: Type) -> TrackEvent {
    TrackEvent { track_uuid, kind: kind.into(), ..TrackEvent::default() }
}

fn intern(names: &mut BTreeMap<String, u64>, name: &str) -> u64 {
    let next = names.len() as u64 + 1;
    *names.entry(name.to_owned()).or_insert(next)
}

fn interned(names: BTreeMap<String, u64>) -> Vec<InternedName> {
    names.into_iter().map(|(name, iid)| InternedName { iid, name }).collect()
}
