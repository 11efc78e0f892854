//! Timers of device objects, which go off once a second ("`IoTimer` Routines").

use std::{cell::RefCell, collections::BTreeMap};

use windows_sys::{
    Wdk::Foundation::DEVICE_OBJECT,
    Win32::Foundation::{NTSTATUS, STATUS_SUCCESS},
};

use super::Export;
use crate::{
    export,
    finding::Finding,
    irql::{DISPATCH_LEVEL, PASSIVE_LEVEL, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("IoInitializeTimer", exactly(PASSIVE_LEVEL), io_initialize_timer),
    export!("IoStartTimer", at_most(DISPATCH_LEVEL), io_start_timer),
    export!("IoStopTimer", at_most(DISPATCH_LEVEL), io_stop_timer),
];

/// `TIMER_OR_DPC_INVALID`.
const TIMER_OR_DPC_INVALID: u32 = 0xC7;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Timer {
    routine: u64,
    context: u64,
    running: bool,
    /// Counts starts: what an earlier one set off does not go on.
    starts: u32,
}

/// The timers of devices, by device object.
#[derive(Debug, Default)]
pub struct DeviceTimers {
    timers: RefCell<BTreeMap<u64, Timer>>,
}

impl DeviceTimers {
    /// A device object is gone, and its timer with it; a timer that runs would call its driver with memory that is freed.
    pub fn forget(&self, device: Ptr<DEVICE_OBJECT>) {
        let timer = self.timers.borrow_mut().remove(&device.address());
        if timer.is_some_and(|timer| timer.running) {
            let sentence = "a device object is freed while its timer runs: IoStopTimer comes first";
            Finding::bug_check(TIMER_OR_DPC_INVALID, [0, device.address(), 0, 0], sentence).raise();
        }
    }

    fn change(&self, function: &str, device: Ptr<DEVICE_OBJECT>, change: impl FnOnce(&mut Timer)) -> Timer {
        let mut timers = self.timers.borrow_mut();
        if let Some(timer) = timers.get_mut(&device.address()) {
            change(timer);
            return *timer;
        }
        drop(timers);
        let sentence = format!("{function} for a device object whose timer was not initialised");
        Finding::bug_check(TIMER_OR_DPC_INVALID, [0, device.address(), 0, 0], sentence).raise()
    }
}

/// "`IoInitializeTimer` function".
fn io_initialize_timer(k: &Kernel, device: Ptr<DEVICE_OBJECT>, routine: u64, context: u64) -> NTSTATUS {
    let timer = Timer { routine, context, running: false, starts: 0 };
    k.io.timers.timers.borrow_mut().insert(device.address(), timer);
    STATUS_SUCCESS
}

/// "`IoStartTimer` function".
fn io_start_timer(k: &Kernel, device: Ptr<DEVICE_OBJECT>) {
    let timer = k.io.timers.change("IoStartTimer", device, |timer| {
        timer.running = true;
        timer.starts += 1;
    });
    arm(k, device, timer.starts);
}

/// "`IoStopTimer` function".
fn io_stop_timer(k: &Kernel, device: Ptr<DEVICE_OBJECT>) {
    k.io.timers.change("IoStopTimer", device, |timer| timer.running = false);
}

fn arm(k: &Kernel, device: Ptr<DEVICE_OBJECT>, starts: u32) {
    k.after(SECOND, move |k| {
        k.spawn("timer of a device", move |k| go_off(k, device, starts));
    });
}

/// Calls the routine as a DPC, unless the timer was stopped since.
fn go_off(k: &Kernel, device: Ptr<DEVICE_OBJECT>, starts: u32) {
    let before = k.raise_irql(DISPATCH_LEVEL);
    let timer = k.io.timers.timers.borrow().get(&device.address()).copied();
    if let Some(Timer { routine, context, .. }) = timer.filter(|timer| timer.running && timer.starts == starts) {
        k.call("IoTimer", routine, &[device.address(), context]);
        arm(k, device, starts);
    }
    k.lower_irql(before);
}
