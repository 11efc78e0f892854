//! I/O request packets: their life from allocation to completion ("Handling IRPs", "Completing IRPs", "Using IRP stack locations").
//!
//! The packet and its stack locations lie in the machine's memory, because drivers move through them with inlined code. A record of
//! each is kept here, found through a word in front of the packet, so that nothing is looked up by address.

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, IO_STACK_LOCATION, IRP},
        System::SystemServices::{
            IO_TYPE_DEVICE, IO_TYPE_IRP, SL_ERROR_RETURNED, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR,
            SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING},
};

pub use super::packet::Owner;
use super::{
    device, driver,
    layout::{self, LOCATION_CONTEXT, LOCATION_DEVICE, LOCATION_ROUTINE, Location, Packet},
    packet::{Completed, Sent, State},
    request, rules,
};
use crate::{
    at,
    config::Checks,
    finding::Finding,
    kernel::Kernel,
    memory::{Ptr, Writable},
    tracking::Tracked,
};

/// `MULTIPLE_IRP_COMPLETE_REQUESTS`.
const MULTIPLE_IRP_COMPLETE_REQUESTS: u32 = 0x44;
/// `NO_MORE_IRP_STACK_LOCATIONS`.
const NO_MORE_IRP_STACK_LOCATIONS: u32 = 0x35;
/// `DRIVER_VERIFIER_IOMANAGER_VIOLATION`.
pub(crate) const IO_MANAGER_VIOLATION: u32 = 0xC9;

/// What lies in front of every packet that the lab allocates: the number of its record.
pub(crate) const HEADER: u64 = 16;
/// Where in a stack location its control flags are.
const CONTROL: usize = std::mem::offset_of!(IO_STACK_LOCATION, Control);
const LOCATION_SIZE: u64 = size_of::<IO_STACK_LOCATION>() as u64;

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
    let bytes = HEADER as usize + size_of_irp(locations);
    let alone = k.config.checks == Checks::All && k.io.irps.is_to_be_alone(k.config.seed, &owner);
    let block = if alone { k.memory.allocate_packet(bytes) } else { k.memory.allocate_object_bytes(bytes) };
    let irp = Ptr::<IRP>::new(block.address() + HEADER);
    let index = k.io.irps.add(irp, owner);
    block.cast::<u64>().write(index as u64);
    start(irp, locations);
    irp
}

/// Makes a packet in memory of a driver's own (`IoInitializeIrp`).
pub fn initialize_foreign(k: &Kernel, irp: Ptr<IRP>, locations: i8) {
    if k.io.irps.add_foreign(irp).is_none() {
        violation(0x310, irp, "IoInitializeIrp was called for an IRP that drivers still have");
    }
    initialize(irp, locations);
}

fn initialize(irp: Ptr<IRP>, locations: i8) {
    irp.cast::<u8>().fill(size_of_irp(locations), 0);
    start(irp, locations);
}

/// What is not zero in a packet that nobody has used.
fn start(irp: Ptr<IRP>, locations: i8) {
    let size = size_of_irp(locations);
    let packet = irp.writable();
    packet.set(at!(irp, Type), IO_TYPE_IRP as i16);
    packet.set(at!(irp, Size), size as u16);
    packet.set(at!(irp, StackCount), locations);
    let list = at!(irp, ThreadListEntry);
    packet.set(list.cast(), [list.address(); 2]);
    set_location(irp, packet, locations + 1, Ptr::new(irp.address() + size as u64));
}

/// Prepares a packet for another round (`IoReuseIrp`).
pub fn reuse(k: &Kernel, irp: Ptr<IRP>, status: NTSTATUS) {
    let index = known(k, irp, "IoReuseIrp");
    if k.io.irps.is_below(index, i8::MAX) {
        violation(0x310, irp, format!("{}: IoReuseIrp was called while drivers still have it", k.io.irps.title(index)));
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
    if !k.io.irps.is_drivers_own(index) {
        violation(0x20B, irp, format!("{}: freed by a driver that did not allocate it", title()));
    }
    k.tracking.gone(Tracked::Irp, irp.address());
    free_known(k, irp, index);
}

/// Frees a packet.
pub fn free(k: &Kernel, irp: Ptr<IRP>) {
    free_known(k, irp, known(k, irp, "IoFreeIrp"));
}

/// Frees a packet whose record this is.
pub(super) fn free_known(k: &Kernel, irp: Ptr<IRP>, index: usize) {
    k.io.irps.free(index);
    if k.io.irps.forget_foreign(irp) {
        return;
    }
    let block = Ptr::<u8>::new(irp.address() - HEADER);
    if k.memory.is_packet(block) {
        k.memory.free_packet(block, HEADER as usize + size_of_irp(at!(irp, StackCount).read()));
    } else {
        k.memory.free_object(block);
    }
}

/// Whether an address is that of a packet that is there.
pub(crate) fn is_irp(k: &Kernel, irp: Ptr<IRP>) -> bool {
    k.io.irps.index_of(k, irp).is_some()
}

/// Whether a packet is on pages of its own.
pub fn is_alone(k: &Kernel, irp: Ptr<IRP>) -> bool {
    k.memory.is_packet(irp.cast())
}

/// The record of a packet; anything else is a finding.
#[inline]
fn known(k: &Kernel, irp: Ptr<IRP>, function: &str) -> usize {
    let index = if irp.is_null() { None } else { k.io.irps.index_of(k, irp) };
    index.unwrap_or_else(|| unknown(irp, function))
}

#[cold]
fn unknown(irp: Ptr<IRP>, function: &str) -> ! {
    if irp.is_null() {
        violation(0x01, irp, format!("{function} was called without an IRP"));
    }
    if function == "IoCallDriver" {
        violation(
            0x03,
            irp,
            "IoCallDriver was called for something that is no IRP any more: completed, freed, or never allocated",
        );
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

/// Makes a stack location the current one: its number and its address.
fn set_location(irp: Ptr<IRP>, packet: Writable<IRP>, number: i8, location: Ptr<IO_STACK_LOCATION>) {
    packet.set(at!(irp, CurrentLocation), number);
    packet.set(at!(irp, Tail.Overlay.Anonymous2.Anonymous.CurrentStackLocation).cast(), location.address());
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

/// Sends a packet to the driver of `device`: `IofCallDriver` ("`IoCallDriver` macro").
pub fn call_driver(k: &Kernel, device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NTSTATUS {
    let index = known(k, irp, "IoCallDriver");
    check_sendable(k, device, irp, index);
    let now = Packet::of(irp);
    let current = now.current - 1;
    let location = Ptr::<IO_STACK_LOCATION>::new(now.location.address() - LOCATION_SIZE);
    set_location(irp, irp.writable(), current, location);
    layout::store(at!(location, DeviceObject), device);

    let [major, minor] = at!(location, MajorFunction).cast::<[u8; 2]>().read();
    rules::check_next_device(k, device, irp, index);
    let entered = if rules::is_judged(major) { rules::forwarded(k, irp, index) } else { (0, 0) };
    let routine = driver::routine_for(device, irp, major);
    let frame = k.io.irps.called(index, current, Sent { device, routine, major, minor, entered }, k.now());
    let status = driver::dispatch(k, device, irp, major, routine);
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
    let now = Packet::of(irp);
    if now.kind != IO_TYPE_IRP as i16 {
        violation(0x03, irp, format!("{}: IoCallDriver for an IRP whose type was overwritten", title()));
    }
    if at!(device, Type).read() != IO_TYPE_DEVICE as i16 {
        violation(0x04, irp, format!("{}: IoCallDriver with something that is no device object", title()));
    }
    if now.cancel_routine != 0 {
        violation(0x203, irp, format!("{}: passed down while its cancel routine is set", title()));
    }
    let current = now.current;
    if k.io.irps.is_below(index, current - 1) || k.io.irps.is_with(index, device) {
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
    rules::check_next_location(k, device, irp, &now, index);
}

/// `IofCompleteRequest` of a driver, which must be the one that has the packet.
pub fn complete_by_driver(k: &Kernel, irp: Ptr<IRP>) {
    let index = known(k, irp, "IoCompleteRequest");
    let holder = k.io.irps.pending_at(index, at!(irp, CurrentLocation).read());
    if let Some(routine) = holder
        && driver::is_of_another(k, k.exec.caller(), routine)
    {
        violation(0x209, irp, format!("{}: completed while a lower driver still has it", k.io.irps.title(index)));
    }
    complete_known(k, irp, index);
}

/// Ends the driver's work on a packet: `IofCompleteRequest` ("`IoCompleteRequest` macro").
pub fn complete(k: &Kernel, irp: Ptr<IRP>) {
    complete_known(k, irp, known(k, irp, "IoCompleteRequest"));
}

fn complete_known(k: &Kernel, irp: Ptr<IRP>, index: usize) {
    check_completable(k, irp, index);
    let by = k.exec.caller();
    loop {
        if leave_location(k, irp, index, by) == Next::Kept {
            return;
        }
        let [count, current] = at!(irp, StackCount).cast::<[i8; 2]>().read();
        if current > count {
            return give_back(k, irp, index);
        }
    }
}

fn check_completable(k: &Kernel, irp: Ptr<IRP>, index: usize) {
    let title = || k.io.irps.title(index);
    let now = Packet::of(irp);
    if k.io.irps.state(index) != State::Sent || now.current > now.count {
        Finding::bug_check(
            MULTIPLE_IRP_COMPLETE_REQUESTS,
            [irp.address(), 0, 0, 0],
            format!("{}: IoCompleteRequest, but no driver has it: it is complete, or was never sent", title()),
        )
        .raise();
    }
    if k.io.irps.is_below(index, now.current) {
        violation(0x209, irp, format!("{}: completed while a lower driver still has it", title()));
    }
    let status = now.status;
    if status == STATUS_PENDING || status == -1 {
        let sentence = format!("{}: completed with status {status:#010x}, which is no final status", title());
        Finding::bug_check(IO_MANAGER_VIOLATION, [0x06, u64::from(status.cast_unsigned()), irp.address(), 0], sentence)
            .raise();
    }
    let routine = now.cancel_routine;
    if routine != 0 {
        check_owner_of(k, routine, irp, title);
        let sentence = format!("{}: completed while its cancel routine is set", title());
        Finding::bug_check(IO_MANAGER_VIOLATION, [0x07, routine, irp.address(), 0], sentence).raise();
    }
    let [major, minor] = at!(now.location, MajorFunction).cast::<[u8; 2]>().read();
    if rules::is_judged(major) {
        rules::completed(k, irp, index, major, minor);
    }
}

/// A cancel routine of another driver than the one that completes the packet was set by one above, which did not have it any more.
fn check_owner_of(k: &Kernel, routine: u64, irp: Ptr<IRP>, title: impl Fn() -> String) {
    let owner = driver::at_address(k, routine);
    let device = layout::load(at!(current_location(irp), DeviceObject));
    if owner.is_some_and(|owner| owner != device::driver_of(device)) {
        let sentence = format!("{}: a driver has set its cancel routine while a lower driver has it", title());
        Finding::bug_check(IO_MANAGER_VIOLATION, [0x229, 0, irp.address(), 0], sentence)
            .with_stack("the cancel routine", &[routine])
            .raise();
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
fn leave_location(k: &Kernel, irp: Ptr<IRP>, index: usize, by: u64) -> Next {
    let now = Packet::of(irp);
    let (number, location) = (now.current, now.location);
    let left = location.cast::<Location>().read();
    set_location(irp, irp.writable(), number + 1, location.offset(1));

    let control = u32::from(left[0].to_le_bytes()[CONTROL]);
    let status = now.status;
    let marked = control & SL_PENDING_RETURNED != 0;
    at!(irp, PendingReturned).cast::<u8>().write(u8::from(marked));
    if let Err(disagreement) = k.io.irps.passed(index, number, Completed { marked, status, by }) {
        disagreement.raise(irp, &k.io.irps.title(index));
    }

    zero_location(location, &left);
    let invoked = if status >= 0 { SL_INVOKE_ON_SUCCESS } else { SL_INVOKE_ON_ERROR };
    let higher = number < now.count;
    if control & invoked != 0 || now.is_cancelled && control & SL_INVOKE_ON_CANCEL != 0 {
        return call_completion_routine(k, irp, index, &left, higher.then_some(marked));
    }
    if marked && higher {
        mark_pending(irp);
    }
    Next::Higher
}

/// `left` is the stack location that completion leaves; `pending`: whether the lower driver marked the packet pending, where there is a
/// higher driver.
fn call_completion_routine(k: &Kernel, irp: Ptr<IRP>, index: usize, left: &Location, pending: Option<bool>) -> Next {
    let (routine, context) = (left[LOCATION_ROUTINE], left[LOCATION_CONTEXT]);
    let [major, minor, ..] = left[0].to_le_bytes();
    let before = status(irp);
    let device = if pending.is_some() { at!(current_location(irp), DeviceObject).cast::<u64>().read() } else { 0 };
    if routine == 0 {
        violation(
            0x212,
            irp,
            format!("{}: a completion routine is to be called, but none is set", k.io.irps.title(index)),
        );
    }
    let result = k.call("completion routine", routine, &[device, irp.address(), context]) as NTSTATUS;
    if result == STATUS_MORE_PROCESSING_REQUIRED {
        return Next::Kept;
    }
    if k.io.irps.index_of(k, irp) != Some(index) {
        violation(0x20B, irp, "a completion routine freed its IRP, but did not return STATUS_MORE_PROCESSING_REQUIRED");
    }
    if before >= 0
        && status(irp) < 0
        && let Some((code, name)) = rules::must_succeed(major, minor.into())
    {
        let sentence = format!("{}: a completion routine failed {name}", k.io.irps.title(index));
        Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, irp.address(), 0], sentence)
            .with_stack("the completion routine", &[routine])
            .raise();
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

/// What is left of a stack location, `left`, that completion has passed.
fn zero_location(location: Ptr<IO_STACK_LOCATION>, left: &Location) {
    let [major, _, _, control, rest @ ..] = left[0].to_le_bytes();
    let mut zeroed = [0; size_of::<Location>() / size_of::<u64>()];
    let [a, b, c, d] = rest;
    zeroed[0] = u64::from_le_bytes([major, 0, 0, control & SL_ERROR_RETURNED as u8, a, b, c, d]);
    for kept in [LOCATION_DEVICE, LOCATION_ROUTINE, LOCATION_CONTEXT] {
        zeroed[kept] = left[kept];
    }
    location.cast::<Location>().write(zeroed);
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
        Owner::User(request) => request::finish(k, (irp, index), request),
        Owner::Lab(completion) => completion(k, irp),
    }
}
