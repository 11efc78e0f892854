//! Requests, from the dispatch routine to their completion.

use hotadd_abi::{
    FactorialInput, FactorialOutput, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ, IOCTL_HOTADD_JOURNAL_WAIT,
    IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS, JournalInput, ProcessorStatistics, ProcessorsInput, ProcessorsOutput,
    Status, Wire, WireError,
};
use hotadd_policy::work::{self, BadTransfer, Transfer, factorial as factorial_of};
use wdm::device::{Device, DeviceRef, IoDevice, Pass};
use wdm::driver::Registered;
pub use wdm::irp::Direction;
use wdm::irp::{self, DeviceControl, Disposition, Irp, IrpRef, PendedIrp};
use wdm::irql::Dispatch;
use wdm::pool::{PoolArray, PoolBox};
use wdm::processors;
use wdm::queue::QueuedContext;
use wdm::status::{NtStatus, Result};

use crate::device::{Core, Fdo, Outcome};
use crate::journal::Journal;
use crate::{Hotadd, TAG, gate};

/// What the device is to do.
pub enum Work {
    /// What waits without a buffer of the pool.
    Plain(Plain),
    /// Move bytes that waited in a buffer of the pool to its buffer.
    Store(PoolBox<Buffer>),
}

/// What waits without a buffer of the pool. `counted` says whether the request was counted as accepted, as one that had to wait.
#[derive(Clone, Copy)]
pub enum Plain {
    /// Compute a factorial.
    Factorial { number: u32, counted: bool },
    /// Move bytes between its buffer and the request's.
    Direct { offset: u16, length: u16, direction: Direction, counted: bool },
}

impl Plain {
    /// None where the numbers are larger than the device's buffer.
    fn direct(direction: Direction, transfer: Transfer) -> Option<Self> {
        let (offset, length) = (u16::try_from(transfer.offset).ok()?, u16::try_from(transfer.length).ok()?);
        Some(Self::Direct { offset, length, direction, counted: false })
    }

    const fn counted(&mut self) -> &mut bool {
        match self {
            Self::Factorial { counted, .. } | Self::Direct { counted, .. } => counted,
        }
    }
}

/// Writes to the software engine's buffer.
fn store(core: &Core, offset: usize, from: &[u8]) -> Result {
    let mut store = core.store.lock();
    let to = store.get_mut(offset..).and_then(|rest| rest.get_mut(..from.len()));
    // Both have the same length; `copy_from_slice` would check that once more, and panic.
    for (to, from) in to.ok_or(NtStatus::INVALID_BUFFER_SIZE)?.iter_mut().zip(from) {
        *to = *from;
    }
    Ok(())
}

/// Transfers in memory; returns how many bytes.
#[inline]
fn execute_direct(core: &Core, irp: &IrpRef, place: (u16, u16), direction: Direction, here: Here<'_>) -> Result<usize> {
    let buffer = irp.mapped_buffer().ok_or(NtStatus::INVALID_DEVICE_STATE)?;
    let (offset, length) = (usize::from(place.0), usize::from(place.1));
    let transfer = |store: &mut [u8]| {
        let bytes = store.get_mut(offset..).and_then(|rest| rest.get_mut(..length));
        let bytes = bytes.ok_or(NtStatus::INVALID_BUFFER_SIZE)?;
        match direction {
            Direction::Read => buffer.write(0, bytes)?,
            Direction::Write => buffer.read(0, bytes)?,
        }
        Ok(length)
    };
    if let Some(dispatch) = here.dispatch {
        return transfer(&mut core.store.lock_at_dispatch(dispatch));
    }
    transfer(&mut core.store.lock())
}

/// The bytes of a write that waits for its turn at the device, from the buffer pool, and which write that is.
pub struct Buffer {
    /// The next free one, in the pool.
    pub next: Option<PoolBox<Self>>,
    pub transfer: Transfer,
    counted: bool,
    bytes: PoolArray<u8>,
}

impl Buffer {
    /// A free one.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new() -> Result<PoolBox<Self>> {
        let bytes = PoolArray::from_fn(TAG, hotadd_abi::BUFFER_BYTES as usize, |_| 0)?;
        let transfer = Transfer { offset: 0, length: 0 };
        PoolBox::new(TAG, Self { next: None, transfer, counted: false, bytes })
    }

    /// The bytes of its transfer.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.transfer.length as usize).unwrap_or_default()
    }
}

impl Work {
    fn counted(&mut self) -> &mut bool {
        match self {
            Self::Plain(plain) => plain.counted(),
            Self::Store(buffer) => &mut buffer.counted,
        }
    }

    /// Whether it was counted as accepted.
    pub fn was_counted(&mut self) -> bool {
        *self.counted()
    }

    /// Notes whether it is counted as accepted.
    pub fn set_counted(&mut self, yes: bool) {
        *self.counted() = yes;
    }

    /// Takes the bytes of a write along, which is to wait. Where the pool has no buffer for them they stay where they are.
    pub fn keep_bytes(self, core: &Core, irp: &IrpRef) -> Self {
        let Self::Plain(Plain::Direct { offset, length, direction: Direction::Write, counted }) = self else {
            return self;
        };
        let list = list(core, Here::now().processor);
        let Ok(mut buffer) = core.shared.memory.pool.take(list) else { return self };
        buffer.transfer = Transfer { offset: offset.into(), length: length.into() };
        buffer.counted = counted;
        if irp.direct_buffer().and_then(|from| from.read(0, buffer.bytes())).is_err() {
            core.shared.memory.pool.put(buffer, list);
            return self;
        }
        Self::Store(buffer)
    }

    /// Gives its buffer back.
    fn end(self, core: &Core, processor: u32) {
        if let Self::Store(buffer) = self {
            core.shared.memory.pool.put(buffer, list(core, processor));
        }
    }
}

/// The list of the pool that a processor uses for a device.
const fn list(core: &Core, processor: u32) -> u32 {
    processor.wrapping_add(core.number)
}

/// Where a request ends: on a processor, which at DISPATCH_LEVEL stays the same.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    pub processor: u32,
    pub dispatch: Option<Dispatch<'a>>,
}

impl Here<'_> {
    /// The processor that this runs on.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn now() -> Self {
        Self { processor: processors::current(), dispatch: None }
    }
}

/// A request in flight, without its IRP.
pub struct Passed {
    /// The gate counts it as in flight while it has this.
    pub pass: Pass<Fdo>,
    pub work: Work,
}

impl Passed {
    /// Does its work in memory, and completes it.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    #[expect(
        clippy::inline_always,
        reason = "on the way of every request, where saving registers would cost as much as the work"
    )]
    #[inline(always)]
    pub fn execute(self, irp: PendedIrp, here: Here<'_>) {
        let Self { pass, work } = self;
        match work {
            Work::Plain(Plain::Factorial { number, counted }) => {
                finish_factorial(pass, irp, Ok(factorial_of(number)), counted, here);
            }
            Work::Plain(Plain::Direct { offset, length, direction, counted }) => {
                serve_direct(pass, irp, (offset, length, direction), counted, here);
            }
            Work::Store(buffer) => serve_store(pass, irp, buffer, here),
        }
    }

    /// Completes it, and gives its buffer back. `result` is the factorial for a factorial, and means nothing for a transfer.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    #[expect(
        clippy::inline_always,
        reason = "on the way of every request, where saving registers would cost as much as the work"
    )]
    #[inline(always)]
    pub fn finish(self, irp: PendedIrp, result: Result<u32>, here: Here<'_>) {
        let Self { pass, work } = self;
        match work {
            Work::Plain(Plain::Factorial { counted, .. }) => finish_factorial(pass, irp, result, counted, here),
            Work::Plain(Plain::Direct { length, counted, .. }) => {
                finish_direct(pass, irp, result.map(|_| length.into()), counted, here);
            }
            Work::Store(buffer) => {
                finish_store(pass, irp, result.map(|_| buffer.transfer.length as usize), buffer, here);
            }
        }
    }

    /// Completes it with an error.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    #[cold]
    pub fn fail(self, irp: PendedIrp, status: NtStatus) {
        self.finish(irp, Err(status), Here::now());
    }
}

#[expect(
    clippy::inline_always,
    reason = "on the way of every request, where saving registers would cost as much as the work"
)]
#[inline(always)]
fn finish_factorial(pass: Pass<Fdo>, irp: PendedIrp, result: Result<u32>, counted: bool, here: Here<'_>) {
    let deliver = |factorial| output(&irp, 0, &FactorialOutput { factorial, processor: here.processor });
    let ended = result.and_then(deliver);
    pass.core.count(counted, Outcome::of(ended), here);
    complete(pass, irp, ended);
}

#[expect(
    clippy::inline_always,
    reason = "on the way of every transfer, where saving registers would cost as much as the work"
)]
#[inline(always)]
fn serve_direct(
    pass: Pass<Fdo>,
    irp: PendedIrp,
    (offset, length, direction): (u16, u16, Direction),
    counted: bool,
    here: Here<'_>,
) {
    let core: &Core = &pass.core;
    let ended = execute_direct(core, &irp, (offset, length), direction, here);
    core.count(counted, Outcome::of(ended), here);
    complete(pass, irp, ended);
}

#[inline(never)]
fn serve_store(pass: Pass<Fdo>, irp: PendedIrp, mut buffer: PoolBox<Buffer>, here: Here<'_>) {
    let Transfer { offset, length } = buffer.transfer;
    let stored = store(&pass.core, offset as usize, buffer.bytes());
    finish_store(pass, irp, stored.map(|()| length as usize), buffer, here);
}

#[inline]
fn finish_direct(pass: Pass<Fdo>, irp: PendedIrp, ended: Result<usize>, counted: bool, here: Here<'_>) {
    pass.core.count(counted, Outcome::of(ended), here);
    complete(pass, irp, ended);
}

fn finish_store(pass: Pass<Fdo>, irp: PendedIrp, ended: Result<usize>, buffer: PoolBox<Buffer>, here: Here<'_>) {
    pass.core.count(buffer.counted, Outcome::of(ended), here);
    Work::Store(buffer).end(&pass.core, here.processor);
    complete(pass, irp, ended);
}

#[inline]
fn complete(pass: Pass<Fdo>, irp: PendedIrp, ended: Result<usize>) {
    match ended {
        Ok(information) => irp.complete_with(NtStatus::SUCCESS, information),
        Err(status) => irp.complete(status),
    }
    // Last: whoever closes the gate goes on when this is gone, and the device with it.
    drop(pass);
}

/// A request that waits without being in flight, at the gate or for the device.
pub struct Waiting {
    pub device: DeviceRef<Fdo>,
    pub work: Work,
}

impl Waiting {
    /// Completes it with an error, as one that was accepted.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    pub fn fail(self, irp: PendedIrp, status: NtStatus) {
        let (Self { device, mut work }, here) = (self, Here::now());
        device.core.count(work.was_counted(), Outcome::of(Err(status)), here);
        work.end(&device.core, here.processor);
        irp.complete(status);
        // Last: the device may be removed when this is gone.
        drop(device);
    }
}

impl QueuedContext for Waiting {
    fn cancelled(self, irp: PendedIrp) {
        self.fail(irp, NtStatus::CANCELLED);
    }
}

/// Completes a request with an error, as one that was never accepted.
///
/// IRQL: <= DISPATCH_LEVEL; not under a lock.
pub fn refuse(device: &Fdo, irp: PendedIrp, work: Work, status: NtStatus) {
    work.end(&device.core, Here::now().processor);
    irp.complete(status);
}

/// `IRP_MJ_READ` and `IRP_MJ_WRITE`.
///
/// IRQL: <= DISPATCH_LEVEL.
pub fn transfer(device: IoDevice<Fdo>, irp: Irp<'_>, wanted: irp::Transfer) -> Disposition<'_> {
    match work::transfer(wanted.offset, wanted.length, device.engines.buffer_bytes()) {
        Err(bad) => irp.complete(status_of(bad, wanted.direction)),
        Ok(Transfer { length: 0, .. }) => transfer_nothing(&device, irp),
        Ok(transfer) => begin_transfer(device, irp, wanted.direction, transfer),
    }
}

const fn status_of(bad: BadTransfer, direction: Direction) -> NtStatus {
    match (bad, direction) {
        (BadTransfer::Invalid, _) => NtStatus::INVALID_PARAMETER,
        (BadTransfer::OverEnd, _) => NtStatus::INVALID_BUFFER_SIZE,
        (BadTransfer::BeyondEnd, Direction::Write) => NtStatus::DISK_FULL,
        (BadTransfer::BeyondEnd, Direction::Read) => NtStatus::END_OF_FILE,
    }
}

#[cold]
fn transfer_nothing<'a>(device: &Fdo, irp: Irp<'a>) -> Disposition<'a> {
    irp.complete(if device.gate.is_refusing() { NtStatus::DELETE_PENDING } else { NtStatus::SUCCESS })
}

fn begin_transfer(device: IoDevice<Fdo>, irp: Irp<'_>, direction: Direction, transfer: Transfer) -> Disposition<'_> {
    let work = Plain::direct(direction, transfer).ok_or(NtStatus::INVALID_BUFFER_SIZE);
    // Mapped here, where failing is still possible; the engine finds it mapped.
    match work.and_then(|work| irp.direct_buffer().map(|_| work)) {
        Ok(work) => begin(device, irp, Work::Plain(work)),
        Err(status) => irp.complete(status),
    }
}

/// Accepts a request that was found good: from here on the gate decides.
#[expect(
    clippy::inline_always,
    reason = "on the way of every request, where saving registers would cost as much as the work"
)]
#[inline(always)]
fn begin(device: IoDevice<Fdo>, irp: Irp<'_>, work: Work) -> Disposition<'_> {
    let Some(driver) = Hotadd::running(&irp) else { return irp.complete(NtStatus::DEVICE_NOT_READY) };
    let (irp, disposition) = irp.pend();
    gate::submit(device, irp, work, &driver.shared.processors);
    disposition
}

/// `IRP_MJ_DEVICE_CONTROL`; `hotadd_abi` says what ends with which status.
///
/// IRQL: <= DISPATCH_LEVEL.
pub fn device_control(device: IoDevice<Fdo>, irp: Irp<'_>, control: DeviceControl) -> Disposition<'_> {
    match control.code {
        IOCTL_HOTADD_FACTORIAL => factorial(device, irp, control),
        IOCTL_HOTADD_STATUS => status(&device, irp, control),
        _ => other_control(&device, irp),
    }
}

/// The control codes that are not for the device, and seldom come.
#[inline(never)]
fn other_control<'a>(device: &Device<Fdo>, irp: Irp<'a>) -> Disposition<'a> {
    let Some(control) = irp.device_control() else { return irp.complete(NtStatus::INVALID_DEVICE_REQUEST) };
    let answered = match control.code {
        IOCTL_HOTADD_JOURNAL_WAIT => return journal_wait(device, irp, control),
        IOCTL_HOTADD_PROCESSORS => processor_statistics(device, &irp, control),
        IOCTL_HOTADD_JOURNAL_READ => journal_read(&device.core.shared.journal, &irp, control),
        _ => Err(NtStatus::INVALID_DEVICE_REQUEST),
    };
    match answered {
        Ok(bytes) => irp.complete_with(NtStatus::SUCCESS, bytes),
        Err(status) => irp.complete(status),
    }
}

fn factorial(device: IoDevice<Fdo>, irp: Irp<'_>, control: DeviceControl) -> Disposition<'_> {
    match factorial_number(&irp, control) {
        Ok(number) => begin(device, irp, Work::Plain(Plain::Factorial { number, counted: false })),
        Err(status) => irp.complete(status),
    }
}

fn factorial_number(irp: &IrpRef, control: DeviceControl) -> Result<u32> {
    let input = input::<FactorialInput>(irp, control)?;
    check_room(control, FactorialOutput::SIZE)?;
    Ok(input.number)
}

fn status<'a>(device: &Device<Fdo>, mut irp: Irp<'a>, control: DeviceControl) -> Disposition<'a> {
    let checked = check_input_length(control, 0).and_then(|()| irp.output());
    match checked.map(|output| device.write_status(output)) {
        Ok(()) => irp.complete_with(NtStatus::SUCCESS, Status::SIZE),
        Err(status) => irp.complete(status),
    }
}

fn processor_statistics(device: &Fdo, irp: &IrpRef, control: DeviceControl) -> Result<usize> {
    let first = input::<ProcessorsInput>(irp, control)?.first;
    check_room(control, ProcessorsOutput::SIZE + ProcessorStatistics::SIZE)?;
    let processors = &device.core.shared.processors;
    let mut known = (first..processors.room()).filter_map(|index| processors.statistics(index));
    let mut at = ProcessorsOutput::SIZE;
    let mut front = ProcessorsOutput::default();
    for statistics in known.by_ref() {
        if at.saturating_add(ProcessorStatistics::SIZE) > control.output_length {
            front.next = statistics.index;
            break;
        }
        at = at.saturating_add(output(irp, at, &statistics)?);
        front.count = front.count.saturating_add(1);
    }
    output(irp, 0, &front)?;
    Ok(at)
}

fn journal_read(journal: &Journal, irp: &IrpRef, control: DeviceControl) -> Result<usize> {
    let cursor = input::<JournalInput>(irp, control)?.cursor;
    journal.read(irp, cursor, control.output_length).map(|(bytes, _)| bytes)
}

fn journal_wait<'a>(device: &Fdo, irp: Irp<'a>, control: DeviceControl) -> Disposition<'a> {
    match input::<JournalInput>(&irp, control) {
        Err(status) => irp.complete(status),
        Ok(_) if device.gate.is_refusing() => irp.complete(NtStatus::DELETE_PENDING),
        Ok(input) => {
            let (irp, disposition) = irp.pend();
            device.core.shared.journal.wait(irp, input.cursor);
            disposition
        }
    }
}

const fn check_input_length(control: DeviceControl, length: usize) -> Result {
    if control.input_length == length { Ok(()) } else { Err(NtStatus::INFO_LENGTH_MISMATCH) }
}

const fn check_room(control: DeviceControl, bytes: usize) -> Result {
    if control.output_length >= bytes { Ok(()) } else { Err(NtStatus::BUFFER_TOO_SMALL) }
}

/// The input structure of a control code.
fn input<T: Wire>(irp: &IrpRef, control: DeviceControl) -> Result<T> {
    check_input_length(control, T::SIZE)?;
    let mut bytes = T::ZEROS;
    irp.read_input(bytes.as_mut())?;
    T::from_bytes(bytes.as_ref()).map_err(|_: WireError| NtStatus::INVALID_PARAMETER)
}

/// Puts a structure in the output at `at`; returns how many bytes it takes.
pub fn output<T: Wire>(irp: &IrpRef, at: usize, value: &T) -> Result<usize> {
    irp.write_output(at, value.to_bytes().as_ref())?;
    Ok(T::SIZE)
}
