//! A PCI function: its configuration space, and what of an interrupt leaves it.

use super::PciDevice;
use crate::kernel::Kernel;

/// Offset of the command register.
pub const COMMAND: usize = 0x04;
/// Offset of the first base address register.
pub const BAR0: usize = 0x10;
/// Offset of the interrupt line register, which software uses as it likes.
pub const INTERRUPT_LINE: usize = 0x3C;
/// The function answers memory accesses.
pub const COMMAND_MEMORY: u16 = 0x2;
/// The function may access memory, which is also what sends messages.
pub const COMMAND_BUS_MASTER: u16 = 0x4;
const COMMAND_INTX_DISABLE: u16 = 0x400;
const CACHE_LINE: usize = 0x0C;
const HEADER_BYTES: usize = 0x40;
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u16 = 0x8;
const MSI: usize = 0x40;
const MSI_CONTROL: usize = MSI + 2;
const MSI_ADDRESS: usize = MSI + 4;
const MSI_DATA: usize = MSI + 12;
const MSI_ENABLE: u16 = 0x1;

/// What identifies a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, sub-class, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// The identity of `edu`.
pub const EDU: Identity = Identity {
    vendor: 0x1234,
    device: 0x11E8,
    revision: 0x10,
    class: [0x00, 0xFF, 0x00],
    subsystem_vendor: 0x1AF4,
    subsystem: 0x1100,
};

/// A message-signaled interrupt: a write of `data` to `address`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u16,
}

/// What an interrupt of the device model turns into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// A message.
    Message(Message),
    /// The line is up.
    LineUp,
    /// The line is down.
    LineDown,
    /// Nothing leaves the function: bus mastering is off, or the line did not change.
    Nothing,
}

/// A function with one 32-bit memory BAR and, if it has one, an MSI capability with one vector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    bytes: [u8; 256],
    writable: [u8; 256],
    has_messages: bool,
    asserted: bool,
    /// It is a bus master whatever the command register says.
    still_masters: bool,
}

impl Function {
    /// The function after power on. `bar_bytes` is a power of two.
    #[must_use]
    pub fn new(identity: Identity, bar_bytes: u32, has_messages: bool) -> Self {
        let mut function =
            Self { bytes: [0; 256], writable: [0; 256], has_messages, asserted: false, still_masters: false };
        let [base_class, sub_class, interface] = identity.class;
        function.set(0x00, identity.vendor);
        function.set(0x02, identity.device);
        function.bytes[0x08..0x0C].copy_from_slice(&[identity.revision, interface, sub_class, base_class]);
        function.set(0x2C, identity.subsystem_vendor);
        function.set(0x2E, identity.subsystem);
        function.bytes[0x3D] = 1;
        function.writable[COMMAND..COMMAND + 2].copy_from_slice(&0x507u16.to_le_bytes());
        function.writable[BAR0..BAR0 + 4].copy_from_slice(&(!(bar_bytes - 1)).to_le_bytes());
        function.writable[CACHE_LINE] = 0xFF;
        function.writable[INTERRUPT_LINE] = 0xFF;
        // Behind the header, QEMU lets software write what no capability claims.
        function.writable[HEADER_BYTES..].fill(0xFF);
        if has_messages {
            function.add_message_capability();
        }
        function
    }

    fn add_message_capability(&mut self) {
        self.set(STATUS, 0x0010);
        self.bytes[0x34] = 0x40;
        self.bytes[MSI] = 0x05;
        self.set(MSI_CONTROL, 0x0080);
        self.writable[MSI..MSI_ADDRESS].copy_from_slice(&[0, 0, 0x01, 0]);
        self.writable[MSI_ADDRESS] = 0xFC;
    }

    /// Reads configuration space; ones beyond its end.
    pub fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).copied().unwrap_or(0xFF);
        }
    }

    /// Writes configuration space. Enabling messages drops the line.
    pub fn write_config(&mut self, offset: usize, bytes: &[u8]) -> Signal {
        let line_before = self.line();
        for (index, byte) in bytes.iter().enumerate() {
            let Some(writable) = self.writable.get(offset + index) else { break };
            let place = &mut self.bytes[offset + index];
            *place = *place & !writable | byte & writable;
        }
        if (offset..offset + bytes.len()).contains(&COMMAND) {
            self.still_masters = false;
        }
        if self.messages_enabled() {
            self.asserted = false;
        }
        self.line_change(line_before)
    }

    /// The device model signals an interrupt.
    pub fn raise(&mut self) -> Signal {
        if !self.messages_enabled() {
            let line_before = self.line();
            self.asserted = true;
            return self.line_change(line_before);
        }
        if self.is_bus_master() { Signal::Message(self.message()) } else { Signal::Nothing }
    }

    /// The device model has nothing to signal any more.
    pub fn acknowledge(&mut self) -> Signal {
        let line_before = self.line();
        self.asserted = false;
        self.line_change(line_before)
    }

    /// Bus reset as QEMU does it, which turns bus mastering on and off when the command register is written, and only then
    /// ([`EduModel::masters_after_reset`](super::edu::EduModel::masters_after_reset)).
    pub fn reset_as_qemu(&mut self) -> Signal {
        let masters = self.is_bus_master();
        let signal = self.reset();
        self.still_masters = masters;
        signal
    }

    /// Bus reset: command, BAR and message enable fall, and the line with them.
    pub fn reset(&mut self) -> Signal {
        self.still_masters = false;
        let line_before = self.line();
        let message = if self.has_messages { MSI..MSI_DATA + 2 } else { 0..0 };
        for place in [
            COMMAND..COMMAND + 2,
            CACHE_LINE..CACHE_LINE + 1,
            BAR0..BAR0 + 4,
            INTERRUPT_LINE..INTERRUPT_LINE + 1,
            message,
        ] {
            for (byte, writable) in self.bytes[place.clone()].iter_mut().zip(&self.writable[place]) {
                *byte &= !writable;
            }
        }
        self.asserted = false;
        self.line_change(line_before)
    }

    /// Where BAR0 is, if the function answers there.
    #[must_use]
    pub fn bar0(&self) -> Option<u64> {
        let base = u32::from_le_bytes(self.take(BAR0)) & !0xF;
        (self.command() & COMMAND_MEMORY != 0 && base != 0).then_some(u64::from(base))
    }

    /// Whether the function may access memory.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.still_masters || self.command() & COMMAND_BUS_MASTER != 0
    }

    /// Whether it has a message capability.
    #[must_use]
    pub const fn has_messages(&self) -> bool {
        self.has_messages
    }

    /// Assigns the base address.
    pub fn set_bar0(&mut self, base: u32) {
        self.write_config(BAR0, &base.to_le_bytes());
    }

    /// Switches command bits on and off.
    pub fn set_command(&mut self, command: u16) -> Signal {
        self.write_config(COMMAND, &command.to_le_bytes())
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        u16::from_le_bytes(self.take(COMMAND))
    }

    /// Sets or clears the message, as the bus driver does when interrupts are connected.
    pub fn set_message(&mut self, message: Option<Message>) -> Signal {
        if let Some(Message { address, data }) = message {
            self.write_config(MSI_ADDRESS, &address.to_le_bytes());
            self.write_config(MSI_DATA, &data.to_le_bytes());
        }
        self.write_config(MSI_CONTROL, &u16::from(message.is_some()).to_le_bytes())
    }

    /// The level of the line.
    #[must_use]
    pub fn line(&self) -> bool {
        self.asserted && self.command() & COMMAND_INTX_DISABLE == 0
    }

    fn messages_enabled(&self) -> bool {
        self.has_messages && u16::from_le_bytes(self.take(MSI_CONTROL)) & MSI_ENABLE != 0
    }

    fn message(&self) -> Message {
        Message { address: u64::from_le_bytes(self.take(MSI_ADDRESS)), data: u16::from_le_bytes(self.take(MSI_DATA)) }
    }

    fn line_change(&mut self, before: bool) -> Signal {
        let status = u16::from_le_bytes(self.take(STATUS)) & !STATUS_INTERRUPT;
        self.set(STATUS, if self.asserted { status | STATUS_INTERRUPT } else { status });
        match (before, self.line()) {
            (false, true) => Signal::LineUp,
            (true, false) => Signal::LineDown,
            _ => Signal::Nothing,
        }
    }

    fn set(&mut self, offset: usize, value: u16) {
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn take<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read_config(offset, &mut bytes);
        bytes
    }
}

/// Whether a device wants its line up: "Interrupt Status" of its status register.
pub fn is_asserted(k: &Kernel, device: &dyn PciDevice) -> bool {
    let mut status = [0; 2];
    device.read_config(k, STATUS, &mut status);
    u16::from_le_bytes(status) & STATUS_INTERRUPT != 0
}

/// Whether a device is there: configuration space of a function that is not reads as ones.
pub fn is_present(k: &Kernel, device: &dyn PciDevice) -> bool {
    let mut vendor = [0; 2];
    device.read_config(k, 0, &mut vendor);
    vendor != [0xFF; 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Message = Message { address: 0xFEE0_1000, data: 0x51 };

    fn edu() -> Function {
        Function::new(EDU, 0x10_0000, true)
    }

    fn dword(function: &Function, offset: usize) -> u32 {
        u32::from_le_bytes(function.take(offset))
    }

    #[test]
    fn the_header_is_that_of_edu() {
        let edu = edu();
        let expected = [
            (0x00, 0x11E8_1234),
            (0x04, 0x0010_0000),
            (0x08, 0x00FF_0010),
            (0x10, 0),
            (0x2C, 0x1100_1AF4),
            (0x34, 0x40),
            (0x3C, 0x0100),
            (0x40, 0x0080_0005),
        ];
        for (offset, value) in expected {
            assert_eq!(dword(&edu, offset), value, "{offset:#x}");
        }
    }

    #[test]
    fn only_the_writable_bits_can_be_written() {
        let mut edu = edu();
        for offset in (0..256).step_by(4) {
            edu.write_config(offset, &[0xFF; 4]);
        }
        let expected = [
            (0x00, 0x11E8_1234),
            (0x04, 0x0010_0507),
            (0x0C, 0x0000_00FF),
            (0x10, 0xFFF0_0000),
            (0x14, 0),
            (0x3C, 0x01FF),
            (0x40, 0x0081_0005),
            (0x44, 0xFFFF_FFFC),
            (0x48, 0xFFFF_FFFF),
            (0x4C, 0xFFFF_FFFF),
            (0x50, 0xFFFF_FFFF),
            (0xFC, 0xFFFF_FFFF),
        ];
        for (offset, value) in expected {
            assert_eq!(dword(&edu, offset), value, "{offset:#x}");
        }
    }

    #[test]
    fn configuration_space_ends_after_256_bytes() {
        let mut edu = edu();
        let mut bytes = [0; 4];
        edu.write_config(254, &[1, 2, 3, 4]);
        edu.read_config(254, &mut bytes);
        assert_eq!(bytes, [1, 2, 0xFF, 0xFF]);
    }

    #[test]
    fn the_line_is_up_from_the_first_interrupt_to_the_acknowledgement_and_shows_in_the_status() {
        let mut edu = edu();
        assert_eq!(edu.raise(), Signal::LineUp);
        assert_eq!(edu.raise(), Signal::Nothing);
        assert_eq!(dword(&edu, 4), 0x0018_0000);
        assert_eq!(edu.acknowledge(), Signal::LineDown);
        assert_eq!(dword(&edu, 4), 0x0010_0000);
    }

    #[test]
    fn intx_disable_masks_the_line_but_not_messages() {
        let mut edu = edu();
        assert_eq!(edu.raise(), Signal::LineUp);
        assert_eq!(edu.set_command(COMMAND_INTX_DISABLE | COMMAND_BUS_MASTER), Signal::LineDown);
        assert_eq!(edu.set_message(Some(MESSAGE)), Signal::Nothing);
        assert_eq!(edu.raise(), Signal::Message(MESSAGE));
    }

    #[test]
    fn enabling_messages_drops_the_line_and_sends_nothing() {
        let mut edu = edu();
        edu.set_command(COMMAND_BUS_MASTER);
        assert_eq!(edu.raise(), Signal::LineUp);
        assert_eq!(edu.set_message(Some(MESSAGE)), Signal::LineDown);
        assert_eq!(edu.acknowledge(), Signal::Nothing);
    }

    #[test]
    fn disabling_messages_asserts_nothing_until_the_next_interrupt() {
        let mut edu = edu();
        edu.set_command(COMMAND_BUS_MASTER);
        edu.set_message(Some(MESSAGE));
        assert_eq!(edu.raise(), Signal::Message(MESSAGE));
        assert_eq!(edu.set_message(None), Signal::Nothing);
        assert_eq!(edu.raise(), Signal::LineUp);
    }

    #[test]
    fn every_interrupt_sends_a_message_but_without_bus_mastering_it_is_lost() {
        let mut edu = edu();
        edu.set_message(Some(MESSAGE));
        assert_eq!(edu.raise(), Signal::Nothing);
        edu.set_command(COMMAND_BUS_MASTER);
        assert_eq!(edu.raise(), Signal::Message(MESSAGE));
        assert_eq!(edu.raise(), Signal::Message(MESSAGE));
    }

    #[test]
    fn bus_reset_clears_command_bar_and_message_enable_and_drops_the_line() {
        let mut edu = edu();
        edu.set_bar0(0xE000_0000);
        edu.set_command(COMMAND_MEMORY);
        assert_eq!(edu.bar0(), Some(0xE000_0000));
        assert_eq!(edu.raise(), Signal::LineUp);
        assert_eq!(edu.reset(), Signal::LineDown);
        assert_eq!(
            (edu.bar0(), dword(&edu, 4), dword(&edu, 0x10), dword(&edu, 0x40)),
            (None, 0x0010_0000, 0, 0x0080_0005)
        );
    }

    #[test]
    fn a_function_without_messages_has_no_capability_and_uses_the_line() {
        let mut function = Function::new(EDU, 0x10_0000, false);
        assert_eq!((dword(&function, 4), dword(&function, 0x34), dword(&function, 0x40)), (0, 0, 0));
        assert_eq!(function.raise(), Signal::LineUp);
    }

    #[test]
    fn bar0_answers_only_with_memory_access_enabled() {
        let mut edu = edu();
        edu.set_bar0(0xE000_0000);
        assert_eq!(edu.bar0(), None);
        edu.set_command(COMMAND_MEMORY);
        assert_eq!(edu.bar0(), Some(0xE000_0000));
    }
}
