//! A PCI function whose registers are memory: what is written can be read again, and its line is raised when the scenario says so.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

use super::{
    PciDevice,
    pci::{Function, Identity, Message, Signal},
};
use crate::kernel::Kernel;

/// A function with one memory BAR and one interrupt line. Its line falls at the next write to the BAR.
#[derive(Debug)]
pub struct MemoryDevice {
    function: RefCell<Function>,
    bytes: RefCell<Vec<u8>>,
    line: u32,
    present: Cell<bool>,
    powered: Cell<bool>,
    /// What the bus keeps of its function while it is not in D0.
    kept: RefCell<Option<Function>>,
}

impl MemoryDevice {
    /// A function after power on, wired to `line`: the BAR holds zeros. `bar_bytes` is a power of two.
    #[must_use]
    pub fn new(vendor: u16, device: u16, bar_bytes: u32, line: u32) -> Rc<Self> {
        let identity = Self::identity(vendor, device);
        Rc::new(Self {
            function: RefCell::new(Function::new(identity, bar_bytes, false)),
            bytes: RefCell::new(vec![0; bar_bytes as usize]),
            line,
            present: Cell::new(true),
            powered: Cell::new(true),
            kept: RefCell::default(),
        })
    }

    /// What identifies the function with these IDs.
    #[must_use]
    pub const fn identity(vendor: u16, device: u16) -> Identity {
        Identity { vendor, device, revision: 0, class: [0xFF, 0, 0], subsystem_vendor: 0, subsystem: 0 }
    }

    fn configure(&self, k: &Kernel, change: impl FnOnce(&mut Function) -> Signal) {
        let signal = change(&mut self.function.borrow_mut());
        match signal {
            Signal::LineUp => k.hardware.interrupts.line_up(k, self.line),
            Signal::LineDown => k.hardware.interrupts.line_down(self.line),
            Signal::Message(_) | Signal::Nothing => {}
        }
    }

    fn answers(&self) -> bool {
        self.present.get() && self.powered.get() && self.function.borrow().bar0().is_some()
    }

    /// The bytes of an access that lie in the BAR.
    fn place(&self, offset: u64, size: u8) -> Range<usize> {
        let end = self.bytes.borrow().len();
        let start = usize::try_from(offset).unwrap_or(end).min(end);
        start..(start + usize::from(size)).min(end)
    }
}

impl PciDevice for MemoryDevice {
    fn line(&self) -> u32 {
        self.line
    }

    fn bar(&self) -> Option<Range<u64>> {
        let base = self.function.borrow().bar0()?;
        Some(base..base + self.bytes.borrow().len() as u64)
    }

    fn read(self: Rc<Self>, _: &Kernel, offset: u64, size: u8) -> u64 {
        if !self.answers() {
            return u64::MAX;
        }
        let mut value = [0; 8];
        let place = self.place(offset, size);
        value[..place.len()].copy_from_slice(&self.bytes.borrow()[place]);
        u64::from_le_bytes(value)
    }

    fn write(self: Rc<Self>, k: &Kernel, offset: u64, size: u8, value: u64) {
        if !self.answers() {
            return;
        }
        let place = self.place(offset, size);
        let length = place.len();
        self.bytes.borrow_mut()[place].copy_from_slice(&value.to_le_bytes()[..length]);
        self.configure(k, Function::acknowledge);
    }

    fn read_config(&self, _: &Kernel, offset: usize, bytes: &mut [u8]) {
        if self.present.get() { self.function.borrow().read_config(offset, bytes) } else { bytes.fill(0xFF) }
    }

    fn write_config(&self, k: &Kernel, offset: usize, bytes: &[u8]) {
        self.configure(k, |function| function.write_config(offset, bytes));
    }

    fn set_message(&self, k: &Kernel, message: Option<Message>) {
        self.configure(k, |function| function.set_message(message));
    }

    fn unplug(&self, k: &Kernel) {
        self.configure(k, Function::reset);
        self.present.set(false);
    }

    fn power_down(&self, k: &Kernel, registers_lost: bool) {
        if !self.powered.replace(false) {
            return;
        }
        *self.kept.borrow_mut() = Some(self.function.borrow().clone());
        self.configure(k, Function::reset);
        if registers_lost {
            self.bytes.borrow_mut().fill(0);
        }
    }

    fn power_up(&self, _: &Kernel) {
        if self.powered.replace(true) {
            return;
        }
        if let Some(mut kept) = self.kept.take() {
            kept.acknowledge();
            *self.function.borrow_mut() = kept;
        }
    }

    fn is_powered(&self) -> bool {
        self.powered.get()
    }

    fn set_stuck(self: Rc<Self>, _: &Kernel, _: bool) {
        // It does nothing that could stop.
    }

    fn raise(&self, k: &Kernel) {
        if self.answers() {
            self.configure(k, Function::raise);
        }
    }
}
