//! What a driver left behind when it was unloaded.

use std::ops::Range;

use windows_sys::Wdk::Foundation::DRIVER_OBJECT;

use super::{driver, remove_lock};
use crate::{
    finding::Finding,
    kernel::Kernel,
    memory::{Block, PoolKind, Ptr},
    sched::VERIFIER,
    tracking,
};

/// Parameter 1 of bug check 0xC4: a driver is unloaded without having freed its pool.
const POOL_LEFT: u64 = 0x62;
/// As many blocks a finding shows with their stacks.
const SHOWN: usize = 8;

/// Stops the run if the driver left something behind; `when` says when that was looked at.
pub fn check(k: &Kernel, driver: Ptr<DRIVER_OBJECT>, when: &str) {
    let name = driver::name_of(k, driver);
    if let Some(image) = driver::image_of(k, driver) {
        let addresses = image.base..image.base + image.length;
        k.sched.check_unloaded(&addresses, &name);
        remove_lock::check_freed(k, &addresses);
    }
    let when = format!("{when} for {name}");
    if let Some(finding) = tracking::finding(&k.tracking.left_by(driver), &when) {
        finding.raise();
    }
    check_pool(k, driver, &when);
}

fn check_pool(k: &Kernel, driver: Ptr<DRIVER_OBJECT>, when: &str) {
    let Some(image) = driver::image_of(k, driver) else { return };
    let blocks = pool_of(k, &(image.base..image.base + image.length));
    if blocks.is_empty() {
        return;
    }
    let titles: Vec<String> = blocks.iter().map(title).collect();
    let sentence = format!("{when}, but pool is still allocated: {}", titles.join("; "));
    let finding = Finding::bug_check(VERIFIER, [POOL_LEFT, driver.address(), 0, blocks.len() as u64], sentence);
    let shown = blocks.iter().take(SHOWN);
    shown
        .fold(finding, |finding, block| finding.with_stack(format!("{}, allocated at", title(block)), &block.stack))
        .raise();
}

/// Pool blocks that the driver allocated: its code is on the stack that did, or no code is known to be.
fn pool_of(k: &Kernel, image: &Range<u64>) -> Vec<Block> {
    let mut blocks = k.memory.pool.driver_blocks();
    blocks.retain(|block| block.stack.is_empty() || block.stack.iter().any(|rip| image.contains(rip)));
    blocks
}

fn title(block: &Block) -> String {
    let request = block.request;
    let pool = if request.kind == PoolKind::Paged { "paged" } else { "nonpaged" };
    format!("block {} of {} bytes of {pool} pool, tag '{}'", block.sequence, request.bytes, request.tag)
}
