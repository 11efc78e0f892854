//! The hardware is taken down and brought up again: for a stop and a start, and while it has no power. Nothing is in flight meanwhile.

use hotadd_abi::{Event, EventKind};
use hotadd_policy::work::Transfer;
use wdm::irql::Passive;
use wdm::lock::SpinLockGuard;
use wdm::pool::PoolArc;
use wdm::status::{NtStatus, Result};
use wdm::time::Interval;

use super::hardware::{self, Hardware, REACHABLE, Tell};
use super::{Asleep, Bench, Edu};
use crate::interrupt::Connection;

/// How long to pause, in microseconds, between the first two looks at a device that is waited for without interrupts; it doubles from
/// look to look. The system does not wait for less: that is the finest resolution of its timer.
const FIRST_PAUSE: u32 = 500;
/// The longest of these pauses.
const LONGEST_PAUSE: u32 = 5_000;
/// The whole of the device's buffer that is used.
const ALL: Transfer = Transfer { offset: 0, length: REACHABLE };

impl Bench {
    fn hardware(&mut self) -> Result<&mut Hardware> {
        self.hardware.as_mut().ok_or(NtStatus::DEVICE_NOT_READY)
    }
}

impl Edu {
    /// Takes the hardware down: silent first, then the interrupt, then the registers and the common buffer.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn stop(&self, save: bool, passive: Passive<'_>) {
        if save {
            self.sleep(passive);
        } else if let Some(registers) = self.awake().filter(|registers| !hardware::is_gone(registers)) {
            // What cannot be silenced or does not end is dealt with when the hardware is let go.
            hardware::silence(&registers);
            let _idle = self.wait_until_idle(passive);
        }
        let (attached, hardware, registers) = {
            let mut bench = self.bench.lock();
            let asleep = bench.asleep;
            let still_transferring = |hardware: &Hardware| match asleep {
                Some(Asleep { transferring }) => transferring,
                None => hardware.is_transferring(),
            };
            let attached = bench.attached.take();
            match bench.hardware.take() {
                // Where a common buffer is kept already, that is the one to which the device may still transfer.
                Some(hardware) if bench.stray.is_none() && still_transferring(&hardware) => {
                    bench.stray = Some(hardware.common);
                    (attached, None, Some(hardware.registers))
                }
                hardware => (attached, hardware, None),
            }
        };
        if attached.is_some() {
            drop(attached);
            let connection = self.connection.replace(Connection::default());
            self.core.record(EventKind::InterruptDisconnected, connection.event());
        }
        drop((hardware, registers));
    }

    /// Saves the device's buffer and silences the device. Nothing for a device that was not woken since.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn sleep(&self, passive: Passive<'_>) {
        let bench = self.bench.lock();
        if bench.asleep.is_some() {
            return;
        }
        if let Err(status) = self.save(bench, passive) {
            self.core.record(EventKind::DeviceReset, Event { status: status.raw(), ..Event::default() });
        }
        self.rest();
    }

    /// Silences the device and waits for what it does, before it loses power. Nothing for a device that was not woken since.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn fall_asleep(&self, passive: Passive<'_>) {
        if let Some(registers) = self.awake() {
            hardware::silence(&registers);
            let _idle = self.wait_until_idle(passive);
            self.rest();
        }
    }

    /// The device is silent, if it is there at all, and may lose power from now on.
    fn rest(&self) {
        let mut bench = self.bench.lock();
        let silence = |hardware: &Hardware| {
            hardware::silence(&hardware.registers);
            hardware.is_transferring()
        };
        let transferring = bench.hardware.as_ref().is_some_and(silence);
        bench.asleep = Some(Asleep { transferring });
    }

    /// Restores the device's buffer, if it was saved, and lets the device interrupt.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `IO_TIMEOUT` where the device does not answer.
    pub fn wake(&self, passive: Passive<'_>) -> Result {
        let mut bench = self.bench.lock();
        bench.asleep = None;
        let Some(hardware) = &bench.hardware else { return Ok(()) };
        let registers = hardware.registers.clone();
        hardware::silence(&registers);
        if bench.is_saved {
            self.restore(bench, passive)?;
        }
        hardware::enable_interrupts(&registers);
        Ok(())
    }

    fn save(&self, bench: SpinLockGuard<'_, Bench>, passive: Passive<'_>) -> Result {
        self.when_idle(bench, passive)?.hardware()?.fetch(ALL, Tell::Nothing)?;
        let mut bench = self.when_idle(self.bench.lock(), passive)?;
        let Bench { hardware, saved, is_saved, .. } = &mut *bench;
        hardware.as_ref().ok_or(NtStatus::DEVICE_NOT_READY)?.common.read(0, saved)?;
        *is_saved = true;
        drop(bench);
        Ok(())
    }

    /// What was saved stays until it is back at the device, for the next attempt.
    fn restore(&self, bench: SpinLockGuard<'_, Bench>, passive: Passive<'_>) -> Result {
        let mut bench = self.when_idle(bench, passive)?;
        let Bench { hardware, saved, .. } = &mut *bench;
        hardware.as_mut().ok_or(NtStatus::DEVICE_NOT_READY)?.store(ALL, saved, Tell::Nothing)?;
        drop(bench);
        self.when_idle(self.bench.lock(), passive)?.is_saved = false;
        Ok(())
    }

    fn wait_until_idle(&self, passive: Passive<'_>) -> Result {
        self.when_idle(self.bench.lock(), passive).map(drop)
    }

    /// The bench, once the device does nothing; looked at as long as a request may take. What a request that timed out has left going on
    /// comes first: until that ends the device ignores what it is told.
    pub(super) fn when_idle<'a>(
        &'a self,
        mut bench: SpinLockGuard<'a, Bench>,
        passive: Passive<'_>,
    ) -> Result<SpinLockGuard<'a, Bench>> {
        let limit = || self.core.shared.parameters.request_timeout().saturating_mul(1_000);
        let (mut paused, mut pause) = (0_u32, FIRST_PAUSE);
        loop {
            if bench.hardware()?.is_idle() {
                // Nothing can be written to a common buffer that was kept for that any more.
                let Some(stray) = bench.stray.take() else { return Ok(bench) };
                drop(bench);
                drop(stray);
            } else if paused > limit() {
                return Err(NtStatus::IO_TIMEOUT);
            } else {
                drop(bench);
                // It is never signaled: this is a pause.
                let _ = self.pause.wait_for(Interval::from_micros(pause), passive);
                paused = paused.saturating_add(pause);
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
            bench = self.bench.lock();
        }
    }

    /// The registers of a device that has power.
    fn awake(&self) -> Option<PoolArc<hardware::Registers>> {
        let bench = self.bench.lock();
        let hardware = bench.hardware.as_ref().filter(|_| bench.asleep.is_none());
        hardware.map(|hardware| hardware.registers.clone())
    }
}
