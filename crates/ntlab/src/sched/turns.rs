//! Scheduling points: whether another processor or thread goes on, though the current one could.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{Processor, Sched, Thread};
use crate::{
    config::{Config, Policy},
    irql::DISPATCH_LEVEL,
    kernel::Kernel,
    rule::Rule,
};

/// How often a uniform switch gives the processor to another thread, if there is one.
const THREAD_SWITCH: usize = 4;
/// After so many points without a switch another one has its turn: code that waits in a loop for another processor must see it go on.
const FAIR: u64 = 4096;
/// Threads that wait for a condition look at it after so many points.
const POLL: u64 = 16;
/// The time limit is looked at after so many points.
const LIMIT: u64 = 4096;

/// When something is due, in scheduling points since the machine started. All of it but the policy's depends on nothing but what has run,
/// so that a recording of the switches is all a run needs to be repeated.
#[derive(Debug)]
pub(super) struct Turns {
    points: Cell<u64>,
    /// The first point at which anything may be due.
    next: Cell<u64>,
    fair: Cell<u64>,
    poll: Cell<u64>,
    limit: Cell<u64>,
    /// The processor and thread that ran last.
    last: Cell<(u32, u32)>,
    chance: Chance,
}

/// What decides where there are no recorded switches.
#[derive(Debug)]
enum Chance {
    /// At a random point, for a random one.
    Uniform {
        /// About how many points lie between two.
        every: usize,
        /// The next.
        due: Cell<u64>,
    },
    /// Whoever has the highest priority goes on.
    Priorities {
        /// Where the priority of who runs is changed, the last first.
        changes: RefCell<Vec<u64>>,
        /// Somebody can run who could not before.
        changed: Cell<bool>,
        /// Lower than any priority there is.
        lowest: Cell<i64>,
    },
}

/// The priorities that change points give lie below those that everybody starts with, and above those given for fairness' sake.
const FIRST_PRIORITY: i64 = 1 << 32;

/// What happens at a scheduling point.
enum Turn {
    Stay,
    Processor(u32),
    GiveWay,
}

impl Turns {
    pub(super) fn new(config: &Config) -> Self {
        let chance = match config.policy {
            Policy::Uniform => Chance::Uniform { every: config.switch_every as usize, due: Cell::new(0) },
            Policy::Pct { .. } => {
                Chance::Priorities { changes: RefCell::default(), changed: Cell::new(true), lowest: Cell::new(0) }
            }
        };
        Self {
            points: Cell::new(0),
            next: Cell::new(0),
            fair: Cell::new(FAIR),
            poll: Cell::new(0),
            limit: Cell::new(LIMIT),
            last: Cell::new((0, 0)),
            chance,
        }
    }

    /// Counts a point and says whether anything may be due.
    pub(super) fn pass(&self) -> bool {
        let point = self.points.get() + 1;
        self.points.set(point);
        point >= self.next.get()
    }

    pub(super) const fn points(&self) -> u64 {
        self.points.get()
    }

    /// A processor goes on with a thread.
    pub(super) fn ran(&self, processor: u32, thread: u32) {
        if self.last.replace((processor, thread)) != (processor, thread) {
            self.fair.set(self.points.get() + FAIR);
        }
    }

    /// Somebody can run who could not before.
    pub(super) fn changed(&self) {
        if let Chance::Priorities { changed, .. } = &self.chance {
            self.next.set(0);
            changed.set(true);
        }
    }

    /// A thread waits for a condition.
    pub(super) fn polls(&self) {
        self.next.set(0);
    }

    /// Takes the next of the points, which are in `due`, that have passed.
    fn take(due: &Cell<u64>, point: u64, period: u64) -> bool {
        let is_due = point >= due.get();
        if is_due {
            due.set(point + period);
        }
        is_due
    }
}

impl Sched {
    /// How many scheduling points there were.
    pub const fn points(&self) -> u64 {
        self.turns.points()
    }

    /// Something may be due: another processor or thread may go on; comes back when this one does.
    #[inline(never)]
    pub(super) fn switch(&self, k: &Kernel) {
        // While a panic unwinds this thread, no other may run: it would unwind too, and that ends the process.
        if std::thread::panicking() || self.in_alarm.get() {
            return;
        }
        // Parts of the lab can be tried without threads.
        let Some(thread) = self.current_processor().thread.borrow().clone() else { return };
        let point = self.turns.points();
        if Turns::take(&self.turns.limit, point, LIMIT) && self.now() > self.time_limit {
            self.hang(k, Rule::TimeLimit, "the scenario takes longer than its time limit").raise();
        }
        let turn = self.turn(k, &thread);
        let polls = !self.polling.borrow().is_empty() && Turns::take(&self.turns.poll, point, POLL);
        self.arm(k);
        match turn {
            Turn::GiveWay => self.give_way(k, &thread),
            Turn::Processor(index) => self.go_on_with(k, index, &thread),
            Turn::Stay if polls => self.go_on_with(k, self.processor_index(), &thread),
            Turn::Stay => (),
        }
    }

    fn go_on_with(&self, k: &Kernel, index: u32, thread: &Thread) {
        if let Some(processor) = self.processor(index)
            && let Some(next) = &*processor.thread.borrow()
        {
            next.prefetch();
        }
        self.chosen.set(Some(index));
        self.pause(k, thread);
    }

    /// Finds the first point at which anything is due.
    fn arm(&self, k: &Kernel) {
        let turns = &self.turns;
        let policy = if k.choices.plays() {
            k.choices.planned_switch(turns.points() + 1).unwrap_or(u64::MAX)
        } else {
            match &turns.chance {
                Chance::Uniform { due, .. } => due.get(),
                Chance::Priorities { changes, .. } => changes.borrow().last().copied().unwrap_or(u64::MAX),
            }
        };
        let poll = if self.polling.borrow().is_empty() { u64::MAX } else { turns.poll.get() };
        turns.next.set(policy.min(poll).min(turns.fair.get()).min(turns.limit.get()));
    }

    /// Who goes on. 0 of all that can is the current one, then come the other processors in turn, then another thread on this one.
    fn turn(&self, k: &Kernel, thread: &Rc<Thread>) -> Turn {
        let current = self.processor_index();
        let others = {
            let runnable = self.runnable.borrow();
            runnable.len() - usize::from(runnable.contains(current))
        };
        let may_leave = k.irql() < DISPATCH_LEVEL && !thread.idle && !self.ready.borrow().is_empty();
        let count = 1 + others + usize::from(may_leave);
        let point = self.turns.points();
        let value = if Turns::take(&self.turns.fair, point, FAIR) {
            self.demote(thread);
            1
        } else if k.choices.plays() {
            if k.choices.planned_switch(point) == Some(point) { k.choices.switch(point, count, |_| 0) } else { 0 }
        } else {
            self.decide(k, point, (count, others))
        };
        match value {
            0 => Turn::Stay,
            value if value <= others => Turn::Processor(self.runnable.borrow().after(current, value)),
            _ if may_leave => Turn::GiveWay,
            _ => Turn::Stay,
        }
    }

    /// What the policy says, if it has something to say at this point.
    fn decide(&self, k: &Kernel, point: u64, (count, others): (usize, usize)) -> usize {
        let may_leave = count > others + 1;
        match &self.turns.chance {
            Chance::Uniform { every, due } if point >= due.get() => {
                due.set(point + 1 + k.choices.random(2 * every) as u64);
                k.choices.switch(point, count, |choices| {
                    if may_leave && choices.random(THREAD_SWITCH) == 0 { count - 1 } else { choices.random(1 + others) }
                })
            }
            Chance::Uniform { .. } => 0,
            Chance::Priorities { changes, changed, .. } => {
                let change = self.take_change(k, changes, point);
                if !changed.take() && !change {
                    return 0;
                }
                k.choices.switch(point, count, |_| self.highest(k, (count, others)))
            }
        }
    }
}

/// Priorities ("A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", Burckhardt and others).
impl Sched {
    /// Draws where priorities change: `depth - 1` of the points of a run.
    pub(super) fn plan_changes(&self, k: &Kernel) {
        let (Policy::Pct { depth, points }, Chance::Priorities { changes, .. }) = (k.config.policy, &self.turns.chance)
        else {
            return;
        };
        let points = usize::try_from(points).unwrap_or(usize::MAX);
        let mut drawn: Vec<u64> = (1..depth).map(|_| 1 + k.choices.random(points) as u64).collect();
        drawn.sort_unstable_by(|a, b| b.cmp(a));
        changes.replace(drawn);
    }

    /// The priority that a thread or the work of a processor starts with.
    fn draw_priority(k: &Kernel) -> i64 {
        FIRST_PRIORITY + i64::try_from(k.choices.random(1 << 31)).unwrap_or(0)
    }

    /// At a change point, whoever runs gets a priority below all others'. The first change gives the highest of these.
    fn take_change(&self, k: &Kernel, changes: &RefCell<Vec<u64>>, point: u64) -> bool {
        let mut changes = changes.borrow_mut();
        let mut taken = false;
        while changes.last().is_some_and(|&change| change <= point) {
            changes.pop();
            let priority = i64::try_from(changes.len()).unwrap_or(0) + 1;
            Self::priority_of(k, self.current_processor()).set(priority);
            taken = true;
        }
        taken
    }

    /// Who had its turn for long enough gets the lowest priority there is.
    fn demote(&self, thread: &Thread) {
        if let Chance::Priorities { lowest, changed, .. } = &self.turns.chance {
            lowest.set(lowest.get() - 1);
            thread.priority.set(lowest.get());
            self.current_processor().priority.set(lowest.get());
            changed.set(true);
        }
    }

    /// The priority of what a processor is at: its interrupts and DPCs have one of their own, everything else is its thread's.
    fn priority_of<'a>(k: &Kernel, processor: &'a Processor) -> PriorityOf<'a> {
        let serves = processor.has_deliverable() || processor.in_dpc() || processor.irql() > DISPATCH_LEVEL;
        let thread = processor.thread.borrow().clone().filter(|thread| !serves && !thread.idle);
        let priority = PriorityOf { processor, thread };
        if priority.get() == NO_PRIORITY {
            priority.set(Self::draw_priority(k));
        }
        priority
    }

    fn thread_priority(k: &Kernel, thread: &Thread) -> i64 {
        if thread.priority.get() == NO_PRIORITY {
            thread.priority.set(Self::draw_priority(k));
        }
        thread.priority.get()
    }

    /// Who has the highest priority: of all that can go on, as [`Sched::turn`] counts them.
    fn highest(&self, k: &Kernel, (count, others): (usize, usize)) -> usize {
        let current = self.current_processor();
        let runnable = self.runnable.borrow();
        let mut best = (Self::priority_of(k, current).get(), 0);
        for value in 1..=others {
            let Some(processor) = self.processor(runnable.after(current.index, value)) else { continue };
            let priority = Self::priority_of(k, processor).get();
            if priority > best.0 {
                best = (priority, value);
            }
        }
        let waiting = self.ready.borrow().iter().map(|thread| Self::thread_priority(k, thread)).max();
        let outranked = current.thread.borrow().as_ref().is_some_and(|thread| waiting > Some(thread.priority.get()));
        if best.1 == 0 && count > others + 1 && outranked { count - 1 } else { best.1 }
    }

    /// Which of the runnable processors goes on where one must: the position in the set.
    pub(super) fn next_runnable(&self, k: &Kernel) -> usize {
        let runnable = self.runnable.borrow();
        match &self.turns.chance {
            Chance::Uniform { .. } => k.choices.random(runnable.len()),
            Chance::Priorities { .. } => {
                let priority = |&position: &usize| {
                    self.processor(runnable.get(position)).map(|processor| Self::priority_of(k, processor).get())
                };
                (0..runnable.len()).max_by_key(priority).unwrap_or(0)
            }
        }
    }

    /// Which of the threads that wait for a processor gets this one: the position in the queue.
    pub(super) fn next_ready(&self, k: &Kernel, ready: &std::collections::VecDeque<Rc<Thread>>) -> usize {
        match &self.turns.chance {
            Chance::Uniform { .. } => k.choices.random(ready.len()),
            Chance::Priorities { .. } => {
                let priority = |&position: &usize| Self::thread_priority(k, &ready[position]);
                (0..ready.len()).max_by_key(priority).unwrap_or(0)
            }
        }
    }
}

/// A priority that was not drawn yet.
pub(super) const NO_PRIORITY: i64 = i64::MIN;

/// Whose priority counts for a processor.
struct PriorityOf<'a> {
    processor: &'a Processor,
    thread: Option<Rc<Thread>>,
}

impl PriorityOf<'_> {
    fn cell(&self) -> &Cell<i64> {
        self.thread.as_ref().map_or(&self.processor.priority, |thread| &thread.priority)
    }

    fn get(&self) -> i64 {
        self.cell().get()
    }

    fn set(&self, priority: i64) {
        self.cell().set(priority);
    }
}
