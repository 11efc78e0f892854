//! Checkers: what must be true of the answers, whoever sent the requests.

mod buffer;

pub use buffer::{Buffer, Reading, WORD, Writing};
