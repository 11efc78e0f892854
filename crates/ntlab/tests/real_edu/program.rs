//! Random programs for a device.

use ntlab::hw::edu::{BUFFER_START, EduModel, FACTORIAL, parts};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the device signals when a program begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupts {
    Line,
    Message,
}

/// One thing that a program does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Read {
        offset: u64,
        size: u8,
    },
    Write {
        offset: u64,
        size: u8,
        value: u64,
    },
    ReadConfig {
        offset: usize,
    },
    WriteConfig {
        offset: usize,
        bytes: Vec<u8>,
    },
    /// Fills memory with bytes that follow from a seed.
    Fill {
        address: u64,
        length: usize,
        seed: u64,
    },
    /// Waits until the device does nothing; all of memory is compared.
    Wait,
    /// Resets the bus and sets the function up again.
    Reset,
}

pub const COMMAND: usize = 0x04;
pub const MSI_CONTROL: usize = 0x42;
const MSI_DATA: usize = 0x4C;
/// Where transfers go to: in the middle of memory, and up to the highest address that the device drives.
const MEMORY: [u64; 2] = [0x0100_0000, 0x0FFF_F000];
const MEMORY_BYTES: u64 = 0x1800;
/// The largest number whose factorial is asked for: a quarter of a millisecond.
const LARGEST: u64 = 0x3_FFFF;
/// Registers, and around them.
const OFFSETS: [u64; 20] = [
    0x00, 0x04, 0x08, 0x0C, 0x10, 0x1C, 0x20, 0x24, 0x5C, 0x60, 0x64, 0x7C, 0x80, 0x84, 0x88, 0x90, 0x94, 0x98, 0xA0,
    0x4_0000,
];
/// What the command register may be: memory, bus master, and interrupt disable are switched.
const COMMANDS: [u16; 6] = [0x006, 0x006, 0x006, 0x002, 0x406, 0x107];
/// Configuration space that software must not change, or that has no effect.
const READ_ONLY: [usize; 8] = [0x00, 0x02, 0x08, 0x2C, 0x34, 0x3D, 0x40, 0x60];

struct Generator<'m> {
    random: ChaCha8Rng,
    model: &'m EduModel,
    steps: Vec<Step>,
}

/// A program of `count` steps.
pub fn program(seed: u64, interrupts: Interrupts, count: usize, model: &EduModel) -> Vec<Step> {
    let random = ChaCha8Rng::seed_from_u64(seed << 1 | u64::from(interrupts == Interrupts::Message));
    let mut generator = Generator { random, model, steps: Vec::with_capacity(count) };
    while generator.steps.len() < count {
        generator.more();
    }
    generator.steps.truncate(count);
    generator.steps
}

impl Generator<'_> {
    fn more(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => {
                let (offset, size) = self.place();
                self.steps.push(Step::Read { offset, size });
            }
            30..60 => self.write(),
            60..72 => self.transfer(),
            72..78 => {
                let (address, length) = self.memory();
                self.steps.push(Step::Fill { address, length, seed: self.random.random() });
            }
            78..83 => self.steps.push(Step::ReadConfig { offset: self.random.random_range(0..64) * 4 }),
            83..90 => self.configure(),
            90..99 => self.steps.push(Step::Wait),
            _ => self.steps.push(Step::Reset),
        }
    }

    /// Mostly registers in their own size.
    fn place(&mut self) -> (u64, u8) {
        let base = OFFSETS[self.random.random_range(0..OFFSETS.len())];
        let odd = if self.one_in(6) { self.random.random_range(0..8) } else { 0 };
        let size = if self.one_in(5) {
            1 << self.random.random_range(0..4)
        } else if base < 0x80 {
            4
        } else {
            8
        };
        (base + odd, size)
    }

    fn write(&mut self) {
        let (offset, size) = self.place();
        let value = match self.random.random_range(0..4) {
            0 => self.random.random(),
            1 => self.random.random_range(0..40),
            2 => 1 << self.random.random_range(0..64),
            _ => [0x80, 0x01, 0x100, 0x101, 0][self.random.random_range(0..5)],
        };
        // No factorial takes long.
        let started = parts(offset, size).find(|part| (part.offset, part.size) == (FACTORIAL, 4));
        let value = started.map_or(value, |part| value & !((0xFFFF_FFFF ^ LARGEST) << part.shift));
        self.steps.push(Step::Write { offset, size, value });
    }

    /// Source, destination, count, command: within the device's buffer most of the time.
    fn transfer(&mut self) {
        let reach = self.model.reach;
        let offset = self.random.random_range(0..reach);
        let count =
            if self.one_in(6) { reach - offset } else { self.random.random_range(1..=(reach - offset).min(200)) };
        let (memory, _) = self.memory();
        let memory = if self.one_in(6) { memory | self.random.random::<u64>() & !self.model.dma_mask } else { memory };
        let inside = if self.one_in(20) { BUFFER_START - 1 } else { BUFFER_START + offset };
        let to_memory = self.one_in(2);
        let (source, destination) = if to_memory { (inside, memory) } else { (memory, inside) };
        let command = 1 | u64::from(to_memory) << 1 | self.random.random_range(0..2) << 2;
        let size = if self.one_in(5) && memory >> 32 == 0 { 4 } else { 8 };
        for (offset, value) in [(0x80, source), (0x88, destination), (0x90, count), (0x98, command)] {
            self.steps.push(Step::Write { offset, size, value });
        }
    }

    fn memory(&mut self) -> (u64, usize) {
        let start = MEMORY[self.random.random_range(0..MEMORY.len())] + self.random.random_range(0..MEMORY_BYTES);
        let start = start.min(self.model.dma_mask);
        (start, self.random.random_range(1..=600))
    }

    fn configure(&mut self) {
        let (offset, bytes) = match self.random.random_range(0..8) {
            0..3 => (COMMAND, COMMANDS[self.random.random_range(0..COMMANDS.len())].to_le_bytes().to_vec()),
            3..5 => (MSI_CONTROL, vec![self.random.random_range(0..2), 0]),
            5 => (MSI_DATA, self.random.random::<u16>().to_le_bytes().to_vec()),
            6 => (0x3C, vec![self.random.random()]),
            _ => (READ_ONLY[self.random.random_range(0..READ_ONLY.len())], vec![self.random.random()]),
        };
        self.steps.push(Step::WriteConfig { offset, bytes });
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }
}
