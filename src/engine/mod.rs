//! What processes requests: the `edu` device where there is one, else software.

pub mod edu;
mod software;

pub use software::submit_all;

use core::sync::atomic::{AtomicU32, Ordering};

use hotadd_abi::{BUFFER_BYTES, EngineKind};
use wdm::device::Device;
use wdm::irp::PendedIrp;
use wdm::irql::Passive;
use wdm::pool::PoolArc;
use wdm::resources::ResourceList;
use wdm::status::{NtStatus, Result};

use crate::TAG;
use crate::device::{Core, Fdo};
use crate::interrupt::Connection;
use crate::processors::Processors;
use crate::requests::Passed;
use edu::Edu;

/// The engines of one device, of which its first start chooses one for good.
pub struct Engines {
    kind: AtomicU32,
    edu: PoolArc<Edu>,
}

/// Processes a request.
///
/// IRQL: <= DISPATCH_LEVEL.
#[expect(
    clippy::inline_always,
    reason = "on the way of every request, where saving registers would cost as much as the work"
)]
#[inline(always)]
pub fn submit(irp: PendedIrp, passed: Passed, processors: &Processors) {
    match passed.pass.engines.edu() {
        Some(_) => submit_to_device(irp, passed),
        None => software::submit(processors, irp, passed),
    }
}

#[inline(never)]
fn submit_to_device(irp: PendedIrp, passed: Passed) {
    // The request takes the device along, and may be done with it before this is.
    let edu = passed.pass.engines.edu.clone();
    edu.submit(irp, passed);
}

impl Engines {
    /// The engines of a device that has not been started.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new(core: PoolArc<Core>) -> Result<Self> {
        let edu = PoolArc::new(TAG, Edu::new(core)?)?;
        Ok(Self { kind: AtomicU32::new(EngineKind::None.code()), edu })
    }

    /// The code of the one that is in use.
    pub fn code(&self) -> u32 {
        self.kind.load(Ordering::Relaxed)
    }

    /// Which one is in use.
    pub fn kind(&self) -> EngineKind {
        EngineKind::from_code(self.code()).unwrap_or(EngineKind::None)
    }

    fn edu(&self) -> Option<&PoolArc<Edu>> {
        (self.kind() == EngineKind::Edu).then_some(&self.edu)
    }

    /// How many bytes of the device's buffer can be reached.
    pub fn buffer_bytes(&self) -> u32 {
        if self.kind() == EngineKind::Edu { edu::hardware::REACHABLE } else { BUFFER_BYTES }
    }

    /// Whether it works on one request at a time and takes it from the gate.
    pub fn takes_turns(&self) -> bool {
        self.edu().is_some()
    }

    /// Brings up what the resources say: registers mean an `edu` device, none mean software.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What is wrong with the hardware or the resources; nothing is left behind then.
    pub fn start(&self, device: &Device<Fdo>, translated: ResourceList<'_>, passive: Passive<'_>) -> Result {
        let kind = if let Some(registers) = edu::registers_among(translated) {
            Edu::start(&self.edu, device, registers, translated, passive)?;
            EngineKind::Edu
        } else {
            EngineKind::Software
        };
        self.kind.store(kind.code(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes the hardware down. Nothing is in flight. Where it may lose power, its state is saved before.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn stop(&self, save: bool, passive: Passive<'_>) {
        if let Some(edu) = self.edu() {
            edu.stop(save, passive);
        }
    }

    /// Saves the hardware's state and silences it, before it loses power. Nothing is in flight.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn sleep(&self, passive: Passive<'_>) {
        if let Some(edu) = self.edu() {
            edu.sleep(passive);
        }
    }

    /// Silences the hardware before it loses power. Its state is not saved: it did not come back when it last had power.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn fall_asleep(&self, passive: Passive<'_>) {
        if let Some(edu) = self.edu() {
            edu.fall_asleep(passive);
        }
    }

    /// Restores the hardware's state after it lost power.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `IO_TIMEOUT` where the device does not answer.
    pub fn wake(&self, passive: Passive<'_>) -> Result {
        self.edu().map_or(Ok(()), |edu| edu.wake(passive))
    }

    /// How many requests were accepted at the device, and had not waited at the gate.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn accepted(&self) -> u64 {
        // None where it is not the engine in use.
        self.edu.accepted()
    }

    /// Starts the request whose turn it is at a device that is free.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn begin_next(&self, device: &Device<Fdo>) {
        if let Some(edu) = self.edu() {
            edu.begin_next(device);
        }
    }

    /// Fails what is in flight: the device is gone.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn abandon(&self, status: NtStatus) {
        if let Some(edu) = self.edu() {
            edu.abandon(status);
        }
    }

    /// How interrupts are connected.
    pub fn connection(&self) -> Connection {
        self.edu.connection()
    }
}
