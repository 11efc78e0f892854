//! The hardware is taken down and brought up again: for a stop and a start, and while it has no power. Nothing is in flight meanwhile.

use hotadd_abi::{Event, EventKind};
use hotadd_policy::work::Transfer;
use wdm::irql::Passive;
use wdm::lock::SpinLockGuard;
use wdm::pool::{PoolArc, PoolArray};
use wdm::status::{NtStatus, Result};
use wdm::time::{self, Interval};

use super::hardware::{self, Hardware, REACHABLE, Tell};
use super::{Asleep, Bench, Edu};
use crate::TAG;
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
        let attached = self.attached.lock().take();
        if attached.is_some() {
            drop(attached);
            let connection = self.connection.replace(Connection::default());
            self.core.record(EventKind::InterruptDisconnected, connection.event());
        }
        let let_go = {
            let mut bench = self.bench.lock();
            let asleep = bench.asleep;
            let still_transferring = |hardware: &Hardware| match asleep {
                Some(Asleep { transferring }) => transferring,
                None => hardware.is_transferring(),
            };
            match bench.hardware.take() {
                // Where a common buffer is kept already, that is the one to which the device may still transfer.
                Some(hardware) if bench.stray.is_none() && still_transferring(&hardware) => {
                    bench.stray = Some(hardware.common);
                    (None, Some(hardware.registers))
                }
                hardware => (hardware, None),
            }
        };
        drop(let_go);
    }

    /// Saves the device's buffer and silences the device. Nothing for a device that was not woken since.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn sleep(&self, passive: Passive<'_>) {
        if self.bench.lock().asleep.is_some() {
            return;
        }
        let saved = self.save(passive);
        if let Err(status) = saved.as_ref() {
            self.core.record(EventKind::DeviceReset, Event { status: status.raw(), ..Event::default() });
        }
        self.rest(saved.ok());
    }

    /// Silences the device and waits for what it does, before it loses power. Nothing for a device that was not woken since.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn fall_asleep(&self, passive: Passive<'_>) {
        if let Some(registers) = self.awake() {
            hardware::silence(&registers);
            let _idle = self.wait_until_idle(passive);
            self.rest(None);
        }
    }

    /// The device is silent, if it is there at all, and may lose power from now on. Its buffer is `saved`, if it was saved now.
    fn rest(&self, saved: Option<PoolArray<u8>>) {
        let before = {
            let mut bench = self.bench.lock();
            let silence = |hardware: &Hardware| {
                hardware::silence(&hardware.registers);
                hardware.is_transferring()
            };
            let transferring = bench.hardware.as_ref().is_some_and(silence);
            bench.asleep = Some(Asleep { transferring });
            saved.and_then(|saved| bench.saved.replace(saved))
        };
        drop(before);
    }

    /// Restores the device's buffer, if it was saved, and lets the device interrupt.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `IO_TIMEOUT` where the device does not answer.
    pub fn wake(&self, passive: Passive<'_>) -> Result {
        let (registers, saved) = {
            let mut bench = self.bench.lock();
            bench.asleep = None;
            let Some(hardware) = &bench.hardware else { return Ok(()) };
            (hardware.registers.clone(), bench.saved.take())
        };
        hardware::silence(&registers);
        if let Some(saved) = saved
            && let Err(status) = self.restore(&saved, passive)
        {
            // For the next attempt.
            self.bench.lock().saved = Some(saved);
            return Err(status);
        }
        hardware::enable_interrupts(&registers);
        Ok(())
    }

    fn save(&self, passive: Passive<'_>) -> Result<PoolArray<u8>> {
        let mut saved = PoolArray::from_fn(TAG, REACHABLE as usize, |_| 0)?;
        self.when_idle(passive)?.hardware()?.fetch(ALL, Tell::Nothing)?;
        self.when_idle(passive)?.hardware()?.common.read(0, &mut saved)?;
        Ok(saved)
    }

    fn restore(&self, saved: &[u8], passive: Passive<'_>) -> Result {
        self.when_idle(passive)?.hardware()?.store(ALL, saved, Tell::Nothing)?;
        self.wait_until_idle(passive)
    }

    /// Waits until the device does nothing, as long as a request may take.
    pub(super) fn wait_until_idle(&self, passive: Passive<'_>) -> Result {
        self.when_idle(passive).map(drop)
    }

    /// The bench, once the device does nothing. What a request that timed out has left going on comes first: until that ends the device
    /// ignores what it is told.
    fn when_idle(&self, passive: Passive<'_>) -> Result<SpinLockGuard<'_, Bench>> {
        let limit = Interval::from_millis(self.core.shared.parameters.request_timeout()).units();
        let mut began = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut bench = self.bench.lock();
            if bench.hardware()?.is_idle() {
                // Nothing can be written to a common buffer that was kept for that any more.
                let Some(stray) = bench.stray.take() else { return Ok(bench) };
                drop(bench);
                drop(stray);
                continue;
            }
            drop(bench);
            let now = time::now();
            if now.saturating_sub(*began.get_or_insert(now)) > limit {
                return Err(NtStatus::IO_TIMEOUT);
            }
            // It is never signaled: this is a pause.
            let _ = self.pause.wait_for(Interval::from_micros(pause), passive);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// The registers of a device that has power.
    fn awake(&self) -> Option<PoolArc<hardware::Registers>> {
        let bench = self.bench.lock();
        let hardware = bench.hardware.as_ref().filter(|_| bench.asleep.is_none());
        hardware.map(|hardware| hardware.registers.clone())
    }
}
