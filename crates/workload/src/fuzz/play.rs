//! Plays sequences of requests, and looks at how each request ends.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use hotadd_abi::INTERFACE_CLASS;
use ntlab::{
    machine::System,
    user::{Access, Handle, Pending, Status},
};

use super::{Control, Expected, Facts, Meanwhile, Sequence, Step, Tally, model::CANCELLED};
use crate::client;

/// Virtual nanoseconds after which a request is cancelled: one that waits for the next event would wait for long.
const PATIENCE: u64 = 10_000_000;
/// The ways in which each device is opened.
const WAYS: [Access; 5] = [Access::ReadWrite, Access::Read, Access::Write, Access::Attributes, Access::ReadWrite];

/// The driver's devices, and all that is known of them.
#[derive(Debug)]
pub struct Bench<'k> {
    system: &'k System,
    shared: Rc<Shared<'k>>,
}

#[derive(Debug)]
struct Shared<'k> {
    system: &'k System,
    facts: Facts,
    slots: Vec<Slot<'k>>,
    tally: RefCell<Tally>,
    /// For each device, how many requests it must have counted: completed, cancelled.
    counts: RefCell<Vec<(u64, u64)>>,
    /// Threads that are not done.
    running: Cell<usize>,
}

/// A way to a device.
#[derive(Debug)]
struct Slot<'k> {
    device: usize,
    link: String,
    access: Access,
    open: RefCell<Option<Rc<Open<'k>>>>,
}

#[derive(Debug)]
struct Open<'k> {
    handle: Handle<'k>,
    closed: Cell<bool>,
}

/// A request that was sent.
struct Sent<'k> {
    control: Control,
    expected: Expected,
    device: usize,
    open: Rc<Open<'k>>,
    pending: Option<Pending<'k>>,
    cancelled: bool,
    closed_before: bool,
}

impl<'k> Bench<'k> {
    /// The devices of the driver as they are now; nothing else uses them.
    ///
    /// # Errors
    ///
    /// The status with which opening a device or asking it ended.
    pub fn new(system: &'k System) -> Result<Self, Status> {
        let links = system.interfaces(INTERFACE_CLASS);
        let slot = |device: usize, link: &String, access| Slot {
            device,
            link: link.clone(),
            access,
            open: RefCell::default(),
        };
        let each = links.iter().enumerate();
        let slots = each.flat_map(|(device, link)| WAYS.map(|access| slot(device, link, access))).collect();
        let status = client::status(&client::open(system, 0)?)?;
        let facts = Facts { journal_next: status.journal_next, processors_known: status.processors_known };
        let shared = Shared {
            system,
            facts,
            slots,
            tally: RefCell::default(),
            counts: RefCell::new(vec![(0, 0); links.len()]),
            running: Cell::new(0),
        };
        Ok(Self { system, shared: Rc::new(shared) })
    }

    /// Plays a sequence, each of its threads on its own, until all of its requests have ended.
    pub fn play(&self, sequence: &Sequence) {
        let mut lanes = sequence.lanes.iter().cloned();
        let first = lanes.next().unwrap_or_default();
        for lane in lanes {
            self.shared.running.set(self.shared.running.get() + 1);
            let shared = Rc::clone(&self.shared);
            self.system.spawn("lane", move |_| {
                shared.play(&lane);
                shared.running.set(shared.running.get() - 1);
            });
        }
        self.shared.play(&first);
        self.system.wait_until("the threads of the sequence", || self.shared.running.get() == 0);
    }

    /// How many requests were sent.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.tally.borrow().requests
    }

    /// What became of them.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.shared.tally.borrow().clone()
    }

    /// Looks whether each device has counted its requests as they ended, and still answers.
    pub fn look_at_counters(&self) {
        let counts = self.shared.counts.borrow().clone();
        for (device, (completed, cancelled)) in counts.into_iter().enumerate() {
            let ask = || {
                let handle = client::open(self.system, device)?;
                Ok((client::status(&handle)?, client::factorial(&handle, 5)?.factorial))
            };
            let asked: Result<_, Status> = ask();
            let counted = asked.map(|(after, answer)| {
                ([after.accepted, after.completed, after.cancelled, after.failed, after.held], answer)
            });
            let expected = ([completed + cancelled, completed, cancelled, 0, 0], 120);
            if counted != Ok(expected) {
                let sentence = format!("device {device} has counted {counted:?}, and must have {expected:?}");
                self.shared.tally.borrow_mut().broken.push(sentence);
            }
            self.shared.counts.borrow_mut()[device].0 += 1;
        }
    }
}

impl<'k> Shared<'k> {
    fn play(&self, steps: &[Step]) {
        let mut sent: Vec<Sent<'k>> = Vec::new();
        for step in steps {
            let before = |back: u8| sent.len().checked_sub(1 + usize::from(back));
            match step {
                Step::Send(control) => sent.extend(self.send(control)),
                Step::Wait(back) => {
                    if let Some(place) = before(*back) {
                        self.wait(&mut sent[place]);
                    }
                }
                Step::Cancel(back) => {
                    if let Some(request) = before(*back).map(|place| &mut sent[place])
                        && let Some(pending) = &request.pending
                    {
                        request.cancelled = true;
                        pending.cancel();
                    }
                }
                Step::Close(slot) => self.close(*slot),
                Step::Pass(microseconds) => self.system.sleep(u64::from(*microseconds) * 1000),
            }
        }
        for request in &mut sent {
            self.wait(request);
        }
    }

    fn slot(&self, number: u8) -> &Slot<'k> {
        &self.slots[usize::from(number) % self.slots.len()]
    }

    fn close(&self, number: u8) {
        let open = self.slot(number).open.take();
        if let Some(open) = open {
            open.closed.set(true);
            open.handle.close_for_all();
        }
    }

    fn open(&self, slot: &Slot<'k>) -> Result<Rc<Open<'k>>, Status> {
        if let Some(open) = &*slot.open.borrow() {
            return Ok(Rc::clone(open));
        }
        let handle = self.system.open(&slot.link, slot.access)?;
        let open = Rc::new(Open { handle, closed: Cell::new(false) });
        // Another thread may have opened it meanwhile: its handle is closed by whoever is the last to use it.
        drop(slot.open.replace(Some(Rc::clone(&open))));
        Ok(open)
    }

    fn send(&self, control: &Control) -> Option<Sent<'k>> {
        let slot = self.slot(control.handle);
        let open = match self.open(slot) {
            Ok(open) => open,
            Err(status) => {
                self.tally.borrow_mut().broken.push(format!("device {} does not open: {status}", slot.device));
                return None;
            }
        };
        self.tally.borrow_mut().requests += 1;
        let pending = open.handle.submit(control.request());
        Some(Sent {
            expected: self.facts.expect(control, slot.access),
            control: control.clone(),
            device: slot.device,
            closed_before: open.closed.get(),
            open,
            pending: Some(pending),
            cancelled: false,
        })
    }

    fn wait(&self, sent: &mut Sent<'k>) {
        let Some(pending) = sent.pending.take() else { return };
        let done = pending.wait_for(PATIENCE).unwrap_or_else(|pending| {
            sent.cancelled = true;
            pending.cancel();
            pending.wait()
        });
        let meanwhile =
            Meanwhile { cancelled: sent.cancelled, closed: sent.open.closed.get(), closed_before: sent.closed_before };
        let wrong = self.facts.judge(sent.expected, meanwhile, &done);
        self.count(sent, done.status);
        let mut tally = self.tally.borrow_mut();
        *tally.statuses.entry(done.status.to_string()).or_default() += 1;
        if let Some(wrong) = wrong {
            tally.broken.push(format!("{:x?}, {meanwhile:?}: {wrong}: {done:x?}", sent.control));
        }
    }

    /// What the device has to count.
    fn count(&self, sent: &Sent<'_>, status: Status) {
        if !matches!(sent.expected, Expected::Factorial(_)) {
            return;
        }
        let mut counts = self.counts.borrow_mut();
        let (completed, cancelled) = &mut counts[sent.device];
        match status {
            Status::SUCCESS => *completed += 1,
            CANCELLED => *cancelled += 1,
            _ => {}
        }
    }
}
