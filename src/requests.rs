//! Requests, from the dispatch routine to their completion.

use hotadd_abi::{
    FactorialInput, FactorialOutput, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ, IOCTL_HOTADD_JOURNAL_WAIT,
    IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS, JournalInput, ProcessorStatistics, ProcessorsInput, ProcessorsOutput,
    Status, Wire, WireError,
};
use hotadd_policy::work::{BadTransfer, Transfer, factorial as factorial_of, transfer};
use wdm::irp::{DeviceControl, Disposition, Irp, IrpRef, PendedIrp};
use wdm::pool::{PoolArc, PoolArray, PoolBox};
use wdm::processors;
use wdm::queue::QueuedContext;
use wdm::rundown::RundownGuard;
use wdm::status::{NtStatus, Result};

use crate::TAG;
use crate::device::{Core, Fdo, Outcome};
use crate::journal::Journal;
use crate::memory::BufferPool;

/// What the device is to do.
#[derive(Clone, Copy)]
pub enum Work {
    /// Compute a factorial.
    Factorial(u32),
    /// Move bytes from the device's buffer to the request's.
    Read(Transfer),
    /// Move bytes from the request's buffer to the device's.
    Write(Transfer),
}

/// A request for the device; its IRP goes along with it.
///
/// It comes from the buffer pool before the request is accepted and goes back when it is completed.
pub struct Request {
    /// The next free one, in the pool.
    pub next: Option<PoolBox<Self>>,
    /// The device that it is for. It stays set in the pool, because a device's requests mostly come back to it, and
    /// counting its users for each request would have all processors write to one cache line.
    core: Option<PoolArc<Core>>,
    /// The gate counts it as in flight while it has this.
    pass: Option<RundownGuard>,
    pub work: Work,
    /// What is written, or was read.
    pub buffer: PoolArray<u8>,
}

impl Request {
    /// A free one.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn new() -> Result<PoolBox<Self>> {
        let buffer = PoolArray::from_fn(TAG, hotadd_abi::BUFFER_BYTES as usize, |_| 0)?;
        PoolBox::new(TAG, Self { next: None, core: None, pass: None, work: Work::Factorial(0), buffer })
    }

    /// Makes it one of this device.
    pub fn belong_to(&mut self, core: &PoolArc<Core>) {
        if self.core.as_ref().is_none_or(|own| own.number != core.number) {
            self.core = Some(core.clone());
        }
    }

    /// Lets go of this device.
    pub fn forget(&mut self, core: &PoolArc<Core>) {
        if self.core.as_ref().is_some_and(|own| own.number == core.number) {
            self.core = None;
        }
    }

    /// Takes its work, and what is to be written.
    fn prepare(&mut self, irp: &IrpRef, work: Work) -> Result {
        self.work = work;
        match work {
            Work::Write(_) => irp.direct_buffer()?.read(0, self.bytes()),
            // Mapped here, where failing is still possible.
            Work::Read(_) => irp.direct_buffer().map(drop),
            Work::Factorial(_) => Ok(()),
        }
    }

    /// Does its work in memory, as the software engine does it: the factorial, or the transfer with the device's
    /// buffer.
    pub fn execute(&mut self) -> Result<u32> {
        let (offset, length) = match self.work {
            Work::Factorial(number) => return Ok(factorial_of(number)),
            Work::Read(transfer) | Work::Write(transfer) => (transfer.offset as usize, transfer.length as usize),
        };
        let core = self.core.as_ref().ok_or(NtStatus::INVALID_DEVICE_STATE)?;
        let ours = self.buffer.get_mut(..length).ok_or(NtStatus::INVALID_BUFFER_SIZE)?;
        let mut store = core.store.lock();
        let theirs = store.get_mut(offset..).and_then(|rest| rest.get_mut(..length));
        let theirs = theirs.ok_or(NtStatus::INVALID_BUFFER_SIZE)?;
        // Both have `length` bytes; `copy_from_slice` would check that once more, and panic.
        let (from, to): (&[u8], &mut [u8]) =
            if matches!(self.work, Work::Write(_)) { (ours, theirs) } else { (theirs, ours) };
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
        Ok(0)
    }

    /// Gives its result to the caller; returns how many bytes that are.
    fn deliver(&mut self, irp: &IrpRef, value: u32) -> Result<usize> {
        match self.work {
            Work::Factorial(_) => {
                output(irp, 0, &FactorialOutput { factorial: value, processor: processors::current().0 })
            }
            Work::Read(_) => {
                let bytes = self.bytes();
                irp.direct_buffer()?.write(0, bytes)?;
                Ok(bytes.len())
            }
            Work::Write(transfer) => Ok(transfer.length as usize),
        }
    }

    /// The bytes of its transfer.
    pub fn bytes(&mut self) -> &mut [u8] {
        let length = match self.work {
            Work::Factorial(_) => 0,
            Work::Read(transfer) | Work::Write(transfer) => transfer.length as usize,
        };
        self.buffer.get_mut(..length).unwrap_or_default()
    }
}

/// A [`Request`] as it lies in a queue with its IRP, or as it is worked on.
pub struct Queued(pub PoolBox<Request>);

impl Queued {
    /// Makes the gate count it as in flight until it is completed.
    pub fn passed(mut self, pass: RundownGuard) -> Self {
        self.0.pass = Some(pass);
        self
    }

    /// Gives up being counted as in flight.
    pub fn take_pass(&mut self) -> Option<RundownGuard> {
        self.0.pass.take()
    }

    /// Completes it with an error, as one that was never accepted.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    pub fn refuse(self, irp: PendedIrp, status: NtStatus) {
        if let Some(core) = self.0.core.clone() {
            core.shared.memory.pool.put(self.0, core.number);
        }
        irp.complete(status);
    }

    /// Completes it with an error.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    pub fn fail(self, irp: PendedIrp, status: NtStatus) {
        match self.0.core.clone() {
            Some(core) => self.finish(irp, Err(status), &core.shared.memory.pool),
            None => irp.complete(status),
        }
    }

    /// Completes it, and gives the request back to the pool. `result` is the factorial for a factorial, and means
    /// nothing for a transfer.
    ///
    /// IRQL: <= DISPATCH_LEVEL; not under a lock.
    pub fn finish(self, irp: PendedIrp, result: Result<u32>, pool: &BufferPool) {
        let Self(mut request) = self;
        let (status, information) = match result.and_then(|value| request.deliver(&irp, value)) {
            Ok(information) => (NtStatus::SUCCESS, information),
            Err(status) => (status, 0),
        };
        let pass = request.pass.take();
        let mut device = 0;
        if let Some(core) = &request.core {
            device = core.number;
            core.count(Outcome::of(status));
            core.shared.processors.count_request();
        }
        pool.put(request, device);
        irp.complete_with(status, information);
        // Last: whoever closes the gate goes on when this is gone, and the device with it.
        drop(pass);
    }
}

impl QueuedContext for Queued {
    fn cancelled(self, irp: PendedIrp) {
        self.fail(irp, NtStatus::CANCELLED);
    }
}

/// `IRP_MJ_READ` and `IRP_MJ_WRITE`.
///
/// IRQL: <= DISPATCH_LEVEL.
pub fn read_write<'a>(device: &Fdo, irp: Irp<'a>, work: fn(Transfer) -> Work) -> Disposition<'a> {
    match check_transfer(&irp, device.engines.buffer_bytes(), work(Transfer { offset: 0, length: 0 })) {
        Err(status) => irp.complete(status),
        Ok(_) if device.gate.is_refusing() => irp.complete(NtStatus::DELETE_PENDING),
        Ok(Transfer { length: 0, .. }) => irp.complete(NtStatus::SUCCESS),
        Ok(transfer) => begin(device, irp, work(transfer)),
    }
}

fn check_transfer(irp: &IrpRef, size: u32, work: Work) -> Result<Transfer> {
    let parameters = irp.read_write().ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
    let length = u32::try_from(parameters.length).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    transfer(parameters.offset, length, size).map_err(|bad| match (bad, work) {
        (BadTransfer::Invalid, _) => NtStatus::INVALID_PARAMETER,
        (BadTransfer::OverEnd, _) => NtStatus::INVALID_BUFFER_SIZE,
        (BadTransfer::BeyondEnd, Work::Write(_)) => NtStatus::DISK_FULL,
        (BadTransfer::BeyondEnd, Work::Read(_) | Work::Factorial(_)) => NtStatus::END_OF_FILE,
    })
}

/// Accepts a request that was found good: from here on the gate decides.
fn begin<'a>(device: &Fdo, irp: Irp<'a>, work: Work) -> Disposition<'a> {
    let pool = &device.core.shared.memory.pool;
    let mut request = match pool.take(&device.core) {
        Ok(request) => request,
        Err(status) => return irp.complete(status),
    };
    if let Err(status) = request.prepare(&irp, work) {
        pool.put(request, device.core.number);
        return irp.complete(status);
    }
    let (irp, disposition) = irp.pend();
    device.gate.submit(irp, Queued(request), &device.engines);
    disposition
}

/// `IRP_MJ_DEVICE_CONTROL`; `hotadd_abi` says what ends with which status.
///
/// IRQL: <= DISPATCH_LEVEL.
pub fn device_control<'a>(device: &Fdo, irp: Irp<'a>) -> Disposition<'a> {
    let Some(control) = irp.device_control() else { return irp.complete(NtStatus::INVALID_DEVICE_REQUEST) };
    let answered = match control.code {
        IOCTL_HOTADD_FACTORIAL => return factorial(device, irp, control),
        IOCTL_HOTADD_JOURNAL_WAIT => return journal_wait(device, irp),
        IOCTL_HOTADD_STATUS => status(device, &irp, control),
        IOCTL_HOTADD_PROCESSORS => processor_statistics(device, &irp, control),
        IOCTL_HOTADD_JOURNAL_READ => journal_read(&device.core.shared.journal, &irp, control),
        _ => Err(NtStatus::INVALID_DEVICE_REQUEST),
    };
    match answered {
        Ok(bytes) => irp.complete_with(NtStatus::SUCCESS, bytes),
        Err(status) => irp.complete(status),
    }
}

fn factorial<'a>(device: &Fdo, irp: Irp<'a>, control: DeviceControl) -> Disposition<'a> {
    let checked = input::<FactorialInput>(&irp, control).and_then(|input| {
        check_room(control, FactorialOutput::SIZE)?;
        Ok(input.number)
    });
    match checked {
        Ok(number) => begin(device, irp, Work::Factorial(number)),
        Err(status) => irp.complete(status),
    }
}

fn status(device: &Fdo, irp: &IrpRef, control: DeviceControl) -> Result<usize> {
    check_input_length(control, 0)?;
    check_room(control, Status::SIZE)?;
    output(irp, 0, &device.status())
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

fn journal_wait<'a>(device: &Fdo, irp: Irp<'a>) -> Disposition<'a> {
    let Some(control) = irp.device_control() else { return irp.complete(NtStatus::INVALID_DEVICE_REQUEST) };
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
    let mut bytes = [0; JournalInput::SIZE];
    let bytes = bytes.get_mut(..T::SIZE).ok_or(NtStatus::INVALID_PARAMETER)?;
    irp.read_input(bytes)?;
    T::from_bytes(bytes).map_err(|_: WireError| NtStatus::INVALID_PARAMETER)
}

/// Puts a structure in the output at `at`; returns how many bytes it takes.
pub fn output<T: Wire>(irp: &IrpRef, at: usize, value: &T) -> Result<usize> {
    let mut bytes = [0; Status::SIZE];
    let bytes = bytes.get_mut(..T::SIZE).ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    value.write_to(bytes).ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    irp.write_output(at, bytes)?;
    Ok(T::SIZE)
}
