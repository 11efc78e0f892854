//! The registers of an `edu` device and its common buffer (QEMU's docs/specs/edu).

use hotadd_abi::BUFFER_BYTES;
use hotadd_policy::work::Transfer;
use wdm::dma::{BusMaster, CommonBuffer};
use wdm::io_space;
use wdm::irp::IrpRef;
use wdm::pool::PoolArc;
use wdm::status::{NtStatus, Result};

use crate::requests::{Direction, Plain, Work};

/// How many bytes of the device's buffer are used: older QEMU, 7.2 among them, ends when the last one is touched.
pub const REACHABLE: u32 = BUFFER_BYTES - 1;

/// How much of the register space there has to be.
pub const REGISTERS_LENGTH: usize = 0x1000;

/// The registers.
pub type Registers = io_space::Registers<REGISTERS_LENGTH>;

/// What the device can do by DMA.
pub const BUS_MASTER: BusMaster = BusMaster { address_bits: 28, maximum_length: BUFFER_BYTES };

/// The device's address for its buffer.
const BUFFER: u64 = 0x4_0000;
/// What a device that is gone reads as.
const GONE: u32 = u32::MAX;

mod register {
    use wdm::io_space::Register;

    pub const IDENTIFICATION: Register<u32, 0x00> = Register::new();
    pub const LIVENESS: Register<u32, 0x04> = Register::new();
    pub const FACTORIAL: Register<u32, 0x08> = Register::new();
    pub const STATUS: Register<u32, 0x20> = Register::new();
    pub const INTERRUPT_STATUS: Register<u32, 0x24> = Register::new();
    pub const ACKNOWLEDGE: Register<u32, 0x64> = Register::new();
    pub const DMA_SOURCE: Register<u64, 0x80> = Register::new();
    pub const DMA_DESTINATION: Register<u64, 0x88> = Register::new();
    pub const DMA_COUNT: Register<u64, 0x90> = Register::new();
    pub const DMA_COMMAND: Register<u32, 0x98> = Register::new();
}

/// [`register::STATUS`]: a factorial is being computed.
const COMPUTING: u32 = 0x01;
/// [`register::STATUS`]: interrupt when it is done.
const FACTORIAL_INTERRUPT: u32 = 0x80;
/// [`register::DMA_COMMAND`]: start; reads as set until the transfer is done.
const RUN: u32 = 0x1;
/// [`register::DMA_COMMAND`]: from the device to memory.
const TO_MEMORY: u32 = 0x2;
/// [`register::DMA_COMMAND`]: interrupt when it is done.
const DMA_INTERRUPT: u32 = 0x4;

/// The low byte of the identification, which the specification fixes.
const IDENTITY: u32 = 0xED;

/// Whether a DMA transfer tells its end by an interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    Interrupt,
    Nothing,
}

/// The device as far as requests need it.
pub struct Hardware {
    pub registers: PoolArc<Registers>,
    pub common: CommonBuffer,
}

/// Whether this is an `edu` device that answers.
///
/// # Errors
///
/// `NO_SUCH_DEVICE` where it is none, `DEVICE_HARDWARE_ERROR` where it does not answer.
pub fn identify(registers: &Registers) -> Result {
    let identity = registers.read(register::IDENTIFICATION);
    if identity == GONE || identity & 0xFF != IDENTITY {
        return Err(NtStatus::NO_SUCH_DEVICE);
    }
    let question = 0x5A5A_1234;
    registers.write(register::LIVENESS, question);
    if registers.read(register::LIVENESS) != !question {
        return Err(NtStatus::DEVICE_HARDWARE_ERROR);
    }
    Ok(())
}

/// Which interrupts the device raised; acknowledges them. `None`: none, or the device is gone.
///
/// IRQL: any.
pub fn take_interrupts(registers: &Registers) -> Option<u32> {
    let raised = registers.read(register::INTERRUPT_STATUS);
    if raised == 0 || raised == GONE {
        return None;
    }
    registers.write(register::ACKNOWLEDGE, raised);
    Some(raised)
}

/// Makes the device raise no interrupts, and takes back those that it has raised. What it computes or transfers goes
/// on: it cannot be stopped, only waited for.
pub fn silence(registers: &Registers) {
    registers.write(register::STATUS, 0);
    take_interrupts(registers);
}

/// Makes the device raise an interrupt when a factorial is done.
pub fn enable_interrupts(registers: &Registers) {
    registers.write(register::STATUS, FACTORIAL_INTERRUPT);
}

/// Whether the device computes a factorial; one that is gone does so for ever.
fn is_computing(registers: &Registers) -> bool {
    registers.read(register::STATUS) & COMPUTING != 0
}

/// Whether the device transfers; one that is gone does so for ever.
fn is_transferring(registers: &Registers) -> bool {
    registers.read(register::DMA_COMMAND) & RUN != 0
}

/// Whether the device does not answer any more.
pub fn is_gone(registers: &Registers) -> bool {
    registers.read(register::IDENTIFICATION) == GONE
}

impl Hardware {
    /// Whether the device may still transfer to or from the common buffer.
    pub fn is_transferring(&self) -> bool {
        is_transferring(&self.registers) && !is_gone(&self.registers)
    }

    /// Whether the device is idle.
    pub fn is_idle(&self) -> bool {
        !is_computing(&self.registers) && !is_transferring(&self.registers)
    }

    /// Starts a request.
    ///
    /// # Errors
    ///
    /// Where it does not fit the registers or the common buffer; nothing was started then.
    #[inline]
    pub fn begin(&mut self, irp: &IrpRef, work: &mut Work) -> Result {
        match work {
            Work::Plain(Plain::Factorial { number, .. }) => {
                self.registers.write(register::FACTORIAL, *number);
                Ok(())
            }
            Work::Plain(Plain::Direct { offset, length, direction, .. }) => {
                self.begin_direct(irp, *offset, *length, *direction)
            }
            Work::Store(buffer) => self.store(buffer.transfer, buffer.bytes(), Tell::Interrupt),
        }
    }

    #[inline(never)]
    fn begin_direct(&mut self, irp: &IrpRef, offset: u16, length: u16, direction: Direction) -> Result {
        let transfer = Transfer { offset: offset.into(), length: length.into() };
        if direction == Direction::Read {
            return self.fetch(transfer, Tell::Interrupt);
        }
        self.common.copy_from(&irp.direct_buffer()?, length.into())?;
        self.store_common(transfer, Tell::Interrupt)
    }

    /// Whether the device is done with the request.
    pub fn is_done(&self, work: &Work) -> bool {
        match work {
            Work::Plain(Plain::Factorial { .. }) => !is_computing(&self.registers),
            Work::Store(_) | Work::Plain(Plain::Direct { .. }) => !is_transferring(&self.registers),
        }
    }

    /// Collects the result of a request that the device is done with.
    ///
    /// # Errors
    ///
    /// Where it does not fit the registers or the common buffer.
    pub fn collect(&self, irp: &IrpRef, work: &Work) -> Result<u32> {
        match work {
            // No factorial modulo 2^32 has all bits set: the device was pulled out since it said that it was done.
            Work::Plain(Plain::Factorial { .. }) => match self.registers.read(register::FACTORIAL) {
                GONE => Err(NtStatus::DELETE_PENDING),
                result => Ok(result),
            },
            Work::Plain(Plain::Direct { length, direction: Direction::Read, .. }) => {
                self.common.copy_to(&irp.direct_buffer()?, (*length).into()).map(|()| 0)
            }
            Work::Store(_) | Work::Plain(Plain::Direct { .. }) => Ok(0),
        }
    }

    /// Starts to move bytes from the device's buffer to the common buffer.
    pub fn fetch(&self, transfer: Transfer, tell: Tell) -> Result {
        let source = BUFFER.wrapping_add(transfer.offset.into());
        self.transfer(source, self.common.logical_address(), transfer, TO_MEMORY, tell)
    }

    /// Starts to move bytes to the device's buffer, by way of the common buffer.
    pub fn store(&mut self, transfer: Transfer, bytes: &[u8], tell: Tell) -> Result {
        self.common.write(0, bytes)?;
        self.store_common(transfer, tell)
    }

    /// Starts to move bytes from the common buffer to the device's.
    fn store_common(&self, transfer: Transfer, tell: Tell) -> Result {
        let destination = BUFFER.wrapping_add(transfer.offset.into());
        self.transfer(self.common.logical_address(), destination, transfer, 0, tell)
    }

    fn transfer(&self, source: u64, destination: u64, transfer: Transfer, direction: u32, tell: Tell) -> Result {
        // A count of 0 or a transfer over the end would be the end of QEMU, not of the transfer.
        let end = transfer.offset.checked_add(transfer.length);
        if transfer.length == 0 || end.is_none_or(|end| end > REACHABLE) {
            return Err(NtStatus::INVALID_BUFFER_SIZE);
        }
        let interrupt = if tell == Tell::Interrupt { DMA_INTERRUPT } else { 0 };
        self.registers.write(register::DMA_SOURCE, source);
        self.registers.write(register::DMA_DESTINATION, destination);
        self.registers.write(register::DMA_COUNT, transfer.length.into());
        self.registers.write(register::DMA_COMMAND, RUN | direction | interrupt);
        Ok(())
    }
}
