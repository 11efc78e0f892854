//! What a driver left behind when it was unloaded.

use windows_sys::Wdk::Foundation::DRIVER_OBJECT;

use super::{device, driver};
use crate::{
    finding::Finding,
    kernel::Kernel,
    memory::{Block, Ptr},
    pnp,
};

/// `DRIVER_VERIFIER_DETECTED_VIOLATION`, subtype "the driver is unloading without freeing its pool allocations".
const VERIFIER: u32 = 0xC4;
const POOL_LEAK: u64 = 0x62;
/// `DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS`.
const UNLOADED_WITHOUT_CANCELLING: u32 = 0xCE;

/// Stops the run if the driver left something behind; `when` says when that was looked at.
pub fn check(k: &Kernel, driver: Ptr<DRIVER_OBJECT>, when: &str) {
    let left = left_behind(k, driver);
    if !left.is_empty() {
        let sentence = format!("{when} for {}, but left behind: {}", driver::name_of(k, driver), left.join("; "));
        Finding::bug_check(UNLOADED_WITHOUT_CANCELLING, [0; 4], sentence).raise();
    }
    let blocks = pool_of(k, driver);
    let Some(first) = blocks.first() else { return };
    let all: Vec<String> = blocks.iter().map(|block| describe(k, block)).collect();
    let sentence =
        format!("{when} for {}, but pool is still allocated: {}", driver::name_of(k, driver), all.join("; "));
    let finding = Finding::bug_check(VERIFIER, [POOL_LEAK, 0, 0, blocks.len() as u64], sentence);
    finding.with_stack("the first of them was allocated", &first.stack).raise();
}

/// What could still call the driver, or is the system's.
fn left_behind(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) -> Vec<String> {
    let mut left = Vec::new();
    for device in device::devices_of(driver) {
        left.push(format!("device {}", device::number(k, device)));
    }
    left.extend(k.io.irps.allocated_by(driver));
    left.extend(k.io.handles.all().iter().filter(|open| open.driver == driver).map(ToString::to_string));
    let items = k.io.work_items.allocated_by(driver);
    if items != 0 {
        left.push(format!("{items} work items"));
    }
    left.extend(k.io.trace.providers_of(driver));
    if let Some(image) = driver::image_of(k, driver) {
        let mapped = k.memory.mappings.live();
        let own = mapped.iter().filter(|mapping| mapping.stack.iter().any(|&rip| image.contains(rip)));
        left.extend(own.map(|mapping| {
            let from = mapped_or_allocated_in(k, &mapping.stack);
            format!("{} bytes of device registers at {:#x}, mapped{from}", mapping.length, mapping.physical)
        }));
        left.extend(pnp::left_behind(k, driver, &(image.base..image.base + image.length)));
    }
    left
}

/// Pool blocks that the driver allocated, as far as its stack then is known.
fn pool_of(k: &Kernel, driver: Ptr<DRIVER_OBJECT>) -> Vec<Block> {
    let Some(image) = driver::image_of(k, driver) else { return Vec::new() };
    let mut blocks = k.memory.pool.driver_blocks();
    blocks.retain(|block| block.stack.is_empty() || block.stack.iter().any(|&rip| image.contains(rip)));
    blocks
}

fn describe(k: &Kernel, block: &Block) -> String {
    let from = mapped_or_allocated_in(k, &block.stack);
    let request = block.request;
    format!("block {} of {} bytes, tag '{}', allocated{from}", block.sequence, request.bytes, request.tag)
}

/// " in" and the innermost function of a stack; nothing where none is known.
fn mapped_or_allocated_in(k: &Kernel, stack: &[u64]) -> String {
    let frames = k.exec.describe_stack(stack);
    frames.first().map_or_else(String::new, |frame| format!(" in {frame}"))
}
