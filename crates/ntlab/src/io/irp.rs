//! I/O request packets: their life from allocation to completion ("Handling IRPs", "Completing IRPs", "Using IRP stack locations").
//!
//! The packet and its stack locations lie in the machine's memory, because drivers move through them with inlined code. A record of
//! each is kept here, found through a word in front of the packet, so that nothing is looked up by address.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
};

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, DRIVER_OBJECT, IO_STACK_LOCATION, IRP},
        System::SystemServices::{
            IO_TYPE_DEVICE, IO_TYPE_IRP, SL_ERROR_RETURNED, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR,
            SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING},
};

use super::{driver, layout, request};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

/// `MULTIPLE_IRP_COMPLETE_REQUESTS`.
const MULTIPLE_IRP_COMPLETE_REQUESTS: u32 = 0x44;
/// `NO_MORE_IRP_STACK_LOCATIONS`.
const NO_MORE_IRP_STACK_LOCATIONS: u32 = 0x35;
/// `DRIVER_VERIFIER_IOMANAGER_VIOLATION`.
pub(crate) const IO_MANAGER_VIOLATION: u32 = 0xC9;

/// What lies in front of every packet that the lab allocates: the number of its record.
const HEADER: u64 = 16;
const LOCATION_SIZE: u64 = size_of::<IO_STACK_LOCATION>() as u64;

/// Runs on the lab's side when a packet that it sent has come back.
pub type Completion = Box<dyn FnOnce(&Kernel, Ptr<IRP>)>;

/// Who gets a packet back when every driver is done with it.
pub enum Owner {
    /// A driver: `IoAllocateIrp`, `IoInitializeIrp`. Its completion routine must keep the packet.
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// With its owner.
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
    pending: bool,
    completed: Option<Completed>,
}

#[derive(Clone, Copy, Debug)]
struct Completed {
    marked: bool,
    status: NTSTATUS,
}

#[derive(Debug)]
struct Record {
    irp: Ptr<IRP>,
    number: u64,
    owner: Owner,
    /// The driver that allocated it; null for the lab's.
    driver: Ptr<DRIVER_OBJECT>,
    state: State,
    major: u8,
    minor: u8,
    calls: u32,
    frames: Vec<Frame>,
}

impl Record {
    fn is_below(&self, location: i8) -> bool {
        self.frames.iter().any(|frame| frame.location < location && frame.completed.is_none())
    }

    fn title(&self) -> String {
        let Self { number, owner, major, minor, .. } = self;
        format!("IRP {number} of {owner:?}, major function {major:#04x}, minor {minor:#04x}")
    }

    fn is_with_drivers(&self) -> bool {
        self.state == State::Sent && self.is_below(i8::MAX)
    }
}

/// Every packet of the machine.
#[derive(Debug, Default)]
pub(crate) struct Irps {
    records: RefCell<Vec<Record>>,
    unused: RefCell<Vec<usize>>,
    /// Packets in a driver's own memory, by address.
    foreign: RefCell<BTreeMap<u64, usize>>,
    sequence: Cell<u64>,
    frames: Cell<u32>,
}

impl Irps {
    fn index_of(&self, irp: Ptr<IRP>) -> Option<usize> {
        let foreign = self.foreign.borrow();
        if let Some(&index) = foreign.get(&irp.address()) {
            return Some(index);
        }
        drop(foreign);
        let index = usize::try_from(Ptr::<u64>::new(irp.address().wrapping_sub(HEADER)).read()).ok()?;
        let records = self.records.borrow();
        let record = records.get(index)?;
        (record.irp == irp && record.state != State::Freed).then_some(index)
    }

    fn add(&self, irp: Ptr<IRP>, owner: Owner, driver: Ptr<DRIVER_OBJECT>) -> usize {
        let number = self.sequence.get() + 1;
        self.sequence.set(number);
        let mut records = self.records.borrow_mut();
        if let Some(index) = self.unused.borrow_mut().pop() {
            let record = &mut records[index];
            record.frames.clear();
            let frames = std::mem::take(&mut record.frames);
            *record = Record { irp, number, owner, driver, state: State::Idle, major: 0, minor: 0, calls: 0, frames };
            return index;
        }
        records.push(Record {
            irp,
            number,
            owner,
            driver,
            state: State::Idle,
            major: 0,
            minor: 0,
            calls: 0,
            frames: Vec::new(),
        });
        records.len() - 1
    }

    fn free(&self, index: usize) {
        let mut records = self.records.borrow_mut();
        let record = &mut records[index];
        record.state = State::Freed;
        if record.calls == 0 {
            self.unused.borrow_mut().push(index);
        }
    }

    /// Notes that the packet is sent to the driver at `location`.
    fn called(&self, index: usize, location: i8, major: u8, minor: u8) -> u32 {
        let id = self.frames.get().wrapping_add(1);
        self.frames.set(id);
        let mut records = self.records.borrow_mut();
        let record = &mut records[index];
        record.frames.retain(|frame| !frame.pending || frame.completed.is_none());
        record.frames.push(Frame { id, location, pending: false, completed: None });
        record.state = State::Sent;
        (record.major, record.minor) = (major, minor);
        record.calls += 1;
        id
    }

    /// Notes what a dispatch routine returned, and judges it.
    fn returned(&self, index: usize, id: u32, status: NTSTATUS) -> Result<(), Disagreement> {
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
            None => Err(Disagreement::NeitherCompletedNorPending(status)),
        }
    }

    /// Notes that completion passes the stack location, and judges the calls that have returned.
    fn passed(&self, index: usize, location: i8, completed: Completed) -> Result<(), Disagreement> {
        let mut records = self.records.borrow_mut();
        let mut verdict = Ok(());
        for frame in &mut records[index].frames {
            if frame.location == location && frame.completed.is_none() {
                frame.completed = Some(completed);
                if frame.pending {
                    verdict = verdict.and(judge(STATUS_PENDING, completed));
                }
            }
        }
        verdict
    }

    fn take_owner(&self, index: usize) -> Owner {
        let mut records = self.records.borrow_mut();
        let record = &mut records[index];
        record.state = State::Idle;
        std::mem::replace(&mut record.owner, Owner::Driver)
    }

    fn state(&self, index: usize) -> State {
        self.records.borrow()[index].state
    }

    /// Whether a driver below `location` has the packet.
    fn is_below(&self, index: usize, location: i8) -> bool {
        self.records.borrow()[index].is_below(location)
    }

    /// What a report calls the packet.
    fn title(&self, index: usize) -> String {
        self.records.borrow()[index].title()
    }

    /// Every packet that drivers still have, in the order they were made.
    pub(crate) fn outstanding(&self) -> Vec<String> {
        self.titles(Record::is_with_drivers)
    }

    /// Packets that a driver allocated and has not freed, in the order they were made.
    pub(crate) fn allocated_by(&self, driver: Ptr<DRIVER_OBJECT>) -> Vec<String> {
        self.titles(|record| record.state != State::Freed && record.driver == driver)
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
enum Disagreement {
    NeitherCompletedNorPending(NTSTATUS),
    MarkedButNotReturned(NTSTATUS),
    ReturnedButNotMarked,
    OtherStatus { returned: NTSTATUS, completed: NTSTATUS },
}

fn judge(returned: NTSTATUS, completed: Completed) -> Result<(), Disagreement> {
    match (returned == STATUS_PENDING, completed.marked) {
        (true, false) => Err(Disagreement::ReturnedButNotMarked),
        (false, true) => Err(Disagreement::MarkedButNotReturned(returned)),
        (false, false) if returned != completed.status => {
            Err(Disagreement::OtherStatus { returned, completed: completed.status })
        }
        _ => Ok(()),
    }
}

impl Disagreement {
    fn raise(self, irp: Ptr<IRP>, title: &str) -> ! {
        let (code, sentence) = match self {
            Self::NeitherCompletedNorPending(status) => (
                0x226,
                format!(
                    "{title}: a dispatch routine returned {status:#010x}, but neither completed the IRP nor passed it down; or it should have returned STATUS_PENDING"
                ),
            ),
            Self::MarkedButNotReturned(status) => (
                0x226,
                format!(
                    "{title}: marked pending at a stack location whose dispatch routine returned {status:#010x} and not STATUS_PENDING"
                ),
            ),
            Self::ReturnedButNotMarked => (
                0x228,
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
        Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, irp.address(), 0], sentence).raise()
    }
}

fn violation(code: u64, irp: Ptr<IRP>, sentence: impl Into<String>) -> ! {
    Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, irp.address(), 0], sentence).raise()
}

/// The number of bytes of a packet with `locations` stack locations, as `IoSizeOfIrp`.
#[must_use]
pub const fn size_of_irp(locations: i8) -> usize {
    size_of::<IRP>() + locations.unsigned_abs() as usize * size_of::<IO_STACK_LOCATION>()
}

/// Allocates a packet with `locations` stack locations.
pub fn allocate(k: &Kernel, locations: i8, owner: Owner) -> Ptr<IRP> {
    let block = k.memory.allocate_object_bytes(HEADER as usize + size_of_irp(locations));
    let irp = Ptr::<IRP>::new(block.address() + HEADER);
    let driver = if matches!(owner, Owner::Driver) { driver::running(k) } else { Ptr::null() };
    let index = k.io.irps.add(irp, owner, driver);
    block.cast::<u64>().write(index as u64);
    initialize(irp, locations);
    irp
}

/// Makes a packet in memory of a driver's own (`IoInitializeIrp`).
pub fn initialize_foreign(k: &Kernel, irp: Ptr<IRP>, locations: i8) {
    let known = k.io.irps.foreign.borrow().get(&irp.address()).copied();
    if let Some(index) = known {
        if k.io.irps.is_below(index, i8::MAX) {
            violation(0x20B, irp, "IoInitializeIrp was called for an IRP that drivers still have");
        }
        k.io.irps.free(index);
    }
    let index = k.io.irps.add(irp, Owner::Driver, driver::running(k));
    k.io.irps.foreign.borrow_mut().insert(irp.address(), index);
    initialize(irp, locations);
}

fn initialize(irp: Ptr<IRP>, locations: i8) {
    let size = size_of_irp(locations);
    irp.cast::<u8>().fill(size, 0);
    at!(irp, Type).write(IO_TYPE_IRP as i16);
    at!(irp, Size).write(size as u16);
    at!(irp, StackCount).write(locations);
    at!(irp, CurrentLocation).write(locations + 1);
    layout::initialize_list(at!(irp, ThreadListEntry));
    set_current_location(irp, Ptr::new(irp.address() + size as u64));
}

/// Prepares a packet for another round (`IoReuseIrp`).
pub fn reuse(k: &Kernel, irp: Ptr<IRP>, status: NTSTATUS) {
    let index = known(k, irp, "IoReuseIrp");
    if k.io.irps.is_below(index, i8::MAX) {
        violation(0x20B, irp, format!("{}: IoReuseIrp was called while drivers still have it", k.io.irps.title(index)));
    }
    initialize(irp, at!(irp, StackCount).read());
    at!(irp, IoStatus.Anonymous.Status).write(status);
}

/// Frees a packet that a driver allocated (`IoFreeIrp`).
pub fn free_by_driver(k: &Kernel, irp: Ptr<IRP>) {
    let index = known(k, irp, "IoFreeIrp");
    let title = || k.io.irps.title(index);
    if k.io.irps.is_below(index, i8::MAX) {
        violation(0x20B, irp, format!("{}: freed while drivers still have it", title()));
    }
    if !matches!(k.io.irps.records.borrow()[index].owner, Owner::Driver) {
        violation(0x20B, irp, format!("{}: freed by a driver that did not allocate it", title()));
    }
    free(k, irp);
}

/// Frees a packet.
pub fn free(k: &Kernel, irp: Ptr<IRP>) {
    let index = known(k, irp, "IoFreeIrp");
    k.io.irps.free(index);
    if k.io.irps.foreign.borrow_mut().remove(&irp.address()).is_none() {
        k.memory.free_object(Ptr::<u8>::new(irp.address() - HEADER));
    }
}

/// Whether completion has passed all stack locations.
fn is_back(irp: Ptr<IRP>) -> bool {
    at!(irp, CurrentLocation).read() > at!(irp, StackCount).read()
}

/// The record of a packet; anything else is a finding.
fn known(k: &Kernel, irp: Ptr<IRP>, function: &str) -> usize {
    if irp.is_null() {
        violation(0x01, irp, format!("{function} was called without an IRP"));
    }
    if let Some(index) = k.io.irps.index_of(irp) {
        return index;
    }
    Finding::bug_check(
        MULTIPLE_IRP_COMPLETE_REQUESTS,
        [irp.address(), 0, 0, 0],
        format!(
            "{function} was called for something that is no IRP any more: completed twice, freed, or never allocated"
        ),
    )
    .raise()
}

/// The current stack location, as `IoGetCurrentIrpStackLocation`.
#[must_use]
pub fn current_location(irp: Ptr<IRP>) -> Ptr<IO_STACK_LOCATION> {
    layout::load(at!(irp, Tail.Overlay.Anonymous2.Anonymous.CurrentStackLocation))
}

fn set_current_location(irp: Ptr<IRP>, location: Ptr<IO_STACK_LOCATION>) {
    layout::store(at!(irp, Tail.Overlay.Anonymous2.Anonymous.CurrentStackLocation), location);
}

/// The stack location of the next lower driver, as `IoGetNextIrpStackLocation`.
#[must_use]
pub fn next_location(irp: Ptr<IRP>) -> Ptr<IO_STACK_LOCATION> {
    Ptr::new(current_location(irp).address() - LOCATION_SIZE)
}

/// As `IoMarkIrpPending`.
pub fn mark_pending(irp: Ptr<IRP>) {
    let control = at!(current_location(irp), Control);
    control.write(control.read() | SL_PENDING_RETURNED as u8);
}

/// As `IoSkipCurrentIrpStackLocation`.
pub fn skip_current_location(irp: Ptr<IRP>) {
    let current = at!(irp, CurrentLocation);
    current.write(current.read() + 1);
    set_current_location(irp, Ptr::new(current_location(irp).address() + LOCATION_SIZE));
}

/// The status a packet has.
#[must_use]
pub fn status(irp: Ptr<IRP>) -> NTSTATUS {
    at!(irp, IoStatus.Anonymous.Status).read()
}

/// Sets the status and information of a packet.
pub fn set_status(irp: Ptr<IRP>, status: NTSTATUS, information: u64) {
    at!(irp, IoStatus.Anonymous.Status).write(status);
    at!(irp, IoStatus.Information).cast::<u64>().write(information);
}

/// Sends a packet to the driver of `device`: IofCallDriver ("IoCallDriver macro").
pub fn call_driver(k: &Kernel, device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NTSTATUS {
    let index = known(k, irp, "IoCallDriver");
    check_sendable(k, device, irp, index);
    let current = at!(irp, CurrentLocation).read() - 1;
    at!(irp, CurrentLocation).write(current);
    let location = next_location(irp);
    set_current_location(irp, location);
    layout::store(at!(location, DeviceObject), device);

    let (major, minor) = (at!(location, MajorFunction).read(), at!(location, MinorFunction).read());
    let frame = k.io.irps.called(index, current, major, minor);
    let status = driver::dispatch(k, device, irp, major);
    if let Err(disagreement) = k.io.irps.returned(index, frame, status) {
        disagreement.raise(irp, &k.io.irps.title(index));
    }
    status
}

fn check_sendable(k: &Kernel, device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>, index: usize) {
    let title = || k.io.irps.title(index);
    if device.is_null() {
        violation(0x204, irp, format!("{}: IoCallDriver without a device object", title()));
    }
    if at!(irp, Type).read() != IO_TYPE_IRP as i16 {
        violation(0x03, irp, format!("{}: IoCallDriver for an IRP whose type was overwritten", title()));
    }
    if at!(device, Type).read() != IO_TYPE_DEVICE as i16 {
        violation(0x04, irp, format!("{}: IoCallDriver with something that is no device object", title()));
    }
    if at!(irp, CancelRoutine).cast::<u64>().read() != 0 {
        violation(0x203, irp, format!("{}: passed down while its cancel routine is set", title()));
    }
    let current = at!(irp, CurrentLocation).read();
    if k.io.irps.is_below(index, current - 1) {
        violation(0x205, irp, format!("{}: passed down while a lower driver still has it", title()));
    }
    if current <= 1 {
        Finding::bug_check(
            NO_MORE_IRP_STACK_LOCATIONS,
            [irp.address(), 0, 0, 0],
            format!("{}: passed down, but it has no stack location left", title()),
        )
        .raise();
    }
}

/// Ends the driver's work on a packet: IofCompleteRequest ("IoCompleteRequest macro").
pub fn complete(k: &Kernel, irp: Ptr<IRP>) {
    let index = known(k, irp, "IoCompleteRequest");
    check_completable(k, irp, index);
    let count = at!(irp, StackCount).read();
    loop {
        if leave_location(k, irp, index, count) == Next::Kept {
            return;
        }
        if is_back(irp) {
            return give_back(k, irp, index);
        }
    }
}

fn check_completable(k: &Kernel, irp: Ptr<IRP>, index: usize) {
    let title = || k.io.irps.title(index);
    if k.io.irps.state(index) != State::Sent || is_back(irp) {
        Finding::bug_check(
            MULTIPLE_IRP_COMPLETE_REQUESTS,
            [irp.address(), 0, 0, 0],
            format!("{}: IoCompleteRequest, but no driver has it: it is complete, or was never sent", title()),
        )
        .raise();
    }
    if k.io.irps.is_below(index, at!(irp, CurrentLocation).read()) {
        violation(0x209, irp, format!("{}: completed while a lower driver still has it", title()));
    }
    let status = status(irp);
    if status == STATUS_PENDING || status == -1 {
        let sentence = format!("{}: completed with status {status:#010x}, which is no final status", title());
        Finding::bug_check(IO_MANAGER_VIOLATION, [0x06, u64::from(status.cast_unsigned()), irp.address(), 0], sentence)
            .raise();
    }
    let routine = at!(irp, CancelRoutine).cast::<u64>().read();
    if routine != 0 {
        let sentence = format!("{}: completed while its cancel routine is set", title());
        Finding::bug_check(IO_MANAGER_VIOLATION, [0x07, routine, irp.address(), 0], sentence).raise();
    }
}

/// What a completion routine said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Completion goes on.
    Higher,
    /// The driver keeps the packet: `STATUS_MORE_PROCESSING_REQUIRED`.
    Kept,
}

/// Completion leaves the current stack location for the next higher one.
fn leave_location(k: &Kernel, irp: Ptr<IRP>, index: usize, count: i8) -> Next {
    let number = at!(irp, CurrentLocation).read();
    let location = current_location(irp);
    at!(irp, CurrentLocation).write(number + 1);
    set_current_location(irp, location.offset(1));

    let control = u32::from(at!(location, Control).read());
    let status = status(irp);
    let marked = control & SL_PENDING_RETURNED != 0;
    at!(irp, PendingReturned).cast::<u8>().write(u8::from(marked));
    if let Err(disagreement) = k.io.irps.passed(index, number, Completed { marked, status }) {
        disagreement.raise(irp, &k.io.irps.title(index));
    }

    let invoked = if status >= 0 { SL_INVOKE_ON_SUCCESS } else { SL_INVOKE_ON_ERROR };
    let cancelled = at!(irp, Cancel).cast::<u8>().read() != 0;
    let higher = number < count;
    if control & invoked != 0 || cancelled && control & SL_INVOKE_ON_CANCEL != 0 {
        return call_completion_routine(k, irp, index, location, higher.then_some(marked));
    }
    if marked && higher {
        mark_pending(irp);
    }
    zero_location(location);
    Next::Higher
}

/// `pending`: whether the lower driver marked the packet pending, where there is a higher driver.
fn call_completion_routine(
    k: &Kernel,
    irp: Ptr<IRP>,
    index: usize,
    location: Ptr<IO_STACK_LOCATION>,
    pending: Option<bool>,
) -> Next {
    let routine = at!(location, CompletionRoutine).cast::<u64>().read();
    let context = at!(location, Context).cast::<u64>().read();
    let device = if pending.is_some() { at!(current_location(irp), DeviceObject).cast::<u64>().read() } else { 0 };
    zero_location(location);
    if routine == 0 {
        violation(
            0x207,
            irp,
            format!("{}: a completion routine is to be called, but none is set", k.io.irps.title(index)),
        );
    }
    let result = k.call("completion routine", routine, &[device, irp.address(), context]) as NTSTATUS;
    if result == STATUS_MORE_PROCESSING_REQUIRED {
        return Next::Kept;
    }
    if k.io.irps.index_of(irp) != Some(index) {
        violation(0x20B, irp, "a completion routine freed its IRP, but did not return STATUS_MORE_PROCESSING_REQUIRED");
    }
    if pending == Some(true) && u32::from(at!(current_location(irp), Control).read()) & SL_PENDING_RETURNED == 0 {
        let title = k.io.irps.title(index);
        violation(
            0x228,
            irp,
            format!("{title}: a completion routine did not mark it pending though PendingReturned is set"),
        );
    }
    Next::Higher
}

/// What is left of a stack location that completion has passed.
fn zero_location(location: Ptr<IO_STACK_LOCATION>) {
    at!(location, MinorFunction).write(0);
    at!(location, Flags).write(0);
    let control = at!(location, Control);
    control.write(control.read() & SL_ERROR_RETURNED as u8);
    layout::words(location).write([0; 4]);
    layout::store(at!(location, FileObject), Ptr::null());
}

/// All drivers are done: the owner gets the packet.
fn give_back(k: &Kernel, irp: Ptr<IRP>, index: usize) {
    match k.io.irps.take_owner(index) {
        Owner::Driver => violation(
            0x20B,
            irp,
            format!(
                "{}: completed to its end; the driver that allocated it must keep it by returning STATUS_MORE_PROCESSING_REQUIRED",
                k.io.irps.title(index)
            ),
        ),
        Owner::User(request) => request::finish(k, irp, request),
        Owner::Lab(completion) => completion(k, irp),
    }
}
