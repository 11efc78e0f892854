//! A model of the device's buffer: what a read may return while others write.
//!
//! A byte holds what one of the writes put there that no later write has replaced for certain: a write has replaced another one if it began
//! when that had ended, succeeded, and ended before the read began. What is in flight may or may not have happened, and so may a write that
//! ended in an error.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

/// What is known of the contents of a device's buffer.
#[derive(Debug)]
pub struct Buffer {
    /// For each byte, what it may hold.
    bytes: RefCell<Vec<Vec<Candidate>>>,
    /// Counts what begins and ends.
    clock: Cell<u64>,
    /// Reads that are under way, by when they began.
    reads: RefCell<BTreeMap<u64, u32>>,
}

/// What a byte may hold.
#[derive(Debug, Clone)]
struct Candidate {
    span: Rc<Span>,
    /// Anything, if none.
    value: Option<u8>,
}

/// When a write happened.
#[derive(Debug)]
struct Span {
    begun: u64,
    ended: Cell<u64>,
    succeeded: Cell<bool>,
}

/// A time that has not come.
const NEVER: u64 = u64::MAX;

/// A write that is under way.
#[must_use]
#[derive(Debug)]
pub struct Writing {
    span: Rc<Span>,
    offset: usize,
    length: usize,
}

/// A read that is under way.
#[must_use]
#[derive(Debug)]
pub struct Reading {
    begun: u64,
    offset: usize,
}

impl Buffer {
    /// A buffer of `length` bytes of which nothing is known.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let span = Rc::new(Span { begun: 0, ended: Cell::new(0), succeeded: Cell::new(true) });
        let unknown = vec![Candidate { span, value: None }];
        Self { bytes: vec![unknown; length].into(), clock: Cell::new(1), reads: RefCell::default() }
    }

    fn tick(&self) -> u64 {
        let now = self.clock.get();
        self.clock.set(now + 1);
        now
    }

    /// A write begins.
    ///
    /// # Panics
    ///
    /// Where it goes beyond the buffer.
    pub fn write(&self, offset: usize, data: &[u8]) -> Writing {
        let span = Rc::new(Span { begun: self.tick(), ended: Cell::new(NEVER), succeeded: Cell::new(false) });
        let mut bytes = self.bytes.borrow_mut();
        for (byte, &value) in bytes[offset..offset + data.len()].iter_mut().zip(data) {
            byte.push(Candidate { span: Rc::clone(&span), value: Some(value) });
        }
        Writing { span, offset, length: data.len() }
    }

    /// A write has ended.
    pub fn written(&self, writing: &Writing, succeeded: bool) {
        writing.span.ended.set(self.tick());
        writing.span.succeeded.set(succeeded);
        if succeeded {
            self.forget_replaced(writing);
        }
    }

    /// What no read can return any more, neither one under way nor one to come.
    fn forget_replaced(&self, writing: &Writing) {
        let oldest = self.reads.borrow().keys().next().copied().unwrap_or(NEVER);
        let mut bytes = self.bytes.borrow_mut();
        for byte in &mut bytes[writing.offset..writing.offset + writing.length] {
            let last = replaced_before(byte, oldest);
            byte.retain(|candidate| candidate.span.ended.get() >= last);
        }
    }

    /// A read begins.
    pub fn read(&self, offset: usize) -> Reading {
        let begun = self.tick();
        *self.reads.borrow_mut().entry(begun).or_default() += 1;
        Reading { begun, offset }
    }

    /// A read has ended with `data`, or with an error.
    ///
    /// # Errors
    ///
    /// The first byte that no write has put there, in words.
    pub fn check(&self, reading: &Reading, data: Option<&[u8]>) -> Result<(), String> {
        self.reads.borrow_mut().remove(&reading.begun);
        let bytes = self.bytes.borrow();
        for (place, &value) in data.into_iter().flatten().enumerate() {
            let byte = &bytes[reading.offset + place];
            let last = replaced_before(byte, reading.begun);
            let mut possible = byte.iter().filter(|candidate| candidate.span.ended.get() >= last);
            if !possible.clone().any(|candidate| candidate.value.is_none_or(|own| own == value)) {
                let values: Vec<u8> = possible.by_ref().filter_map(|candidate| candidate.value).collect();
                let at = reading.offset + place;
                return Err(format!("byte {at} was read as {value:#04x}; it can only be one of {values:02x?}"));
            }
        }
        Ok(())
    }

    /// The buffer may hold anything from now on, as after a reset.
    pub fn forget(&self) {
        let now = self.tick();
        let span = Rc::new(Span { begun: now, ended: Cell::new(now), succeeded: Cell::new(true) });
        for byte in self.bytes.borrow_mut().iter_mut() {
            byte.push(Candidate { span: Rc::clone(&span), value: None });
        }
    }
}

/// When the last write began that succeeded and ended before `time`: what had ended by then is replaced.
fn replaced_before(byte: &[Candidate], time: u64) -> u64 {
    let certain = byte.iter().map(|candidate| &candidate.span).filter(|span| span.succeeded.get());
    certain.filter(|span| span.ended.get() < time).map(|span| span.begun).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buffer: &Buffer, offset: usize, data: &[u8]) {
        let writing = buffer.write(offset, data);
        buffer.written(&writing, true);
    }

    fn get(buffer: &Buffer, offset: usize, data: &[u8]) -> Result<(), String> {
        let reading = buffer.read(offset);
        buffer.check(&reading, Some(data))
    }

    #[test]
    fn what_was_never_written_may_be_anything() {
        let buffer = Buffer::new(8);
        assert_eq!(get(&buffer, 0, &[1, 2, 3]), Ok(()));
        assert_eq!(get(&buffer, 0, &[4, 5, 6]), Ok(()));
    }

    #[test]
    fn the_last_write_counts() {
        let buffer = Buffer::new(8);
        put(&buffer, 2, &[1, 2]);
        put(&buffer, 3, &[9]);
        assert_eq!(get(&buffer, 2, &[1, 9]), Ok(()));
        assert!(get(&buffer, 2, &[1, 2]).is_err(), "the 2 was replaced");
        assert!(get(&buffer, 2, &[7, 9]).is_err(), "nobody wrote a 7");
    }

    #[test]
    fn a_write_under_way_may_have_happened_or_not() {
        let buffer = Buffer::new(8);
        put(&buffer, 0, &[1]);
        let writing = buffer.write(0, &[2]);
        assert_eq!(get(&buffer, 0, &[1]), Ok(()));
        assert_eq!(get(&buffer, 0, &[2]), Ok(()));
        buffer.written(&writing, true);
        assert!(get(&buffer, 0, &[1]).is_err());
    }

    #[test]
    fn a_write_that_failed_may_have_happened_or_not_for_good() {
        let buffer = Buffer::new(8);
        put(&buffer, 0, &[1]);
        let writing = buffer.write(0, &[2]);
        buffer.written(&writing, false);
        assert_eq!(get(&buffer, 0, &[1]), Ok(()));
        assert_eq!(get(&buffer, 0, &[2]), Ok(()));
        put(&buffer, 0, &[3]);
        assert!(get(&buffer, 0, &[2]).is_err());
    }

    #[test]
    fn a_read_may_return_what_was_there_when_it_began() {
        let buffer = Buffer::new(8);
        put(&buffer, 0, &[1]);
        let reading = buffer.read(0);
        put(&buffer, 0, &[2]);
        assert_eq!(buffer.check(&reading, Some(&[1])), Ok(()));
        assert!(get(&buffer, 0, &[1]).is_err());
    }

    #[test]
    fn two_writes_at_once_may_have_happened_in_either_order() {
        let buffer = Buffer::new(8);
        let (first, second) = (buffer.write(0, &[1]), buffer.write(0, &[2]));
        buffer.written(&first, true);
        buffer.written(&second, true);
        assert_eq!(get(&buffer, 0, &[1]), Ok(()));
        assert_eq!(get(&buffer, 0, &[2]), Ok(()));
        assert!(get(&buffer, 0, &[3]).is_err());
    }

    #[test]
    fn after_a_reset_it_may_hold_anything() {
        let buffer = Buffer::new(8);
        put(&buffer, 0, &[1]);
        buffer.forget();
        assert_eq!(get(&buffer, 0, &[5]), Ok(()));
        put(&buffer, 0, &[2]);
        assert!(get(&buffer, 0, &[5]).is_err());
    }

    #[test]
    fn what_is_replaced_is_forgotten() {
        let buffer = Buffer::new(1);
        for round in 0..1000_u32 {
            put(&buffer, 0, &[round.to_le_bytes()[0]]);
        }
        assert!(buffer.bytes.borrow()[0].len() <= 2);
    }
}
