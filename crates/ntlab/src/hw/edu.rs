//! The `edu` device's registers, buffer and DMA engine, as QEMU 7.2 has them (its docs/specs/edu).
//!
//! Nothing here knows of time or interrupt routing: a write tells what it started, and whoever keeps the time says when that ends.

/// What can differ between one `edu` and another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EduModel {
    /// How many bytes of the buffer a transfer can reach: 4,095 to QEMU 8, 4,096 later.
    pub reach: u64,
    /// Applied to the start address of a transfer.
    pub dma_mask: u64,
    /// After a bus reset, transfers reach memory as before until the command register is written; else they do not.
    pub masters_after_reset: bool,
    /// How long a transfer takes, in nanoseconds.
    pub dma_time: u64,
    /// How long starting a factorial takes, in nanoseconds.
    pub factorial_latency: u64,
    /// How long one multiplication of a factorial takes, in picoseconds.
    pub multiplication_time: u64,
    /// The device takes every request and never finishes it.
    pub stuck: bool,
}

impl EduModel {
    /// QEMU 7.2, with `-device edu` and nothing else.
    pub const QEMU_7: Self = Self {
        reach: 4095,
        dma_mask: 0x0FFF_FFFF,
        masters_after_reset: true,
        dma_time: 100_000_000,
        factorial_latency: 25_000,
        multiplication_time: 680,
        stuck: false,
    };
    /// QEMU 9.0 and later: the whole buffer can be reached.
    pub const QEMU_9: Self = Self { reach: 4096, ..Self::QEMU_7 };

    /// The variant that a version of QEMU has. Maintenance releases of 8.2 may have that of 9.0: what stays inside the tighter limits
    /// works with both.
    #[must_use]
    pub const fn of_qemu(major: u32) -> Self {
        if major < 9 { Self::QEMU_7 } else { Self::QEMU_9 }
    }

    /// What a transfer does with these values of source, destination, count and command.
    ///
    /// # Errors
    ///
    /// It reaches outside the buffer.
    pub fn transfer(&self, registers: [u64; 4]) -> Result<Transfer, OutOfBuffer> {
        let [source, destination, count, command] = registers;
        let to_memory = command & TO_MEMORY != 0;
        let (start, address) = if to_memory { (source, destination) } else { (destination, source) };
        let outside = OutOfBuffer { start, count };
        let offset = start.checked_sub(BUFFER_START).ok_or(outside)?;
        let end = offset.checked_add(count).ok_or(outside)?;
        if count == 0 || end > self.reach {
            return Err(outside);
        }
        let (Ok(offset), Ok(count)) = (usize::try_from(offset), usize::try_from(count)) else { return Err(outside) };
        Ok(Transfer { address: address & self.dma_mask, offset, count, to_memory })
    }

    /// How long the factorial of `input` takes, in nanoseconds: one multiplication for each number, without an early exit.
    #[must_use]
    pub fn factorial_time(&self, input: u32) -> u64 {
        self.factorial_latency + u64::from(input) * self.multiplication_time / 1000
    }
}

/// What a write to a register made the device do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It computes the factorial of this number; [`Edu::finish_factorial`] ends it.
    Factorial(u32),
    /// It runs a DMA transfer; [`Edu::finish_dma`] ends it.
    Dma,
    /// It signals an interrupt.
    Interrupt,
    /// The last interrupt reason was acknowledged.
    Acknowledged,
}

/// What a transfer does to memory when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Physical address in memory.
    pub address: u64,
    /// Offset in the device's buffer.
    pub offset: usize,
    /// Bytes.
    pub count: usize,
    /// From the device's buffer to memory.
    pub to_memory: bool,
}

/// A transfer outside the device's buffer: QEMU ends with `hw_error` when such a transfer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("DMA of {count:#x} bytes at device address {start:#x}, outside the device's buffer")]
pub struct OutOfBuffer {
    /// Start address on the device's side.
    pub start: u64,
    /// Bytes.
    pub count: u64,
}

/// Offset of the factorial register.
pub const FACTORIAL: u64 = 0x08;
/// Offset of the status register.
pub const STATUS: u64 = 0x20;
/// Offset of the interrupt status register.
pub const REASONS: u64 = 0x24;
/// Offset of the first DMA register; source, destination, count and command are 8 bytes each.
pub const DMA: u64 = 0x80;
/// Offset of the DMA command register.
pub const DMA_COMMAND: u64 = 0x98;
const IDENTIFICATION: u32 = 0x0100_00ED;
/// In [`STATUS`]: a factorial is being computed.
pub const COMPUTING: u32 = 0x01;
/// In [`STATUS`]: interrupt when it is done.
pub const INTERRUPT_WHEN_COMPUTED: u32 = 0x80;
/// In [`REASONS`]: a factorial was computed.
pub const REASON_FACTORIAL: u32 = 0x001;
const REASON_DMA: u32 = 0x100;
/// In [`DMA_COMMAND`]: start; set until the transfer ends.
pub const RUN: u64 = 0x1;
const TO_MEMORY: u64 = 0x2;
const INTERRUPT_WHEN_TRANSFERRED: u64 = 0x4;
/// Where the buffer lies in the DMA engine's view.
pub const BUFFER_START: u64 = 0x40000;
/// The buffer's size.
pub const BUFFER_BYTES: usize = 4096;

/// The device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edu {
    model: EduModel,
    liveness: u32,
    factorial: u32,
    status: u32,
    reasons: u32,
    /// Source, destination, count, command.
    dma: [u64; 4],
    buffer: Box<[u8; BUFFER_BYTES]>,
}

impl Edu {
    /// The device after power on.
    #[must_use]
    pub fn new(model: EduModel) -> Self {
        let buffer = Box::new([0; BUFFER_BYTES]);
        Self { model, liveness: 0, factorial: 0, status: 0, reasons: 0, dma: [0; 4], buffer }
    }

    /// Its variant.
    #[must_use]
    pub const fn model(&self) -> &EduModel {
        &self.model
    }

    /// Changes the variant, as a device does that gets stuck.
    pub const fn model_mut(&mut self) -> &mut EduModel {
        &mut self.model
    }

    /// The buffer.
    #[must_use]
    pub fn buffer(&self) -> &[u8; BUFFER_BYTES] {
        &self.buffer
    }

    /// The buffer, for the end of a transfer.
    pub fn buffer_mut(&mut self) -> &mut [u8; BUFFER_BYTES] {
        &mut self.buffer
    }

    /// Reads `size` bytes at `offset` of BAR0.
    #[must_use]
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        parts(offset, size).fold(0, |value, part| value | self.read_part(part) << part.shift)
    }

    /// Writes `size` bytes at `offset` of BAR0.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Vec<Effect> {
        parts(offset, size).filter_map(|part| self.write_part(part, value >> part.shift)).collect()
    }

    /// Ends a factorial: the result appears, then "computing" falls, then the interrupt.
    pub fn finish_factorial(&mut self) -> Option<Effect> {
        self.factorial = factorial(self.factorial);
        self.status &= !COMPUTING;
        if self.status & INTERRUPT_WHEN_COMPUTED == 0 { None } else { self.raise(REASON_FACTORIAL) }
    }

    /// What the running transfer will do to memory.
    ///
    /// # Errors
    ///
    /// It reaches outside the buffer.
    pub fn transfer(&self) -> Result<Transfer, OutOfBuffer> {
        self.model.transfer(self.dma)
    }

    /// The address in memory that the running transfer was told, if the device does not have as many address bits.
    #[must_use]
    pub const fn beyond_mask(&self) -> Option<u64> {
        let [source, destination, _, command] = self.dma;
        let address = if command & TO_MEMORY != 0 { destination } else { source };
        if address & !self.model.dma_mask == 0 { None } else { Some(address) }
    }

    /// Whether a transfer is under way.
    #[must_use]
    pub const fn is_transferring(&self) -> bool {
        self.dma[3] & RUN != 0
    }

    /// Ends a transfer whose bytes were moved: RUN falls, then the interrupt.
    pub const fn finish_dma(&mut self) -> Option<Effect> {
        self.dma[3] &= !RUN;
        if self.dma[3] & INTERRUPT_WHEN_TRANSFERRED == 0 { None } else { self.raise(REASON_DMA) }
    }

    fn read_part(&self, part: Part) -> u64 {
        match part.size {
            8 => self.read_wide(part.offset),
            4 => self.read_narrow(part.offset).into(),
            _ => 0,
        }
    }

    fn write_part(&mut self, part: Part, value: u64) -> Option<Effect> {
        match part.size {
            8 => self.write_wide(part.offset, value),
            4 => self.write_narrow(part.offset, low(value)),
            _ => None,
        }
    }

    fn read_narrow(&self, offset: u64) -> u32 {
        match offset {
            0x00 => IDENTIFICATION,
            0x04 => self.liveness,
            0x08 => self.factorial,
            0x20 => self.status,
            0x24 => self.reasons,
            0x80 | 0x88 | 0x90 | 0x98 => low(self.read_wide(offset)),
            _ => u32::MAX,
        }
    }

    fn read_wide(&self, offset: u64) -> u64 {
        wide_register(offset).map_or(u64::MAX, |index| self.dma[index])
    }

    fn write_narrow(&mut self, offset: u64, value: u32) -> Option<Effect> {
        match offset {
            0x04 => self.liveness = !value,
            0x08 if self.status & COMPUTING == 0 => {
                self.factorial = value;
                self.status |= COMPUTING;
                return Some(Effect::Factorial(value));
            }
            0x20 => self.status = self.status & COMPUTING | value & INTERRUPT_WHEN_COMPUTED,
            0x60 => return self.raise(value),
            0x64 => return self.acknowledge(value),
            0x80 | 0x88 | 0x90 | 0x98 => return self.write_wide(offset, u64::from(value)),
            _ => {}
        }
        None
    }

    fn write_wide(&mut self, offset: u64, value: u64) -> Option<Effect> {
        let index = wide_register(offset)?;
        let is_command = index == 3;
        if self.dma[3] & RUN != 0 || is_command && value & RUN == 0 {
            return None;
        }
        self.dma[index] = value;
        is_command.then_some(Effect::Dma)
    }

    const fn raise(&mut self, reasons: u32) -> Option<Effect> {
        self.reasons |= reasons;
        if self.reasons == 0 { None } else { Some(Effect::Interrupt) }
    }

    const fn acknowledge(&mut self, reasons: u32) -> Option<Effect> {
        self.reasons &= !reasons;
        if self.reasons == 0 { Some(Effect::Acknowledged) } else { None }
    }
}

/// A part of an access, as it reaches the registers: those of 1 and 2 bytes read zero and write nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Offset in BAR0, a multiple of the size.
    pub offset: u64,
    /// 1, 2, 4 or 8 bytes.
    pub size: u8,
    /// Where it is in the value, in bits.
    pub shift: u32,
}

/// What an access of `size` bytes at `offset` is split into: the largest aligned parts, so that 8 unaligned bytes hold one aligned access
/// of 4.
pub fn parts(offset: u64, size: u8) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = size.checked_sub(done).filter(|left| *left > 0)?;
        let offset = offset + u64::from(done);
        let aligned = 1 << offset.trailing_zeros().min(3);
        let part = Part { offset, size: aligned.min(1 << left.ilog2()), shift: u32::from(done) * 8 };
        done += part.size;
        Some(part)
    })
}

/// The place of a 64-bit register.
const fn wide_register(offset: u64) -> Option<usize> {
    match offset {
        0x80 => Some(0),
        0x88 => Some(1),
        0x90 => Some(2),
        0x98 => Some(3),
        _ => None,
    }
}

/// n! modulo 2^32. It is 0 from 34 on.
fn factorial(n: u32) -> u32 {
    if n >= 34 { 0 } else { (1..=n).fold(1, u32::wrapping_mul) }
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAISE: u64 = 0x60;
    const ACKNOWLEDGE: u64 = 0x64;
    const SOURCE: u64 = 0x80;
    const DESTINATION: u64 = 0x88;
    const COUNT: u64 = 0x90;
    const COMMAND: u64 = DMA_COMMAND;

    fn edu() -> Edu {
        Edu::new(EduModel::QEMU_7)
    }

    fn edu_with_transfer(source: u64, destination: u64, count: u64, command: u64) -> Edu {
        let mut edu = edu();
        for (register, value) in [(SOURCE, source), (DESTINATION, destination), (COUNT, count)] {
            assert_eq!(edu.write(register, 8, value), []);
        }
        assert_eq!(edu.write(COMMAND, 8, command), [Effect::Dma]);
        edu
    }

    #[test]
    fn accesses_of_one_or_two_bytes_and_unaligned_ones_read_zero_and_write_nothing() {
        let mut edu = edu();
        for (offset, size) in [(0, 1), (0, 2), (1, 4), (2, 4), (0x83, 4)] {
            assert_eq!(edu.read(offset, size), 0, "{size} bytes at {offset:#x}");
        }
        for (offset, size) in [(0x04, 1), (0x04, 2), (0x08, 2), (0x06, 4), (0x60, 1)] {
            assert_eq!(edu.write(offset, size, 5), [], "{size} bytes at {offset:#x}");
        }
        assert_eq!((edu.read(0x04, 4), edu.read(FACTORIAL, 4), edu.read(SOURCE, 8)), (0, 0, 0));
    }

    #[test]
    fn aligned_eight_byte_accesses_below_0x80_read_ones_and_write_nothing() {
        let mut edu = edu();
        for offset in (0..0x80).step_by(8) {
            assert_eq!(edu.read(offset, 8), u64::MAX);
            assert_eq!(edu.write(offset, 8, 3), []);
        }
        assert_eq!(edu.read(FACTORIAL, 4), 0);
    }

    #[test]
    fn eight_bytes_at_4_modulo_8_are_two_accesses_so_that_a_write_at_4_starts_a_factorial() {
        let mut edu = edu();
        assert_eq!(edu.write(0x04, 8, 5 << 32 | 0x1234), [Effect::Factorial(5)]);
        assert_eq!(edu.read(0x04, 8), 5 << 32 | 0xFFFF_EDCB);
        assert_eq!(edu.read(0x7C, 8), 0xFFFF_FFFF);
    }

    #[test]
    fn eight_unaligned_bytes_are_zeros_around_one_aligned_access_of_four() {
        let mut edu = edu();
        assert_eq!(edu.write(0x04, 4, 0x1122_3344), []);
        assert_eq!(edu.read(0x01, 8), 0x00EE_DDCC_BB00_0000);
        assert_eq!(edu.read(0x03, 8), 0x0000_00EE_DDCC_BB00);
        assert_eq!(edu.write(0x06, 8, 0x1111_0000_0005_4444), [Effect::Factorial(5)]);
        assert_eq!(edu.write(0x5F, 8, 0xFFFF_FF00_0000_12FF), [Effect::Interrupt]);
        assert_eq!(edu.read(REASONS, 4), 0x12);
    }

    #[test]
    fn unmapped_and_write_only_registers_read_ones() {
        let edu = edu();
        for offset in [0x0C, 0x10, 0x28, RAISE, ACKNOWLEDGE, 0x7C, 0x84, 0x8C, 0x94, 0x9C, 0xA0, 0x40000, 0xF_FFFC] {
            assert_eq!(edu.read(offset, 4), 0xFFFF_FFFF, "{offset:#x}");
        }
        for offset in [0xA0, 0x40000, 0xF_FFF8] {
            assert_eq!(edu.read(offset, 8), u64::MAX, "{offset:#x}");
        }
    }

    #[test]
    fn identification_is_read_only() {
        let mut edu = edu();
        assert_eq!(edu.write(0, 4, 7), []);
        assert_eq!(edu.read(0, 4), 0x0100_00ED);
    }

    #[test]
    fn liveness_starts_at_zero_and_reads_the_complement_of_what_was_written() {
        let mut edu = edu();
        assert_eq!(edu.read(4, 4), 0);
        assert_eq!(edu.write(4, 4, 0x00FF_00FF), []);
        assert_eq!(edu.read(4, 4), 0xFF00_FF00);
    }

    #[test]
    fn factorials_are_modulo_2_to_the_32() {
        for (n, expected) in [(0, 1), (1, 1), (5, 120), (12, 479_001_600), (13, 1_932_053_504), (34, 0), (u32::MAX, 0)]
        {
            let mut edu = edu();
            assert_eq!(edu.write(FACTORIAL, 4, u64::from(n)), [Effect::Factorial(n)]);
            assert_eq!(edu.finish_factorial(), None);
            assert_eq!(edu.read(FACTORIAL, 4), expected, "{n}!");
        }
        assert_ne!(factorial(33), 0);
    }

    #[test]
    fn while_computing_the_factorial_register_reads_its_input_and_ignores_writes() {
        let mut edu = edu();
        assert_eq!(edu.write(FACTORIAL, 4, 6), [Effect::Factorial(6)]);
        assert_eq!(edu.write(FACTORIAL, 4, 3), []);
        assert_eq!((edu.read(FACTORIAL, 4), edu.read(STATUS, 4)), (6, 1));
        assert_eq!(edu.finish_factorial(), None);
        assert_eq!((edu.read(FACTORIAL, 4), edu.read(STATUS, 4)), (720, 0));
    }

    #[test]
    fn of_the_status_only_the_interrupt_bit_is_writable() {
        let mut edu = edu();
        assert_eq!(edu.write(STATUS, 4, 0xFFFF_FFFF), []);
        assert_eq!(edu.read(STATUS, 4), 0x80);
        assert_eq!(edu.write(FACTORIAL, 4, 1), [Effect::Factorial(1)]);
        assert_eq!(edu.write(STATUS, 4, 0), []);
        assert_eq!(edu.read(STATUS, 4), 0x01);
    }

    #[test]
    fn the_interrupt_bit_is_tested_when_the_factorial_ends() {
        let mut edu = edu();
        assert_eq!(edu.write(FACTORIAL, 4, 4), [Effect::Factorial(4)]);
        assert_eq!(edu.write(STATUS, 4, 0x80), []);
        assert_eq!(edu.finish_factorial(), Some(Effect::Interrupt));
        assert_eq!((edu.read(STATUS, 4), edu.read(REASONS, 4)), (0x80, 1));
    }

    #[test]
    fn raise_adds_reasons_and_signals_each_time_there_is_one_even_for_value_zero() {
        let mut edu = edu();
        assert_eq!(edu.write(RAISE, 4, 0), []);
        assert_eq!(edu.write(RAISE, 4, 0x12), [Effect::Interrupt]);
        assert_eq!(edu.write(RAISE, 4, 0), [Effect::Interrupt]);
        assert_eq!(edu.write(RAISE, 4, 0x01), [Effect::Interrupt]);
        assert_eq!(edu.read(REASONS, 4), 0x13);
    }

    #[test]
    fn the_interrupt_status_is_read_only() {
        let mut edu = edu();
        assert_eq!(edu.write(REASONS, 4, 0xFF), []);
        assert_eq!(edu.read(REASONS, 4), 0);
    }

    #[test]
    fn the_line_may_fall_only_when_the_last_reason_is_acknowledged() {
        let mut edu = edu();
        assert_eq!(edu.write(RAISE, 4, 0x101), [Effect::Interrupt]);
        assert_eq!(edu.write(ACKNOWLEDGE, 4, 0x001), []);
        assert_eq!(edu.read(REASONS, 4), 0x100);
        assert_eq!(edu.write(ACKNOWLEDGE, 4, 0x100), [Effect::Acknowledged]);
    }

    #[test]
    fn four_byte_accesses_to_dma_registers_zero_extend_and_their_upper_halves_cannot_be_written() {
        let mut edu = edu();
        assert_eq!(edu.write(SOURCE, 8, 0x1122_3344_5566_7788), []);
        assert_eq!(edu.read(SOURCE, 4), 0x5566_7788);
        assert_eq!(edu.write(SOURCE + 4, 4, 9), []);
        assert_eq!(edu.read(SOURCE, 8), 0x1122_3344_5566_7788);
        assert_eq!(edu.write(SOURCE, 4, 0xFFFF_FFFF), []);
        assert_eq!(edu.read(SOURCE, 8), 0xFFFF_FFFF);
    }

    #[test]
    fn dma_registers_ignore_writes_while_a_transfer_runs() {
        let mut edu = edu_with_transfer(0x1000, BUFFER_START, 16, 1);
        for register in [SOURCE, DESTINATION, COUNT, COMMAND] {
            assert_eq!(edu.write(register, 8, 0x77), []);
        }
        assert_eq!(edu.transfer(), Ok(Transfer { address: 0x1000, offset: 0, count: 16, to_memory: false }));
        assert_eq!(edu.finish_dma(), None);
        assert_eq!(edu.write(SOURCE, 8, 0x77), []);
        assert_eq!(edu.read(SOURCE, 8), 0x77);
    }

    #[test]
    fn a_command_without_run_is_ignored() {
        let mut edu = edu();
        assert_eq!(edu.write(COMMAND, 8, 0x6), []);
        assert_eq!(edu.read(COMMAND, 8), 0);
    }

    #[test]
    fn the_end_of_a_transfer_clears_run_only_and_then_interrupts() {
        let mut edu = edu_with_transfer(BUFFER_START, 0x2000, 8, 7);
        assert_eq!(edu.read(COMMAND, 8), 7);
        assert_eq!(edu.finish_dma(), Some(Effect::Interrupt));
        assert_eq!((edu.read(COMMAND, 8), edu.read(REASONS, 4)), (6, 0x100));
    }

    #[test]
    fn the_dma_mask_applies_to_the_start_address_only() {
        let edu = edu_with_transfer(BUFFER_START + 8, 0x1FFF_FFF8, 16, 3);
        assert_eq!(edu.transfer(), Ok(Transfer { address: 0x0FFF_FFF8, offset: 8, count: 16, to_memory: true }));
        assert_eq!(edu_with_transfer(0x1000_1000, BUFFER_START, 1, 1).transfer().map(|t| t.address), Ok(0x1000));
    }

    #[test]
    fn a_transfer_must_stay_inside_the_buffer_whose_last_byte_qemu_7_cannot_reach() {
        let limits = [(BUFFER_START, 4095, true), (BUFFER_START, 4096, false), (BUFFER_START + 4094, 1, true)];
        let outside = [
            (BUFFER_START + 4095, 1, false),
            (BUFFER_START - 1, 2, false),
            (BUFFER_START, 0, false),
            (u64::MAX, 1, false),
            (BUFFER_START, u64::MAX, false),
        ];
        for (start, count, fits) in limits.into_iter().chain(outside) {
            assert_eq!(
                edu_with_transfer(start, 0x1000, count, 3).transfer().is_ok(),
                fits,
                "{count} bytes at {start:#x}"
            );
        }
        let mut newer = Edu::new(EduModel { reach: 4096, ..EduModel::QEMU_7 });
        for (register, value) in [(SOURCE, BUFFER_START), (COUNT, 4096), (COMMAND, 3)] {
            newer.write(register, 8, value);
        }
        assert!(newer.transfer().is_ok());
    }

    #[test]
    fn a_factorial_takes_as_long_as_its_multiplications() {
        let time = |input| EduModel::QEMU_7.factorial_time(input) / 100_000_000;
        assert_eq!((time(1_000_000_000), time(u32::MAX)), (6, 29));
    }
}
