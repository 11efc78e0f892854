//! Following the driver's journal while the demo runs.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use hotadd_abi::{Event, EventKind};
use ntlab::{machine::System, user::Handle};

use recording::words;

use super::{results::Rebalance, view::View};

/// How long one look at the end of the watch may take.
const PATIENCE: u64 = 1_000_000;

/// Kinds that happen too often to be shown.
const NOT_SHOWN: [EventKind; 1] = [EventKind::GateClosed];

/// Follows the journal on a thread of its own.
pub struct Watch {
    events: Rc<RefCell<Vec<Event>>>,
    missed: Rc<Cell<u64>>,
    stopping: Rc<Cell<bool>>,
    stopped: Rc<Cell<bool>>,
}

impl Watch {
    /// Starts following: every event is shown as it comes, and kept.
    pub fn start<'k>(system: &'k System, handle: Rc<Handle<'k>>, view: Rc<View>) -> Self {
        let watch =
            Self { events: Rc::default(), missed: Rc::default(), stopping: Rc::default(), stopped: Rc::default() };
        let (events, missed) = (Rc::clone(&watch.events), Rc::clone(&watch.missed));
        let (stopping, stopped) = (Rc::clone(&watch.stopping), Rc::clone(&watch.stopped));
        system.spawn("journal", move |_| {
            let mut cursor = 0;
            while let Some(part) = next(&handle, cursor, &stopping) {
                cursor = part.next;
                missed.update(|count| count + part.missed);
                part.events
                    .iter()
                    .filter(|event| is_shown(event))
                    .for_each(|event| view.event(&words::line(&event.into())));
                events.borrow_mut().extend(part.events);
            }
            drop(handle);
            stopped.set(true);
        });
        watch
    }

    /// Stops following: the events, and how many were missed.
    pub fn stop(self, system: &System) -> (Vec<Event>, u64) {
        self.stopping.set(true);
        while !self.stopped.get() {
            system.sleep(PATIENCE);
        }
        (self.events.take(), self.missed.get())
    }
}

/// The events from `cursor` on, as soon as there are some; `None` when it is time to stop.
fn next(handle: &Handle<'_>, cursor: u64, stopping: &Cell<bool>) -> Option<workload::Journal> {
    let (request, parse) = workload::journal(cursor);
    let mut pending = handle.submit(request);
    loop {
        match pending.wait_for(PATIENCE) {
            Ok(done) => return done.status.is_success().then(|| parse(&done.output)),
            Err(waiting) => pending = waiting,
        }
        if stopping.get() {
            pending.cancel();
        }
    }
}

fn is_shown(event: &Event) -> bool {
    EventKind::from_code(event.kind).is_none_or(|kind| !NOT_SHOWN.contains(&kind))
}

/// The rebalances that the events tell of; `names` are the devices by the number that the driver gives them.
pub fn rebalances(events: &[Event], names: &BTreeMap<u32, &'static str>) -> Vec<Rebalance> {
    let mut open: BTreeMap<u32, Rebalance> = BTreeMap::new();
    let mut all = Vec::new();
    for event in events {
        let Some(kind) = EventKind::from_code(event.kind) else { continue };
        if kind == EventKind::QueryStop {
            open.insert(event.device, begun(event, names));
        }
        let Some(row) = open.get_mut(&event.device) else { continue };
        match kind {
            EventKind::InterruptConnected => row.affinity |= event.affinity,
            EventKind::DeviceRestarted => row.restarted = true,
            EventKind::GateOpened => {
                row.waited = event.count;
                row.held_us = event.duration / 10;
                all.extend(open.remove(&event.device));
            }
            _ => {}
        }
    }
    all
}

fn begun(event: &Event, names: &BTreeMap<u32, &'static str>) -> Rebalance {
    Rebalance {
        device: names.get(&event.device).copied().unwrap_or("?"),
        at_us: event.time / 10,
        held_us: 0,
        waited: 0,
        restarted: false,
        affinity: 0,
    }
}
