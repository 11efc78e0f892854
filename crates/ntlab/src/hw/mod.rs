//! The machine's hardware besides processors and memory: PCI functions and the interrupt controller.

mod device;
pub mod edu;
pub mod edu_device;
pub mod interrupts;
pub mod memory_device;
pub mod pci;
pub mod qemu;
mod slot;

use std::{cell::RefCell, ops::Range, rc::Rc};

pub use self::device::PciDevice;
use crate::{kernel::Kernel, pnp};
use interrupts::Interrupts;

/// Where device memory is; there is no RAM here.
pub const DEVICE_MEMORY: Range<u64> = 0xC000_0000..0xFEC0_0000;

/// The machine's hardware.
#[derive(Debug, Default)]
pub struct Hardware {
    devices: RefCell<Vec<Rc<dyn PciDevice>>>,
    /// Devices that are pulled out by the next read at an offset of their BAR.
    doomed: RefCell<Vec<(Rc<dyn PciDevice>, u64)>>,
    /// The interrupt controller.
    pub interrupts: Interrupts,
}

impl Hardware {
    /// Plugs in a device.
    pub fn plug(&self, device: Rc<dyn PciDevice>) {
        self.devices.borrow_mut().push(device);
    }

    /// Has a device pulled out when a driver is about to read at this offset of its BAR.
    pub fn unplug_before_read(&self, device: Rc<dyn PciDevice>, offset: u64) {
        self.doomed.borrow_mut().push((device, offset));
    }

    /// Reads device memory at a physical address: ones where no device answers.
    pub fn read(&self, k: &Kernel, address: u64, size: u8) -> u64 {
        let ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        let Some((device, offset)) = self.at(address) else {
            pnp::check_registers(k, address);
            return ones;
        };
        let is_due = |doomed: &mut (Rc<dyn PciDevice>, u64)| Rc::ptr_eq(&doomed.0, &device) && doomed.1 == offset;
        let due = self.doomed.borrow_mut().extract_if(.., is_due).count();
        if due > 0 {
            device.unplug(k);
        }
        device.read(k, offset, size) & ones
    }

    /// Writes device memory at a physical address; nothing where no device answers.
    pub fn write(&self, k: &Kernel, address: u64, size: u8, value: u64) {
        match self.at(address) {
            Some((device, offset)) => device.write(k, offset, size, value),
            None => pnp::check_registers(k, address),
        }
    }

    /// The transfers between devices and memory that are under way: the physical addresses.
    pub fn transfers(&self) -> Vec<Range<u64>> {
        self.devices.borrow().iter().filter_map(|device| device.transfer()).collect()
    }

    /// The device that answers at a physical address, and the offset in its BAR.
    fn at(&self, address: u64) -> Option<(Rc<dyn PciDevice>, u64)> {
        let devices = self.devices.borrow();
        devices.iter().find_map(|device| {
            let bar = device.bar().filter(|bar| bar.contains(&address))?;
            Some((Rc::clone(device), address - bar.start))
        })
    }
}
