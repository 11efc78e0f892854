//! A processor that never leaves driver code would never come back to the lab: a clock of the host interrupts it.
//!
//! Only whether the run is stopped depends on that clock, and only where it would not end: a driver that calls the kernel now and then is
//! not noticed. Stepped code does not need it, its instructions are counted.

use std::{arch::asm, io, mem, mem::offset_of, ptr};

use super::entry::{BORDER, Border};

/// Nanoseconds of the host thread's processor time from tick to tick.
const PERIOD: i64 = 250_000_000;
/// A processor that was in driver code at so many ticks, without a kernel call between them, is taken to stay there.
const MOST_TICKS: u64 = 8;

/// The signal that a tick is.
pub fn signal() -> i32 {
    libc::SIGRTMIN() + 3
}

/// Notes a tick in driver code of the machine that runs on this thread; true if there have been too many.
pub fn tick() -> bool {
    let ticks: u64;
    // SAFETY: driver code runs only while gs points at the page before the border (`border::enter`).
    unsafe {
        asm!("mov {ticks}, gs:[{place}]", "add {ticks}, 1", "mov gs:[{place}], {ticks}",
            ticks = out(reg) ticks, place = const BORDER + offset_of!(Border, ticks), options(nostack));
    }
    ticks > MOST_TICKS
}

/// The clock of one OS thread, while it lives.
#[derive(Debug)]
pub struct Watchdog {
    timer: libc::timer_t,
}

impl Watchdog {
    /// Starts the clock of this OS thread.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a `sigevent` of zeros is a valid value.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        // SAFETY: the call has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both structures are valid, and the signal has a handler.
        if unsafe { libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut event, &raw mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let watchdog = Self { timer };
        let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD };
        let schedule = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the timer was just made; the schedule is valid.
        match unsafe { libc::timer_settime(watchdog.timer, 0, &raw const schedule, ptr::null_mut()) } {
            0 => Ok(watchdog),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}
