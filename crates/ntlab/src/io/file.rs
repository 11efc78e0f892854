//! File objects: opening devices and closing them ("`IRP_MJ_CREATE`", "`IRP_MJ_CLEANUP`", "`IRP_MJ_CLOSE`").

use std::cell::RefCell;

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, FILE_OBJECT, IO_SECURITY_CONTEXT, IRP},
        Storage::FileSystem::{DO_DEVICE_INITIALIZING, DO_EXCLUSIVE},
        System::SystemServices::{
            FO_CLEANUP_COMPLETE, FO_HANDLE_CREATED, IO_TYPE_FILE, IRP_CLOSE_OPERATION, IRP_CREATE_OPERATION,
            IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_SYNCHRONOUS_API, UserMode,
        },
    },
    Win32::{
        Foundation::{NTSTATUS, STATUS_ACCESS_DENIED, STATUS_NO_SUCH_DEVICE, STATUS_OBJECT_NAME_NOT_FOUND},
        Storage::FileSystem::{FILE_APPEND_DATA, FILE_READ_DATA, FILE_WRITE_DATA},
    },
};

use super::{
    device,
    irp::{self, Owner},
    layout::{
        self, DOE_DELETE_PENDING, DOE_REMOVE_PENDING, DOE_REMOVE_PROCESSED, DOE_START_PENDING, DOE_UNLOAD_PENDING,
        Words,
    },
    name::Named,
    string, work_item,
};
use crate::{
    at,
    irql::{DISPATCH_LEVEL, PASSIVE_LEVEL},
    kernel::Kernel,
    memory::Ptr,
    sched::ThreadId,
};

/// A device with one of these cannot be opened.
const CLOSED: u32 =
    DOE_UNLOAD_PENDING | DOE_DELETE_PENDING | DOE_REMOVE_PENDING | DOE_REMOVE_PROCESSED | DOE_START_PENDING;

/// The number of an open file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileId(u32);

#[derive(Clone, Copy, Debug)]
struct File {
    object: Ptr<FILE_OBJECT>,
    device: Ptr<DEVICE_OBJECT>,
    name: Ptr<u8>,
    access: u32,
    /// Requests that have not completed, and 1 for the handle.
    references: u32,
}

/// Every open file.
#[derive(Debug, Default)]
pub(crate) struct Files {
    files: RefCell<Vec<Option<File>>>,
}

/// What a request needs to know of its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub object: Ptr<FILE_OBJECT>,
    pub device: Ptr<DEVICE_OBJECT>,
    pub access: u32,
}

impl Files {
    fn add(&self, file: File) -> FileId {
        let mut files = self.files.borrow_mut();
        let free = files.iter().position(Option::is_none).unwrap_or_else(|| {
            files.push(None);
            files.len() - 1
        });
        files[free] = Some(file);
        FileId(free as u32)
    }

    /// Whether a file object begins at the address.
    pub(crate) fn has_object(&self, address: u64) -> bool {
        self.files.borrow().iter().flatten().any(|file| file.object.address() == address)
    }

    /// Adds a reference for a request.
    pub(crate) fn reference(&self, id: FileId) -> Opened {
        let mut files = self.files.borrow_mut();
        let file = files[id.0 as usize].as_mut().expect("a handle keeps its file");
        file.references += 1;
        Opened { object: file.object, device: file.device, access: file.access }
    }

    /// Takes a reference back; the file, if it was the last.
    fn dereference(&self, id: FileId) -> Option<File> {
        let mut files = self.files.borrow_mut();
        let file = files[id.0 as usize].as_mut().expect("a reference keeps its file");
        file.references -= 1;
        if file.references == 0 { files[id.0 as usize].take() } else { None }
    }
}

/// Opens a device by name or symbolic link, and waits for the driver's answer.
///
/// # Errors
///
/// The I/O manager's or the driver's status.
pub fn open(k: &Kernel, path: &str, access: u32) -> Result<FileId, NTSTATUS> {
    let (named, rest) = k.io.names.resolve(path).ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
    let Named::Device(device) = named else { return Err(STATUS_OBJECT_NAME_NOT_FOUND) };
    check_device(device)?;
    device::count_open(k, device, 1);
    let file = make(k, device, &rest, access);
    let opened = Opened { object: file.object, device, access };
    let context = k.memory.allocate_object::<IO_SECURITY_CONTEXT>();
    context.cast::<u8>().fill(size_of::<IO_SECURITY_CONTEXT>(), 0);
    at!(context, DesiredAccess).write(access);
    let flags = IRP_CREATE_OPERATION | IRP_SYNCHRONOUS_API;
    let status = ask(k, &opened, IRP_MJ_CREATE, flags, [context.address(), 0, 0, 0]);
    k.memory.free_object(context);
    if status < 0 {
        destroy(k, &file);
        return Err(status);
    }
    let flags = at!(file.object, Flags);
    flags.write(flags.read() | FO_HANDLE_CREATED);
    Ok(k.io.files.add(file))
}

/// What the I/O manager asks before it sends a create request.
fn check_device(device: Ptr<DEVICE_OBJECT>) -> Result<(), NTSTATUS> {
    let flags = at!(device, Flags).read();
    if flags & DO_DEVICE_INITIALIZING != 0 || device::flags(device) & CLOSED != 0 {
        return Err(STATUS_NO_SUCH_DEVICE);
    }
    if flags & DO_EXCLUSIVE != 0 && at!(device, ReferenceCount).read() != 0 {
        return Err(STATUS_ACCESS_DENIED);
    }
    Ok(())
}

fn make(k: &Kernel, device: Ptr<DEVICE_OBJECT>, name: &str, access: u32) -> File {
    let object = k.memory.allocate_object::<FILE_OBJECT>();
    object.cast::<u8>().fill(size_of::<FILE_OBJECT>(), 0);
    at!(object, Type).write(IO_TYPE_FILE as i16);
    at!(object, Size).write(size_of::<FILE_OBJECT>() as i16);
    layout::store(at!(object, DeviceObject), device);
    at!(object, ReadAccess).cast::<u8>().write(u8::from(access & FILE_READ_DATA != 0));
    at!(object, WriteAccess).cast::<u8>().write(u8::from(access & (FILE_WRITE_DATA | FILE_APPEND_DATA) != 0));
    let buffer = string::set(k, at!(object, FileName), name);
    k.sched.initialize_event(at!(object, Lock), false, true);
    k.sched.initialize_event(at!(object, Event), true, false);
    layout::initialize_list(at!(object, IrpList));
    File { object, device, name: buffer, access, references: 1 }
}

/// Sends a request about the file itself and waits for it.
fn ask(k: &Kernel, file: &Opened, major: u32, flags: u32, words: Words) -> NTSTATUS {
    let thread = k.thread_id();
    let result = std::rc::Rc::new(std::cell::Cell::new(None));
    let written = std::rc::Rc::clone(&result);
    let owner = Owner::Lab(Box::new(move |k: &Kernel, packet| {
        written.set(Some(irp::status(packet)));
        finish(k, packet, thread);
    }));
    let top = device::top_of_stack(file.device);
    let packet = irp::allocate(k, at!(top, StackSize).read(), owner);
    at!(packet, Flags).write(flags);
    at!(packet, RequestorMode).write(UserMode as i8);
    address(k, packet, file);
    let location = irp::next_location(packet);
    at!(location, MajorFunction).write(major as u8);
    layout::words(location).write(words);
    layout::store(at!(location, FileObject), file.object);
    irp::call_driver(k, top, packet);
    loop {
        if let Some(status) = result.get() {
            return status;
        }
        k.park("the end of a create, cleanup or close request", None);
    }
}

fn finish(k: &Kernel, packet: Ptr<IRP>, waiting: ThreadId) {
    irp::free(k, packet);
    k.wake(waiting);
}

/// Writes down which thread and file a packet is of.
pub(crate) fn address(k: &Kernel, packet: Ptr<IRP>, file: &Opened) {
    at!(packet, Tail.Overlay.Thread).cast::<u64>().write(k.current_thread_object());
    layout::store(at!(packet, Tail.Overlay.OriginalFileObject), file.object);
}

/// Closes the handle of a file: `IRP_MJ_CLEANUP` at once, `IRP_MJ_CLOSE` when the last request has completed.
pub fn close(k: &Kernel, id: FileId) {
    let file = k.io.files.reference(id);
    ask(k, &file, IRP_MJ_CLEANUP, IRP_CLOSE_OPERATION | IRP_SYNCHRONOUS_API, [0; 4]);
    let flags = at!(file.object, Flags);
    flags.write(flags.read() | FO_CLEANUP_COMPLETE);
    release(k, id);
    release(k, id);
}

/// Takes a reference back. The last one sends `IRP_MJ_CLOSE`, which needs `PASSIVE_LEVEL`: elsewhere a worker thread does it.
pub(crate) fn release(k: &Kernel, id: FileId) {
    let Some(file) = k.io.files.dereference(id) else { return };
    if k.irql() == PASSIVE_LEVEL {
        send_close(k, &file);
    } else {
        debug_assert!(k.irql() <= DISPATCH_LEVEL, "requests complete at DISPATCH_LEVEL at most");
        work_item::run(k, move |k| send_close(k, &file));
    }
}

fn send_close(k: &Kernel, file: &File) {
    let opened = Opened { object: file.object, device: file.device, access: file.access };
    ask(k, &opened, IRP_MJ_CLOSE, IRP_CLOSE_OPERATION | IRP_SYNCHRONOUS_API, [0; 4]);
    destroy(k, file);
}

fn destroy(k: &Kernel, file: &File) {
    k.memory.free_object(file.name);
    k.memory.free_object(file.object);
    device::count_open(k, file.device, -1);
}
