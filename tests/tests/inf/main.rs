//! The INF says what the driver and its documentation say, and keeps the rules of `InfVerif`.

mod driver;
mod rules;

use xtask::package::{inf::Inf, stamp};

/// As it is in the repository.
const INX: &str = include_str!("../../../inf/hotadd.inx");

/// As it is in a package.
fn stamped() -> String {
    stamp(INX, "11/21/2026", "0.1.0.0").expect("the INX can be stamped")
}

fn inf() -> Inf {
    Inf::parse(&stamped()).expect("the INF can be parsed")
}

/// A number as INFs write it.
fn integer(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok())
}
