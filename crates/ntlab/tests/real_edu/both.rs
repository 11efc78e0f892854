//! Runs a program on the model and on the real device.

use std::{
    fmt,
    time::{Duration, Instant},
};

use ntlab::hw::{
    edu::{BUFFER_START, COMPUTING, DMA_COMMAND, EduModel, FACTORIAL, RUN, STATUS},
    pci::{BAR0, Message},
    qemu::{MAILBOX, Qemu},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    model::State,
    program::{COMMAND, Interrupts, MSI_CONTROL, Step},
};

const BAR: u64 = 0xE000_0000;
/// Memory and bus master.
const ENABLED: u16 = 0x0006;
const MSI_ADDRESS: usize = 0x44;
const RAISE: u64 = 0x60;
const MEMORY: u64 = 0x0100_0000;
/// Steps for which the device may be left to work at its own pace.
const LEEWAY: u32 = 4;
/// States of the model that are kept before that.
const MOST_STATES: usize = 40;
/// How long, on the host, that may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the model and the device differ.
#[derive(Debug)]
pub struct Difference {
    pub step: usize,
    pub sentence: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.step, self.sentence)
    }
}

/// The real device, and every state that the model can be in.
struct Both {
    qemu: Qemu,
    states: Vec<State>,
    /// Changes of the line and the last message since they were compared.
    line: Vec<bool>,
    message: Option<Message>,
    busy_steps: u32,
    done: Done,
}

/// How often both did what, and were compared.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Done {
    pub reads: usize,
    pub to_memory: usize,
    pub to_device: usize,
    pub line_changes: usize,
    pub messages: usize,
    pub resets: usize,
    pub resets_in_transfer: usize,
}

/// Runs a program on a device that was just powered on.
pub fn run(steps: &[Step], interrupts: Interrupts, model: &EduModel) -> Result<Done, Difference> {
    let mut both = Both::new(interrupts, model);
    for (step, action) in steps.iter().chain([&Step::Wait]).enumerate() {
        let done = both.step(action, interrupts).and_then(|()| both.after_step());
        done.map_err(|sentence| Difference { step, sentence: format!("{action:x?}: {sentence}") })?;
    }
    Ok(both.done)
}

/// What the comparison says when the device signals an interrupt that the model does not.
pub fn signal_unknown(interrupts: Interrupts, model: &EduModel) -> Result<(), String> {
    let mut both = Both::new(interrupts, model);
    both.qemu.write(BAR + RAISE, 4, 1).expect("the device is there");
    both.wait()
}

/// Resets the bus while a transfer to memory is under way, and lets that end before anything else happens.
pub fn reset_in_transfer(model: &EduModel) -> Result<(), String> {
    let mut both = Both::new(Interrupts::Line, model);
    both.fill(MEMORY, 64, 1);
    for (offset, value) in [(0x80, BUFFER_START), (0x88, MEMORY), (0x90, 64), (DMA_COMMAND, 3)] {
        both.write(offset, 8, value);
    }
    both.qemu.reset().expect("the device is there");
    both.states.iter_mut().for_each(State::reset);
    both.states = all_possible(&both.states);
    // More than the device needs.
    std::thread::sleep(Duration::from_millis(50));
    both.states.retain(State::is_idle);
    both.set_up(Interrupts::Line);
    both.wait()
}

/// What it says when the model signals an interrupt that the device does not.
pub fn miss_signal(interrupts: Interrupts, model: &EduModel) -> Result<(), String> {
    let mut both = Both::new(interrupts, model);
    both.states.iter_mut().for_each(|state| state.write(RAISE, 4, 1));
    both.wait()
}

impl Both {
    fn new(interrupts: Interrupts, model: &EduModel) -> Self {
        let qemu = Qemu::start().unwrap_or_else(|error| panic!("{error}"));
        let states = vec![State::new(model)];
        let mut both = Self { qemu, states, line: vec![], message: None, busy_steps: 0, done: Done::default() };
        both.set_up(interrupts);
        both
    }

    fn set_up(&mut self, interrupts: Interrupts) {
        let messages = u8::from(interrupts == Interrupts::Message);
        self.configure(MSI_ADDRESS, &MAILBOX.to_le_bytes());
        self.configure(MSI_CONTROL, &[messages, 0]);
        self.configure(BAR0, &0xE000_0000u32.to_le_bytes());
        self.configure(COMMAND, &ENABLED.to_le_bytes());
    }

    fn step(&mut self, step: &Step, interrupts: Interrupts) -> Result<(), String> {
        match step {
            Step::Read { offset, size } if self.answers() => self.read(*offset, *size)?,
            Step::Write { offset, size, value } if self.answers() => self.write(*offset, *size, *value),
            Step::Read { .. } | Step::Write { .. } => {}
            Step::ReadConfig { offset } => {
                let found = self.qemu.read_config(*offset).expect("the device is there");
                self.keep(|state| state.read_config(*offset), &found)?;
            }
            Step::WriteConfig { offset, bytes } => self.configure(*offset, bytes),
            Step::Fill { address, length, seed } => self.fill(*address, *length, *seed),
            Step::Wait => self.wait()?,
            Step::Reset => {
                self.done.resets += 1;
                self.done.resets_in_transfer += usize::from(self.states.iter().any(|state| state.transfer().is_some()));
                self.let_time_pass();
                self.qemu.reset().expect("the device is there");
                // What was under way may have ended before it, and may end before the command register is written again.
                self.let_time_pass();
                self.states.iter_mut().for_each(State::reset);
                self.let_time_pass();
                self.set_up(interrupts);
            }
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        self.states.iter().all(State::answers)
    }

    fn read(&mut self, offset: u64, size: u8) -> Result<(), String> {
        let found = self.qemu.read(BAR + offset, size).expect("the device is there");
        self.done.reads += 1;
        self.keep(|state| state.read(offset, size), &found)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        let possible = all_possible(&self.states);
        if possible.iter().any(|state| state.is_fatal(offset, size, value)) {
            return;
        }
        self.states = possible;
        self.qemu.write(BAR + offset, size, value).expect("the device is there");
        let idle = self.states.iter().all(|state| state.transfer().is_none());
        self.states.iter_mut().for_each(|state| state.write(offset, size, value));
        if let Some(transfer) = self.states.iter().find_map(State::transfer).filter(|_| idle) {
            let count = if transfer.to_memory { &mut self.done.to_memory } else { &mut self.done.to_device };
            *count += 1;
        }
    }

    fn configure(&mut self, offset: usize, bytes: &[u8]) {
        self.let_time_pass();
        self.qemu.write_config(offset, bytes).expect("the device is there");
        self.states.iter_mut().for_each(|state| state.write_config(offset, bytes));
    }

    fn fill(&mut self, address: u64, length: usize, seed: u64) {
        let mut bytes = vec![0; length];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        self.let_time_pass();
        // Not while a transfer runs, which would be seen in part.
        if self.states.iter().all(State::is_idle) {
            self.qemu.write_ram(address, &bytes).expect("the device is there");
            self.states.iter_mut().for_each(|state| state.write_memory(address, &bytes));
        }
    }

    fn let_time_pass(&mut self) {
        if self.states.iter().all(State::is_idle) {
            return;
        }
        self.states = all_possible(&self.states);
    }

    /// Keeps the states in which the model has what was found.
    fn keep<T: PartialEq + fmt::LowerHex>(&mut self, of: impl Fn(&State) -> T, found: &T) -> Result<(), String> {
        self.let_time_pass();
        let expected: Vec<String> = self.states.iter().map(|state| format!("{:#x}", of(state))).collect();
        self.states.retain(|state| of(state) == *found);
        if self.states.is_empty() {
            return Err(format!("the device has {found:#x}, the model {}", expected.join(" or ")));
        }
        Ok(())
    }

    /// Compares what was signalled, or leaves the device some time for what it has under way.
    fn after_step(&mut self) -> Result<(), String> {
        self.listen();
        if self.states.iter().all(State::is_idle) {
            self.busy_steps = 0;
            return self.compare_signals();
        }
        self.busy_steps += 1;
        if self.busy_steps > LEEWAY || self.states.len() > MOST_STATES { self.wait() } else { Ok(()) }
    }

    fn listen(&mut self) {
        self.line.extend(self.qemu.take_line());
        let message = self.qemu.take_message().expect("the device is there");
        self.message = message.or(self.message);
        // What was signalled before the device answered is known. More may be: the states have not gone on since then.
        let (line, message) = (&self.line, self.message);
        let possible = |state: &State| line.starts_with(&state.line) && (state.message.is_none() || message.is_some());
        if self.states.iter().any(possible) {
            self.states.retain(possible);
        }
    }

    fn compare_signals(&mut self) -> Result<(), String> {
        let expected: Vec<_> = self.states.iter().map(|state| (state.line.clone(), state.message)).collect();
        let (line, message) = (std::mem::take(&mut self.line), self.message.take());
        self.done.line_changes += line.len();
        self.done.messages += usize::from(message.is_some());
        self.states.retain(|state| state.line == line && state.message == message);
        for state in &mut self.states {
            state.line.clear();
            state.message = None;
        }
        if self.states.is_empty() {
            return Err(format!("the device signals {line:?} {message:x?}, the model one of {expected:x?}"));
        }
        Ok(())
    }

    /// Waits until the device does nothing and has signalled all that it will; compares that, and memory.
    fn wait(&mut self) -> Result<(), String> {
        if !self.answers() {
            self.configure(COMMAND, &ENABLED.to_le_bytes());
        }
        self.wait_until_idle()?;
        self.read(FACTORIAL, 4)?;
        if !self.states.iter().all(State::is_idle) {
            self.flush()?;
        }
        self.busy_steps = 0;
        self.listen();
        self.compare_signals()?;
        self.compare_memory()
    }

    /// The device computes one thing after the other, an interrupt is the last part of each: when another factorial, one that does not
    /// interrupt, is computed, it has signalled what belongs to those before.
    fn flush(&mut self) -> Result<(), String> {
        let status = self.qemu.read(BAR + STATUS, 4).expect("the device is there");
        self.write(STATUS, 4, 0);
        self.write(FACTORIAL, 4, 0);
        self.wait_until_idle()?;
        self.let_time_pass();
        self.states.retain(State::is_idle);
        self.write(STATUS, 4, status);
        Ok(())
    }

    fn wait_until_idle(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while self.is_busy() {
            assert!(started.elapsed() < PATIENCE, "QEMU works on one thing for {PATIENCE:?}");
        }
        self.read(STATUS, 4)?;
        self.read(DMA_COMMAND, 8)
    }

    fn is_busy(&mut self) -> bool {
        let status = self.qemu.read(BAR + STATUS, 4).expect("the device is there");
        let command = self.qemu.read(BAR + DMA_COMMAND, 8).expect("the device is there");
        status & u64::from(COMPUTING) | command & RUN != 0
    }

    fn compare_memory(&mut self) -> Result<(), String> {
        let mut pages: Vec<u64> = self.states.iter().flat_map(|state| state.memory.keys().copied()).collect();
        pages.sort_unstable();
        pages.dedup();
        for page in pages {
            let mut found = vec![0; 4096];
            self.qemu.read_ram(page, &mut found).expect("the device is there");
            self.states.retain(|state| state.memory.get(&page).is_none_or(|expected| **expected == found));
            if self.states.is_empty() {
                return Err(format!("memory differs in the page at {page:#x}"));
            }
        }
        Ok(())
    }
}

fn all_possible(states: &[State]) -> Vec<State> {
    let mut all: Vec<State> = Vec::new();
    for state in states.iter().flat_map(|state| state.clone().possible()) {
        if !all.contains(&state) {
            all.push(state);
        }
    }
    all
}
