//! What was counted.

use std::{collections::BTreeMap, ops::AddAssign};

use serde::Serialize;

use super::memory::Lies;
use crate::{exec::StackFrame, kernel::Kernel};

/// What one kind of call into drivers has done.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Work {
    /// How often the kernel called.
    pub calls: u64,
    /// Instructions of drivers.
    pub instructions: u64,
    /// Calls of kernel functions.
    pub kernel_calls: BTreeMap<&'static str, u64>,
    /// Calls of the kernel's C runtime functions; with [`Detail::Instructions`](super::Detail::Instructions) only, as are atomics.
    pub runtime_calls: BTreeMap<&'static str, u64>,
    /// Bytes of pool that were asked for.
    pub allocated: u64,
    /// Instructions of drivers that read and write memory as one.
    pub atomics: u64,
    /// Those that the kernel functions which drivers called cannot do without: to take a lock, to count a reference, to queue something.
    pub kernel_atomics: u64,
    /// Most bytes of kernel stack below the kernel's call: the driver's frames, and 256 bytes for each kernel function that called back.
    /// With [`Detail::Totals`](super::Detail::Totals) what there was at kernel calls.
    pub deepest_stack: u64,
}

impl Work {
    /// All kernel calls.
    #[must_use]
    pub fn kernel_call_count(&self) -> u64 {
        self.kernel_calls.values().sum()
    }
}

impl AddAssign<&Self> for Work {
    fn add_assign(&mut self, more: &Self) {
        self.calls += more.calls;
        self.instructions += more.instructions;
        self.atomics += more.atomics;
        self.kernel_atomics += more.kernel_atomics;
        self.allocated += more.allocated;
        self.deepest_stack = self.deepest_stack.max(more.deepest_stack);
        for (into, from) in
            [(&mut self.kernel_calls, &more.kernel_calls), (&mut self.runtime_calls, &more.runtime_calls)]
        {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        }
    }
}

/// A kernel call, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Call {
    /// The outermost call into a driver.
    pub within: &'static str,
    /// The innermost.
    pub inside: &'static str,
    /// The function.
    pub name: &'static str,
}

/// An instruction that ran.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InstructionCount {
    /// The outermost call into a driver.
    pub within: &'static str,
    /// Where it is: the function it is in last, those that are inlined there before, innermost first.
    pub frames: Vec<StackFrame>,
    /// How often it ran.
    pub count: u64,
    /// Whether it reads and writes memory as one.
    pub is_atomic: bool,
}

/// What writes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writer {
    /// An instruction of a driver, with its place.
    Driver(String),
    /// A kernel function that a driver called.
    Function(&'static str),
    /// The kernel, before it calls this callback.
    Before(&'static str),
}

/// A cache line that more than one processor has written to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SharedLine {
    /// Where it lies.
    pub lies: Lies,
    /// The processors.
    pub processors: Vec<u32>,
    /// How often it was written to.
    pub writes: u64,
    /// How often by another processor than the last time: the line has to move.
    pub moves: u64,
    /// What wrote, and how often.
    pub writers: Vec<(Writer, u64)>,
}

/// What driver code did.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Counts {
    /// By the name of the kernel's outermost call.
    pub work: BTreeMap<&'static str, Work>,
    /// The same by the name of the kernel's innermost call: a callback without what is called back in it.
    pub callbacks: BTreeMap<&'static str, Work>,
    /// The first kernel calls, in order.
    pub calls: Vec<Call>,
    /// Every instruction that ran.
    pub instructions: Vec<InstructionCount>,
    /// Lines that more than one processor has written to, those that moved most first.
    pub shared: Vec<SharedLine>,
    /// How many lines were written to in all.
    pub written: u64,
}

impl Counts {
    /// All work together.
    #[must_use]
    pub fn total(&self) -> Work {
        self.work.values().fold(Work::default(), |mut total, work| {
            total += work;
            total
        })
    }
}

/// Functions and lines behind instructions.
#[derive(Debug)]
pub struct Described(BTreeMap<u64, Vec<StackFrame>>);

impl Described {
    /// Looks all of them up at once.
    pub fn new(k: &Kernel, places: impl Iterator<Item = u64>) -> Self {
        let mut places: Vec<u64> = places.collect();
        places.sort_unstable();
        places.dedup();
        let frames = k.exec.describe_stack(&places);
        let each = frames.chunk_by(|a, b| (&a.module, a.offset) == (&b.module, b.offset)).map(<[_]>::to_vec);
        Self(places.into_iter().zip(each).collect())
    }

    /// The function around an instruction last, those that are inlined there before.
    pub fn frames(&self, rip: u64) -> Vec<StackFrame> {
        self.0.get(&rip).cloned().unwrap_or_default()
    }

    /// Its place in words: the inlined functions too.
    pub fn place(&self, rip: u64) -> String {
        let frames = self.frames(rip);
        let Some(first) = frames.first() else { return "driver code".to_owned() };
        let callers = frames.iter().skip(1).filter_map(|frame| frame.function.as_deref());
        callers.fold(first.to_string(), |place, caller| format!("{place} in {caller}"))
    }
}
