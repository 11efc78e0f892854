//! What the machine's bus asks of a device, whatever is behind it.

use std::{fmt, ops::Range, rc::Rc};

use super::pci::{self, Message};
use crate::{finding::Finding, kernel::Kernel};

/// A PCI function that was plugged into the machine, with one memory BAR.
pub trait PciDevice: fmt::Debug {
    /// The interrupt line that its pin is wired to.
    fn line(&self) -> u32;

    /// The physical addresses it answers at, if it does.
    fn bar(&self) -> Option<Range<u64>>;

    /// Reads `size` bytes at `offset` of the BAR: ones where there is no device or it is not in D0.
    fn read(self: Rc<Self>, k: &Kernel, offset: u64, size: u8) -> u64;

    /// Writes `size` bytes at `offset` of the BAR.
    fn write(self: Rc<Self>, k: &Kernel, offset: u64, size: u8, value: u64);

    /// Reads configuration space: ones where there is no device.
    fn read_config(&self, k: &Kernel, offset: usize, bytes: &mut [u8]);

    /// Writes configuration space.
    fn write_config(&self, k: &Kernel, offset: usize, bytes: &[u8]);

    /// Sets or clears the message it sends, as the bus driver does when interrupts are connected.
    fn set_message(&self, k: &Kernel, message: Option<Message>);

    /// Pulls it out of the machine.
    fn unplug(&self, k: &Kernel);

    /// Leaves D0: the bus keeps its configuration; its registers survive or are lost.
    fn power_down(&self, k: &Kernel, registers_lost: bool);

    /// Is in D0 again, configured as before; its line is down until the next interrupt.
    fn power_up(&self, k: &Kernel);

    /// Whether it is in D0.
    fn is_powered(&self) -> bool;

    /// Makes it take requests and never finish them, or finish what it has taken.
    fn set_stuck(self: Rc<Self>, k: &Kernel, stuck: bool);

    /// From now on it takes this long, in virtual nanoseconds, for whatever it is told to do.
    fn set_latency(&self, ns: u64) {
        Finding::not_modelled(format!("hardware that can be told to take {ns} ns for what it does")).raise()
    }

    /// Raises its line, until the driver's next write to the BAR.
    fn raise(&self, _: &Kernel) {
        Finding::not_modelled("raising the interrupt of hardware that has reasons of its own").raise()
    }

    /// The memory that it is reading or writing, if it can be told: physical addresses.
    fn transfer(&self) -> Option<Range<u64>> {
        None
    }

    /// Assigns the base address.
    fn set_bar(&self, k: &Kernel, base: u32) {
        self.write_config(k, pci::BAR0, &base.to_le_bytes());
    }

    /// Switches command bits on and off.
    fn set_command(&self, k: &Kernel, command: u16) {
        self.write_config(k, pci::COMMAND, &command.to_le_bytes());
    }
}
