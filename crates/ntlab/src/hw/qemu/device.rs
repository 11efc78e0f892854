//! QEMU's `edu` on the machine's bus.
//!
//! What the device does is QEMU's; when the machine sees it is virtual time's: work that a register starts ends, at the latest, as long
//! after as with the model, and the host waits for QEMU then. So no time-out of the driver's runs while QEMU is merely slow. QEMU may be
//! faster: the driver sees that when it looks, so that a run need not be the same every time.
//!
//! Memory is not QEMU's: what a transfer may read is copied to QEMU's memory before it starts, what it wrote is copied back when it has
//! ended, before the machine sees that it has.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use super::{process::Qemu, qtest::Lost};
use crate::{
    events::Kind,
    finding::Finding,
    hw::{
        PciDevice,
        edu::{self, EduModel, Transfer, parts},
        edu_device::{BAR_BYTES, check_reach, inside_buffer},
        pci::{BAR0, COMMAND, COMMAND_BUS_MASTER, COMMAND_MEMORY, Message},
    },
    kernel::Kernel,
    pnp,
};

const MSI: usize = 0x40;
const MSI_CONTROL: usize = 0x42;
const MSI_ADDRESS: Range<usize> = 0x44..0x4C;
const MSI_DATA: usize = 0x4C;
const CONFIG_BYTES: usize = 256;
/// How long, on the host, QEMU may take for a request.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_micros(20);
/// How long, on the host, QEMU may take from "computing" falling to the interrupt.
const INTERRUPT_PATIENCE: Duration = Duration::from_millis(100);

/// The device.
#[derive(Debug)]
pub struct QemuDevice {
    qemu: RefCell<Qemu>,
    /// How long its work takes at most, in virtual time, and how much of its buffer can be reached.
    model: EduModel,
    /// The number of its device node.
    id: u32,
    line: u32,
    line_is_up: Cell<bool>,
    present: Cell<bool>,
    powered: Cell<bool>,
    /// Where it answers, and whether it is a bus master: as in its configuration space.
    bar: Cell<Option<u64>>,
    bus_master: Cell<bool>,
    /// The message address, as software wrote it: the device's own is [`super::MAILBOX`].
    message_address: Cell<[u8; 8]>,
    /// What the bus keeps of its configuration while it is not in D0.
    kept: Cell<Option<Kept>>,
    transfer: Cell<Option<Transfer>>,
    /// A factorial was started that ends with an interrupt.
    interrupt_due: Cell<bool>,
}

/// Configuration that is restored in D0.
#[derive(Clone, Copy, Debug)]
struct Kept {
    command: u16,
    bar: u32,
    message_control: u16,
    message_data: u16,
}

impl QemuDevice {
    /// The device of the device node `id`, in a QEMU that is started for it, wired to `line`. Of `model` its times count.
    ///
    /// # Panics
    ///
    /// Where QEMU does not start.
    #[must_use]
    pub fn start(model: &EduModel, id: u32, line: u32) -> Self {
        let qemu = Qemu::start().unwrap_or_else(|error| panic!("{error}"));
        let reach = EduModel::of_qemu(qemu.version().major).reach;
        Self {
            qemu: RefCell::new(qemu),
            model: EduModel { reach, ..model.clone() },
            id,
            line,
            line_is_up: Cell::new(false),
            present: Cell::new(true),
            powered: Cell::new(true),
            bar: Cell::new(None),
            bus_master: Cell::new(false),
            message_address: Cell::default(),
            kept: Cell::default(),
            transfer: Cell::default(),
            interrupt_due: Cell::new(false),
        }
    }

    /// Does something with QEMU, and carries on what the device signalled meanwhile. None if it is gone.
    fn with<T>(&self, k: &Kernel, action: impl FnOnce(&mut Qemu) -> Result<T, Lost>) -> Option<T> {
        if !self.present.get() {
            return None;
        }
        let result = action(&mut self.qemu.borrow_mut());
        match result.and_then(|value| self.look(k).map(|()| value)) {
            Ok(value) => Some(value),
            Err(lost) => {
                self.lose(k, &lost);
                None
            }
        }
    }

    /// Notices what the device has done. What was signalled is taken first: it may tell of the end of a transfer.
    fn look(&self, k: &Kernel) -> Result<(), Lost> {
        let mut qemu = self.qemu.borrow_mut();
        let (line, message) = (qemu.take_line(), qemu.take_message()?);
        if self.interrupt_due.get() && (message.is_some() || line.contains(&true)) {
            let reasons = self.register(&mut qemu, edu::REASONS)?;
            self.interrupt_due.set(reasons & u64::from(edu::REASON_FACTORIAL) == 0);
        }
        if let Some(transfer) = self.transfer.get()
            && self.register(&mut qemu, edu::DMA_COMMAND)? & edu::RUN == 0
        {
            self.transfer.set(None);
            self.finish_transfer(k, &qemu, transfer)?;
        }
        drop(qemu);
        for up in line {
            self.set_line(k, up);
        }
        if let Some(Message { data, .. }) = message {
            let address = u64::from_le_bytes(self.message_address.get());
            k.hardware.interrupts.message(k, Message { address, data });
        }
        Ok(())
    }

    /// A register below 0x80 as 4 bytes, others as 8. Only where the BAR answers; else ones, as on the bus.
    fn register(&self, qemu: &mut Qemu, offset: u64) -> Result<u64, Lost> {
        let size = if offset < edu::DMA { 4 } else { 8 };
        self.bar.get().map_or(Ok(u64::MAX), |bar| qemu.read(bar + offset, size))
    }

    fn set_line(&self, k: &Kernel, up: bool) {
        if self.line_is_up.replace(up) == up {
            return;
        }
        if up {
            k.hardware.interrupts.line_up(k, self.line);
        } else {
            k.hardware.interrupts.line_down(self.line);
        }
    }

    /// QEMU ended by itself: that is as if the device was pulled out.
    fn lose(&self, k: &Kernel, lost: &Lost) {
        self.unplug(k);
        let id = self.id;
        k.record(|| Kind::Note(format!("device {id} is lost: {lost}").into()));
        pnp::worker::queue(k, move |k| pnp::remove::lost(k, &k.pnp.devnodes.get(id)));
    }

    fn answers(&self) -> Option<u64> {
        self.bar.get().filter(|_| self.present.get() && self.powered.get())
    }
}

/// Work.
impl QemuDevice {
    /// What a write will start: it is looked at before, for QEMU ends where a transfer leaves the device's buffer.
    fn prepare(&self, k: &Kernel, qemu: &mut Qemu, offset: u64, size: u8, value: u64) -> Result<Option<u64>, Lost> {
        let mut time = None;
        for part in parts(offset, size) {
            let value = value >> part.shift & u64::MAX >> (64 - 8 * u32::from(part.size));
            match (part.offset, part.size) {
                (edu::FACTORIAL, 4) => {
                    let status = self.register(qemu, edu::STATUS)?;
                    self.interrupt_due.set(status & u64::from(edu::INTERRUPT_WHEN_COMPUTED) != 0);
                    time = Some(self.model.factorial_time(u32::try_from(value).unwrap_or(u32::MAX)));
                }
                (edu::DMA_COMMAND, 4 | 8) if value & edu::RUN != 0 => {
                    self.prepare_transfer(k, qemu, value)?;
                    time = Some(self.model.dma_time);
                }
                _ => {}
            }
        }
        Ok(time)
    }

    fn prepare_transfer(&self, k: &Kernel, qemu: &mut Qemu, command: u64) -> Result<(), Lost> {
        if self.register(qemu, edu::DMA_COMMAND)? & edu::RUN != 0 {
            return Ok(());
        }
        let mut registers = [0, 0, 0, command];
        for (offset, value) in (edu::DMA..).step_by(8).zip(&mut registers[..3]) {
            *value = self.register(qemu, offset)?;
        }
        let transfer = inside_buffer(self.model.transfer(registers));
        self.transfer.set(Some(transfer));
        if !self.bus_master.get() {
            return Ok(());
        }
        check_reach(k, transfer.address, transfer.count);
        let mut bytes = vec![0; transfer.count];
        k.memory.dma_read(transfer.address, &mut bytes);
        qemu.write_ram(transfer.address, &bytes)
    }

    fn finish_transfer(&self, k: &Kernel, qemu: &Qemu, transfer: Transfer) -> Result<(), Lost> {
        if !self.bus_master.get() {
            return Ok(());
        }
        check_reach(k, transfer.address, transfer.count);
        if transfer.to_memory {
            let mut bytes = vec![0; transfer.count];
            qemu.read_ram(transfer.address, &mut bytes)?;
            k.memory.dma_write(transfer.address, &bytes);
        }
        Ok(())
    }

    /// Waits, on the host, until the device does nothing and has signalled what it had to.
    fn settle(&self, k: &Kernel) {
        let started = Instant::now();
        let mut idle_since = None;
        while self.answers().is_some() {
            let busy = self.with(k, |qemu| {
                let computing = self.register(qemu, edu::STATUS)? & u64::from(edu::COMPUTING);
                Ok(computing | self.register(qemu, edu::DMA_COMMAND)? & edu::RUN)
            });
            match busy {
                None => return,
                Some(0) => {
                    let idle_since = *idle_since.get_or_insert_with(Instant::now);
                    if !self.interrupt_due.get() || idle_since.elapsed() > INTERRUPT_PATIENCE {
                        self.interrupt_due.set(false);
                        return;
                    }
                }
                Some(_) if started.elapsed() > PATIENCE => {
                    Finding::not_modelled("QEMU takes longer than half a minute for a request").raise()
                }
                Some(_) => {}
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Configuration.
impl QemuDevice {
    fn configure(&self, k: &Kernel, offset: usize, bytes: &[u8]) {
        let read = |qemu: &mut Qemu| {
            qemu.write_config(offset, bytes)?;
            Ok((qemu.read_config(COMMAND)?, qemu.read_config(BAR0)?))
        };
        let Some((command, bar)) = self.with(k, read) else { return };
        let (command, base) = (low(command), u64::from(bar & !0xF));
        self.bar.set((command & COMMAND_MEMORY != 0 && base != 0).then_some(base));
        self.bus_master.set(command & COMMAND_BUS_MASTER != 0);
    }

    /// Bus reset: command, BAR and message enable fall, and the line with them. What it was before.
    fn reset(&self, k: &Kernel) -> Option<Kept> {
        let read = |qemu: &mut Qemu| {
            let [command, bar] = [COMMAND, BAR0].map(|offset| qemu.read_config(offset));
            let [control, data] = [MSI, MSI_DATA].map(|offset| qemu.read_config(offset));
            Ok(Kept { command: low(command?), bar: bar?, message_control: high(control?), message_data: low(data?) })
        };
        let kept = self.with(k, read)?;
        self.configure(k, COMMAND, &[0; 2]);
        self.configure(k, BAR0, &[0; 4]);
        self.drop_line(k);
        Some(kept)
    }

    /// The line is down until the next interrupt: that is what enabling messages does to it.
    fn drop_line(&self, k: &Kernel) {
        for enabled in [1u16, 0] {
            self.configure(k, MSI_CONTROL, &enabled.to_le_bytes());
        }
    }

    fn restore(&self, k: &Kernel, kept: Kept) {
        self.drop_line(k);
        self.configure(k, BAR0, &kept.bar.to_le_bytes());
        self.configure(k, MSI_DATA, &kept.message_data.to_le_bytes());
        self.configure(k, MSI_CONTROL, &kept.message_control.to_le_bytes());
        self.configure(k, COMMAND, &kept.command.to_le_bytes());
    }
}

impl PciDevice for QemuDevice {
    fn line(&self) -> u32 {
        self.line
    }

    fn bar(&self) -> Option<Range<u64>> {
        self.bar.get().map(|base| base..base + u64::from(BAR_BYTES))
    }

    fn read(self: Rc<Self>, k: &Kernel, offset: u64, size: u8) -> u64 {
        let Some(bar) = self.answers() else { return u64::MAX };
        self.with(k, |qemu| qemu.read(bar + offset, size)).unwrap_or(u64::MAX)
    }

    fn write(self: Rc<Self>, k: &Kernel, offset: u64, size: u8, value: u64) {
        let Some(bar) = self.answers() else { return };
        let started = self.with(k, |qemu| {
            let time = self.prepare(k, qemu, offset, size, value)?;
            qemu.write(bar + offset, size, value)?;
            Ok(time)
        });
        if let Some(time) = started.flatten() {
            let device = Rc::clone(&self);
            let jitter = k.choices.between(0, time / 8);
            k.after(time + jitter, move |k| device.settle(k));
        }
    }

    fn read_config(&self, k: &Kernel, offset: usize, bytes: &mut [u8]) {
        let read = |qemu: &mut Qemu| {
            let mut all = [0xFF; CONFIG_BYTES];
            let end = (offset + bytes.len()).min(CONFIG_BYTES);
            for at in (offset / 4 * 4..end).step_by(4) {
                all[at..at + 4].copy_from_slice(&qemu.read_config(at)?.to_le_bytes());
            }
            all[MSI_ADDRESS].copy_from_slice(&self.message_address.get());
            Ok(all)
        };
        let all = self.with(k, read).unwrap_or([0xFF; CONFIG_BYTES]);
        for (at, byte) in (offset..).zip(bytes) {
            *byte = all.get(at).copied().unwrap_or(0xFF);
        }
    }

    fn write_config(&self, k: &Kernel, offset: usize, bytes: &[u8]) {
        // The message address is kept here, for QEMU's is the mailbox; what is around it is QEMU's.
        let mut address = self.message_address.get();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (at, byte) in (offset..CONFIG_BYTES).zip(bytes) {
            match at {
                _ if at < MSI_ADDRESS.start => before.push(*byte),
                _ if at >= MSI_ADDRESS.end => after.push(*byte),
                _ => address[at - MSI_ADDRESS.start] = *byte,
            }
        }
        address[0] &= !3;
        self.message_address.set(address);
        for (start, bytes) in [(offset, before), (offset.max(MSI_ADDRESS.end), after)] {
            if !bytes.is_empty() {
                self.configure(k, start, &bytes);
            }
        }
    }

    fn set_message(&self, k: &Kernel, message: Option<Message>) {
        if let Some(Message { address, data }) = message {
            self.write_config(k, MSI_ADDRESS.start, &address.to_le_bytes());
            self.write_config(k, MSI_DATA, &data.to_le_bytes());
        }
        self.write_config(k, MSI_CONTROL, &u16::from(message.is_some()).to_le_bytes());
    }

    fn unplug(&self, k: &Kernel) {
        self.present.set(false);
        self.set_line(k, false);
        self.qemu.borrow_mut().kill();
    }

    fn power_down(&self, k: &Kernel, registers_lost: bool) {
        if !self.powered.get() {
            return;
        }
        self.kept.set(self.reset(k));
        self.powered.set(false);
        if registers_lost && self.present.get() {
            let started = Qemu::start();
            *self.qemu.borrow_mut() = started.unwrap_or_else(|error| panic!("power was cut from the device: {error}"));
            self.transfer.set(None);
            self.interrupt_due.set(false);
        }
    }

    fn power_up(&self, k: &Kernel) {
        if self.powered.replace(true) {
            return;
        }
        if let Some(kept) = self.kept.take() {
            self.restore(k, kept);
        }
    }

    fn is_powered(&self) -> bool {
        self.powered.get()
    }

    fn set_stuck(self: Rc<Self>, _: &Kernel, _: bool) {
        Finding::not_modelled("real hardware that gets stuck on request").raise()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn low(value: u32) -> u16 {
    value as u16
}

const fn high(value: u32) -> u16 {
    low(value >> 16)
}
