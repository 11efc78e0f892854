//! Slices on tracks: what pictures have in common.

use std::collections::BTreeMap;

use crate::{Activity, Recording, Request, derived::Added};

/// Requests of a device, in order of their beginnings, dealt out so that those of a lane do not overlap.
pub fn lanes(recording: &Recording, device: u32) -> Vec<Vec<Request>> {
    let mut lanes: Vec<Vec<Request>> = Vec::new();
    for request in sorted(&recording.requests, |request| request.begin) {
        if request.device != device {
            continue;
        }
        let free = lanes.iter_mut().find(|lane| lane.last().is_none_or(|last| last.end <= request.begin));
        match free {
            Some(lane) => lane.push(request),
            None => lanes.push(vec![request]),
        }
    }
    lanes
}

/// From when to when work was steered to each processor, as far as the journal and the machine at the beginning tell. What there is to show
/// of processors where nobody sees their interrupts and DPCs.
pub fn steered(recording: &Recording) -> BTreeMap<u32, (u64, u64)> {
    let (start, end) = recording.span();
    let first = recording.before().processors.iter().filter(|processor| processor.steered);
    let mut steered: BTreeMap<u32, (u64, u64)> = first.map(|processor| (processor.index, (start, end))).collect();
    for hot_add in recording.hot_adds() {
        if let Added::Processor { index, .. } = hot_add.what {
            steered.entry(index).or_insert((hot_add.time, end));
        }
    }
    steered
}

/// What each processor did, in order of beginnings, what encloses before what is enclosed. Every processor of the machine has an entry.
pub fn activities(recording: &Recording) -> BTreeMap<u32, Vec<Activity>> {
    let known = recording.snapshots.iter().flat_map(|snapshot| &snapshot.processors);
    let mut tracks: BTreeMap<u32, Vec<Activity>> = known.map(|processor| (processor.index, Vec::new())).collect();
    for activity in sorted(&recording.activities, |activity| (activity.begin, u64::MAX - activity.end)) {
        tracks.entry(activity.processor).or_default().push(activity);
    }
    tracks
}

fn sorted<T: Copy, K: Ord>(items: &[T], key: impl Fn(&T) -> K) -> Vec<T> {
    let mut sorted = items.to_vec();
    sorted.sort_by_key(key);
    sorted
}

#[cfg(test)]
mod tests {
    use hotadd_abi::EventKind;

    use super::*;
    use crate::{ActivityKind, Origin, Processor, RequestKind, Snapshot};

    fn recording() -> Recording {
        let mut recording = Recording::begin(Origin::Lab { seed: 0, command: None }, Snapshot::default());
        recording.snapshots.push(Snapshot::default());
        recording
    }

    #[test]
    fn requests_that_overlap_are_on_different_lanes_and_lanes_are_used_again() {
        let at =
            |device, begin, end| Request { device, kind: RequestKind::Read, begin, end, status: 0, processor: None };
        let requests = vec![at(1, 0, 10), at(1, 5, 8), at(2, 6, 9), at(1, 8, 9), at(1, 10, 11)];
        let recording = Recording { requests, ..recording() };
        let found: Vec<Vec<u64>> =
            lanes(&recording, 1).iter().map(|lane| lane.iter().map(|request| request.begin).collect()).collect();
        assert_eq!(found, [vec![0, 10], vec![5, 8]]);
    }

    #[test]
    fn work_is_steered_to_a_processor_from_the_beginning_or_since_it_joined() {
        let mut recording = recording();
        let there = |index, steered| Processor { index, steered, ..Processor::default() };
        recording.snapshots[0].processors = vec![there(0, true), there(1, false)];
        recording.snapshots[1].time = 900;
        let joined = EventKind::ProcessorAddComplete.code();
        let event = hotadd_abi::Event { time: 5, kind: joined, processor: 2, ..hotadd_abi::Event::default() };
        recording.events = vec![(&event).into()];
        assert_eq!(steered(&recording), BTreeMap::from([(0, (0, 900)), (2, (500, 900))]));
    }

    #[test]
    fn what_encloses_comes_before_what_is_enclosed() {
        let at = |kind, begin, end| Activity { kind, processor: 3, begin, end };
        let activities_of = vec![at(ActivityKind::Interrupt, 5, 6), at(ActivityKind::Dpc, 5, 9)];
        let found = activities(&Recording { activities: activities_of, ..recording() });
        assert_eq!(found[&3].iter().map(|activity| activity.end).collect::<Vec<_>>(), [9, 6]);
    }
}
