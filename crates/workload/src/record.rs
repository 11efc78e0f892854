//! Recording what happens in a machine of the lab: the driver's journal and counters, and what the lab sees beside them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use hotadd_abi::IOCTL_HOTADD_FACTORIAL;
use ntlab::{
    machine::System,
    pnp::Device,
    timeline::{Asked, Span, What},
    user::{Handle, Status},
};
use recording::{Activity, ActivityKind, Event, Origin, Recording, Request, RequestKind, Sample, Snapshot};

use crate::client;

/// `IRP_MJ_READ` and `IRP_MJ_WRITE`.
const READ: u8 = 3;
const WRITE: u8 = 4;
/// Virtual nanoseconds between two looks at the counters.
const TICK: u64 = 50_000;

/// A device that is recorded.
#[derive(Clone, Debug)]
pub struct Recorded<'k> {
    /// The device.
    pub device: Device,
    /// What people call it.
    pub name: String,
    /// A handle of it.
    pub handle: Rc<Handle<'k>>,
}

/// A recording under way: a thread looks at the journal and the counters every now and then.
pub struct Recorder<'k> {
    system: &'k System,
    shared: Rc<Shared<'k>>,
}

struct Shared<'k> {
    /// In the order in which they were added, which is how the driver numbers them.
    devices: Vec<Recorded<'k>>,
    recording: RefCell<Recording>,
    cursor: Cell<u64>,
    /// Why looking failed.
    failed: Cell<Option<Status>>,
    stopping: Cell<bool>,
    stopped: Cell<bool>,
}

impl<'k> Recorder<'k> {
    /// Starts recording, from the journal's oldest event on. The devices are all that were added, in that order. Interrupts, DPCs and
    /// requests are recorded too where the machine keeps a timeline ([`ntlab::config::Config::keep_timeline`]).
    ///
    /// # Errors
    ///
    /// The status with which the driver refused to tell.
    pub fn start(system: &'k System, origin: Origin, devices: Vec<Recorded<'k>>) -> Result<Self, Status> {
        let recording = RefCell::new(Recording::begin(origin, snapshot(&devices)?));
        let (cursor, failed) = (Cell::new(0), Cell::new(None));
        let (stopping, stopped) = (Cell::new(false), Cell::new(false));
        let shared = Rc::new(Shared { devices, recording, cursor, failed, stopping, stopped });
        let watching = Rc::clone(&shared);
        system.spawn("recorder", move |system| {
            while !watching.stopping.get() {
                watching.note(watching.look());
                system.sleep(TICK);
            }
            watching.stopped.set(true);
        });
        Ok(Self { system, shared })
    }

    /// Notes how the machine is now: before the first addition, and after the last.
    pub fn snapshot(&self) {
        let now = snapshot(&self.shared.devices);
        self.shared.note(now.map(|now| self.shared.recording.borrow_mut().snapshots.push(now)));
    }

    /// Ends the recording.
    ///
    /// # Errors
    ///
    /// The status with which the driver refused to tell something meanwhile.
    pub fn finish(self) -> Result<Recording, Status> {
        self.shared.stopping.set(true);
        while !self.shared.stopped.get() {
            self.system.sleep(TICK);
        }
        self.shared.note(self.shared.look());
        self.snapshot();
        if let Some(status) = self.shared.failed.get() {
            return Err(status);
        }
        let ended = Recording::begin(Origin::Lab { seed: 0, command: None }, Snapshot::default());
        let mut recording = self.shared.recording.replace(ended);
        let numbers: Vec<Device> = self.shared.devices.iter().map(|recorded| recorded.device).collect();
        add_timeline(&mut recording, &self.system.take_timeline(), &numbers);
        Ok(recording)
    }
}

impl Shared<'_> {
    /// Keeps the first failure.
    fn note(&self, result: Result<(), Status>) {
        self.failed.update(|failed| failed.or_else(|| result.err()));
    }

    /// Reads the counters of all devices, and the events that came since.
    fn look(&self) -> Result<(), Status> {
        for (number, recorded) in (1..).zip(&self.devices) {
            let status = client::status(&recorded.handle)?;
            self.recording.borrow_mut().samples.push(Sample::new(number, &status));
        }
        let Some(first) = self.devices.first() else { return Ok(()) };
        let journal = client::journal_from(&first.handle, self.cursor.get())?;
        self.cursor.set(journal.next);
        let mut recording = self.recording.borrow_mut();
        recording.missed += journal.missed;
        recording.events.extend(journal.events.iter().map(Event::from));
        drop(recording);
        Ok(())
    }
}

/// The machine and the devices as the driver tells of them now.
///
/// # Errors
///
/// The status with which the driver refused to tell.
pub fn snapshot(devices: &[Recorded<'_>]) -> Result<Snapshot, Status> {
    let mut told = Vec::new();
    let mut last = hotadd_abi::Status::default();
    for (number, Recorded { name, handle, .. }) in (1..).zip(devices) {
        last = client::status(handle)?;
        told.push(recording::Device::new(number, name, &last));
    }
    let processors = devices.first().map_or_else(|| Ok(Vec::new()), |first| client::processors(&first.handle))?;
    Ok(Snapshot::new(&last, &processors, told))
}

/// Adds what the lab saw: requests that move or compute something, interrupts and DPCs. `devices` are those with the numbers from 1.
pub fn add_timeline(recording: &mut Recording, spans: &[Span], devices: &[Device]) {
    for span in spans {
        match span.what {
            What::Request(asked) => recording.requests.extend(request(span, asked, devices)),
            What::Interrupt { .. } => recording.activities.push(activity(span, ActivityKind::Interrupt)),
            What::Dpc => recording.activities.push(activity(span, ActivityKind::Dpc)),
        }
    }
    recording.requests.sort_by_key(|request| request.begin);
    recording.activities.sort_by_key(|activity| (activity.begin, activity.processor));
}

const fn activity(span: &Span, kind: ActivityKind) -> Activity {
    Activity { kind, processor: span.processor, begin: span.begin, end: span.end }
}

fn request(span: &Span, asked: Asked, devices: &[Device]) -> Option<Request> {
    let kind = match (asked.major, asked.code) {
        (READ, _) => RequestKind::Read,
        (WRITE, _) => RequestKind::Write,
        (_, IOCTL_HOTADD_FACTORIAL) => RequestKind::Factorial,
        _ => return None,
    };
    let device = (1..).zip(devices).find(|(_, device)| Some(**device) == asked.device)?.0;
    let processor = Some(span.processor);
    Some(Request { device, kind, begin: span.begin, end: span.end, status: asked.status, processor })
}
