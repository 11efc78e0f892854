//! What follows from the journal: additions, holds and rebalances.

use std::collections::BTreeMap;

use hotadd_abi::{EventKind, hold::PNP_STOP};

use crate::{Event, Recording};

/// Hardware that joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotAdd {
    /// The number of the event that tells of it.
    pub sequence: u64,
    /// When the driver was told that it is complete.
    pub time: u64,
    /// What joined.
    pub what: Added,
}

/// What joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// A processor.
    Processor {
        /// The system's index.
        index: u32,
        /// Its group.
        group: u32,
        /// Its number in the group.
        number: u32,
    },
    /// So many bytes of memory.
    Memory(u64),
}

/// A time during which a device's gate held requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The device, by number.
    pub device: u32,
    /// When the gate closed.
    pub begin: u64,
    /// When nothing was in flight any more; none where that was not told.
    pub drained: Option<u64>,
    /// When it opened, or refused for good.
    pub end: u64,
    /// Why: a sum of [`hotadd_abi::hold`]'s constants.
    pub reasons: u64,
    /// How many requests waited when it ended.
    pub waited: u64,
}

impl Hold {
    /// How long it lasted.
    #[must_use]
    pub const fn duration(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }
}

/// How a rebalance of a device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With other resources.
    Restarted,
    /// The stop was cancelled: the device keeps its resources.
    Cancelled,
    /// The device refused to stop.
    Refused,
    /// It did not start again, or was removed.
    Lost,
}

/// A device that was asked to stop for other resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// The device, by number.
    pub device: u32,
    /// When it was asked: when its gate closed for that, where that is told.
    pub begin: u64,
    /// When it stopped, where it did.
    pub stopped: Option<u64>,
    /// When it was over.
    pub end: u64,
    /// How it ended.
    pub ending: Ending,
    /// The group and the processors of its interrupt afterwards, where it was connected again.
    pub affinity: Option<(u32, u64)>,
}

impl Recording {
    /// The hardware that joined since the recording began.
    #[must_use]
    pub fn hot_adds(&self) -> Vec<HotAdd> {
        let since = self.before().time;
        self.events.iter().filter(|event| event.time >= since).filter_map(hot_add).collect()
    }

    /// The holds that began in the recording and ended, in order of their ends.
    #[must_use]
    pub fn holds(&self) -> Vec<Hold> {
        let mut open: BTreeMap<u32, Hold> = BTreeMap::new();
        let mut over = Vec::new();
        for event in &self.events {
            match event.kind.known() {
                Some(EventKind::GateClosed) => {
                    open.entry(event.device).or_insert_with(|| hold(event)).reasons |= event.count;
                }
                Some(EventKind::GateDrained) => {
                    if let Some(hold) = open.get_mut(&event.device) {
                        hold.drained.get_or_insert(event.time);
                    }
                }
                Some(EventKind::GateOpened | EventKind::GateRefusing) => {
                    let ended = open.remove(&event.device);
                    over.extend(ended.map(|hold| Hold { end: event.time, waited: event.count, ..hold }));
                }
                _ => {}
            }
        }
        over
    }

    /// The rebalances that began in the recording and ended, in order of their ends.
    #[must_use]
    pub fn rebalances(&self) -> Vec<Rebalance> {
        let mut open: BTreeMap<u32, Rebalance> = BTreeMap::new();
        // The driver tells of QUERY_STOP when it answers, after the gate has closed and nothing is in flight any more.
        let mut closed: BTreeMap<u32, u64> = BTreeMap::new();
        let mut over = Vec::new();
        for event in &self.events {
            if event.kind == EventKind::GateClosed.into() && event.count & u64::from(PNP_STOP) != 0 {
                closed.insert(event.device, event.time);
            }
            if event.kind == EventKind::QueryStop.into() {
                let begin = closed.remove(&event.device).unwrap_or(event.time);
                open.insert(event.device, Rebalance { begin, ..asked(event) });
            }
            let Some(rebalance) = open.get_mut(&event.device) else { continue };
            if let Some(ending) = step(rebalance, event) {
                over.push(Rebalance { end: event.time, ending, ..*rebalance });
                open.remove(&event.device);
            }
        }
        over
    }
}

fn hot_add(event: &Event) -> Option<HotAdd> {
    let what = match event.kind.known()? {
        EventKind::ProcessorAddComplete => {
            Added::Processor { index: event.processor, group: event.group, number: event.number }
        }
        EventKind::MemoryGrew => Added::Memory(event.count.saturating_sub(event.before)),
        _ => return None,
    };
    Some(HotAdd { sequence: event.sequence, time: event.time, what })
}

const fn hold(event: &Event) -> Hold {
    Hold { device: event.device, begin: event.time, drained: None, end: event.time, reasons: 0, waited: 0 }
}

const fn asked(event: &Event) -> Rebalance {
    Rebalance {
        device: event.device,
        begin: event.time,
        stopped: None,
        end: event.time,
        ending: Ending::Lost,
        affinity: None,
    }
}

/// What an event of its device means for a rebalance; how it ended, if it did.
fn step(rebalance: &mut Rebalance, event: &Event) -> Option<Ending> {
    match event.kind.known()? {
        EventKind::QueryStop if event.status < 0 => Some(Ending::Refused),
        EventKind::DeviceStopped => {
            rebalance.stopped = Some(event.time);
            None
        }
        EventKind::InterruptConnected => {
            let (group, mask) = rebalance.affinity.unwrap_or((event.group, 0));
            rebalance.affinity = Some((group, mask | event.affinity));
            None
        }
        EventKind::CancelStop => Some(Ending::Cancelled),
        EventKind::DeviceRestarted if event.status < 0 => Some(Ending::Lost),
        EventKind::DeviceRestarted => Some(Ending::Restarted),
        EventKind::SurpriseRemoved | EventKind::DeviceRemoved => Some(Ending::Lost),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hotadd_abi::hold;

    use super::*;
    use crate::{Origin, Snapshot};

    fn event(time: u64, kind: EventKind, device: u32) -> hotadd_abi::Event {
        hotadd_abi::Event { sequence: time, time, kind: kind.code(), device, ..hotadd_abi::Event::default() }
    }

    fn recording(events: &[hotadd_abi::Event]) -> Recording {
        let at = |time| Snapshot { time, ..Snapshot::default() };
        let mut recording = Recording::begin(Origin::Lab { seed: 0, command: None }, at(1000));
        recording.snapshots.push(at(100_000));
        recording.events = events.iter().map(Event::from).collect();
        recording.check().expect("it makes sense");
        recording
    }

    #[test]
    fn hardware_that_was_there_before_the_recording_began_is_no_addition() {
        let recording = recording(&[
            hotadd_abi::Event { processor: 1, ..event(5, EventKind::ProcessorAddComplete, 0) },
            hotadd_abi::Event { processor: 2, group: 1, ..event(20, EventKind::ProcessorAddComplete, 0) },
            hotadd_abi::Event { before: 10, count: 30, ..event(30, EventKind::MemoryGrew, 0) },
        ]);
        let processor = Added::Processor { index: 2, group: 1, number: 0 };
        let expected = [
            HotAdd { sequence: 20, time: 2000, what: processor },
            HotAdd { sequence: 30, time: 3000, what: Added::Memory(20) },
        ];
        assert_eq!(recording.hot_adds(), expected);
    }

    #[test]
    fn a_hold_lasts_from_the_first_reason_to_the_opening_of_its_own_device() {
        let closed = |time, device, reason: u32| hotadd_abi::Event {
            count: reason.into(),
            ..event(time, EventKind::GateClosed, device)
        };
        let recording = recording(&[
            event(10, EventKind::GateOpened, 1),
            closed(20, 1, hold::PNP_STOP),
            closed(21, 2, hold::POWER),
            event(22, EventKind::GateDrained, 1),
            closed(23, 1, hold::POWER),
            event(24, EventKind::GateDrained, 1),
            hotadd_abi::Event { count: 7, ..event(30, EventKind::GateOpened, 1) },
            event(40, EventKind::GateRefusing, 2),
            closed(50, 1, hold::PNP_STOP),
        ]);
        let both = u64::from(hold::PNP_STOP | hold::POWER);
        let first = Hold { device: 1, begin: 2000, drained: Some(2200), end: 3000, reasons: both, waited: 7 };
        let second =
            Hold { device: 2, begin: 2100, drained: None, end: 4000, reasons: u64::from(hold::POWER), waited: 0 };
        assert_eq!(recording.holds(), [first, second]);
        assert_eq!(first.duration(), 1000);
    }

    #[test]
    fn a_rebalance_tells_how_it_ended_and_where_the_interrupt_goes_since() {
        let connected =
            |time, affinity| hotadd_abi::Event { affinity, group: 1, ..event(time, EventKind::InterruptConnected, 1) };
        let recording = recording(&[
            hotadd_abi::Event { count: PNP_STOP.into(), ..event(18, EventKind::GateClosed, 1) },
            event(20, EventKind::QueryStop, 1),
            event(21, EventKind::QueryStop, 2),
            event(22, EventKind::CancelStop, 2),
            event(30, EventKind::DeviceStopped, 1),
            connected(33, 1),
            connected(34, 6),
            event(35, EventKind::DeviceRestarted, 1),
            hotadd_abi::Event { status: -1, ..event(40, EventKind::QueryStop, 1) },
            event(50, EventKind::QueryStop, 1),
            event(51, EventKind::DeviceStopped, 1),
            hotadd_abi::Event { status: -1, ..event(52, EventKind::DeviceRestarted, 1) },
            event(60, EventKind::QueryStop, 1),
            event(61, EventKind::SurpriseRemoved, 1),
        ]);
        let rebalances = recording.rebalances();
        let told: Vec<_> = rebalances.iter().map(|row| (row.device, row.begin, row.end, row.ending)).collect();
        let expected = [
            (2, 2100, 2200, Ending::Cancelled),
            (1, 1800, 3500, Ending::Restarted),
            (1, 4000, 4000, Ending::Refused),
            (1, 5000, 5200, Ending::Lost),
            (1, 6000, 6100, Ending::Lost),
        ];
        assert_eq!(told, expected);
        assert_eq!((rebalances[1].stopped, rebalances[1].affinity), (Some(3000), Some((1, 7))));
    }
}
