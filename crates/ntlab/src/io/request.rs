//! Reads, writes and device controls of user processes: the I/O manager's part before and after the drivers' ("Methods for Accessing
//! Data Buffers", "Buffer Descriptions for I/O Control Codes").

use std::cell::RefCell;

use windows_sys::{
    Wdk::{
        Foundation::{IO_STACK_LOCATION, IRP, MDL},
        Storage::FileSystem::{DO_BUFFERED_IO, DO_DIRECT_IO},
        System::SystemServices::{
            IRP_BUFFERED_IO, IRP_DEALLOCATE_BUFFER, IRP_DEFER_IO_COMPLETION, IRP_INPUT_OPERATION,
            IRP_MJ_DEVICE_CONTROL, IRP_MJ_READ, IRP_MJ_WRITE, IRP_READ_OPERATION, IRP_WRITE_OPERATION, UserMode,
        },
    },
    Win32::{
        Foundation::{NTSTATUS, STATUS_ACCESS_DENIED, STATUS_INVALID_PARAMETER},
        Storage::FileSystem::{FILE_APPEND_DATA, FILE_READ_DATA, FILE_WRITE_DATA},
    },
};

use super::{
    buffer::{self, Buffer, Place},
    cancel, device,
    file::{self, FileId, Opened},
    irp::{self, Owner},
    layout::{LOCATION_FILE, Location, MDL_WRITE_OPERATION, Words},
    mdl,
};
use crate::{
    at,
    config::Checks,
    finding::Finding,
    kernel::Kernel,
    memory::{Ptr, unwritten::SYSTEM_BUFFER},
    pnp,
    rule::Rule,
    sched::ThreadId,
    timeline::{Asked, What},
    user::{Completion, Status},
};

const METHOD_BUFFERED: u32 = 0;
const METHOD_OUT_DIRECT: u32 = 2;
const METHOD_NEITHER: u32 = 3;

/// What a user process asks a device for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `DeviceIoControl`.
    Control {
        /// Control code.
        code: u32,
        /// Input.
        input: Vec<u8>,
        /// Length of the output buffer; for `METHOD_IN_DIRECT` the second buffer holds `data` instead.
        output: usize,
    },
    /// `DeviceIoControl` with a `METHOD_NEITHER` code and whatever addresses.
    ControlAt {
        /// Control code.
        code: u32,
        /// Address and length of the input.
        input: (u64, u32),
        /// Address and length of the output buffer.
        output: (u64, u32),
    },
    /// `ReadFile`.
    Read {
        /// Byte offset.
        offset: i64,
        /// Length of the buffer.
        length: usize,
    },
    /// `WriteFile`.
    Write {
        /// Byte offset.
        offset: i64,
        /// What is written.
        data: Vec<u8>,
    },
}

/// Where the data of a request is in the machine's memory.
#[derive(Clone, Copy, Debug, Default)]
struct Transfer {
    /// System buffer.
    system: Option<Buffer>,
    /// Locked buffer and its MDL.
    direct: Option<(Buffer, Ptr<MDL>)>,
    /// The user's own input and output, which the driver gets the addresses of.
    neither: [Option<Buffer>; 2],
    /// How much of it the driver may return.
    output: usize,
}

#[derive(Debug)]
struct Slot {
    file: FileId,
    irp: Ptr<IRP>,
    transfer: Transfer,
    done: Option<Completion>,
    waiter: Option<ThreadId>,
    /// For the timeline: what was asked, and when.
    asked: Option<(Asked, u64)>,
    /// The user gave the request up: nobody will take its result.
    abandoned: bool,
}

/// Every request that has not been taken by its user.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: RefCell<Vec<Option<Slot>>>,
    unused: RefCell<Vec<u32>>,
}

impl Requests {
    fn add(&self, slot: Slot) -> u32 {
        let mut slots = self.slots.borrow_mut();
        if let Some(index) = self.unused.borrow_mut().pop() {
            slots[index as usize] = Some(slot);
            return index;
        }
        slots.push(Some(slot));
        slots.len() as u32 - 1
    }

    fn with<T>(&self, index: u32, action: impl FnOnce(&mut Slot) -> T) -> T {
        action(self.slots.borrow_mut()[index as usize].as_mut().expect("a request stays until its user takes it"))
    }

    fn remove(&self, index: u32) {
        self.slots.borrow_mut()[index as usize] = None;
        self.unused.borrow_mut().push(index);
    }
}

/// A request as the stack location will say it.
struct Plan {
    major: u32,
    flags: u32,
    words: Words,
    /// `IRP.UserBuffer`.
    user: u64,
    transfer: Transfer,
}

/// Sends a request to the device of a file.
///
/// # Errors
///
/// The status of a request that the I/O manager does not send.
pub(crate) fn submit(k: &Kernel, id: FileId, request: &Request) -> Result<u32, NTSTATUS> {
    let file = k.io.files.reference(id);
    let top = device::top_of_stack(file.device);
    let plan = match check_access(request, file.access) {
        Ok(()) => plan(k, request, at!(top, Flags).read()),
        Err(status) => {
            file::release(k, id);
            return Err(status);
        }
    };
    let slot = Slot {
        file: id,
        irp: Ptr::null(),
        transfer: plan.transfer,
        done: None,
        waiter: None,
        asked: k.timeline.is_kept().then(|| (asked(k, &file, request, plan.major), k.now())),
        abandoned: false,
    };
    let index = k.io.requests.add(slot);
    let packet = irp::allocate(k, at!(top, StackSize).read(), Owner::User(index));
    k.io.requests.with(index, |slot| slot.irp = packet);
    let location = write(k, packet, &plan, &file);
    if let Some((buffer, mdl)) = plan.transfer.direct
        && is_read_only(k, packet, mdl)
    {
        buffer::set_read_only(k, &buffer, true);
    }
    let [first, second, third, fourth] = plan.words;
    let mut content: Location = [plan.major.into(), first, second, third, fourth, 0, 0, 0, 0];
    content[LOCATION_FILE] = file.object.address();
    location.cast::<Location>().write(content);
    irp::call_driver(k, top, packet);
    Ok(index)
}

/// Writes down in a fresh packet what is asked; returns the stack location that the first driver gets.
fn write(k: &Kernel, packet: Ptr<IRP>, plan: &Plan, file: &Opened) -> Ptr<IO_STACK_LOCATION> {
    let system = plan.transfer.system.map_or(0, |buffer| buffer.start.address());
    let mdl = plan.transfer.direct.map_or(0, |(_, mdl)| mdl.address());
    let thread = k.current_thread_object();
    let fresh = packet.writable();
    fresh.set(at!(packet, Flags), plan.flags);
    fresh.set(at!(packet, RequestorMode), UserMode as i8);
    fresh.set(at!(packet, UserBuffer).cast(), plan.user);
    fresh.set(at!(packet, AssociatedIrp.SystemBuffer).cast(), system);
    fresh.set(at!(packet, MdlAddress).cast(), mdl);
    fresh.set(at!(packet, Tail.Overlay.Thread).cast(), thread);
    fresh.set(at!(packet, Tail.Overlay.OriginalFileObject).cast(), file.object.address());
    irp::next_location(packet)
}

/// A request as the timeline has it.
fn asked(k: &Kernel, file: &Opened, request: &Request, major: u32) -> Asked {
    let code = match request {
        Request::Control { code, .. } | Request::ControlAt { code, .. } => *code,
        Request::Read { .. } | Request::Write { .. } => 0,
    };
    Asked { device: pnp::device_of(k, file.device), major: major as u8, code, status: 0 }
}

/// What the I/O manager checks before it makes a packet.
fn check_access(request: &Request, access: u32) -> Result<(), NTSTATUS> {
    let wanted = match request {
        Request::Control { code, .. } | Request::ControlAt { code, .. } => code >> 14 & 3,
        Request::Read { offset, .. } | Request::Write { offset, .. } if *offset < 0 => {
            return Err(STATUS_INVALID_PARAMETER);
        }
        Request::Read { .. } => FILE_READ_DATA,
        Request::Write { .. } if access & FILE_APPEND_DATA != 0 => return Ok(()),
        Request::Write { .. } => FILE_WRITE_DATA,
    };
    // FILE_READ_ACCESS and FILE_WRITE_ACCESS of a control code have the values of FILE_READ_DATA and FILE_WRITE_DATA.
    if wanted & !access == 0 { Ok(()) } else { Err(STATUS_ACCESS_DENIED) }
}

fn plan(k: &Kernel, request: &Request, device_flags: u32) -> Plan {
    match request {
        Request::Control { code, input, output } if code & 3 == METHOD_NEITHER => {
            plan_neither(k, *code, input, *output)
        }
        Request::Control { code, input, output } => plan_control(k, *code, input, *output),
        Request::ControlAt { code, input, output } => plan_control_at(*code, *input, *output),
        Request::Read { offset, length } => {
            let flags = IRP_READ_OPERATION | IRP_DEFER_IO_COMPLETION;
            let buffered = buffered_flags(device_flags, *length, IRP_INPUT_OPERATION);
            let transfer = plan_transfer(k, device_flags, None, *length);
            plan_data(k, IRP_MJ_READ, flags | buffered, *offset, *length, transfer)
        }
        Request::Write { offset, data } => {
            let flags = IRP_WRITE_OPERATION | IRP_DEFER_IO_COMPLETION;
            let buffered = buffered_flags(device_flags, data.len(), 0);
            let transfer = plan_transfer(k, device_flags, Some(data), data.len());
            plan_data(k, IRP_MJ_WRITE, flags | buffered, *offset, data.len(), transfer)
        }
    }
}

/// A read or write.
fn plan_data(k: &Kernel, major: u32, flags: u32, offset: i64, length: usize, transfer: Transfer) -> Plan {
    let user = transfer.neither[1].map_or_else(|| buffer::not_for_drivers(k), |buffer| buffer.start.address());
    Plan { major, flags, words: [length as u64, 0, offset.cast_unsigned(), 0], user, transfer }
}

const fn buffered_flags(device_flags: u32, length: usize, input: u32) -> u32 {
    if device_flags & DO_BUFFERED_IO == 0 || length == 0 { 0 } else { IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER | input }
}

/// The data of a read, or of a write of `data`.
fn plan_transfer(k: &Kernel, device_flags: u32, data: Option<&[u8]>, length: usize) -> Transfer {
    let output = if data.is_some() { 0 } else { length };
    if length == 0 {
        return Transfer::default();
    }
    if device_flags & DO_BUFFERED_IO != 0 {
        return Transfer {
            system: Some(buffer::take(k, Place::System, length, data.unwrap_or(&[]))),
            output,
            ..Transfer::default()
        };
    }
    if device_flags & DO_DIRECT_IO == 0 {
        let user = buffer::take(k, Place::User, length, data.unwrap_or(&[]));
        return Transfer { neither: [None, Some(user)], output, ..Transfer::default() };
    }
    let operation = if data.is_some() { 0 } else { MDL_WRITE_OPERATION };
    let direct = Some(locked_buffer(k, length, data.unwrap_or(&[]), operation));
    Transfer { direct, output, ..Transfer::default() }
}

/// A `METHOD_NEITHER` control: the driver gets the user's own addresses.
fn plan_neither(k: &Kernel, code: u32, input: &[u8], output: usize) -> Plan {
    let buffer = |length: usize, data: &[u8]| (length != 0).then(|| buffer::take(k, Place::User, length, data));
    let neither = [buffer(input.len(), input), buffer(output, &[])];
    let [from, to] = neither.map(|buffer| buffer.map_or(0, |buffer| buffer.start.address()));
    let transfer = Transfer { neither, output, ..Transfer::default() };
    Plan { transfer, ..plan_control_at(code, (from, input.len() as u32), (to, output as u32)) }
}

fn plan_control_at(code: u32, input: (u64, u32), output: (u64, u32)) -> Plan {
    if code & 3 != METHOD_NEITHER {
        Finding::not_modelled(format!("control code {code:#010x} with addresses of the user's: no METHOD_NEITHER"))
            .raise();
    }
    let words = [output.1.into(), input.1.into(), code.into(), input.0];
    Plan { major: IRP_MJ_DEVICE_CONTROL, flags: 0, words, user: output.0, transfer: Transfer::default() }
}

fn plan_control(k: &Kernel, code: u32, input: &[u8], output: usize) -> Plan {
    let user = buffer::not_for_drivers(k);
    let words = [output as u64, input.len() as u64, code.into(), user];
    let (transfer, flags) = match code & 3 {
        METHOD_BUFFERED => {
            let length = input.len().max(output);
            let system = (length != 0).then(|| buffer::take(k, Place::System, length, input));
            let flags = if length == 0 { 0 } else { IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER };
            (
                Transfer { system, output, ..Transfer::default() },
                flags | if output == 0 { 0 } else { IRP_INPUT_OPERATION },
            )
        }
        method => {
            let system = (!input.is_empty()).then(|| buffer::take(k, Place::System, input.len(), input));
            let operation = if method == METHOD_OUT_DIRECT { MDL_WRITE_OPERATION } else { 0 };
            let direct = (output != 0).then(|| locked_buffer(k, output, &[], operation));
            let flags = if system.is_some() { IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER } else { 0 };
            let output = if method == METHOD_OUT_DIRECT { output } else { 0 };
            (Transfer { system, direct, output, ..Transfer::default() }, flags)
        }
    };
    Plan { major: IRP_MJ_DEVICE_CONTROL, flags, words, user, transfer }
}

/// A buffer of the user's with its pages locked and described by an MDL.
fn locked_buffer(k: &Kernel, length: usize, data: &[u8], operation: i16) -> (Buffer, Ptr<MDL>) {
    let buffer = buffer::take(k, Place::Locked, length, data);
    (buffer, mdl::lock(k, buffer.start, length, operation))
}

/// Whether the pages of a locked buffer are read-only: where it was locked for reading, with the packets that have pages of their own.
/// It takes system calls.
fn is_read_only(k: &Kernel, packet: Ptr<IRP>, mdl: Ptr<MDL>) -> bool {
    irp::is_alone(k, packet) && at!(mdl, MdlFlags).read() & MDL_WRITE_OPERATION == 0
}

/// The I/O manager's part after the drivers': copies what they returned to the user, frees the packet, and wakes who waits.
/// `record` is the packet's.
pub(super) fn finish(k: &Kernel, (packet, record): (Ptr<IRP>, usize), index: u32) {
    let status = irp::status(packet);
    let information = at!(packet, IoStatus.Information).read() as u64;
    let (transfer, file) = k.io.requests.with(index, |slot| (slot.transfer, slot.file));
    for buffer in transfer.neither.iter().flatten() {
        buffer::reveal(k, buffer);
    }
    let output = fetch(k, packet, transfer, status, information);
    let end = if irp::is_alone(k, packet) { buffer::retire } else { buffer::give_back };
    if let Some(buffer) = transfer.system {
        end(k, buffer);
    }
    if let Some((buffer, mdl)) = transfer.direct {
        if is_read_only(k, packet, mdl) {
            buffer::set_read_only(k, &buffer, false);
        }
        mdl::unlock(k, mdl);
        end(k, buffer);
    }
    for buffer in transfer.neither.into_iter().flatten() {
        buffer::give_back(k, buffer);
    }
    irp::free_known(k, packet, record);
    let (waiter, abandoned, asked) = k.io.requests.with(index, |slot| {
        slot.irp = Ptr::null();
        slot.done = Some(Completion { status: Status(status), information, output });
        (slot.waiter.take(), slot.abandoned, slot.asked.take())
    });
    if let Some((asked, begin)) = asked {
        k.timeline.end(k, What::Request(Asked { status, ..asked }), begin);
    }
    if abandoned {
        k.io.requests.remove(index);
    }
    if let Some(thread) = waiter {
        k.wake(thread);
    }
    file::release(k, file);
}

/// What the user gets: nothing for an error; a driver that claims more than there is room for, or that it wrote what it did not, is found.
fn fetch(k: &Kernel, packet: Ptr<IRP>, transfer: Transfer, status: NTSTATUS, information: u64) -> Vec<u8> {
    let is_error = status.cast_unsigned() >> 30 == 3;
    if is_error || transfer.output == 0 {
        return Vec::new();
    }
    if let [_, Some(user)] = transfer.neither {
        // The information is between the driver and the user: nothing is copied, and the user sees all of his buffer.
        let all = user.start.read_bytes(transfer.output);
        check_written(k, packet, &all);
        return all[..all.len().min(information as usize)].to_vec();
    }
    let room = transfer.output as u64;
    if information > room {
        let sentence = format!("an IRP was completed with {information} bytes of output in a buffer of {room}");
        Rule::OutputTooLong.broken([packet.address(), information, room], sentence).raise();
    }
    let direct = transfer.direct.map(|(buffer, _)| buffer);
    let Some(buffer) = direct.or(transfer.system) else { return Vec::new() };
    let output = buffer.start.read_bytes(information as usize);
    check_written(k, packet, &output);
    output
}

/// Stops the run if there is memory in what goes to user mode that nobody has written.
fn check_written(k: &Kernel, packet: Ptr<IRP>, output: &[u8]) {
    if k.config.checks < Checks::Traces {
        return;
    }
    let Some(found) = k.memory.find_unwritten(output) else { return };
    let place = format!("offset {} of the {} bytes that an IRP returns to user mode", found.offset, output.len());
    let parameters = [packet.address(), found.offset as u64, output.len() as u64];
    let broken = |whose: &str| Rule::UnwrittenOutput.broken(parameters, format!("{place} is {whose}"));
    let block = found.block.and_then(|block| k.memory.pool.unwritten_block(block));
    match block {
        Some(block) => block.allocated(broken(&format!("memory of {block}, which nobody has written"))),
        None if found.block == Some(SYSTEM_BUFFER) => {
            broken("the system buffer behind the input, which the driver has not written")
        }
        None => broken("memory that nobody has written"),
    }
    .raise()
}

/// Whether a request has ended.
pub(crate) fn is_done(k: &Kernel, index: u32) -> bool {
    k.io.requests.with(index, |slot| slot.done.is_some())
}

/// Takes the result of a request that has ended.
pub(crate) fn take(k: &Kernel, index: u32) -> Completion {
    let done = k.io.requests.with(index, |slot| slot.done.take());
    k.io.requests.remove(index);
    done.expect("a request that has ended has a result")
}

/// Has the current thread woken when a request ends; false if it has ended.
pub(crate) fn watch(k: &Kernel, index: u32) -> bool {
    let thread = k.thread_id();
    k.io.requests.with(index, |slot| {
        slot.waiter = Some(thread);
        slot.done.is_none()
    })
}

/// Nobody will take the result.
pub(crate) fn abandon(k: &Kernel, index: u32) {
    let done = k.io.requests.with(index, |slot| {
        slot.abandoned = true;
        slot.done.is_some()
    });
    if done {
        k.io.requests.remove(index);
    }
}

/// Cancels a request that has not ended, as `CancelIoEx` does; false if it had no cancel routine or has ended.
pub(crate) fn cancel(k: &Kernel, index: u32) -> bool {
    cancel::cancel_current(k, || {
        let packet = k.io.requests.with(index, |slot| slot.irp);
        (!packet.is_null()).then_some(packet)
    })
}

/// Cancels the requests of a file that have not ended.
pub(crate) fn cancel_all(k: &Kernel, file: FileId) {
    let of_file = |slot: &&Slot| slot.file == file && !slot.irp.is_null();
    let packets: Vec<(usize, Ptr<IRP>)> = {
        let slots = k.io.requests.slots.borrow();
        let under_way =
            |(index, slot): (usize, &Option<Slot>)| slot.as_ref().filter(of_file).map(|slot| (index, slot.irp));
        slots.iter().enumerate().filter_map(under_way).collect()
    };
    for (index, packet) in packets {
        // It may have ended while another one was cancelled, and its place may be another's.
        cancel::cancel_current(k, || {
            let slots = k.io.requests.slots.borrow();
            slots[index].as_ref().filter(of_file).map(|slot| slot.irp).filter(|irp| *irp == packet)
        });
    }
}
