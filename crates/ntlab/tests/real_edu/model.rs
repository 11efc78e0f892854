//! The model of the device with what it has under way.

use std::{collections::BTreeMap, rc::Rc};

use ntlab::hw::{
    edu::{Edu, EduModel, Effect, INTERRUPT_WHEN_COMPUTED, REASON_FACTORIAL, STATUS, Transfer},
    pci::{self, Function, Message, Signal},
    qemu::MAILBOX,
};

const PAGE: u64 = 4096;
const RAISE: u64 = 0x60;

/// Memory that was written to, by page. States share what they have in common.
pub type Memory = BTreeMap<u64, Rc<Vec<u8>>>;

/// What a factorial has still to do when its result is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tail {
    Nothing,
    /// It looks whether it is to interrupt.
    Look,
    Interrupt,
}

/// One way that things can have gone. The device works at its own pace: what it has under way may be done, or not yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    computing: bool,
    tail: Tail,
    transferring: bool,
    /// Changes of the line and the last message since they were compared.
    pub line: Vec<bool>,
    pub message: Option<Message>,
    edu: Edu,
    function: Function,
    pub memory: Memory,
}

impl State {
    pub fn new(model: &EduModel) -> Self {
        Self {
            edu: Edu::new(model.clone()),
            function: Function::new(pci::EDU, 0x10_0000, true),
            memory: Memory::new(),
            computing: false,
            tail: Tail::Nothing,
            transferring: false,
            line: Vec::new(),
            message: None,
        }
    }

    /// The transfer that is under way.
    pub fn transfer(&self) -> Option<Transfer> {
        self.edu.transfer().ok().filter(|_| self.transferring)
    }

    pub fn is_idle(&self) -> bool {
        !self.computing && !self.transferring && self.tail == Tail::Nothing
    }

    /// Whether it answers accesses to its registers.
    pub fn answers(&self) -> bool {
        self.function.bar0().is_some()
    }

    pub fn read(&self, offset: u64, size: u8) -> u64 {
        self.edu.read(offset, size)
    }

    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        for effect in self.edu.write(offset, size, value) {
            match effect {
                Effect::Factorial(_) => self.computing = true,
                Effect::Dma => self.transferring = true,
                Effect::Interrupt | Effect::Acknowledged => self.signal(effect),
            }
        }
    }

    /// Whether a write starts a transfer that the device does not survive.
    pub fn is_fatal(&self, offset: u64, size: u8, value: u64) -> bool {
        let mut edu = self.edu.clone();
        edu.write(offset, size, value).contains(&Effect::Dma) && edu.transfer().is_err()
    }

    pub fn read_config(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.function.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub fn write_config(&mut self, offset: usize, bytes: &[u8]) {
        let signal = self.function.write_config(offset, bytes);
        self.note(signal);
    }

    pub fn reset(&mut self) {
        let still_masters = self.edu.model().masters_after_reset;
        let signal = if still_masters { self.function.reset_as_qemu() } else { self.function.reset() };
        self.note(signal);
    }

    pub fn write_memory(&mut self, address: u64, bytes: &[u8]) {
        for (address, byte) in (address..).zip(bytes) {
            *self.byte(address) = *byte;
        }
    }

    fn byte(&mut self, address: u64) -> &mut u8 {
        let page = self.memory.entry(address / PAGE * PAGE).or_insert_with(|| Rc::new(vec![0; 4096]));
        &mut Rc::make_mut(page)[usize::try_from(address % PAGE).expect("an offset in a page")]
    }

    /// The states that can come of this one while nobody does anything, itself among them.
    pub fn possible(self) -> Vec<Self> {
        let mut all = vec![self];
        let mut next = 0;
        while let Some(state) = all.get(next).cloned() {
            next += 1;
            for later in [state.clone().go_on(), state.end_transfer()].into_iter().flatten() {
                if !all.contains(&later) {
                    all.push(later);
                }
            }
        }
        all
    }

    /// The factorial's next step, if there is one: result, look, interrupt.
    fn go_on(mut self) -> Option<Self> {
        match self.tail {
            Tail::Nothing if self.computing => {
                self.computing = false;
                self.tail = Tail::Look;
                let interrupt = self.edu.read(STATUS, 4) & u64::from(INTERRUPT_WHEN_COMPUTED);
                self.edu.write(STATUS, 4, 0);
                self.edu.finish_factorial();
                self.edu.write(STATUS, 4, interrupt);
            }
            Tail::Nothing => return None,
            Tail::Look => {
                let wanted = self.edu.read(STATUS, 4) & u64::from(INTERRUPT_WHEN_COMPUTED) != 0;
                self.tail = if wanted { Tail::Interrupt } else { Tail::Nothing };
            }
            Tail::Interrupt => {
                self.tail = Tail::Nothing;
                self.write(RAISE, 4, REASON_FACTORIAL.into());
            }
        }
        Some(self)
    }

    fn end_transfer(mut self) -> Option<Self> {
        if !std::mem::take(&mut self.transferring) {
            return None;
        }
        let Transfer { address, offset, count, to_memory } = self.edu.transfer().expect("only such are started");
        let bus_master = self.function.is_bus_master();
        for (address, at) in (address..).zip(offset..offset + count) {
            match (to_memory, bus_master) {
                (true, true) => *self.byte(address) = self.edu.buffer()[at],
                (true, false) => {}
                (false, true) => self.edu.buffer_mut()[at] = *self.byte(address),
                (false, false) => self.edu.buffer_mut()[at] = 0,
            }
        }
        if let Some(effect) = self.edu.finish_dma() {
            self.signal(effect);
        }
        Some(self)
    }

    fn signal(&mut self, effect: Effect) {
        let signal = if effect == Effect::Interrupt { self.function.raise() } else { self.function.acknowledge() };
        self.note(signal);
    }

    fn note(&mut self, signal: Signal) {
        match signal {
            Signal::LineUp => self.line.push(true),
            Signal::LineDown => self.line.push(false),
            Signal::Message(message) => self.message = Some(Message { address: MAILBOX, ..message }),
            Signal::Nothing => {}
        }
    }
}
