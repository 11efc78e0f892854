//! `announcer.sys`: a read at offset N gives the number of active processors: at once if there are more than N, else
//! when the next one has been added. Who reads on from the last answer misses none, and may be told the same number
//! twice: a processor is active before its addition is complete.
#![no_std]

extern crate wdk_panic;

use wdm::device::{Device, DeviceRef, FoundDevice, Function, Interface, IoDevice};
use wdm::driver::{Driver, DriverObject};
use wdm::irp::{Direction, Disposition, Irp, IrpRef, Pnp, Transfer};
use wdm::irql::Passive;
use wdm::pool::Tag;
use wdm::processors::{AddedProcessor, ProcessorChange, ProcessorChangeCallback, active_count};
use wdm::queue::{CancelSafeQueue, QueuedContext};
use wdm::status::{NtStatus, Result};
use wdm::string::UnicodeStr;
use wdm::wdk_sys::GUID;

const TAG: Tag = Tag::new(*b"Anno");

/// The class of the interface that users open.
static CLASS: GUID =
    GUID { Data1: 0x7D2B_93A4, Data2: 0x51C6, Data3: 0x4E0F, Data4: [0xA8, 0x35, 0x1B, 0x60, 0xC4, 0x9E, 0x27, 0xD1] };

/// The driver. It needs nothing of its own; what DriverEntry sets up would be fields here, dropped in Unload.
struct Announcer;

wdm::driver!(Announcer);

impl Driver for Announcer {
    type Function = Fdo;
    const TAG: Tag = TAG;

    fn start(_: &DriverObject, _: UnicodeStr<'_>, _: Passive<'_>) -> Result<Self> {
        Ok(Self)
    }

    fn add_device(&self, _: &DriverObject, found: FoundDevice<'_, Fdo>, passive: Passive<'_>) -> Result {
        let device = found.attach(passive)?;
        let interface = Interface::register(device.pdo(), &CLASS, passive)?;
        let readers = ProcessorChangeCallback::register(TAG, Readers(CancelSafeQueue::new(TAG)?), passive)?;
        device.finish(Fdo { readers, interface }, passive)
    }
}

/// What belongs to a device. Dropping it ends the registration first, then the interface.
struct Fdo {
    readers: ProcessorChangeCallback<Readers>,
    interface: Interface,
}

/// The reads that wait for a processor.
struct Readers(CancelSafeQueue<Waiting>);

/// Goes with a read that waits: the device is not removed before the read has ended, even while it is being cancelled.
struct Waiting(#[expect(dead_code, reason = "held, not used")] DeviceRef<Fdo>);

impl QueuedContext for Waiting {}

impl Readers {
    /// Ends the reads that wait now, and not those that come while it does.
    fn end(&self, end: impl Fn(&IrpRef) -> (NtStatus, usize)) {
        for _ in 0..self.0.len() {
            if let Some((irp, _device)) = self.0.remove_next() {
                let (status, bytes) = end(&irp);
                irp.complete_with(status, bytes);
            }
        }
    }

    /// Tells those who wait that there are `count` processors.
    fn announce(&self, count: u32) {
        self.end(|irp| answer(irp, count).map_or_else(|status| (status, 0), |bytes| (NtStatus::SUCCESS, bytes)));
    }
}

/// Gives a reader the number of processors; how many bytes that is.
fn answer(irp: &IrpRef, count: u32) -> Result<usize> {
    irp.direct_buffer()?.write(0, &count.to_le_bytes())?;
    Ok(size_of_val(&count))
}

impl ProcessorChange for Readers {
    fn add_start(&self, _: AddedProcessor, _: Passive<'_>) -> Result {
        Ok(())
    }

    fn add_complete(&self, _: AddedProcessor, _: Passive<'_>) {
        self.announce(active_count());
    }

    fn add_failure(&self, _: AddedProcessor, _: NtStatus, _: Passive<'_>) {}
}

impl Fdo {
    /// No read waits from now on.
    fn lose(&self, passive: Passive<'_>) {
        self.readers.0.close();
        self.readers.end(|_| (NtStatus::DELETE_PENDING, 0));
        // Fails where it was never enabled, which leaves it as it should be.
        let _disabled = self.interface.set_enabled(false, passive);
    }
}

impl Function for Fdo {
    fn transfer(device: IoDevice<Self>, irp: Irp<'_>, wanted: Transfer) -> Disposition<'_> {
        if wanted.direction == Direction::Write {
            return irp.complete(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let count = active_count();
        // Answered even where the answer is not the one that is wanted: that shows that there is room for one later.
        match answer(&irp, count) {
            Err(status) => return irp.complete(status),
            Ok(bytes) if i64::from(count) > wanted.offset => return irp.complete_with(NtStatus::SUCCESS, bytes),
            Ok(_) => {}
        }
        let Ok(held) = device.hold() else { return irp.complete(NtStatus::DELETE_PENDING) };
        let (irp, disposition) = irp.pend();
        if let Err((irp, _device)) = device.readers.0.insert(irp, Waiting(held)) {
            irp.complete(NtStatus::DELETE_PENDING);
        }
        // A processor that was added before the read was in the queue has been announced to others only.
        if active_count() != count {
            device.readers.announce(active_count());
        }
        disposition
    }

    fn cleanup<'a>(device: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        while let Some((read, _device)) = device.readers.0.remove_next_of(irp.file()) {
            read.complete(NtStatus::CANCELLED);
        }
        irp.complete(NtStatus::SUCCESS)
    }

    fn pnp<'a>(device: &Device<Self>, mut irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a> {
        match irp.pnp() {
            Some(Pnp::StartDevice { .. }) => {
                let lower = irp.send_and_wait(device.lower(), passive);
                // Enabled already where this start follows a stop, which is a success too.
                let started = lower.ok().and_then(|()| device.interface.set_enabled(true, passive));
                return irp.complete(started.err().unwrap_or(NtStatus::SUCCESS));
            }
            Some(Pnp::SurpriseRemoval) => device.lose(passive),
            // There is no hardware to be stopped for: reads wait on.
            Some(
                Pnp::QueryStopDevice
                | Pnp::StopDevice
                | Pnp::CancelStopDevice
                | Pnp::QueryRemoveDevice
                | Pnp::CancelRemoveDevice,
            ) => {}
            _ => return irp.pass_down(device.lower()),
        }
        irp.set_status(NtStatus::SUCCESS);
        irp.pass_down(device.lower())
    }

    fn remove(device: &Device<Self>, passive: Passive<'_>) {
        device.lose(passive);
    }
}
