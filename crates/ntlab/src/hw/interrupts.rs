//! The interrupt controller: which connected interrupts a line or a message reaches, and on which processor.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
};

use super::pci::Message;
use crate::{finding::Finding, irql::Irql, kernel::Kernel, sched::Interrupt};

/// Where messages are written to: the local APICs' range.
pub const MESSAGE_ADDRESS: u64 = 0xFEE0_0000;
/// `HARDWARE_INTERRUPT_STORM`.
const INTERRUPT_STORM: u32 = 0xF2;
/// Its last parameter: whether other routines serve the interrupt too.
const NOT_CHAINED: u64 = 1;
const CHAINED: u64 = 2;
/// A line that was served so often in a row without going down is stuck.
const STORM: u32 = 10_000;

/// What signals an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// A line, level-triggered.
    Line(u32),
    /// The message for this vector.
    Message(u32),
}

/// An interrupt with a service routine behind it.
pub struct Connected {
    /// What signals it.
    pub source: Source,
    /// The system's vector.
    pub vector: u32,
    /// The level it is served at.
    pub irql: Irql,
    /// Processor group.
    pub group: u16,
    /// Processors in the group.
    pub affinity: u64,
    /// Calls the service routine.
    pub service: Box<dyn Fn(&Kernel)>,
    /// What a report says of the service routine: its address, its context, the interrupt object.
    pub about: [u64; 3],
    /// How often it was delivered on each processor.
    pub counts: RefCell<BTreeMap<u32, u64>>,
    live: Cell<bool>,
    running: Cell<u32>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("source", &self.source).field("vector", &self.vector).finish_non_exhaustive()
    }
}

impl Connected {
    /// An interrupt to be connected.
    #[must_use]
    pub fn new(
        source: Source,
        vector: u32,
        irql: Irql,
        (group, affinity): (u16, u64),
        service: Box<dyn Fn(&Kernel)>,
        about: [u64; 3],
    ) -> Self {
        let (live, running) = (Cell::new(true), Cell::new(0));
        Self { source, vector, irql, group, affinity, service, about, counts: RefCell::default(), live, running }
    }

    fn serve(&self, k: &Kernel) {
        if !self.live.get() {
            return;
        }
        *self.counts.borrow_mut().entry(k.processor_index()).or_default() += 1;
        self.running.set(self.running.get() + 1);
        (self.service)(k);
        self.running.set(self.running.get() - 1);
    }
}

/// A level-triggered line.
#[derive(Debug, Default)]
struct Line {
    /// How many devices hold it up.
    holders: u32,
    /// Another device, whose driver is part of the lab, is one of them until it is served.
    neighbour: bool,
    /// It was delivered and its service has not ended.
    in_service: bool,
    /// How often it was delivered in a row without going down.
    repeats: u32,
    /// How often a device has pulled it up.
    raised: u64,
}

/// The machine's interrupt controller.
#[derive(Debug, Default)]
pub struct Interrupts {
    connected: RefCell<Vec<Rc<Connected>>>,
    lines: RefCell<BTreeMap<u32, Line>>,
    spurious: Cell<u64>,
}

impl Interrupts {
    /// Connects an interrupt. A line that is up is delivered at once.
    pub fn connect(&self, k: &Kernel, connected: Connected) -> Rc<Connected> {
        let connected = Rc::new(connected);
        self.connected.borrow_mut().push(Rc::clone(&connected));
        if let Source::Line(line) = connected.source {
            self.deliver_line(k, line);
        }
        connected
    }

    /// Disconnects an interrupt and waits until no processor serves it any more.
    pub fn disconnect(&self, k: &Kernel, connected: &Rc<Connected>) {
        connected.live.set(false);
        self.connected.borrow_mut().retain(|other| !Rc::ptr_eq(other, connected));
        let waited_for = Rc::clone(connected);
        k.block_until("interrupt service to end", move |_| waited_for.running.get() == 0, None);
    }

    /// A device writes a message.
    pub fn message(&self, k: &Kernel, message: Message) {
        let targets = self.at(Source::Message(u32::from(message.data)));
        if targets.is_empty() {
            self.spurious.set(self.spurious.get() + 1);
        }
        for target in targets {
            let handler = Rc::clone(&target);
            pend(k, &target, Rc::new(move |k| handler.serve(k)));
        }
    }

    /// A device pulls a line up.
    pub fn line_up(&self, k: &Kernel, line: u32) {
        let mut lines = self.lines.borrow_mut();
        let state = lines.entry(line).or_default();
        state.holders += 1;
        state.raised += 1;
        drop(lines);
        self.deliver_line(k, line);
    }

    /// A device lets go of a line.
    pub fn line_down(&self, line: u32) {
        let mut lines = self.lines.borrow_mut();
        let state = lines.entry(line).or_default();
        state.holders -= 1;
        if state.holders == 0 {
            state.repeats = 0;
        }
    }

    /// Another device on the same line, whose driver is part of the lab, signals it once.
    pub fn neighbour_signals(&self, k: &Kernel, line: u32) {
        if !std::mem::replace(&mut self.lines.borrow_mut().entry(line).or_default().neighbour, true) {
            self.line_up(k, line);
        }
    }

    fn serve_neighbour(&self, line: u32) {
        let signalled = self.lines.borrow_mut().get_mut(&line).is_some_and(|line| std::mem::take(&mut line.neighbour));
        if signalled {
            self.line_down(line);
        }
    }

    /// How often devices have pulled a line up.
    pub fn raised(&self, line: u32) -> u64 {
        self.lines.borrow().get(&line).map_or(0, |state| state.raised)
    }

    /// How many messages came for which no service routine was connected.
    pub const fn spurious(&self) -> u64 {
        self.spurious.get()
    }

    /// Delivers a line that is up and not in service, to everything connected to it.
    fn deliver_line(&self, k: &Kernel, line: u32) {
        let targets = self.at(Source::Line(line));
        let Some(first) = targets.first().map(Rc::clone) else { return };
        if !self.begin_service(line, &targets) {
            return;
        }
        let serve = move |k: &Kernel| {
            for target in &targets {
                target.serve(k);
            }
            k.hardware.interrupts.serve_neighbour(line);
            k.hardware.interrupts.end_service(k, line);
        };
        pend(k, &first, Rc::new(serve));
    }

    fn begin_service(&self, line: u32, targets: &[Rc<Connected>]) -> bool {
        let mut lines = self.lines.borrow_mut();
        let state = lines.entry(line).or_default();
        if state.holders == 0 || state.in_service {
            return false;
        }
        state.in_service = true;
        state.repeats += 1;
        if state.repeats > STORM {
            let sentence = format!("interrupt line {line} stayed up through {STORM} calls of its service routines");
            let [routine, context, object] = targets.first().map_or([0; 3], |first| first.about);
            let chained = if targets.len() > 1 { CHAINED } else { NOT_CHAINED };
            let routines: Vec<u64> = targets.iter().map(|target| target.about[0]).collect();
            Finding::bug_check(INTERRUPT_STORM, [routine, context, object, chained], sentence)
                .with_stack("the service routines", &routines)
                .raise();
        }
        true
    }

    fn end_service(&self, k: &Kernel, line: u32) {
        if let Some(state) = self.lines.borrow_mut().get_mut(&line) {
            state.in_service = false;
        }
        self.deliver_line(k, line);
    }

    fn at(&self, source: Source) -> Vec<Rc<Connected>> {
        self.connected.borrow().iter().filter(|connected| connected.source == source).cloned().collect()
    }
}

/// Pends an interrupt on one of the processors it may go to.
fn pend(k: &Kernel, target: &Connected, handler: Rc<dyn Fn(&Kernel)>) {
    let allowed = k.sched.processors_in(target.group, target.affinity);
    let Some(&processor) = allowed.get(k.choices.below(allowed.len())) else {
        let sentence = format!("vector {:#x} may go to no active processor", target.vector);
        Finding::not_modelled(sentence).raise();
    };
    k.interrupt(processor, Interrupt { vector: target.vector, irql: target.irql, handler });
}
