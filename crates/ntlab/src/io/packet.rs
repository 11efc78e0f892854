//! What the lab knows of each packet besides what lies in the machine's memory: whose it is, who has it, and whether what dispatch
//! routines return agrees with what becomes of it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
};

use windows_sys::{
    Wdk::Foundation::{DEVICE_OBJECT, IRP},
    Win32::Foundation::{NTSTATUS, STATUS_PENDING},
};

use super::irp::{HEADER, IO_MANAGER_VIOLATION};
use crate::{
    finding::Finding,
    kernel::Kernel,
    memory::{PageKind, Ptr},
};

/// So many packets that users' requests made and so many others get a page of their own, and later one in so many: each costs system
/// calls, and what a driver does wrong it does again.
const ALONE_FIRST: u64 = 16;
const ALONE_ONCE_IN: u64 = 256;

/// Runs on the lab's side when a packet that it sent has come back.
pub type Completion = Box<dyn FnOnce(&Kernel, Ptr<IRP>)>;

/// Who gets a packet back when every driver is done with it.
#[derive(Default)]
pub enum Owner {
    /// A driver: `IoAllocateIrp`, `IoInitializeIrp`. Its completion routine must keep the packet.
    #[default]
    Driver,
    /// The I/O manager on behalf of a user's request.
    User(u32),
    /// Another part of the lab.
    Lab(Completion),
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "a driver",
            Self::User(_) => "a user",
            Self::Lab(_) => "the system",
        })
    }
}

/// Where a packet is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum State {
    /// With its owner.
    #[default]
    Idle,
    /// With drivers.
    Sent,
    /// Freed; the record lives on while calls with the packet have not returned.
    Freed,
}

/// A call of a dispatch routine that has not been judged: what it returned and how the packet left its stack location must agree.
#[derive(Clone, Copy, Debug)]
struct Frame {
    id: u32,
    location: i8,
    device: u64,
    /// The dispatch routine.
    routine: u64,
    /// The status and information the packet came with.
    entered: (NTSTATUS, u64),
    /// It was passed on to a lower driver.
    forwarded: bool,
    /// The status that the lower driver completed it with.
    below: Option<NTSTATUS>,
    pending: bool,
    completed: Option<Completed>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Completed {
    pub marked: bool,
    pub status: NTSTATUS,
    /// The instruction that had it completed.
    pub by: u64,
}

#[derive(Debug, Default)]
struct Record {
    irp: Ptr<IRP>,
    number: u64,
    owner: Owner,
    state: State,
    major: u8,
    minor: u8,
    /// When a driver last got it, in virtual nanoseconds.
    sent: u64,
    calls: u32,
    frames: Vec<Frame>,
}

/// A call of a dispatch routine with a packet, for who looks at packets that are under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub device: Ptr<DEVICE_OBJECT>,
    /// The status and information that the driver got it with.
    pub entered: (NTSTATUS, u64),
    pub forwarded: bool,
    /// The status that the lower driver completed it with.
    pub below: Option<NTSTATUS>,
}

/// What a packet is sent with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub device: Ptr<DEVICE_OBJECT>,
    pub routine: u64,
    pub major: u8,
    pub minor: u8,
    /// The status and information it has, where they tell something: of PnP and power requests.
    pub entered: (NTSTATUS, u64),
}

/// A packet that drivers have.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub number: u64,
    pub irp: Ptr<IRP>,
    pub title: String,
    pub is_users: bool,
    pub sent: u64,
    /// The dispatch routine of the driver that got it last.
    pub routine: u64,
    /// The devices whose drivers have it, the highest first.
    pub devices: Vec<Ptr<DEVICE_OBJECT>>,
}

impl Record {
    fn is_below(&self, location: i8) -> bool {
        self.frames.iter().any(|frame| frame.location < location && frame.completed.is_none())
    }

    fn title(&self) -> String {
        let Self { number, owner, major, minor, .. } = self;
        format!("IRP {number} of {owner:?}, major function {major:#04x}, minor {minor:#04x}")
    }

    fn under_way(&self) -> UnderWay {
        let mut frames: Vec<&Frame> = self.frames.iter().filter(|frame| frame.completed.is_none()).collect();
        frames.sort_unstable_by_key(|frame| std::cmp::Reverse(frame.location));
        UnderWay {
            number: self.number,
            irp: self.irp,
            title: self.title(),
            is_users: matches!(self.owner, Owner::User(_)),
            sent: self.sent,
            routine: frames.last().map_or(0, |frame| frame.routine),
            devices: frames.into_iter().map(|frame| Ptr::new(frame.device)).collect(),
        }
    }

    fn is_with_drivers(&self) -> bool {
        self.state == State::Sent && self.is_below(i8::MAX)
    }
}

/// Every packet of the machine.
#[derive(Debug, Default)]
pub struct Irps {
    records: RefCell<Vec<Record>>,
    unused: RefCell<Vec<usize>>,
    /// Packets in a driver's own memory, by address.
    foreign: RefCell<BTreeMap<u64, usize>>,
    sequence: Cell<u64>,
    /// Packets made for users, and others.
    made: [Cell<u64>; 2],
    frames: Cell<u32>,
}

impl Irps {
    pub(super) fn index_of(&self, k: &Kernel, irp: Ptr<IRP>) -> Option<usize> {
        let foreign = self.foreign.borrow();
        if !foreign.is_empty()
            && let Some(&index) = foreign.get(&irp.address())
        {
            return Some(index);
        }
        drop(foreign);
        if k.memory.space.is(irp.address(), PageKind::PacketFreed) {
            return None;
        }
        let index = usize::try_from(Ptr::<u64>::new(irp.address().wrapping_sub(HEADER)).read()).ok()?;
        let records = self.records.borrow();
        let record = records.get(index)?;
        (record.irp == irp && record.state != State::Freed).then_some(index)
    }

    /// Whether the next packet gets a page of its own, which is gone as soon as it is freed.
    pub(super) fn is_to_be_alone(&self, seed: u64, owner: &Owner) -> bool {
        let made = &self.made[usize::from(matches!(owner, Owner::User(_)))];
        let number = made.get();
        made.set(number + 1);
        number < ALONE_FIRST || (number ^ seed).is_multiple_of(ALONE_ONCE_IN)
    }

    pub(super) fn add(&self, irp: Ptr<IRP>, owner: Owner) -> usize {
        let number = self.sequence.get() + 1;
        self.sequence.set(number);
        let mut records = self.records.borrow_mut();
        if let Some(index) = self.unused.borrow_mut().pop() {
            let record = &mut records[index];
            // Member by member: a processor waits for what it has written in parts and copies as a whole.
            let Record { frames, state, major, minor, sent, calls, .. } = record;
            frames.clear();
            (*state, *major, *minor, *sent, *calls) = (State::default(), 0, 0, 0, 0);
            (record.irp, record.number, record.owner) = (irp, number, owner);
            return index;
        }
        records.push(Record { irp, number, owner, ..Record::default() });
        records.len() - 1
    }

    pub(super) fn free(&self, index: usize) {
        let mut records = self.records.borrow_mut();
        let record = &mut records[index];
        record.state = State::Freed;
        if record.calls == 0 {
            self.unused.borrow_mut().push(index);
        }
    }

    /// Notes that the packet is sent to the driver at `location`, at time `now`.
    pub(super) fn called(&self, index: usize, location: i8, sent: Sent, now: u64) -> u32 {
        let id = self.frames.get().wrapping_add(1);
        self.frames.set(id);
        let mut records = self.records.borrow_mut();
        let record = &mut records[index];
        record.frames.retain(|frame| !frame.pending || frame.completed.is_none());
        for above in
            record.frames.iter_mut().filter(|frame| frame.location == location || frame.location == location + 1)
        {
            above.forwarded = true;
        }
        let Sent { device, routine, major, minor, entered } = sent;
        let device = device.address();
        record.frames.push(Frame {
            id,
            location,
            device,
            routine,
            entered,
            forwarded: false,
            below: None,
            pending: false,
            completed: None,
        });
        record.state = State::Sent;
        record.sent = now;
        (record.major, record.minor) = (major, minor);
        record.calls += 1;
        id
    }

    /// Notes what a dispatch routine returned, and judges it.
    pub(super) fn returned(&self, index: usize, id: u32, status: NTSTATUS) -> Result<(), Contradiction> {
        let mut records = self.records.borrow_mut();
        let record = &mut records[index];
        record.calls -= 1;
        if record.calls == 0 && record.state == State::Freed {
            self.unused.borrow_mut().push(index);
        }
        let Some(position) = record.frames.iter().rposition(|frame| frame.id == id) else { return Ok(()) };
        let frame = &mut record.frames[position];
        match frame.completed {
            Some(completed) => {
                record.frames.swap_remove(position);
                judge(status, completed)
            }
            None if status == STATUS_PENDING => {
                frame.pending = true;
                Ok(())
            }
            None => {
                let what = Disagreement::NeitherCompletedNorPending(status);
                Err(Contradiction { what, stack: ("the dispatch routine", frame.routine) })
            }
        }
    }

    /// Notes that completion passes the stack location, and judges the calls that have returned.
    pub(super) fn passed(&self, index: usize, location: i8, completed: Completed) -> Result<(), Contradiction> {
        let mut records = self.records.borrow_mut();
        let mut verdict = Ok(());
        for frame in &mut records[index].frames {
            if frame.location == location + 1 {
                frame.below = Some(completed.status);
            }
            if frame.location == location && frame.completed.is_none() {
                frame.completed = Some(completed);
                if frame.pending {
                    verdict = verdict.and_then(|()| judge(STATUS_PENDING, completed));
                }
            }
        }
        verdict
    }

    pub(super) fn take_owner(&self, index: usize) -> Owner {
        let mut records = self.records.borrow_mut();
        let record = &mut records[index];
        record.state = State::Idle;
        std::mem::replace(&mut record.owner, Owner::Driver)
    }

    pub(super) fn state(&self, index: usize) -> State {
        self.records.borrow()[index].state
    }

    /// Whether a driver below `location` has the packet.
    pub(super) fn is_below(&self, index: usize, location: i8) -> bool {
        self.records.borrow()[index].is_below(location)
    }

    /// Whether the driver of `device` has the packet and has not passed it on.
    pub(super) fn is_with(&self, index: usize, device: Ptr<DEVICE_OBJECT>) -> bool {
        let has_it = |frame: &Frame| {
            frame.device == device.address() && frame.pending && !frame.forwarded && frame.completed.is_none()
        };
        self.records.borrow()[index].frames.iter().any(has_it)
    }

    /// The dispatch routine of the driver that has the packet at `location`, returned `STATUS_PENDING` and has not passed it on.
    pub(super) fn pending_at(&self, index: usize, location: i8) -> Option<u64> {
        let has_it = |frame: &&Frame| {
            frame.location == location && frame.pending && !frame.forwarded && frame.completed.is_none()
        };
        self.records.borrow()[index].frames.iter().find(has_it).map(|frame| frame.routine)
    }

    /// Whether the driver that has the packet allocated it.
    pub(super) fn is_drivers_own(&self, index: usize) -> bool {
        matches!(self.records.borrow()[index].owner, Owner::Driver)
    }

    /// Makes a packet in a driver's own memory known, once more if it was; `None` if drivers still have it.
    pub(super) fn add_foreign(&self, irp: Ptr<IRP>) -> Option<usize> {
        let known = self.foreign.borrow_mut().remove(&irp.address());
        if let Some(index) = known {
            if self.is_below(index, i8::MAX) {
                return None;
            }
            self.free(index);
        }
        let index = self.add(irp, Owner::Driver);
        self.foreign.borrow_mut().insert(irp.address(), index);
        Some(index)
    }

    /// Forgets a packet in a driver's own memory; false if it is in the lab's.
    pub(super) fn forget_foreign(&self, irp: Ptr<IRP>) -> bool {
        let mut foreign = self.foreign.borrow_mut();
        !foreign.is_empty() && foreign.remove(&irp.address()).is_some()
    }

    /// The call of the dispatch routine that has the packet at `location`.
    pub(super) fn call_at(&self, index: usize, location: i8) -> Option<Call> {
        let records = self.records.borrow();
        let has_it = |frame: &&Frame| frame.location == location && frame.completed.is_none();
        let frame = records[index].frames.iter().rev().find(has_it)?;
        let Frame { entered, forwarded, below, .. } = *frame;
        Some(Call { device: Ptr::new(frame.device), entered, forwarded, below })
    }

    /// The call of the dispatch routine that passes the packet on to `location`: by skipping its own stack location, or to the next one.
    pub(super) fn call_above(&self, index: usize, location: i8) -> Option<Call> {
        self.call_at(index, location).or_else(|| self.call_at(index, location + 1))
    }

    /// The number of the packet that was made last.
    pub const fn last(&self) -> u64 {
        self.sequence.get()
    }

    /// The packets up to number `last` that drivers have, in the order they were made.
    pub(super) fn under_way(&self, last: u64) -> Vec<UnderWay> {
        let records = self.records.borrow();
        let wanted = |record: &&Record| record.number <= last && record.is_with_drivers();
        let mut all: Vec<UnderWay> = records.iter().filter(wanted).map(Record::under_way).collect();
        all.sort_unstable_by_key(|packet| packet.number);
        all
    }

    /// What a report calls the packet.
    pub(super) fn title(&self, index: usize) -> String {
        self.records.borrow()[index].title()
    }

    /// Every packet that drivers still have, in the order they were made.
    pub fn outstanding(&self) -> Vec<String> {
        self.titles(Record::is_with_drivers)
    }

    fn titles(&self, wanted: impl Fn(&Record) -> bool) -> Vec<String> {
        let records = self.records.borrow();
        let mut titles: Vec<(u64, String)> =
            records.iter().filter(|record| wanted(record)).map(|record| (record.number, record.title())).collect();
        titles.sort_unstable();
        titles.into_iter().map(|(_, title)| title).collect()
    }
}

/// How a dispatch routine contradicted what became of its packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disagreement {
    NeitherCompletedNorPending(NTSTATUS),
    MarkedButNotReturned(NTSTATUS),
    ReturnedButNotMarked,
    OtherStatus { returned: NTSTATUS, completed: NTSTATUS },
}

/// A disagreement, and an instruction of the driver that has to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contradiction {
    what: Disagreement,
    stack: (&'static str, u64),
}

const fn judge(returned: NTSTATUS, completed: Completed) -> Result<(), Contradiction> {
    let what = match (returned == STATUS_PENDING, completed.marked) {
        (true, false) => Disagreement::ReturnedButNotMarked,
        (false, true) => Disagreement::MarkedButNotReturned(returned),
        (false, false) if returned != completed.status => {
            Disagreement::OtherStatus { returned, completed: completed.status }
        }
        _ => return Ok(()),
    };
    Err(Contradiction { what, stack: ("completed", completed.by) })
}

impl Contradiction {
    pub(super) fn raise(self, irp: Ptr<IRP>, title: &str) -> ! {
        let (what, address) = self.stack;
        let stack: &[u64] = if address == 0 { &[] } else { &[address] };
        self.what.finding(irp, title).with_stack(what, stack).raise()
    }
}

impl Disagreement {
    fn finding(self, irp: Ptr<IRP>, title: &str) -> Finding {
        let (code, sentence) = match self {
            Self::NeitherCompletedNorPending(status) => (
                0x226,
                format!(
                    "{title}: a dispatch routine returned {status:#010x}, but neither completed the IRP nor passed it down; or it should have returned STATUS_PENDING"
                ),
            ),
            Self::MarkedButNotReturned(status) => (
                0x23E,
                format!(
                    "{title}: marked pending at a stack location whose dispatch routine returned {status:#010x} and not STATUS_PENDING"
                ),
            ),
            Self::ReturnedButNotMarked => (
                0x23D,
                format!(
                    "{title}: a dispatch routine returned STATUS_PENDING, but its stack location was never marked pending"
                ),
            ),
            Self::OtherStatus { returned, completed } => (
                0x224,
                format!(
                    "{title}: a dispatch routine returned {returned:#010x} for an IRP completed with {completed:#010x}"
                ),
            ),
        };
        let returned = match self {
            Self::NeitherCompletedNorPending(status) | Self::MarkedButNotReturned(status) => status,
            Self::ReturnedButNotMarked => STATUS_PENDING,
            Self::OtherStatus { returned, .. } => returned,
        };
        let parameters = [code, 0, irp.address(), u64::from(returned.cast_unsigned())];
        Finding::bug_check(IO_MANAGER_VIOLATION, parameters, sentence)
    }
}
