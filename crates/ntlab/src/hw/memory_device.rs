//! A PCI function whose registers are memory: what is written can be read again, and its line is raised when the scenario says so.

use std::{cell::RefCell, ops::Range, rc::Rc};

use super::{
    PciDevice,
    pci::{Function, Identity, Message},
    slot::Slot,
};
use crate::kernel::Kernel;

/// A function with one memory BAR and one interrupt line. Its line falls at the next write to the BAR.
#[derive(Debug)]
pub struct MemoryDevice {
    slot: Slot,
    bytes: RefCell<Vec<u8>>,
}

impl MemoryDevice {
    /// A function after power on, wired to `line`: the BAR holds zeros. `bar_bytes` is a power of two.
    #[must_use]
    pub fn new(vendor: u16, device: u16, bar_bytes: u32, line: u32) -> Rc<Self> {
        let identity = Self::identity(vendor, device);
        Rc::new(Self {
            slot: Slot::new(Function::new(identity, bar_bytes, false), line),
            bytes: RefCell::new(vec![0; bar_bytes as usize]),
        })
    }

    /// What identifies the function with these IDs.
    #[must_use]
    pub const fn identity(vendor: u16, device: u16) -> Identity {
        Identity { vendor, device, revision: 0, class: [0xFF, 0, 0], subsystem_vendor: 0, subsystem: 0 }
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
        self.slot.line()
    }

    fn bar(&self) -> Option<Range<u64>> {
        let base = self.slot.bar0()?;
        Some(base..base + self.bytes.borrow().len() as u64)
    }

    fn read(self: Rc<Self>, _: &Kernel, offset: u64, size: u8) -> u64 {
        if !self.slot.answers() {
            return u64::MAX;
        }
        let mut value = [0; 8];
        let place = self.place(offset, size);
        value[..place.len()].copy_from_slice(&self.bytes.borrow()[place]);
        u64::from_le_bytes(value)
    }

    fn write(self: Rc<Self>, k: &Kernel, offset: u64, size: u8, value: u64) {
        if !self.slot.answers() {
            return;
        }
        let place = self.place(offset, size);
        let length = place.len();
        self.bytes.borrow_mut()[place].copy_from_slice(&value.to_le_bytes()[..length]);
        self.slot.configure(k, Function::acknowledge);
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
        self.slot.unplug(k);
    }

    fn power_down(&self, k: &Kernel, registers_lost: bool) {
        if self.slot.power_down(k) && registers_lost {
            self.bytes.borrow_mut().fill(0);
        }
    }

    fn power_up(&self, _: &Kernel) {
        self.slot.power_up();
    }

    fn is_powered(&self) -> bool {
        self.slot.is_powered()
    }

    fn set_stuck(self: Rc<Self>, _: &Kernel, _: bool) {
        // It does nothing that could stop.
    }

    fn raise(&self, k: &Kernel) {
        if self.slot.answers() {
            self.slot.configure(k, Function::raise);
        }
    }
}
