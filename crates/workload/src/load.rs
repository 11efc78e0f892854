//! Load: lanes that always have one request in flight each, and know what its answer must be.

use std::{
    cell::{Cell, RefCell},
    ops::AddAssign,
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

use crate::{
    check::{Buffer, WORD},
    client,
};

/// The most lanes a load can have.
pub const MOST_LANES: u32 = 4096;
/// Words of the device's buffer that transfers begin at.
const PLACES: usize = 500;
/// Bytes of a transfer.
const TRANSFER: usize = 2 * WORD;
/// Lanes ask for the factorials of smaller numbers.
const NUMBERS: u32 = 40;
/// Those factorials modulo 2^32.
static FACTORIALS: [u32; NUMBERS as usize] = {
    let mut all = [1_u32; NUMBERS as usize];
    let mut number = 1;
    while number < NUMBERS {
        all[number as usize] = all[number as usize - 1].wrapping_mul(number);
        number += 1;
    }
    all
};
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
    /// All that have ended.
    #[must_use]
    pub const fn ended(self) -> u64 {
        self.completed + self.cancelled + self.failed
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.submitted += more.submitted;
        self.completed += more.completed;
        self.cancelled += more.cancelled;
        self.failed += more.failed;
        self.lost += more.lost;
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
    /// How many requests all lanes send together before they end; any number, if none.
    pub most: Option<u64>,
    /// Lanes ask for factorials only, of a driver that knows nothing else.
    pub factorials_only: bool,
}

/// A handle that lanes use, and what is known of its device's buffer.
#[derive(Clone, Debug)]
pub struct Target<'k> {
    handle: Rc<Handle<'k>>,
    buffer: Rc<Buffer>,
}

impl<'k> Target<'k> {
    /// A handle of a device that nobody else writes to.
    #[must_use]
    pub fn new(handle: Handle<'k>) -> Self {
        Self { handle: Rc::new(handle), buffer: Rc::new(Buffer::new(PLACES + TRANSFER / WORD)) }
    }

    /// Another handle of the same device.
    #[must_use]
    pub fn and(&self, handle: Handle<'k>) -> Self {
        Self { handle: Rc::new(handle), buffer: Rc::clone(&self.buffer) }
    }

    /// The handle.
    #[must_use]
    pub const fn handle(&self) -> &Rc<Handle<'k>> {
        &self.handle
    }
}

/// Two handles of each of the first `devices` devices.
///
/// # Errors
///
/// The status that opening ended with.
pub fn open_twice(system: &System, devices: usize) -> Result<Vec<Target<'_>>, Status> {
    let mut targets = Vec::new();
    for number in 0..devices {
        let target = Target::new(client::open(system, number)?);
        targets.extend([target.clone(), target.and(client::open(system, number)?)]);
    }
    Ok(targets)
}

/// A load that is running.
pub struct Load<'k> {
    system: &'k System,
    shared: Rc<Shared>,
}

/// [`Counts`] as they grow, each by itself: lanes count at every request.
#[derive(Debug, Default)]
struct Counters {
    submitted: Cell<u64>,
    completed: Cell<u64>,
    cancelled: Cell<u64>,
    failed: Cell<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    stopping: Cell<bool>,
    /// How often a lane asked whether to go on.
    turns: Cell<u64>,
    running: Cell<u32>,
    broken: RefCell<Vec<String>>,
    manner: Manner,
}

impl Shared {
    /// Whether a lane may go on with another request.
    fn take_turn(&self) -> bool {
        let turns = self.turns.get();
        self.turns.set(turns + 1);
        !self.stopping.get() && self.manner.most.is_none_or(|most| turns < most)
    }

    const fn counts(&self) -> Counts {
        let Counters { submitted, completed, cancelled, failed } = &self.counters;
        Counts {
            submitted: submitted.get(),
            completed: completed.get(),
            cancelled: cancelled.get(),
            failed: failed.get(),
            lost: 0,
        }
    }
}

impl<'k> Load<'k> {
    /// Starts the lanes of `plan`, dealt out over `targets`, each on a thread of its own.
    ///
    /// # Panics
    ///
    /// Without targets, or with more lanes than [`MOST_LANES`].
    #[must_use]
    pub fn start(system: &'k System, targets: &[Target<'k>], plan: Plan) -> Self {
        Self::start_with(system, targets, plan, Manner::default())
    }

    /// The same with lanes that behave as `manner` says.
    ///
    /// # Panics
    ///
    /// As [`Load::start`].
    #[must_use]
    pub fn start_with(system: &'k System, targets: &[Target<'k>], plan: Plan, manner: Manner) -> Self {
        assert!(!targets.is_empty(), "a load needs a target");
        assert!(plan.lanes <= MOST_LANES, "{} lanes are more than {MOST_LANES}", plan.lanes);
        let shared = Rc::new(Shared { running: plan.lanes.into(), manner, ..Shared::default() });
        for (number, target) in (0..plan.lanes).zip(targets.iter().cycle()) {
            let mut lane = Lane::new(system, number, target.clone(), Rc::clone(&shared), plan);
            system.spawn("lane", move |_| {
                let shared = Rc::clone(&lane.shared);
                while shared.take_turn() {
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
        self.shared.counts()
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
        self.finish(patience)
    }

    /// Waits for the end of a load that has one ([`Manner::most`]), as [`Load::stop`] does.
    #[must_use]
    pub fn finish(self, patience: u64) -> (Counts, Vec<String>) {
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
    target: Target<'k>,
    shared: Rc<Shared>,
    random: ChaCha8Rng,
    cancel_one_in: u32,
}

impl<'k> Lane<'k> {
    fn new(system: &'k System, number: u32, target: Target<'k>, shared: Rc<Shared>, plan: Plan) -> Self {
        let random = ChaCha8Rng::seed_from_u64(plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(number));
        Self { system, number, target, shared, random, cancel_one_in: plan.cancel_one_in }
    }

    fn turn(&mut self) {
        let pause = self.shared.manner.pause;
        if pause != 0 {
            self.system.sleep(self.random.random_range(0..pause));
        }
        if self.shared.manner.factorials_only {
            return self.factorial();
        }
        match self.random.random_range(0..4) {
            0 | 1 => self.factorial(),
            2 => self.write(),
            _ => self.read(),
        }
    }

    fn factorial(&mut self) {
        let number = self.random.random_range(0..NUMBERS);
        let Some(done) = self.ask(&client::factorial_request(number)) else { return };
        let expected = FACTORIALS[number as usize];
        let answer = client::parse::<FactorialOutput>(&done.output).factorial;
        self.judge(answer == expected, || format!("{number}! is {expected} modulo 2^32, not {answer}"));
    }

    fn write(&mut self) {
        let first = self.random.random_range(0..PLACES);
        let mut data = vec![0; TRANSFER];
        self.random.fill_bytes(&mut data);
        let writing = self.target.buffer.write(first, &data);
        let done = self.ask(&Request::Write { offset: offset(first), data });
        self.target.buffer.written(&writing, done.is_some());
        let Some(done) = done else { return };
        let written = done.information;
        self.judge(written == TRANSFER as u64, || format!("{written} bytes were written, not {TRANSFER}"));
    }

    fn read(&mut self) {
        let first = self.random.random_range(0..PLACES);
        let reading = self.target.buffer.read(first);
        let done = self.ask(&Request::Read { offset: offset(first), length: TRANSFER });
        let output = done.as_ref().map(|done| done.output.as_slice());
        let checked = self.target.buffer.check(&reading, output);
        let Some(output) = output else { return };
        let length = output.len();
        let complete =
            (length == TRANSFER).then_some(()).ok_or_else(|| format!("{length} bytes were read, not {TRANSFER}"));
        let right = complete.and(checked);
        self.judge(right.is_ok(), || right.err().unwrap_or_default());
    }

    /// Sends a request and waits for it, or cancels it after a while. What came back, if it succeeded.
    fn ask(&mut self, request: &Request) -> Option<Completion> {
        let cancelled = self.cancel_one_in != 0 && self.random.random_range(0..self.cancel_one_in) == 0;
        count(&self.shared.counters.submitted);
        let pending = self.target.handle.submit(request);
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
            Status(CANCELLED) if cancelled => count(&self.shared.counters.cancelled),
            status if self.shared.manner.expected.contains(&status) => {
                count(&self.shared.counters.failed);
                self.system.sleep(PAUSE);
            }
            status => {
                count(&self.shared.counters.failed);
                self.shared.broken.borrow_mut().push(format!("a request of lane {} ended with {status}", self.number));
            }
        }
        None
    }

    /// Counts a request that succeeded by whether its answer was right.
    fn judge(&self, right: bool, what: impl FnOnce() -> String) {
        if right {
            count(&self.shared.counters.completed);
        } else {
            count(&self.shared.counters.failed);
            self.shared.broken.borrow_mut().push(what());
        }
    }
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// The offset of a word.
fn offset(word: usize) -> i64 {
    i64::try_from(word * WORD).unwrap_or(i64::MAX)
}
