//! Load: lanes that always have one request in flight each, and know what its answer must be.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use hotadd_abi::FactorialOutput;
use ntlab::{
    machine::System,
    user::{Completion, Handle, Request, Status},
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::client;

/// The most lanes a load can have.
pub const MOST_LANES: u32 = 4096;
/// Lanes that read and write, each in its own part of the device's buffer; the others only compute.
const BUFFER_LANES: u32 = 255;
/// Each of them has so many bytes.
const LANE_BYTES: u8 = 16;
/// `STATUS_CANCELLED`.
const CANCELLED: i32 = 0xC000_0120_u32.cast_signed();

/// What became of the requests of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Sent.
    pub submitted: u64,
    /// Ended with success and the right result.
    pub completed: u64,
    /// Ended because they were cancelled.
    pub cancelled: u64,
    /// Ended in any other way.
    pub failed: u64,
    /// Never ended.
    pub lost: u64,
}

impl Counts {
    const fn ended(self) -> u64 {
        self.completed + self.cancelled + self.failed
    }
}

/// How long a lane waits after a request that ended with a status that the scenario expects.
const PAUSE: u64 = 50_000;

/// What a load does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests that are always in flight.
    pub lanes: u32,
    /// Decides what each lane does.
    pub seed: u64,
    /// One request in so many is cancelled; none for 0.
    pub cancel_one_in: u32,
}

/// How the lanes of a load behave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Statuses that requests may also end with: those count as failed, and break no promise.
    pub expected: &'static [Status],
    /// Virtual nanoseconds that a lane waits, at most, before its next request.
    pub pause: u64,
}

/// A load that is running.
pub struct Load<'k> {
    system: &'k System,
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Cell<Counts>,
    stopping: Cell<bool>,
    running: Cell<u32>,
    broken: RefCell<Vec<String>>,
    manner: Manner,
}

impl Shared {
    fn count(&self, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }
}

impl<'k> Load<'k> {
    /// Starts the lanes of `plan`, dealt out over `handles`, each on a thread of its own.
    ///
    /// # Panics
    ///
    /// Without handles, or with more lanes than [`MOST_LANES`].
    #[must_use]
    pub fn start(system: &'k System, handles: &[Rc<Handle<'k>>], plan: Plan) -> Self {
        Self::start_with(system, handles, plan, Manner::default())
    }

    /// The same with lanes that behave as `manner` says.
    ///
    /// # Panics
    ///
    /// As [`Load::start`].
    #[must_use]
    pub fn start_with(system: &'k System, handles: &[Rc<Handle<'k>>], plan: Plan, manner: Manner) -> Self {
        assert!(!handles.is_empty(), "a load needs a handle");
        assert!(plan.lanes <= MOST_LANES, "{} lanes are more than {MOST_LANES}", plan.lanes);
        let shared = Rc::new(Shared { running: plan.lanes.into(), manner, ..Shared::default() });
        for (number, handle) in (0..plan.lanes).zip(handles.iter().cycle()) {
            let mut lane = Lane::new(system, number, Rc::clone(handle), Rc::clone(&shared), plan);
            system.spawn("lane", move |_| {
                let shared = Rc::clone(&lane.shared);
                while !shared.stopping.get() {
                    lane.turn();
                }
                // The handle first, so that nothing of a load that was stopped is open.
                drop(lane);
                shared.running.update(|running| running - 1);
            });
        }
        Self { system, shared }
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts.get()
    }

    /// Lets the load run until this many more requests have ended, at most for `patience` nanoseconds. Whether they have.
    #[must_use]
    pub fn run(&self, requests: u64, patience: u64) -> bool {
        let (goal, deadline) = (self.counts().ended() + requests, self.system.now() + patience);
        while self.counts().ended() < goal {
            if self.system.now() >= deadline {
                return false;
            }
            self.system.sleep(20_000);
        }
        true
    }

    /// Ends the load: no lane sends another request, and those in flight have `patience` nanoseconds to end; what has not ended then is
    /// lost. What became of all requests, and a sentence for each answer that was wrong.
    #[must_use]
    pub fn stop(self, patience: u64) -> (Counts, Vec<String>) {
        self.shared.stopping.set(true);
        let deadline = self.system.now() + patience;
        while self.shared.running.get() > 0 && self.system.now() < deadline {
            self.system.sleep(100_000);
        }
        let mut counts = self.counts();
        counts.lost = counts.submitted - counts.ended();
        (counts, self.shared.broken.take())
    }
}

/// One request after the other, on one thread.
struct Lane<'k> {
    system: &'k System,
    number: u32,
    handle: Rc<Handle<'k>>,
    shared: Rc<Shared>,
    random: ChaCha8Rng,
    cancel_one_in: u32,
    /// What its part of the buffer holds; unknown at the start, and after a write that was cancelled.
    contents: Option<Vec<u8>>,
}

impl<'k> Lane<'k> {
    fn new(system: &'k System, number: u32, handle: Rc<Handle<'k>>, shared: Rc<Shared>, plan: Plan) -> Self {
        let random = ChaCha8Rng::seed_from_u64(plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(number));
        Self { system, number, handle, shared, random, cancel_one_in: plan.cancel_one_in, contents: None }
    }

    fn turn(&mut self) {
        let pause = self.shared.manner.pause;
        if pause != 0 {
            self.system.sleep(self.random.random_range(0..pause));
        }
        let kinds = if self.number < BUFFER_LANES { 4 } else { 2 };
        match self.random.random_range(0..kinds) {
            0 | 1 => self.factorial(),
            2 => self.write(),
            _ => self.read(),
        }
    }

    fn factorial(&mut self) {
        let number = self.random.random_range(0..40);
        let Some(done) = self.ask(client::factorial_request(number)) else { return };
        let expected = (1..=number).fold(1, u32::wrapping_mul);
        let answer = client::parse::<FactorialOutput>(&done.output).factorial;
        self.judge(answer == expected, || format!("{number}! is {expected} modulo 2^32, not {answer}"));
    }

    fn write(&mut self) {
        let mut data = vec![0; usize::from(LANE_BYTES)];
        self.random.fill_bytes(&mut data);
        self.contents = None;
        let Some(done) = self.ask(Request::Write { offset: self.offset(), data: data.clone() }) else { return };
        self.contents = Some(data);
        let written = done.information;
        self.judge(written == u64::from(LANE_BYTES), || format!("{written} bytes were written, not {LANE_BYTES}"));
    }

    fn read(&mut self) {
        let Some(done) = self.ask(Request::Read { offset: self.offset(), length: usize::from(LANE_BYTES) }) else {
            return;
        };
        let lane = self.number;
        let right = done.output.len() == usize::from(LANE_BYTES)
            && self.contents.as_ref().is_none_or(|data| *data == done.output);
        self.judge(right, || format!("lane {lane} read {:02x?}, which is not what it wrote", done.output));
        self.contents = right.then_some(done.output);
    }

    fn offset(&self) -> i64 {
        i64::from(self.number) * i64::from(LANE_BYTES)
    }

    /// Sends a request and waits for it, or cancels it after a while. What came back, if it succeeded.
    fn ask(&mut self, request: Request) -> Option<Completion> {
        let cancelled = self.cancel_one_in != 0 && self.random.random_range(0..self.cancel_one_in) == 0;
        self.shared.count(|counts| counts.submitted += 1);
        let pending = self.handle.submit(request);
        let done = if cancelled {
            pending.wait_for(self.random.random_range(0..2_000)).unwrap_or_else(|pending| {
                pending.cancel();
                pending.wait()
            })
        } else {
            pending.wait()
        };
        match done.status {
            Status::SUCCESS => return Some(done),
            Status(CANCELLED) if cancelled => self.shared.count(|counts| counts.cancelled += 1),
            status if self.shared.manner.expected.contains(&status) => {
                self.shared.count(|counts| counts.failed += 1);
                self.system.sleep(PAUSE);
            }
            status => {
                self.shared.count(|counts| counts.failed += 1);
                self.shared.broken.borrow_mut().push(format!("a request of lane {} ended with {status}", self.number));
            }
        }
        None
    }

    /// Counts a request that succeeded by whether its answer was right.
    fn judge(&self, right: bool, what: impl FnOnce() -> String) {
        if right {
            self.shared.count(|counts| counts.completed += 1);
        } else {
            self.shared.count(|counts| counts.failed += 1);
            self.shared.broken.borrow_mut().push(what());
        }
    }
}
