//! The registers of an `edu` device and its common buffer (QEMU's docs/specs/edu).

use hotadd_abi::BUFFER_BYTES;
use hotadd_policy::work::Transfer;
use wdm::dma::{BusMaster, CommonBuffer};
use wdm::io_space::Registers;
use wdm::irp::IrpRef;
use wdm::pool::PoolArc;
use wdm::status::{NtStatus, Result};

use crate::requests::{Direction, Plain, Work};

/// How many bytes of the device's buffer are used: older QEMU, 7.2 among them, ends when the last one is touched.
pub const REACHABLE: u32 = BUFFER_BYTES - 1;

/// How much of the register space there has to be.
pub const REGISTERS_LENGTH: u64 = 0x1000;

/// What the device can do by DMA.
pub const BUS_MASTER: BusMaster = BusMaster { address_bits: 28, maximum_length: BUFFER_BYTES };

/// The device's address for its buffer.
const BUFFER: u64 = 0x4_0000;
/// What a device that is gone reads as.
const GONE: u32 = u32::MAX;

mod register {
    pub const IDENTIFICATION: usize = 0x00;
    pub const LIVENESS: usize = 0x04;
    pub const FACTORIAL: usize = 0x08;
    pub const STATUS: usize = 0x20;
    pub const INTERRUPT_STATUS: usize = 0x24;
    pub const ACKNOWLEDGE: usize = 0x64;
    pub const DMA_SOURCE: usize = 0x80;
    pub const DMA_DESTINATION: usize = 0x88;
    pub const DMA_COUNT: usize = 0x90;
    pub const DMA_COMMAND: usize = 0x98;
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
    let identity = registers.read_u32(register::IDENTIFICATION)?;
    if identity == GONE || identity & 0xFF != IDENTITY {
        return Err(NtStatus::NO_SUCH_DEVICE);
    }
    let question = 0x5A5A_1234;
    registers.write_u32(register::LIVENESS, question)?;
    if registers.read_u32(register::LIVENESS)? != !question {
        return Err(NtStatus::DEVICE_HARDWARE_ERROR);
    }
    Ok(())
}

/// Which interrupts the device raised; acknowledges them. `None`: none, or the device is gone.
///
/// IRQL: any.
pub fn take_interrupts(registers: &Registers) -> Option<u32> {
    let raised = registers.read_u32(register::INTERRUPT_STATUS).ok()?;
    if raised == 0 || raised == GONE {
        return None;
    }
    registers.write_u32(register::ACKNOWLEDGE, raised).ok()?;
    Some(raised)
}

/// Makes the device raise no interrupts, and takes back those that it has raised. What it computes or transfers goes
/// on: it cannot be stopped, only waited for.
pub fn silence(registers: &Registers) -> Result {
    registers.write_u32(register::STATUS, 0)?;
    take_interrupts(registers);
    Ok(())
}

/// Makes the device raise an interrupt when a factorial is done.
pub fn enable_interrupts(registers: &Registers) -> Result {
    registers.write_u32(register::STATUS, FACTORIAL_INTERRUPT)
}

/// What the device is busy with; a device that is gone is busy with both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    pub computing: bool,
    pub transferring: bool,
}

/// What the device is busy with.
pub fn busy(registers: &Registers) -> Result<Busy> {
    Ok(Busy {
        computing: registers.read_u32(register::STATUS)? & COMPUTING != 0,
        transferring: registers.read_u32(register::DMA_COMMAND)? & RUN != 0,
    })
}

/// Whether the device does not answer any more.
pub fn is_gone(registers: &Registers) -> bool {
    registers.read_u32(register::IDENTIFICATION).is_ok_and(|identity| identity == GONE)
}

impl Hardware {
    /// Whether the device may still transfer to or from the common buffer.
    pub fn is_transferring(&self) -> bool {
        let transferring = busy(&self.registers).is_ok_and(|busy| busy.transferring);
        transferring && !is_gone(&self.registers)
    }

    /// Whether the device is idle.
    pub fn is_idle(&self) -> bool {
        busy(&self.registers).is_ok_and(|busy| !busy.computing && !busy.transferring)
    }

    /// Starts a request.
    ///
    /// # Errors
    ///
    /// Where it does not fit the registers or the common buffer; nothing was started then.
    pub fn begin(&mut self, irp: &IrpRef, work: &mut Work) -> Result {
        match work {
            Work::Plain(Plain::Factorial { number, .. }) => self.registers.write_u32(register::FACTORIAL, *number),
            Work::Plain(Plain::Direct { offset, length, direction, .. }) => {
                let transfer = Transfer { offset: (*offset).into(), length: (*length).into() };
                if *direction == Direction::Read {
                    return self.fetch(transfer, Tell::Interrupt);
                }
                self.common.copy_from(&irp.direct_buffer()?, (*length).into())?;
                self.store_common(transfer, Tell::Interrupt)
            }
            Work::Store(buffer) => self.store(buffer.transfer, buffer.bytes(), Tell::Interrupt),
        }
    }

    /// Whether the device is done with the request.
    pub fn is_done(&self, work: &Work) -> bool {
        busy(&self.registers).is_ok_and(|busy| match work {
            Work::Plain(Plain::Factorial { .. }) => !busy.computing,
            Work::Store(_) | Work::Plain(Plain::Direct { .. }) => !busy.transferring,
        })
    }

    /// Collects the result of a request that the device is done with.
    ///
    /// # Errors
    ///
    /// Where it does not fit the registers or the common buffer.
    pub fn collect(&self, irp: &IrpRef, work: &Work) -> Result<u32> {
        match work {
            // No factorial modulo 2^32 has all bits set: the device was pulled out since it said that it was done.
            Work::Plain(Plain::Factorial { .. }) => match self.registers.read_u32(register::FACTORIAL)? {
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
        self.registers.write_u64(register::DMA_SOURCE, source)?;
        self.registers.write_u64(register::DMA_DESTINATION, destination)?;
        self.registers.write_u64(register::DMA_COUNT, transfer.length.into())?;
        self.registers.write_u32(register::DMA_COMMAND, RUN | direction | interrupt)
    }
}
