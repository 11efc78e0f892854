//! The page that the kernel shares with everything, `KUSER_SHARED_DATA`: `KeQuerySystemTime`, `KeQueryInterruptTime` and
//! `KeQueryTickCount` are inlined reads of it on x64. Its address is out of a Linux process's reach, so that each read faults into the lab.

use crate::{finding::Finding, kernel::Kernel, sched::SYSTEM_TIME_AT_START};

/// Where it lies, in every Windows.
const START: u64 = 0xFFFF_F780_0000_0000;
const LENGTH: u64 = 0x1000;
/// Nanoseconds in the unit of Windows.
const UNIT: u64 = 100;
/// 100 ns units in a tick of the clock: 15.625 ms.
const TICK: u64 = 156_250;
/// What `TickCountMultiplier` says of that: milliseconds in a tick, with 24 bits behind the point.
const MULTIPLIER: u64 = (TICK << 24) / 10_000;

/// What the bus knows the word of the processor control region by that holds the current thread: `KeGetCurrentThread` is an inlined read of
/// it.
pub const CURRENT_THREAD: u64 = START + LENGTH;
/// Where that word lies behind gs, in every Windows on x64.
pub const CURRENT_THREAD_IN_REGION: u64 = 0x188;

/// Whether an address lies in it.
pub const fn contains(address: u64) -> bool {
    address.wrapping_sub(START) < LENGTH
}

/// Whether the bus is to read an address here.
pub const fn serves(address: u64) -> bool {
    contains(address) || address == CURRENT_THREAD
}

/// Reads `size` bytes.
pub fn read(k: &Kernel, address: u64, size: u8) -> u64 {
    if address == CURRENT_THREAD {
        return k.current_thread_object();
    }
    let offset = address - START;
    let now = k.now() / UNIT;
    let fields =
        [(0x004, 4, MULTIPLIER), (0x008, 8, now), (0x014, 8, SYSTEM_TIME_AT_START + now), (0x320, 8, now / TICK)];
    let field = fields.into_iter().find(|(at, length, _)| *at <= offset && offset + u64::from(size) <= at + length);
    let Some((at, _, value)) = field else {
        Finding::not_modelled(format!("KUSER_SHARED_DATA at offset {offset:#x}, {size} bytes")).raise()
    };
    let shifted = value >> (8 * (offset - at));
    if size == 8 { shifted } else { shifted & ((1 << (8 * size)) - 1) }
}
