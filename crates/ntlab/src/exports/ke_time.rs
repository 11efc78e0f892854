//! Time. All of it is the machine's virtual time.

use super::Export;
use crate::{export, irql::any_level, kernel::Kernel, memory::Ptr, sched::SYSTEM_TIME_AT_START};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("KeQueryPerformanceCounter", any_level(), ke_query_performance_counter),
    export!("KeQueryInterruptTimePrecise", any_level(), ke_query_interrupt_time_precise),
    export!("KeQuerySystemTimePrecise", any_level(), ke_query_system_time_precise),
    export!("KeQueryTimeIncrement", any_level(), ke_query_time_increment),
    export!("KeStallExecutionProcessor", any_level(), ke_stall_execution_processor),
];

/// Nanoseconds in the unit of Windows.
const UNIT: u64 = 100;
/// Ticks of the performance counter in a second.
const FREQUENCY: u64 = 10_000_000;
/// Units between two clock interrupts.
const TIME_INCREMENT: u32 = 156_250;
const MICROSECOND: u64 = 1000;

/// "`KeQueryPerformanceCounter` function".
fn ke_query_performance_counter(k: &Kernel, frequency: Ptr<u64>) -> u64 {
    if !frequency.is_null() {
        frequency.write(FREQUENCY);
    }
    k.now() / UNIT
}

/// "`KeQueryInterruptTimePrecise` function".
fn ke_query_interrupt_time_precise(k: &Kernel, counter: Ptr<u64>) -> u64 {
    counter.write(k.now() / UNIT);
    k.now() / UNIT
}

/// "`KeQuerySystemTimePrecise` function".
fn ke_query_system_time_precise(k: &Kernel, time: Ptr<u64>) {
    time.write(SYSTEM_TIME_AT_START + k.now() / UNIT);
}

/// "`KeQueryTimeIncrement` function".
const fn ke_query_time_increment(_: &Kernel) -> u32 {
    TIME_INCREMENT
}

/// "`KeStallExecutionProcessor` function".
fn ke_stall_execution_processor(k: &Kernel, microseconds: u32) {
    k.stall(u64::from(microseconds) * MICROSECOND);
}
