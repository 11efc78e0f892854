//! A model of the device's buffer: what a read may return while others write.
//!
//! It is kept by words of 8 bytes, in which the users of the model read and write. A word holds what one of the writes put there that no later write has replaced for certain: a write has replaced another one if it began
//! when that had ended, succeeded, and ended before the read began. What is in flight may or may not have happened, and so may a write that
//! ended in an error.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
};

/// What is known of the contents of a device's buffer.
#[derive(Debug)]
pub struct Buffer {
    /// For each word, what it may hold.
    words: RefCell<Vec<Vec<Candidate>>>,
    /// Counts what begins and ends.
    clock: Cell<u64>,
    /// When the reads that are under way began, the oldest first.
    reads: RefCell<Vec<u64>>,
}

/// Bytes of a word.
pub const WORD: usize = 8;

/// What a word may hold, and when that was written.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// No other write began at that time.
    begun: u64,
    ended: u64,
    succeeded: bool,
    /// Anything, if none.
    value: Option<[u8; WORD]>,
}

/// A time that has not come.
const NEVER: u64 = u64::MAX;

/// A write that is under way.
#[must_use]
#[derive(Debug)]
pub struct Writing {
    begun: u64,
    words: Range<usize>,
}

/// A read that is under way.
#[must_use]
#[derive(Debug)]
pub struct Reading {
    begun: u64,
    first: usize,
}

impl Buffer {
    /// A buffer of so many whole words, of which nothing is known.
    #[must_use]
    pub fn new(words: usize) -> Self {
        let unknown = vec![Candidate { begun: 0, ended: 0, succeeded: true, value: None }];
        Self { words: vec![unknown; words].into(), clock: Cell::new(1), reads: RefCell::default() }
    }

    fn tick(&self) -> u64 {
        let now = self.clock.get();
        self.clock.set(now + 1);
        now
    }

    /// A write of whole words to the word `first` and those after it begins.
    ///
    /// # Panics
    ///
    /// Where it goes beyond the buffer.
    pub fn write(&self, first: usize, data: &[u8]) -> Writing {
        let begun = self.tick();
        let (values, _) = data.as_chunks::<WORD>();
        let words = first..first + values.len();
        for (word, &value) in self.words.borrow_mut()[words.clone()].iter_mut().zip(values) {
            word.push(Candidate { begun, ended: NEVER, succeeded: false, value: Some(value) });
        }
        Writing { begun, words }
    }

    /// A write has ended. If it succeeded, what no read can return any more, neither one under way nor one to come, is forgotten.
    pub fn written(&self, writing: &Writing, succeeded: bool) {
        let ended = self.tick();
        let oldest = self.reads.borrow().first().copied().unwrap_or(NEVER);
        for word in &mut self.words.borrow_mut()[writing.words.clone()] {
            if let Some(own) = word.iter_mut().rfind(|candidate| candidate.begun == writing.begun) {
                (own.ended, own.succeeded) = (ended, succeeded);
            }
            if succeeded {
                let last = replaced_before(word, oldest);
                word.retain(|candidate| candidate.ended >= last);
            }
        }
    }

    /// A read from the word `first` on begins.
    pub fn read(&self, first: usize) -> Reading {
        let begun = self.tick();
        self.reads.borrow_mut().push(begun);
        Reading { begun, first }
    }

    /// A read has ended with `data`, or with an error.
    ///
    /// # Errors
    ///
    /// The first word that no write has put there, in words.
    pub fn check(&self, reading: &Reading, data: Option<&[u8]>) -> Result<(), String> {
        self.reads.borrow_mut().retain(|&begun| begun != reading.begun);
        let (values, _) = data.unwrap_or_default().as_chunks::<WORD>();
        for ((place, word), value) in self.words.borrow().iter().enumerate().skip(reading.first).zip(values) {
            let last = replaced_before(word, reading.begun);
            let possible = || word.iter().filter(|candidate| candidate.ended >= last);
            if !possible().any(|candidate| candidate.value.is_none_or(|own| own == *value)) {
                let expected: Vec<_> = possible().filter_map(|candidate| candidate.value).collect();
                let at = place * WORD;
                return Err(format!(
                    "the 8 bytes at {at} were read as {value:02x?}, which can only be one of {expected:02x?}"
                ));
            }
        }
        Ok(())
    }

    /// The buffer may hold anything from now on, as after a reset.
    pub fn forget(&self) {
        let now = self.tick();
        for word in self.words.borrow_mut().iter_mut() {
            word.push(Candidate { begun: now, ended: now, succeeded: true, value: None });
        }
    }
}

/// When the last write began that succeeded and ended before `time`: what had ended by then is replaced.
fn replaced_before(word: &[Candidate], time: u64) -> u64 {
    let certain = word.iter().filter(|candidate| candidate.succeeded && candidate.ended < time);
    certain.map(|candidate| candidate.begun).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of which each byte is the number.
    fn words(numbers: &[u8]) -> Vec<u8> {
        numbers.iter().flat_map(|&number| [number; WORD]).collect()
    }

    fn put(buffer: &Buffer, first: usize, numbers: &[u8]) {
        let writing = buffer.write(first, &words(numbers));
        buffer.written(&writing, true);
    }

    fn get(buffer: &Buffer, first: usize, numbers: &[u8]) -> Result<(), String> {
        let reading = buffer.read(first);
        buffer.check(&reading, Some(&words(numbers)))
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
        let writing = buffer.write(0, &words(&[2]));
        assert_eq!(get(&buffer, 0, &[1]), Ok(()));
        assert_eq!(get(&buffer, 0, &[2]), Ok(()));
        buffer.written(&writing, true);
        assert!(get(&buffer, 0, &[1]).is_err());
    }

    #[test]
    fn a_write_that_failed_may_have_happened_or_not_for_good() {
        let buffer = Buffer::new(8);
        put(&buffer, 0, &[1]);
        let writing = buffer.write(0, &words(&[2]));
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
        assert_eq!(buffer.check(&reading, Some(&words(&[1]))), Ok(()));
        assert!(get(&buffer, 0, &[1]).is_err());
    }

    #[test]
    fn two_writes_at_once_may_have_happened_in_either_order() {
        let buffer = Buffer::new(8);
        let (first, second) = (buffer.write(0, &words(&[1])), buffer.write(0, &words(&[2])));
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
        assert!(buffer.words.borrow()[0].len() <= 2);
    }
}
