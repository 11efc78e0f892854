//! Users who come and go: each opens the device, asks for something, looks at the answer, now and then cancels or leaves.

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

use crate::{
    check::{Buffer, WORD},
    client::{self, factorial_request},
};

/// Virtual nanoseconds between two attempts to open a device that cannot be opened.
const PAUSE: u64 = 20_000;
/// Words at the start of the device's buffer that transfers begin at: few, so that they meet.
const PLACES: usize = 8;
/// Words of the longest transfer.
const LONGEST: usize = 6;

const CANCELLED: Status = Status(0xC000_0120_u32.cast_signed());
const DELETE_PENDING: Status = Status(0xC000_0056_u32.cast_signed());
const NO_SUCH_DEVICE: Status = Status(0xC000_000E_u32.cast_signed());
const NAME_NOT_FOUND: Status = Status(0xC000_0034_u32.cast_signed());

/// How requests and opens may end on a device that goes or is gone.
const GONE: [Status; 3] = [DELETE_PENDING, NO_SUCH_DEVICE, NAME_NOT_FOUND];

/// Users of a device.
pub struct Visitors<'k> {
    system: &'k System,
    shared: Rc<Shared>,
}

/// What the users share.
struct Shared {
    running: Cell<u32>,
    /// Users that have the device open.
    inside: Cell<u32>,
    stopping: Cell<bool>,
    leaving: Cell<bool>,
    /// The device goes, or is gone.
    gone: Cell<bool>,
    answered: Cell<u64>,
    broken: RefCell<Vec<String>>,
    buffer: Buffer,
}

impl<'k> Visitors<'k> {
    /// Starts `count` users.
    pub fn start(system: &'k System, count: u32, seed: u64) -> Self {
        let shared = Rc::new(Shared {
            running: Cell::new(count),
            inside: Cell::new(0),
            stopping: Cell::new(false),
            leaving: Cell::new(false),
            gone: Cell::new(false),
            answered: Cell::new(0),
            broken: RefCell::default(),
            buffer: Buffer::new(PLACES + LONGEST),
        });
        for number in 0..count {
            let random = ChaCha8Rng::seed_from_u64(seed ^ u64::from(number) << 32);
            let shared = Rc::clone(&shared);
            system.spawn("visitor", move |system| {
                Visitor { system, shared: &shared, random, handle: None }.live();
                shared.running.update(|running| running - 1);
            });
        }
        Self { system, shared }
    }

    /// From now on the device goes: opens and requests may fail.
    pub fn expect_gone(&self) {
        self.shared.gone.set(true);
    }

    /// The device works: nothing may fail any more. Nobody has it open.
    pub fn expect_back(&self) {
        self.shared.gone.set(false);
    }

    /// The device was started anew: its buffer may hold anything.
    pub fn forget_buffer(&self) {
        self.shared.buffer.forget();
    }

    /// Has everybody close their handles, and returns when they have.
    pub fn leave(&self) {
        self.shared.leaving.set(true);
        while self.shared.inside.get() > 0 {
            self.system.sleep(1_000);
        }
    }

    /// Lets everybody in again.
    pub fn return_(&self) {
        self.shared.leaving.set(false);
    }

    /// Requests that were answered with success.
    pub fn answered(&self) -> u64 {
        self.shared.answered.get()
    }

    /// Ends it when every user's request has ended, within `patience` virtual nanoseconds: a sentence for each promise that was broken.
    pub fn stop(self, patience: u64) -> Vec<String> {
        self.shared.stopping.set(true);
        let deadline = self.system.now() + patience;
        while self.shared.running.get() > 0 && self.system.now() < deadline {
            self.system.sleep(10_000);
        }
        let mut broken = self.shared.broken.take();
        let lost = self.shared.running.get();
        if lost > 0 {
            broken.push(format!("{lost} requests did not end: {:?}", self.system.outstanding_requests()));
        }
        broken
    }
}

impl Shared {
    fn break_promise(&self, sentence: String) {
        self.broken.borrow_mut().push(sentence);
    }
}

struct Visitor<'a, 'k> {
    system: &'k System,
    shared: &'a Shared,
    random: ChaCha8Rng,
    handle: Option<Handle<'k>>,
}

impl Visitor<'_, '_> {
    fn live(mut self) {
        while !self.shared.stopping.get() {
            if self.shared.leaving.get() {
                self.go();
                self.system.sleep(1_000);
            } else if self.handle.is_none() {
                self.come();
            } else {
                self.ask();
            }
        }
        self.go();
    }

    fn come(&mut self) {
        // Counted before it is open, so that nobody is inside once nobody is counted.
        self.shared.inside.update(|inside| inside + 1);
        match client::open(self.system, 0) {
            Ok(handle) => self.handle = Some(handle),
            Err(status) => {
                self.shared.inside.update(|inside| inside - 1);
                if !(self.shared.gone.get() && GONE.contains(&status)) {
                    self.shared.break_promise(format!("a device that works could not be opened: {status}"));
                }
                self.system.sleep(PAUSE);
            }
        }
    }

    fn go(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.close();
            self.shared.inside.update(|inside| inside - 1);
        }
    }

    fn ask(&mut self) {
        match self.random.random_range(0..8) {
            0..=3 => self.factorial(),
            4 | 5 => self.write(),
            6 => self.read(),
            _ => self.go(),
        }
    }

    fn factorial(&mut self) {
        let number = self.random.random_range(0..30);
        let Some(done) = self.send(&factorial_request(number)) else { return };
        let expected = (1..=number).fold(1, u32::wrapping_mul);
        let answer = client::parse::<FactorialOutput>(&done.output).factorial;
        if answer != expected {
            self.shared.break_promise(format!("{number}! is {expected} modulo 2^32, not {answer}"));
        }
    }

    /// Where a transfer begins, and its length, in words.
    fn place(&mut self) -> (usize, usize) {
        (self.random.random_range(0..PLACES), self.random.random_range(1..=LONGEST))
    }

    fn write(&mut self) {
        let (first, length) = self.place();
        let mut data = vec![0; length * WORD];
        self.random.fill_bytes(&mut data);
        let expected = data.len() as u64;
        let writing = self.shared.buffer.write(first, &data);
        let done = self.send(&Request::Write { offset: position(first), data });
        self.shared.buffer.written(&writing, done.is_some());
        let written = done.map_or(expected, |done| done.information);
        if written != expected {
            self.shared.break_promise(format!("{written} bytes were written, not {expected}"));
        }
    }

    fn read(&mut self) {
        let (first, length) = self.place();
        let reading = self.shared.buffer.read(first);
        let done = self.send(&Request::Read { offset: position(first), length: length * WORD });
        let output = done.as_ref().map(|done| done.output.as_slice());
        if let Some(output) = output
            && output.len() != length * WORD
        {
            self.shared.break_promise(format!("{} bytes were read, not {}", output.len(), length * WORD));
        }
        if let Err(sentence) = self.shared.buffer.check(&reading, output) {
            self.shared.break_promise(sentence);
        }
    }

    /// Sends a request and waits for it, or cancels it after a while. What came back, if it succeeded. A handle to a device that is gone is
    /// closed.
    fn send(&mut self, request: &Request) -> Option<Completion> {
        let handle = self.handle.as_ref()?;
        let cancelled = self.random.random_range(0..8) == 0;
        let pending = handle.submit(request);
        let done = if cancelled {
            pending.wait_for(self.random.random_range(0..4_000)).unwrap_or_else(|pending| {
                pending.cancel();
                pending.wait()
            })
        } else {
            pending.wait()
        };
        match done.status {
            Status::SUCCESS => {
                self.shared.answered.update(|answered| answered + 1);
                return Some(done);
            }
            CANCELLED if cancelled => {}
            status if self.shared.gone.get() && GONE.contains(&status) => self.go(),
            status => self.shared.break_promise(format!("a request ended with {status}")),
        }
        None
    }
}

/// The offset of a word.
fn position(word: usize) -> i64 {
    i64::try_from(word * WORD).unwrap_or(i64::MAX)
}
