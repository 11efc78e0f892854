//! Devices of this Windows system: the one place of this crate that calls it.
//!
//! Requests are overlapped and end through a completion port, so that any number is on its way at the same time.
#![allow(unsafe_code, reason = "Windows is called here, and nowhere else")]
#![allow(clippy::cast_possible_truncation, reason = "Windows counts bytes in 32 bits, and halves what has 64")]

use std::{
    cell::UnsafeCell,
    collections::BTreeMap,
    env, io, iter, mem, ptr,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use hotadd_abi::INTERFACE_CLASS;
use recording::{Origin, Recording};
use windows_sys::{
    Win32::{
        Devices::DeviceAndDriverInstallation::{
            DIGCF_DEVICEINTERFACE, DIGCF_PRESENT, HDEVINFO, SP_DEVICE_INTERFACE_DATA,
            SP_DEVICE_INTERFACE_DETAIL_DATA_W, SP_DEVINFO_DATA, SetupDiDestroyDeviceInfoList,
            SetupDiEnumDeviceInterfaces, SetupDiGetClassDevsW, SetupDiGetDeviceInstanceIdW,
            SetupDiGetDeviceInterfaceDetailW,
        },
        Foundation::{
            CloseHandle, ERROR_ACCESS_DENIED, ERROR_FILE_NOT_FOUND, ERROR_IO_PENDING, ERROR_NO_MORE_ITEMS,
            ERROR_PATH_NOT_FOUND, GENERIC_READ, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE,
        },
        Storage::FileSystem::{
            CreateFileW, FILE_FLAG_OVERLAPPED, FILE_SHARE_READ, FILE_SHARE_WRITE, OPEN_EXISTING, ReadFile, WriteFile,
        },
        System::IO::{
            CancelIoEx, CreateIoCompletionPort, DeviceIoControl, GetQueuedCompletionStatus, OVERLAPPED, OVERLAPPED_0,
            OVERLAPPED_0_0,
        },
    },
    core::GUID,
};

use crate::{
    client::PATIENCE,
    device::{Access, Completion, Device, Host, Place, Request},
    failure::Failure,
    ntstatus::NtStatus,
    stop,
};

windows_link::link!("ntdll.dll" "system" fn RtlGetLastNtStatus() -> i32);

/// The characters that a path may have, with the zero at its end.
const PATH: usize = 1024;

static CLASS: GUID = {
    let (data1, data2, data3, data4) = INTERFACE_CLASS;
    GUID { data1, data2, data3, data4 }
};

/// This system.
pub struct Windows {
    start: Instant,
}

impl Windows {
    /// From now on.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Host for Windows {
    fn places(&self) -> Result<Vec<Place>, Failure> {
        let set = DeviceSet::new()?;
        let mut found = Vec::new();
        for number in 0.. {
            let Some(interface) = set.interface(number)? else { break };
            found.push(set.detail(&interface)?);
        }
        found.sort();
        Ok((0..).zip(found).map(|(index, (instance, link))| Place { index, instance, link }).collect())
    }

    fn open(&self, place: &Place, access: Access) -> Result<Box<dyn Device + '_>, Failure> {
        Ok(Box::new(Open::new(place, access)?))
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }

    fn tick(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn origin(&self) -> Origin {
        Origin::Windows { computer: env::var("COMPUTERNAME").unwrap_or_default() }
    }

    fn complete(&self, _: &mut Recording) {}

    fn traced(&self) -> Option<Vec<String>> {
        None
    }

    fn is_over(&self) -> bool {
        stop::is_asked_for()
    }
}

/// The devices that have the interface now.
struct DeviceSet(HDEVINFO);

impl DeviceSet {
    fn new() -> Result<Self, Failure> {
        let flags = DIGCF_DEVICEINTERFACE | DIGCF_PRESENT;
        // SAFETY: the GUID outlives the call; neither enumerator nor window are given, which is allowed.
        let set = unsafe { SetupDiGetClassDevsW(&raw const CLASS, ptr::null(), ptr::null_mut(), flags) };
        if set == INVALID_HANDLE_VALUE as HDEVINFO { Err(unexpected("asking for devices")) } else { Ok(Self(set)) }
    }

    /// The interface of this number; none after the last.
    fn interface(&self, number: u32) -> Result<Option<SP_DEVICE_INTERFACE_DATA>, Failure> {
        let mut data = SP_DEVICE_INTERFACE_DATA { cbSize: size::<SP_DEVICE_INTERFACE_DATA>(), ..Default::default() };
        // SAFETY: the set is open, the GUID and `data`, which has its size in it, outlive the call.
        let found =
            unsafe { SetupDiEnumDeviceInterfaces(self.0, ptr::null(), &raw const CLASS, number, &raw mut data) };
        match (found, last_error()) {
            (0, ERROR_NO_MORE_ITEMS) => Ok(None),
            (0, _) => Err(unexpected("asking for the next device")),
            _ => Ok(Some(data)),
        }
    }

    /// The instance path and the symbolic link of an interface.
    fn detail(&self, interface: &SP_DEVICE_INTERFACE_DATA) -> Result<(String, String), Failure> {
        /// The structure with room for the path that its last field begins.
        #[repr(C)]
        struct Detail {
            head: SP_DEVICE_INTERFACE_DETAIL_DATA_W,
            rest: [u16; PATH],
        }
        let head =
            SP_DEVICE_INTERFACE_DETAIL_DATA_W { cbSize: size::<SP_DEVICE_INTERFACE_DETAIL_DATA_W>(), DevicePath: [0] };
        let mut detail = Detail { head, rest: [0; PATH] };
        let mut device = SP_DEVINFO_DATA { cbSize: size::<SP_DEVINFO_DATA>(), ..Default::default() };
        // SAFETY: the set is open; `interface` is one of its; `detail`, which has as many bytes as the call is told, and `device` outlive it.
        let told = unsafe {
            SetupDiGetDeviceInterfaceDetailW(
                self.0,
                interface,
                (&raw mut detail).cast(),
                size::<Detail>(),
                ptr::null_mut(),
                &raw mut device,
            )
        };
        if told == 0 {
            return Err(unexpected("asking for a device's path"));
        }
        let path = &raw const detail.head.DevicePath;
        let length = (size::<Detail>() as usize - mem::offset_of!(SP_DEVICE_INTERFACE_DETAIL_DATA_W, DevicePath)) / 2;
        // SAFETY: from the path on, `detail` has this many characters, all of which are initialised.
        let link = unsafe { std::slice::from_raw_parts(path.cast::<u16>(), length) };
        Ok((self.instance(&device)?, text(link)))
    }

    fn instance(&self, device: &SP_DEVINFO_DATA) -> Result<String, Failure> {
        let mut id = [0; PATH];
        // SAFETY: the set is open, `device` is one of its, and `id` has as many characters as the call is told.
        let told =
            unsafe { SetupDiGetDeviceInstanceIdW(self.0, device, id.as_mut_ptr(), PATH as u32, ptr::null_mut()) };
        if told == 0 { Err(unexpected("asking for a device's instance path")) } else { Ok(text(&id)) }
    }
}

impl Drop for DeviceSet {
    fn drop(&mut self) {
        // SAFETY: the set is open, and nobody uses it any more. That it cannot be closed would be of no consequence.
        unsafe { SetupDiDestroyDeviceInfoList(self.0) };
    }
}

/// A handle, closed when dropped.
struct Owned(HANDLE);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and this is its owner.
        unsafe { CloseHandle(self.0) };
    }
}

/// A request on its way. The system has the address of `overlapped` and of the buffers until it has ended.
struct Sent {
    overlapped: UnsafeCell<OVERLAPPED>,
    ticket: u64,
    input: Vec<u8>,
    output: UnsafeCell<Vec<u8>>,
}

/// An open device.
struct Open {
    device: Owned,
    port: Owned,
    /// By the address of their `overlapped`.
    sent: BTreeMap<usize, Rc<Sent>>,
    /// Those that had ended before they were on their way.
    refused: Vec<(u64, Completion)>,
}

impl Open {
    fn new(place: &Place, access: Access) -> Result<Self, Failure> {
        let link: Vec<u16> = place.link.encode_utf16().chain(iter::once(0)).collect();
        let rights = match access {
            Access::Nothing => 0,
            Access::Read => GENERIC_READ,
            Access::ReadWrite => GENERIC_READ | GENERIC_WRITE,
        };
        let shared = FILE_SHARE_READ | FILE_SHARE_WRITE;
        // SAFETY: `link` ends with a zero and outlives the call; the security attributes are the default.
        let handle = unsafe {
            CreateFileW(
                link.as_ptr(),
                rights,
                shared,
                ptr::null(),
                OPEN_EXISTING,
                FILE_FLAG_OVERLAPPED,
                ptr::null_mut(),
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(not_opened(place));
        }
        let device = Owned(handle);
        // SAFETY: the device's handle is open, for overlapped requests; a new port is asked for.
        let port = unsafe { CreateIoCompletionPort(device.0, ptr::null_mut(), 0, 0) };
        if port.is_null() {
            return Err(unexpected("making a completion port"));
        }
        Ok(Self { device, port: Owned(port), sent: BTreeMap::new(), refused: Vec::new() })
    }

    /// Gives a request to the system; whether it took it.
    fn send(&self, request: &Request, sent: &Sent) -> bool {
        let (device, overlapped) = (self.device.0, sent.overlapped.get());
        // SAFETY: nobody else has the buffer before it is sent.
        let output = unsafe { &mut *sent.output.get() };
        let (bytes, room) = (output.as_mut_ptr(), length(output));
        let taken = match request {
            Request::Control { code, .. } => {
                let (input, given) = (sent.input.as_ptr().cast(), length(&sent.input));
                let (bytes, none) = (bytes.cast(), ptr::null_mut());
                // SAFETY: the handle is open; `sent` keeps buffers and `overlapped` where they are until the request has ended.
                unsafe { DeviceIoControl(device, *code, input, given, bytes, room, none, overlapped) }
            }
            // SAFETY: as above.
            Request::Read { .. } => unsafe { ReadFile(device, bytes, room, ptr::null_mut(), overlapped) },
            Request::Write { .. } => {
                let (bytes, given) = (sent.input.as_ptr(), length(&sent.input));
                // SAFETY: as above.
                unsafe { WriteFile(device, bytes, given, ptr::null_mut(), overlapped) }
            }
        };
        taken != 0 || last_error() == ERROR_IO_PENDING
    }

    /// Takes what has ended at the port.
    fn take(&mut self, milliseconds: u32) -> Option<(u64, Completion)> {
        let (mut bytes, mut key, mut overlapped) = (0, 0, ptr::null_mut());
        // SAFETY: the port is open, and the places for the results outlive the call. That a request failed is no failure of the call.
        unsafe {
            GetQueuedCompletionStatus(self.port.0, &raw mut bytes, &raw mut key, &raw mut overlapped, milliseconds)
        };
        let Sent { overlapped, ticket, output, .. } = Rc::into_inner(self.sent.remove(&overlapped.addr())?)?;
        let status = NtStatus((overlapped.into_inner().Internal as u32).cast_signed());
        let mut output = output.into_inner();
        output.truncate(if status.is_success() { bytes as usize } else { 0 });
        Some((ticket, Completion { status, bytes: bytes as usize, output }))
    }
}

impl Device for Open {
    fn submit(&mut self, ticket: u64, request: Request) {
        let (input, room, offset) = match &request {
            Request::Control { input, output, .. } => (input.clone(), *output, 0),
            Request::Read { offset, length } => (Vec::new(), *length, *offset),
            Request::Write { offset, data } => (data.clone(), 0, *offset),
        };
        let offset = offset.cast_unsigned();
        let place = OVERLAPPED_0_0 { Offset: offset as u32, OffsetHigh: (offset >> 32) as u32 };
        let overlapped = OVERLAPPED { Anonymous: OVERLAPPED_0 { Anonymous: place }, ..Default::default() };
        let overlapped = UnsafeCell::new(overlapped);
        let sent = Rc::new(Sent { overlapped, ticket, input, output: UnsafeCell::new(vec![0; room]) });
        let address = sent.overlapped.get().addr();
        if self.send(&request, &sent) {
            self.sent.insert(address, sent);
        } else {
            // SAFETY: it has no precondition.
            let status = NtStatus(unsafe { RtlGetLastNtStatus() });
            self.refused.push((ticket, Completion::refused(status)));
        }
    }

    fn wait(&mut self, patience: Duration) -> Option<(u64, Completion)> {
        if let Some(refused) = self.refused.pop() {
            return Some(refused);
        }
        if self.sent.is_empty() {
            return None;
        }
        self.take(u32::try_from(patience.as_millis()).unwrap_or(u32::MAX - 1))
    }

    fn cancel(&mut self) {
        // SAFETY: the handle is open. Where nothing is on its way, nothing is cancelled, which is fine.
        unsafe { CancelIoEx(self.device.0, ptr::null()) };
    }
}

impl Drop for Open {
    /// The system writes to what was sent until it has ended.
    fn drop(&mut self) {
        self.cancel();
        while !self.sent.is_empty() {
            if self.take(PATIENCE.as_millis() as u32).is_none() {
                // Better lost than written to by others.
                mem::take(&mut self.sent).into_values().map(mem::forget).count();
            }
        }
    }
}

fn not_opened(place: &Place) -> Failure {
    let error = io::Error::last_os_error();
    match last_error() {
        ERROR_ACCESS_DENIED => Failure::access_denied(&format!("opening {}", place.instance)),
        ERROR_FILE_NOT_FOUND | ERROR_PATH_NOT_FOUND => {
            Failure::NoDevice(format!("{} is gone; `hotaddctl list` shows what is left", place.instance))
        }
        _ => Failure::NoDevice(format!("{} does not open: {error}", place.instance)),
    }
}

/// For a call that fails only where the system does.
fn unexpected(what: &str) -> Failure {
    Failure::NoDevice(format!("{what}: {}", io::Error::last_os_error()))
}

fn last_error() -> u32 {
    io::Error::last_os_error().raw_os_error().map_or(0, i32::cast_unsigned)
}

const fn size<T>() -> u32 {
    mem::size_of::<T>() as u32
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Characters up to the zero.
fn text(characters: &[u16]) -> String {
    let characters = characters.split(|character| *character == 0).next().unwrap_or_default();
    String::from_utf16_lossy(characters)
}
