//! An `edu` device in the machine: its registers, its PCI function, and the time its work takes.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

use super::{
    PciDevice,
    edu::{Edu, EduModel, Effect, OutOfBuffer, Transfer},
    pci::{self, Function, Message},
    slot::Slot,
};
use crate::{kernel::Kernel, pnp::dma};

/// The size of BAR0.
pub const BAR_BYTES: u32 = 0x10_0000;

/// An `edu` device on the machine's bus, all of it in this process.
#[derive(Debug)]
pub struct EduDevice {
    edu: RefCell<Edu>,
    slot: Slot,
    /// Counts power losses: what was under way before one never ends.
    life: Cell<u32>,
    /// What it has taken on while it was stuck.
    stuck_work: RefCell<Vec<Effect>>,
}

impl EduDevice {
    /// A device after power on, wired to `line`.
    #[must_use]
    pub fn new(model: EduModel, has_messages: bool, line: u32) -> Rc<Self> {
        Rc::new(Self {
            edu: RefCell::new(Edu::new(model)),
            slot: Slot::new(Function::new(pci::EDU, BAR_BYTES, has_messages), line),
            life: Cell::new(0),
            stuck_work: RefCell::default(),
        })
    }

    fn apply(self: &Rc<Self>, k: &Kernel, effect: Effect) {
        if effect == Effect::Dma {
            self.check_transfer(k);
        }
        match effect {
            Effect::Factorial(_) | Effect::Dma if self.edu.borrow().model().stuck => {
                self.stuck_work.borrow_mut().push(effect);
            }
            Effect::Factorial(input) => {
                let time = self.edu.borrow().model().factorial_time(input);
                self.after(k, time, |device, k| device.end(k, Edu::finish_factorial));
            }
            Effect::Dma => {
                let time = self.edu.borrow().model().dma_time;
                self.after(k, time, |device, k| {
                    device.move_bytes(k);
                    device.end(k, Edu::finish_dma);
                });
            }
            Effect::Interrupt => self.slot.configure(k, Function::raise),
            Effect::Acknowledged => self.slot.configure(k, Function::acknowledge),
        }
    }

    /// Does something in about `time`, unless the device loses power or goes away before.
    fn after(self: &Rc<Self>, k: &Kernel, time: u64, action: fn(&Rc<Self>, &Kernel)) {
        let (device, life) = (Rc::clone(self), self.life.get());
        let jitter = k.choices.between(0, time / 8);
        k.after(time + jitter, move |k| {
            if device.life.get() == life {
                action(&device, k);
            }
        });
    }

    fn end(self: &Rc<Self>, k: &Kernel, end: fn(&mut Edu) -> Option<Effect>) {
        let effect = end(&mut self.edu.borrow_mut());
        if let Some(effect) = effect {
            self.apply(k, effect);
        }
    }

    /// The driver has started a transfer, or it ends: it must not reach what it may not.
    fn check_transfer(&self, k: &Kernel) -> Transfer {
        let edu = self.edu.borrow();
        if let Some(address) = edu.beyond_mask() {
            dma::violation(address, "a device was given a DMA address with more bits than it has").raise();
        }
        let transfer = inside_buffer(edu.transfer());
        if self.slot.is_bus_master() {
            check_reach(k, transfer.address, transfer.count);
        }
        transfer
    }

    fn move_bytes(&self, k: &Kernel) {
        let Transfer { address, offset, count, to_memory } = self.check_transfer(k);
        let bus_master = self.slot.is_bus_master();
        let mut edu = self.edu.borrow_mut();
        let bytes = &mut edu.buffer_mut()[offset..offset + count];
        match (to_memory, bus_master) {
            (true, true) => k.memory.dma_write(address, bytes),
            (true, false) => {}
            (false, true) => k.memory.dma_read(address, bytes),
            (false, false) => bytes.fill(0),
        }
    }
}

/// A transfer, which must stay inside the device's buffer.
pub(super) fn inside_buffer(transfer: Result<Transfer, OutOfBuffer>) -> Transfer {
    transfer.unwrap_or_else(|outside| {
        dma::violation(outside.start, &format!("the device was told to do {outside}")).raise()
    })
}

/// The device's access to memory must stay inside what the driver has for it.
pub(super) fn check_reach(k: &Kernel, address: u64, count: usize) {
    if !k.pnp.adapters.covers(address, count as u64) {
        let sentence =
            format!("the device reaches {count:#x} bytes of memory that are not, or not any more, mapped for DMA");
        dma::violation(address, &sentence).raise();
    }
}

impl PciDevice for EduDevice {
    fn line(&self) -> u32 {
        self.slot.line()
    }

    fn bar(&self) -> Option<Range<u64>> {
        let base = self.slot.bar0()?;
        Some(base..base + u64::from(BAR_BYTES))
    }

    fn read(self: Rc<Self>, _: &Kernel, offset: u64, size: u8) -> u64 {
        if self.slot.answers() { self.edu.borrow().read(offset, size) } else { u64::MAX }
    }

    fn write(self: Rc<Self>, k: &Kernel, offset: u64, size: u8, value: u64) {
        if !self.slot.answers() {
            return;
        }
        let effects = self.edu.borrow_mut().write(offset, size, value);
        for effect in effects {
            self.apply(k, effect);
        }
    }

    fn read_config(&self, _: &Kernel, offset: usize, bytes: &mut [u8]) {
        self.slot.read_config(offset, bytes);
    }

    fn write_config(&self, k: &Kernel, offset: usize, bytes: &[u8]) {
        self.slot.configure(k, |function| function.write_config(offset, bytes));
    }

    fn set_message(&self, k: &Kernel, message: Option<Message>) {
        self.slot.configure(k, |function| function.set_message(message));
    }

    fn unplug(&self, k: &Kernel) {
        self.life.set(self.life.get() + 1);
        self.slot.unplug(k);
    }

    fn power_down(&self, k: &Kernel, registers_lost: bool) {
        if self.slot.power_down(k) && registers_lost {
            self.life.set(self.life.get() + 1);
            self.stuck_work.borrow_mut().clear();
            let model = self.edu.borrow().model().clone();
            *self.edu.borrow_mut() = Edu::new(model);
        }
    }

    fn power_up(&self, _: &Kernel) {
        self.slot.power_up();
    }

    fn transfer(&self) -> Option<Range<u64>> {
        let edu = self.edu.borrow();
        let reaches = self.slot.answers() && self.slot.is_bus_master() && edu.is_transferring();
        let Transfer { address, count, .. } = edu.transfer().ok().filter(|_| reaches)?;
        Some(address..address + count as u64)
    }

    fn is_powered(&self) -> bool {
        self.slot.is_powered()
    }

    fn set_latency(&self, ns: u64) {
        let mut edu = self.edu.borrow_mut();
        let model = edu.model_mut();
        (model.dma_time, model.factorial_latency) = (ns, ns);
    }

    fn set_stuck(self: Rc<Self>, k: &Kernel, stuck: bool) {
        self.edu.borrow_mut().model_mut().stuck = stuck;
        if !stuck {
            let work = self.stuck_work.take();
            for effect in work {
                self.apply(k, effect);
            }
        }
    }
}
