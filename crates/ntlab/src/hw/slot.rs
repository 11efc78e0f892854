//! Where a PCI function of this process is plugged in: whether it is there, its power, its configuration space and its interrupt line.

use std::cell::{Cell, RefCell};

use super::pci::{Function, Signal};
use crate::kernel::Kernel;

/// A slot with a function in it.
#[derive(Debug)]
pub struct Slot {
    function: RefCell<Function>,
    /// The interrupt line that the function's pin is wired to.
    line: u32,
    /// Whether it is still plugged in.
    present: Cell<bool>,
    /// Whether it is in D0.
    powered: Cell<bool>,
    /// What the bus keeps of its function while it is not in D0.
    kept: RefCell<Option<Function>>,
}

impl Slot {
    /// A slot with a function after power on, wired to `line`.
    pub fn new(function: Function, line: u32) -> Self {
        Self {
            function: RefCell::new(function),
            line,
            present: Cell::new(true),
            powered: Cell::new(true),
            kept: RefCell::default(),
        }
    }

    /// The interrupt line that the function's pin is wired to.
    pub const fn line(&self) -> u32 {
        self.line
    }

    /// Where the function's BAR is, once it was placed and while it is on.
    pub fn bar0(&self) -> Option<u64> {
        self.function.borrow().bar0()
    }

    /// Whether the function may reach memory.
    pub fn is_bus_master(&self) -> bool {
        self.function.borrow().is_bus_master()
    }

    /// Whether the function is in D0.
    pub const fn is_powered(&self) -> bool {
        self.powered.get()
    }

    /// Whether the function's registers answer.
    pub fn answers(&self) -> bool {
        self.present.get() && self.powered.get() && self.bar0().is_some()
    }

    /// Changes the function, and passes on how it interrupts then.
    pub fn configure(&self, k: &Kernel, change: impl FnOnce(&mut Function) -> Signal) {
        let signal = change(&mut self.function.borrow_mut());
        match signal {
            Signal::Message(message) => k.hardware.interrupts.message(k, message),
            Signal::LineUp => k.hardware.interrupts.line_up(k, self.line),
            Signal::LineDown => k.hardware.interrupts.line_down(self.line),
            Signal::Nothing => {}
        }
    }

    /// Reads configuration space: all ones where nothing is plugged in.
    pub fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        if self.present.get() { self.function.borrow().read_config(offset, bytes) } else { bytes.fill(0xFF) }
    }

    /// Pulls the function out.
    pub fn unplug(&self, k: &Kernel) {
        self.configure(k, Function::reset);
        self.present.set(false);
    }

    /// The function leaves D0; false if it had.
    pub fn power_down(&self, k: &Kernel) -> bool {
        if !self.powered.replace(false) {
            return false;
        }
        *self.kept.borrow_mut() = Some(self.function.borrow().clone());
        self.configure(k, Function::reset);
        true
    }

    /// The function is in D0 again, as the bus has kept it.
    pub fn power_up(&self) {
        if self.powered.replace(true) {
            return;
        }
        if let Some(mut kept) = self.kept.take() {
            kept.acknowledge();
            *self.function.borrow_mut() = kept;
        }
    }
}
