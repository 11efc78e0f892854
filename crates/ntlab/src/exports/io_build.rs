//! Packets that the I/O manager builds for drivers, and devices that drivers open by name ("Creating IRPs for Lower-Level Drivers").

use std::rc::Rc;

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, FILE_OBJECT, IRP, KEVENT},
        Storage::FileSystem::{DO_BUFFERED_IO, DO_DIRECT_IO},
        System::SystemServices::{
            IRP_BUFFERED_IO, IRP_DEALLOCATE_BUFFER, IRP_INPUT_OPERATION, IRP_MJ_DEVICE_CONTROL, IRP_MJ_FLUSH_BUFFERS,
            IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_PNP, IRP_MJ_READ, IRP_MJ_SHUTDOWN, IRP_MJ_WRITE,
            SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS,
        },
    },
    Win32::{
        Foundation::{NTSTATUS, STATUS_SUCCESS, UNICODE_STRING},
        System::IO::IO_STATUS_BLOCK,
    },
};

use super::{Export, mdl};
use crate::{
    at, export,
    finding::Finding,
    io::{
        device, file,
        irp::{self, Owner},
        layout, object, string,
    },
    irql::{APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, at_most, exactly},
    kernel::Kernel,
    memory::{PoolKind, Ptr, Request},
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("IoBuildDeviceIoControlRequest", at_most(APC_LEVEL), io_build_device_io_control_request),
    export!("IoBuildSynchronousFsdRequest", at_most(APC_LEVEL), io_build_synchronous_fsd_request),
    export!("IoBuildAsynchronousFsdRequest", at_most(APC_LEVEL), io_build_asynchronous_fsd_request),
    export!("IoGetDeviceObjectPointer", exactly(PASSIVE_LEVEL), io_get_device_object_pointer),
    export!("IoGetAttachedDevice", at_most(DISPATCH_LEVEL), io_get_attached_device),
    export!("IoGetRelatedDeviceObject", at_most(DISPATCH_LEVEL), io_get_related_device_object),
    export!("IoSetCompletionRoutineEx", at_most(DISPATCH_LEVEL), io_set_completion_routine_ex),
];

const METHOD_BUFFERED: u32 = 0;
const METHOD_NEITHER: u32 = 3;
const METHOD_IN_DIRECT: u32 = 1;
const READ_ACCESS: i32 = 0;
const WRITE_ACCESS: i32 = 1;
/// The tag of system buffers.
const SYSTEM_BUFFER: &[u8; 4] = b"IoSB";

/// Where the result of a packet goes that the I/O manager takes back.
#[derive(Clone, Copy)]
struct Result {
    event: Ptr<KEVENT>,
    status: Ptr<IO_STATUS_BLOCK>,
}

/// The data of a packet.
#[derive(Clone, Copy, Default)]
struct Data {
    /// The system buffer; null for none.
    system: Ptr<u8>,
    /// Where its content goes when the packet is complete; null for nowhere.
    copied_to: Ptr<u8>,
    length: u32,
}

fn system_buffer(k: &Kernel, length: u32, content: Ptr<u8>, content_length: u32) -> Ptr<u8> {
    if length == 0 {
        return Ptr::null();
    }
    let buffer = k.memory.pool.allocate(Request::kernel(length.into(), SYSTEM_BUFFER), Rc::default());
    if content_length != 0 {
        buffer.write_bytes(&content.read_bytes(content_length as usize));
    }
    buffer
}

/// A packet that the I/O manager frees when it is complete.
fn threaded(k: &Kernel, target: Ptr<DEVICE_OBJECT>, data: Data, result: Result) -> Ptr<IRP> {
    let owner = Owner::Lab(Box::new(move |k, packet| finish(k, packet, data, result)));
    let packet = irp::allocate(k, at!(target, StackSize).read(), owner);
    at!(packet, UserEvent).cast::<u64>().write(result.event.address());
    at!(packet, Anonymous.UserIosb).cast::<u64>().write(result.status.address());
    at!(packet, AssociatedIrp.SystemBuffer).cast::<u64>().write(data.system.address());
    at!(packet, Tail.Overlay.Thread).cast::<u64>().write(k.current_thread_object());
    packet
}

/// Every driver is done with it. Who called `IoCallDriver` has the status of an error that was not pending, and gets no event then.
fn finish(k: &Kernel, packet: Ptr<IRP>, data: Data, result: Result) {
    let status = irp::status(packet);
    let information = at!(packet, IoStatus.Information).cast::<u64>().read();
    let is_error = status.cast_unsigned() >> 30 == 3;
    let pended = at!(packet, PendingReturned).cast::<u8>().read() != 0;
    if !data.system.is_null() {
        let returned = u64::from(data.length).min(information);
        if !is_error && !data.copied_to.is_null() && returned != 0 {
            let count = usize::try_from(returned).unwrap_or(usize::MAX);
            data.copied_to.write_bytes(&data.system.read_bytes(count));
        }
        k.memory.free_pool(k, data.system, None);
    }
    let list = layout::load(at!(packet, MdlAddress));
    if !list.is_null() {
        mdl::unlock_and_free(k, list);
    }
    irp::free(k, packet);
    if is_error && !pended {
        return;
    }
    at!(result.status, Anonymous.Status).write(status);
    at!(result.status, Information).cast::<u64>().write(information);
    if !result.event.is_null() {
        k.sched.set_event(k, result.event);
    }
}

/// "`IoBuildDeviceIoControlRequest` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_build_device_io_control_request(
    k: &Kernel,
    code: u32,
    target: Ptr<DEVICE_OBJECT>,
    input: Ptr<u8>,
    input_length: u32,
    output: Ptr<u8>,
    output_length: u32,
    internal: bool,
    event: Ptr<KEVENT>,
    status: Ptr<IO_STATUS_BLOCK>,
) -> Ptr<IRP> {
    let method = code & 3;
    let data = match method {
        METHOD_BUFFERED => {
            let room = input_length.max(output_length);
            let system = system_buffer(k, room, input, input_length);
            Data { system, copied_to: output, length: output_length }
        }
        METHOD_NEITHER => Data::default(),
        _ => Data { system: system_buffer(k, input_length, input, input_length), ..Data::default() },
    };
    let packet = threaded(k, target, data, Result { event, status });
    if method != METHOD_BUFFERED && method != METHOD_NEITHER && output_length != 0 {
        let access = if method == METHOD_IN_DIRECT { READ_ACCESS } else { WRITE_ACCESS };
        mdl::lock(k, output.address(), output_length, packet, access);
    }
    let own_input = if method == METHOD_NEITHER { input.address() } else { 0 };
    if method == METHOD_NEITHER {
        at!(packet, UserBuffer).cast::<u64>().write(output.address());
    }
    let flags = if method == METHOD_BUFFERED { IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER } else { 0 };
    at!(packet, Flags).write(flags | if output_length == 0 { 0 } else { IRP_INPUT_OPERATION });
    let major = if internal { IRP_MJ_INTERNAL_DEVICE_CONTROL } else { IRP_MJ_DEVICE_CONTROL };
    set_next(packet, major, [output_length.into(), input_length.into(), code.into(), own_input]);
    packet
}

fn set_next(packet: Ptr<IRP>, major: u32, words: layout::Words) {
    let location = irp::next_location(packet);
    at!(location, MajorFunction).write(u8::try_from(major).unwrap_or(u8::MAX));
    layout::words(location).write(words);
}

/// Whether a packet of this major function has a buffer; other functions than those of the page are refused.
fn has_buffer(function: &str, major: u32) -> bool {
    match major {
        IRP_MJ_READ | IRP_MJ_WRITE => true,
        IRP_MJ_FLUSH_BUFFERS | IRP_MJ_SHUTDOWN | IRP_MJ_PNP => false,
        _ => Finding::not_modelled(format!("{function}: major function {major:#x}")).raise(),
    }
}

fn transfer_words(length: u32, offset: Ptr<i64>) -> layout::Words {
    let offset = if offset.is_null() { 0 } else { offset.read() };
    [length.into(), 0, offset.cast_unsigned(), 0]
}

/// "`IoBuildSynchronousFsdRequest` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_build_synchronous_fsd_request(
    k: &Kernel,
    major: u32,
    target: Ptr<DEVICE_OBJECT>,
    buffer: Ptr<u8>,
    length: u32,
    offset: Ptr<i64>,
    event: Ptr<KEVENT>,
    status: Ptr<IO_STATUS_BLOCK>,
) -> Ptr<IRP> {
    let result = Result { event, status };
    if !has_buffer("IoBuildSynchronousFsdRequest", major) {
        let packet = threaded(k, target, Data::default(), result);
        set_next(packet, major, [0; 4]);
        return packet;
    }
    let flags = at!(target, Flags).read();
    let reads = major == IRP_MJ_READ;
    let data = if flags & DO_BUFFERED_IO == 0 {
        Data::default()
    } else {
        let system = system_buffer(k, length, buffer, if reads { 0 } else { length });
        Data { system, copied_to: if reads { buffer } else { Ptr::null() }, length }
    };
    let packet = threaded(k, target, data, result);
    address_buffer(k, packet, flags, (buffer, length), reads);
    set_next(packet, major, transfer_words(length, offset));
    packet
}

/// Gives a driver the buffer as its device wants it, but for a system buffer.
fn address_buffer(k: &Kernel, packet: Ptr<IRP>, flags: u32, (buffer, length): (Ptr<u8>, u32), reads: bool) {
    if flags & DO_BUFFERED_IO != 0 || length == 0 {
        return;
    }
    if flags & DO_DIRECT_IO == 0 {
        at!(packet, UserBuffer).cast::<u64>().write(buffer.address());
    } else {
        mdl::lock(k, buffer.address(), length, packet, if reads { WRITE_ACCESS } else { READ_ACCESS });
    }
}

/// "`IoBuildAsynchronousFsdRequest` function": the driver frees the packet, its list and its system buffer in a completion routine.
fn io_build_asynchronous_fsd_request(
    k: &Kernel,
    major: u32,
    target: Ptr<DEVICE_OBJECT>,
    buffer: Ptr<u8>,
    length: u32,
    offset: Ptr<i64>,
    status: Ptr<IO_STATUS_BLOCK>,
) -> Ptr<IRP> {
    let packet = irp::allocate(k, at!(target, StackSize).read(), Owner::Driver);
    k.tracking.made_often(k, Tracked::Irp, packet.address());
    at!(packet, Anonymous.UserIosb).cast::<u64>().write(status.address());
    at!(packet, Tail.Overlay.Thread).cast::<u64>().write(k.current_thread_object());
    if !has_buffer("IoBuildAsynchronousFsdRequest", major) {
        set_next(packet, major, [0; 4]);
        return packet;
    }
    let flags = at!(target, Flags).read();
    let reads = major == IRP_MJ_READ;
    if flags & DO_BUFFERED_IO != 0 && length != 0 {
        let tag = u32::from_le_bytes(*SYSTEM_BUFFER);
        let Some(system) = k.memory.allocate_pool(k, PoolKind::NonPaged, length as usize, tag) else {
            k.tracking.gone(Tracked::Irp, packet.address());
            irp::free(k, packet);
            return Ptr::null();
        };
        if reads {
            at!(packet, UserBuffer).cast::<u64>().write(buffer.address());
        } else {
            system.write_bytes(&buffer.read_bytes(length as usize));
        }
        at!(packet, AssociatedIrp.SystemBuffer).cast::<u64>().write(system.address());
        at!(packet, Flags).write(IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER | if reads { IRP_INPUT_OPERATION } else { 0 });
    }
    address_buffer(k, packet, flags, (buffer, length), reads);
    set_next(packet, major, transfer_words(length, offset));
    packet
}

/// "`IoGetDeviceObjectPointer` function": the device is opened and its handle closed; the file object keeps it open.
fn io_get_device_object_pointer(
    k: &Kernel,
    name: Ptr<UNICODE_STRING>,
    access: u32,
    file_object: Ptr<*mut FILE_OBJECT>,
    device_object: Ptr<*mut DEVICE_OBJECT>,
) -> NTSTATUS {
    let id = match file::open(k, &string::text(name), access) {
        Ok(id) => id,
        Err(status) => return status,
    };
    let opened = k.io.files.reference(id);
    object::add(k, opened.object.address(), object::Kind::File, move |k| file::release(k, id));
    file::close(k, id);
    layout::store(file_object, opened.object);
    layout::store(device_object, device::top_of_stack(opened.device));
    STATUS_SUCCESS
}

/// "`IoGetAttachedDevice` function".
fn io_get_attached_device(_: &Kernel, device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    device::top_of_stack(device)
}

/// "`IoGetRelatedDeviceObject` function". Files of file systems there are none.
fn io_get_related_device_object(_: &Kernel, file: Ptr<FILE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    device::top_of_stack(layout::load(at!(file, DeviceObject)))
}

/// "`IoSetCompletionRoutineEx` function".
#[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools, reason = "the DDI has them")]
fn io_set_completion_routine_ex(
    _: &Kernel,
    _device: Ptr<DEVICE_OBJECT>,
    packet: Ptr<IRP>,
    routine: u64,
    context: u64,
    on_success: bool,
    on_error: bool,
    on_cancel: bool,
) -> NTSTATUS {
    let location = irp::next_location(packet);
    at!(location, CompletionRoutine).cast::<u64>().write(routine);
    at!(location, Context).cast::<u64>().write(context);
    let when = [(on_success, SL_INVOKE_ON_SUCCESS), (on_error, SL_INVOKE_ON_ERROR), (on_cancel, SL_INVOKE_ON_CANCEL)];
    let control = when.into_iter().filter(|(wanted, _)| *wanted).fold(0, |control, (_, flag)| control | flag);
    at!(location, Control).write(u8::try_from(control).unwrap_or(0));
    STATUS_SUCCESS
}
