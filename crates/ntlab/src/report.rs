//! What is told about a run that was stopped.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    events::Event,
    exec::StackFrame,
    finding::{Cause, Finding},
    irql::Irql,
    kernel::Kernel,
    memory::GuardMethod,
    sched::ThreadId,
};

/// How many events a report shows.
const EVENTS: usize = 40;

/// The report of a finding.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was found.
    pub finding: Finding,
    /// Where, if it was found in the machine.
    pub place: Option<Place>,
    /// Where the driver was when what the finding is about began: allocated, freed, opened.
    pub related: Vec<(String, Vec<StackFrame>)>,
    /// The last events.
    pub events: Vec<Event>,
    /// The seed of the run.
    pub seed: u64,
    /// The command line that runs it again, if it is known.
    pub repeat: Option<String>,
    /// How this host made pool blocks fault.
    pub guard_method: GuardMethod,
    /// The parameters of the bug check as they may be said: an address as its place in the machine, for it differs from run to run.
    parameters: Option<[String; 4]>,
}

/// Where the machine was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// The driver's stack, innermost first; empty if no driver code was on it.
    pub stack: Vec<StackFrame>,
    /// The IRQL.
    pub irql: Irql,
    /// The processor.
    pub processor: u32,
    /// The thread.
    pub thread: ThreadId,
}

impl Report {
    /// The report of `finding`, with the place that was noted when it began to unwind.
    #[must_use]
    pub fn new(k: &Kernel, finding: Finding) -> Self {
        let place = k.exec.place().map(|place| Place {
            stack: k.exec.describe_stack(&place.stack),
            irql: place.irql,
            processor: place.processor,
            thread: place.thread,
        });
        // What is noticed when nothing runs any more, such as that all wait, was noticed where something ran last.
        let is_bug_check = matches!(finding.cause, Cause::BugCheck { .. });
        let place = place.or_else(|| is_bug_check.then(|| last_place(k)));
        let parameters = match finding.cause {
            Cause::BugCheck { parameters, .. } => Some(parameters.map(|parameter| say(k, parameter))),
            Cause::NotModelled | Cause::BrokenPromise => None,
        };
        let related = finding.stacks.iter().map(|(what, stack)| (what.clone(), k.exec.describe_stack(stack))).collect();
        let (seed, repeat, guard_method) = (k.config.seed, k.config.repeat.clone(), k.memory.space.guard_method());
        Self { finding, place, related, events: k.log.last(EVENTS), seed, repeat, guard_method, parameters }
    }
}

const fn last_place(k: &Kernel) -> Place {
    let (irql, processor, thread) = k.sched.last_place();
    Place { stack: Vec::new(), irql, processor, thread }
}

fn say(k: &Kernel, parameter: u64) -> String {
    let place = k.memory.space.locate(parameter);
    place.map_or_else(|| format!("{parameter:#x}"), |(arena, offset)| format!("{arena:?}+{offset:#x}"))
}

/// What of a report is the same in every run with its seed.
#[derive(Serialize)]
struct Said<'a> {
    bug_check: Option<BugCheck<'a>>,
    sentence: &'a str,
    place: Option<&'a Place>,
    related: Vec<Related<'a>>,
    events: &'a [Event],
    seed: u64,
    repeat: Option<&'a str>,
    guard_method: GuardMethod,
}

#[derive(Serialize)]
struct BugCheck<'a> {
    code: u32,
    name: Option<&'static str>,
    parameters: &'a [String; 4],
}

#[derive(Serialize)]
struct Related<'a> {
    what: &'a str,
    stack: &'a [StackFrame],
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bug_check = match (self.finding.cause, &self.parameters) {
            (Cause::BugCheck { code, .. }, Some(parameters)) => Some(BugCheck { code, name: name(code), parameters }),
            _ => None,
        };
        let related = self.related.iter().map(|(what, stack)| Related { what, stack }).collect();
        let said = Said {
            bug_check,
            sentence: &self.finding.sentence,
            place: self.place.as_ref(),
            related,
            events: &self.events,
            seed: self.seed,
            repeat: self.repeat.as_deref(),
            guard_method: self.guard_method,
        };
        said.serialize(serializer)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.finding.cause, &self.parameters) {
            (Cause::BugCheck { code, .. }, Some(parameters)) => {
                let name = name(code).map_or_else(String::new, |name| format!("{name} "));
                writeln!(f, "bug check {code:#x} {name}({})", parameters.join(", "))?;
            }
            (Cause::BrokenPromise, _) => writeln!(f, "a broken promise")?,
            _ => writeln!(f, "not modelled by the lab")?,
        }
        writeln!(f, "{}", self.finding.sentence)?;
        if let Some(place) = &self.place {
            write!(f, "{place}")?;
        }
        for (what, stack) in &self.related {
            writeln!(f, "{what}:")?;
            stack.iter().try_for_each(|frame| writeln!(f, "  {frame}"))?;
        }
        writeln!(f, "the last events:")?;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        let guard = match self.guard_method {
            GuardMethod::Markers => "guard markers",
            GuardMethod::Protection => "page protection",
        };
        write!(f, "the seed of this run is {}; pool blocks were guarded by {guard}", self.seed)?;
        self.repeat.as_ref().map_or(Ok(()), |command| write!(f, "\nto repeat this: {command}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "at {} on processor {}, thread {}", self.irql, self.processor, self.thread.0)?;
        if self.stack.is_empty() {
            return writeln!(f, "no driver code on the stack");
        }
        writeln!(f, "the driver's stack:")?;
        self.stack.iter().try_for_each(|frame| writeln!(f, "  {frame}"))
    }
}

/// The bug checks that the lab makes, by the pages of the bug check code reference.
const NAMES: [(u32, &str); 37] = [
    (0x0A, "IRQL_NOT_LESS_OR_EQUAL"),
    (0x0C, "MAXIMUM_WAIT_OBJECTS_EXCEEDED"),
    (0x0F, "SPIN_LOCK_ALREADY_OWNED"),
    (0x10, "SPIN_LOCK_NOT_OWNED"),
    (0x18, "REFERENCE_BY_POINTER"),
    (0x1A, "MEMORY_MANAGEMENT"),
    (0x1E, "KMODE_EXCEPTION_NOT_HANDLED"),
    (0x35, "NO_MORE_IRP_STACK_LOCATIONS"),
    (0x44, "MULTIPLE_IRP_COMPLETE_REQUESTS"),
    (0x48, "CANCEL_STATE_IN_COMPLETED_IRP"),
    (0x50, "PAGE_FAULT_IN_NONPAGED_AREA"),
    (0x7F, "UNEXPECTED_KERNEL_MODE_TRAP"),
    (0x81, "SPIN_LOCK_INIT_FAILURE"),
    (0x96, "INVALID_WORK_QUEUE_ITEM"),
    (0x9F, "DRIVER_POWER_STATE_FAILURE"),
    (0xBE, "ATTEMPTED_WRITE_TO_READONLY_MEMORY"),
    (0xC1, "SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION"),
    (0xC2, "BAD_POOL_CALLER"),
    (0xC4, "DRIVER_VERIFIER_DETECTED_VIOLATION"),
    (0xC7, "TIMER_OR_DPC_INVALID"),
    (0xC9, "DRIVER_VERIFIER_IOMANAGER_VIOLATION"),
    (0xCA, "PNP_DETECTED_FATAL_ERROR"),
    (0xCC, "PAGE_FAULT_IN_FREED_SPECIAL_POOL"),
    (0xCD, "PAGE_FAULT_BEYOND_END_OF_ALLOCATION"),
    (0xCE, "DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS"),
    (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
    (0xD5, "DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL"),
    (0xD6, "DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION"),
    (0xDA, "SYSTEM_PTE_MISUSE"),
    (0xE2, "MANUALLY_INITIATED_CRASH"),
    (0xE3, "RESOURCE_NOT_OWNED"),
    (0xE4, "WORKER_INVALID"),
    (0xE6, "DRIVER_VERIFIER_DMA_VIOLATION"),
    (0xF2, "HARDWARE_INTERRUPT_STORM"),
    (0xFC, "ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY"),
    (0x139, "KERNEL_SECURITY_CHECK_FAILURE"),
    (0x1D5, "DRIVER_PNP_WATCHDOG"),
];

/// The name of a bug check; none where only drivers make it.
fn name(code: u32) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == code).map(|(_, name)| *name)
}
