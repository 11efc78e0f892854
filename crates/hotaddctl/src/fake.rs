//! A device for tests, which answers as it is told to.

use std::{cell::Cell, collections::VecDeque, time::Duration};

use recording::{Origin, Recording};

use crate::{
    device::{Access, Completion, Device, Host, Place, Request},
    failure::Failure,
    ntstatus::NtStatus,
};

/// A host with one device.
pub struct Fake<F> {
    answer: F,
    now: Cell<Duration>,
    is_over: Cell<bool>,
}

impl<F: Fn(&Request) -> Option<Completion>> Fake<F> {
    /// Its device answers so; without an answer, never.
    pub fn new(answer: F) -> Self {
        Self { answer, now: Cell::default(), is_over: Cell::default() }
    }

    /// The device.
    pub fn place() -> Place {
        Place { index: 0, instance: r"ROOT\FAKE\0000".into(), link: String::new() }
    }
}

/// A success with these bytes.
pub fn success(output: Vec<u8>) -> Completion {
    Completion { status: NtStatus::SUCCESS, bytes: output.len(), output }
}

impl<F: Fn(&Request) -> Option<Completion>> Host for Fake<F> {
    fn places(&self) -> Result<Vec<Place>, Failure> {
        Ok(vec![Self::place()])
    }

    fn open(&self, _: &Place, _: Access) -> Result<Box<dyn Device + '_>, Failure> {
        Ok(Box::new(FakeDevice { host: self, ended: VecDeque::new() }))
    }

    fn now(&self) -> Duration {
        self.now.update(|now| now + Duration::from_micros(1));
        self.now.get()
    }

    fn pause(&self, _: Duration) {}

    fn tick(&self) -> Duration {
        Duration::ZERO
    }

    fn origin(&self) -> Origin {
        Origin::Windows { computer: "FAKE".into() }
    }

    fn complete(&self, _: &mut Recording) {}

    fn traced(&self) -> Option<Vec<String>> {
        None
    }

    fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

struct FakeDevice<'h, F> {
    host: &'h Fake<F>,
    ended: VecDeque<(u64, Completion)>,
}

impl<F: Fn(&Request) -> Option<Completion>> Device for FakeDevice<'_, F> {
    fn submit(&mut self, ticket: u64, request: Request) {
        self.ended.extend((self.host.answer)(&request).map(|done| (ticket, done)));
    }

    /// Whoever waits in vain is the last.
    fn wait(&mut self, _: Duration) -> Option<(u64, Completion)> {
        self.host.is_over.set(self.ended.is_empty());
        self.ended.pop_front()
    }

    fn cancel(&mut self) {}
}
