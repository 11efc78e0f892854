//! Promise: what the driver costs stays below what docs/performance.md says is reached.

use std::fs;

use xtask::bench::{count_quickly, document::FIGURES, ratchet::lost};

#[test]
fn a_goal_that_is_reached_stays_reached() {
    let recorded = fs::read_to_string(kit::root().join(FIGURES)).expect("the figures are in the repository");
    let rows = count_quickly().expect("the drivers build and run");
    let lost = lost(&recorded, &rows).expect("the figures are those of this driver");
    assert!(
        lost.is_empty(),
        "{}\nto repeat this: cargo xtask bench --only request-costs --only holds --only joining --only lines",
        lost.join("\n")
    );
}
