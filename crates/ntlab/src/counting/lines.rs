//! Cache lines, and who writes to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    counts::{Described, SharedLine, Writer},
    memory::{self, Found},
};
use crate::{exec::StackFrame, kernel::Kernel};

/// Bytes of a cache line of x64 processors.
const LINE: u64 = 64;

/// What writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum By {
    /// The instruction of a driver at this address.
    Instruction(u64),
    /// A kernel function.
    Kernel(&'static str),
    /// The kernel, before it calls this callback.
    Before(&'static str),
}

#[derive(Debug, Default)]
struct Line {
    processors: BTreeSet<u32>,
    last: u32,
    writes: u64,
    moves: u64,
    by: BTreeMap<By, u64>,
    /// Known as soon as there is a second processor.
    lies: Option<Found>,
}

/// All lines that were written to, by address.
#[derive(Debug, Default)]
pub struct Lines {
    lines: BTreeMap<u64, Line>,
    left_out: BTreeSet<u64>,
}

impl Lines {
    /// The current processor writes.
    pub fn write(&mut self, k: &Kernel, start: u64, bytes: u64, by: By) {
        if bytes == 0 || k.exec.is_own_stack(start) {
            return;
        }
        for address in (start / LINE..=(start + bytes - 1) / LINE).map(|line| line * LINE) {
            if !self.left_out.contains(&address) {
                self.lines.entry(address).or_default().write(k, address, by);
            }
        }
    }

    /// Counts no writes to the line at an address.
    pub fn leave_out(&mut self, address: u64) {
        self.left_out.insert(address / LINE * LINE);
    }

    /// The instructions that wrote to lines which moved.
    pub fn places(&self) -> impl Iterator<Item = u64> {
        self.lines.values().filter(|line| line.lies.is_some()).flat_map(|line| line.by.keys()).filter_map(|by| match by
        {
            By::Instruction(rip) => Some(*rip),
            By::Kernel(_) | By::Before(_) => None,
        })
    }

    /// The lines that more than one processor wrote to, and how many there are in all.
    pub fn finish(self, k: &Kernel, described: &Described) -> (Vec<SharedLine>, u64) {
        let written = self.lines.len() as u64;
        // Many blocks come from few places, and looking up a place takes long.
        let mut stacks = BTreeMap::new();
        let mut allocated =
            |stack: &Rc<[u64]>| stacks.entry(Rc::clone(stack)).or_insert_with(|| k.exec.describe_stack(stack)).clone();
        let shared = self.lines.into_values().filter_map(|line| line.finish(described, &mut allocated));
        let mut shared: Vec<SharedLine> = shared.collect();
        shared.sort_by_key(|line| std::cmp::Reverse(line.moves));
        (shared, written)
    }
}

impl Line {
    fn write(&mut self, k: &Kernel, address: u64, by: By) {
        let processor = k.processor_index();
        let is_new = self.processors.insert(processor);
        if self.processors.len() > 1 && self.lies.is_none() {
            self.lies = Some(memory::find(k, address));
        }
        self.moves += u64::from(!(self.last == processor || is_new && self.processors.len() == 1));
        self.last = processor;
        self.writes += 1;
        *self.by.entry(by).or_default() += 1;
    }

    fn finish(
        self,
        described: &Described,
        allocated: &mut impl FnMut(&Rc<[u64]>) -> Vec<StackFrame>,
    ) -> Option<SharedLine> {
        let lies = self.lies?.describe(allocated);
        let mut writers: BTreeMap<Writer, u64> = BTreeMap::new();
        for (by, count) in self.by {
            let writer = match by {
                By::Instruction(rip) => Writer::Driver(described.place(rip)),
                By::Kernel(name) => Writer::Function(name),
                By::Before(what) => Writer::Before(what),
            };
            *writers.entry(writer).or_default() += count;
        }
        let processors = self.processors.into_iter().collect();
        let writers = writers.into_iter().collect();
        Some(SharedLine { lies, processors, writes: self.writes, moves: self.moves, writers })
    }
}
