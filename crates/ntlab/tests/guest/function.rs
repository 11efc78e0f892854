//! A small function driver for `edu` and for devices without hardware. It says what happens to it through DbgPrint; each
//! `cfg(defect_…)` is a mistake that the lab must find.
#![no_std]
#![allow(non_snake_case, static_mut_refs)]

use core::{
    ffi::c_void,
    panic::PanicInfo,
    ptr::{null_mut, read_volatile, write_volatile},
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed},
};

type Pointer = *mut u8;

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn DbgPrint(format: *const u8, ...) -> u32;
    fn IoCreateDevice(
        driver: Pointer,
        extension: u32,
        name: Pointer,
        kind: u32,
        flags: u32,
        exclusive: u8,
        device: *mut Pointer,
    ) -> i32;
    fn IoDeleteDevice(device: Pointer);
    fn IoAttachDeviceToDeviceStack(source: Pointer, target: Pointer) -> Pointer;
    fn IoDetachDevice(target: Pointer);
    fn IofCallDriver(device: Pointer, irp: Pointer) -> i32;
    fn IofCompleteRequest(irp: Pointer, boost: i8);
    fn IoConnectInterruptEx(parameters: *mut Connect) -> i32;
    fn IoDisconnectInterruptEx(parameters: *const Disconnect);
    fn IoGetDmaAdapter(pdo: Pointer, description: *const Description, registers: *mut u32) -> *mut Adapter;
    fn IoRegisterDeviceInterface(pdo: Pointer, class: *const u8, reference: Pointer, link: *mut Text) -> i32;
    fn IoSetDeviceInterfaceState(link: *const Text, enable: u8) -> i32;
    fn RtlFreeUnicodeString(text: *mut Text);
    fn IoRegisterPlugPlayNotification(
        category: i32,
        flags: u32,
        data: *const u8,
        driver: Pointer,
        callback: *const c_void,
        context: Pointer,
        entry: *mut Pointer,
    ) -> i32;
    fn IoUnregisterPlugPlayNotificationEx(entry: Pointer) -> i32;
    fn KeRegisterProcessorChangeCallback(function: *const c_void, context: Pointer, flags: u32) -> Pointer;
    fn KeDeregisterProcessorChangeCallback(handle: Pointer);
    fn KeInitializeEvent(event: Pointer, kind: i32, state: u8);
    fn KeSetEvent(event: Pointer, increment: i32, wait: u8) -> i32;
    fn KeWaitForSingleObject(object: Pointer, reason: i32, mode: i8, alertable: u8, timeout: *const i64) -> i32;
    fn MmMapIoSpaceEx(address: u64, bytes: usize, protection: u32) -> Pointer;
    fn MmUnmapIoSpace(address: Pointer, bytes: usize);
    fn PoRequestPowerIrp(
        device: Pointer,
        minor: u8,
        state: u32,
        done: *const c_void,
        context: Pointer,
        irp: *mut Pointer,
    ) -> i32;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}
#[unsafe(no_mangle)]
pub static _fltused: i32 = 0;

const DELETE_PENDING: i32 = 0xC000_0056_u32 as i32;
const UNSUCCESSFUL: i32 = 0xC000_0001_u32 as i32;
const MORE_PROCESSING: i32 = 0xC000_0016_u32 as i32;
const PENDING: i32 = 0x103;

#[repr(C)]
struct Connect {
    version: u32,
    pdo: Pointer,
    context: *mut Pointer,
    routine: *const c_void,
    service_context: Pointer,
    lock: Pointer,
    irql: u8,
    floating: u8,
    fallback: *const c_void,
    rest: [u64; 4],
}
#[repr(C)]
struct Disconnect {
    version: u32,
    context: Pointer,
}
#[repr(C)]
#[derive(Default)]
struct Description {
    version: u32,
    master: u8,
    scatter_gather: u8,
    flags: [u8; 6],
    bus: u32,
    channel: u32,
    interface: i32,
    width: i32,
    speed: i32,
    maximum: u32,
    port: u32,
    address_width: u32,
    rest: [u32; 4],
}
#[repr(C)]
struct Adapter {
    version: u16,
    size: u16,
    operations: *const Operations,
}
#[repr(C)]
struct Operations {
    size: u32,
    put: extern "C" fn(*mut Adapter),
    allocate: extern "C" fn(*mut Adapter, u32, *mut u64, u8) -> Pointer,
    free: extern "C" fn(*mut Adapter, u32, u64, Pointer, u8),
}

/// `UNICODE_STRING`.
#[repr(C)]
struct Text {
    length: u16,
    maximum: u16,
    buffer: Pointer,
}

/// One device.
#[repr(C)]
struct Extension {
    lower: Pointer,
    pdo: Pointer,
    registers: AtomicPtr<u8>,
    connection: Pointer,
    version: u32,
    adapter: *mut Adapter,
    buffer: Pointer,
    logical: u64,
    system_irp: AtomicPtr<u8>,
    event: [u64; 3],
    link: Text,
}

static PROCESSORS: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static ARRIVALS: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static DRIVER: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static VETO: AtomicU32 = AtomicU32::new(u32::MAX);
static DEVICES: AtomicU32 = AtomicU32::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);
/// The device's own interface class.
static CLASS: [u8; 16] = [7; 16];
/// `GUID_DEVICE_PROCESSOR`.
static PROCESSOR_CLASS: [u8; 16] =
    [0x10, 0xDB, 0xFA, 0x97, 0x33, 0x4E, 0xAE, 0x40, 0x35, 0x9C, 0x8B, 0xEF, 0x02, 0x9D, 0xBD, 0xD0];

unsafe fn get<T: Copy>(base: Pointer, offset: usize) -> T {
    unsafe { base.add(offset).cast::<T>().read() }
}
unsafe fn put<T>(base: Pointer, offset: usize, value: T) {
    unsafe { base.add(offset).cast::<T>().write(value) }
}
unsafe fn extension(device: Pointer) -> *mut Extension {
    unsafe { get::<Pointer>(device, 0x40).cast() }
}
unsafe fn location(irp: Pointer) -> Pointer {
    unsafe { get(irp, 0xB8) }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "INIT")]
pub unsafe extern "C" fn DriverEntry(driver: Pointer, _path: Pointer) -> i32 {
    unsafe {
        DRIVER.store(driver, Relaxed);
        put(driver, 0x68, unload as *const c_void);
        for major in 0..28 {
            put(driver, 0x70 + major * 8, other as *const c_void);
        }
        put(driver, 0x70, open as *const c_void);
        put(driver, 0x70 + 2 * 8, open as *const c_void);
        put(driver, 0x70 + 18 * 8, open as *const c_void);
        put(driver, 0x70 + 14 * 8, control as *const c_void);
        put(driver, 0x70 + 22 * 8, power as *const c_void);
        put(driver, 0x70 + 27 * 8, pnp as *const c_void);
        put(get::<Pointer>(driver, 0x30), 8, add_device as *const c_void);
        let handle = KeRegisterProcessorChangeCallback(processor as *const c_void, null_mut(), 1);
        PROCESSORS.store(handle, Relaxed);
        if handle.is_null() { UNSUCCESSFUL } else { 0 }
    }
}

unsafe extern "C" fn unload(_driver: Pointer) {
    unsafe {
        DbgPrint(c"unload".as_ptr().cast());
        if !cfg!(defect_leaves_callback) {
            KeDeregisterProcessorChangeCallback(PROCESSORS.load(Relaxed));
        }
    }
}

unsafe extern "C" fn processor(_context: Pointer, change: Pointer, status: *mut i32) {
    unsafe {
        let (state, index, group, number) =
            (get::<i32>(change, 0), get::<u32>(change, 4), get::<u16>(change, 12), get::<u8>(change, 14));
        DbgPrint(
            c"processor state %d index %u group %u number %u".as_ptr().cast(),
            state,
            index,
            u32::from(group),
            u32::from(number),
        );
        if state == 0 && VETO.load(Relaxed) == index {
            *status = UNSUCCESSFUL;
        }
        if cfg!(defect_status_at_complete) && state == 1 {
            *status = UNSUCCESSFUL;
        }
        if cfg!(defect_writes_context) {
            put(change, 4, 77_u32);
        }
    }
}

unsafe extern "C" fn arrival(_notification: Pointer, _context: Pointer) -> i32 {
    unsafe { DbgPrint(c"arrival".as_ptr().cast()) };
    if cfg!(defect_arrival_status) { UNSUCCESSFUL } else { 0 }
}

unsafe extern "C" fn add_device(driver: Pointer, pdo: Pointer) -> i32 {
    unsafe {
        DbgPrint(c"add device".as_ptr().cast());
        let mut device = null_mut();
        let status = IoCreateDevice(driver, size_of::<Extension>() as u32, null_mut(), 0x22, 0, 0, &mut device);
        if status < 0 {
            return status;
        }
        let own = extension(device);
        (*own).pdo = pdo;
        (*own).lower = IoAttachDeviceToDeviceStack(device, pdo);
        IoRegisterDeviceInterface(pdo, CLASS.as_ptr(), null_mut(), &raw mut (*own).link);
        if DEVICES.fetch_add(1, Relaxed) == 0 {
            let mut entry = null_mut();
            IoRegisterPlugPlayNotification(
                2,
                i32::from(cfg!(asks_for_existing)) as u32,
                PROCESSOR_CLASS.as_ptr(),
                DRIVER.load(Relaxed),
                arrival as *const c_void,
                null_mut(),
                &mut entry,
            );
            ARRIVALS.store(entry, Relaxed);
        }
        let flags: u32 = get(device, 0x30);
        put(device, 0x30, (flags & !0x80) | 0x2000);
        0
    }
}

unsafe fn complete(irp: Pointer, status: i32, information: u64) -> i32 {
    unsafe {
        put(irp, 0x30, status);
        put(irp, 0x38, information);
        IofCompleteRequest(irp, 0);
    }
    status
}

unsafe fn skip(device: Pointer, irp: Pointer) -> i32 {
    unsafe {
        put(irp, 0x43, get::<i8>(irp, 0x43) + 1);
        put(irp, 0xB8, location(irp).add(0x48));
        IofCallDriver((*extension(device)).lower, irp)
    }
}

unsafe extern "C" fn set_event(_device: Pointer, _irp: Pointer, context: Pointer) -> i32 {
    unsafe { KeSetEvent(context, 0, 0) };
    MORE_PROCESSING
}

/// Copies the stack location down and has `routine` called at completion.
unsafe fn forward(device: Pointer, irp: Pointer, routine: *const c_void, context: Pointer) -> i32 {
    unsafe {
        let (from, to) = (location(irp), location(irp).sub(0x48));
        core::ptr::copy_nonoverlapping(from, to, 0x38);
        put(to, 0x38, routine);
        put(to, 0x40, context);
        put(to, 3, 0xE0_u8);
        IofCallDriver((*extension(device)).lower, irp)
    }
}

unsafe fn forward_and_wait(device: Pointer, irp: Pointer) -> i32 {
    unsafe {
        let event: Pointer = (&raw mut (*extension(device)).event).cast();
        KeInitializeEvent(event, 0, 0);
        if forward(device, irp, set_event as *const c_void, event) == PENDING {
            KeWaitForSingleObject(event, 0, 0, 0, core::ptr::null());
        }
        get(irp, 0x30)
    }
}

unsafe extern "C" fn open(_device: Pointer, irp: Pointer) -> i32 {
    unsafe { complete(irp, 0, 0) }
}

unsafe extern "C" fn other(device: Pointer, irp: Pointer) -> i32 {
    unsafe { skip(device, irp) }
}

/// 0x80002000: how many interrupts there were; with an input, has the device raise one. 0x80002004: processor to veto. 0x80002008: a DMA
/// transfer there and back, whose result is the first byte.
unsafe extern "C" fn control(device: Pointer, irp: Pointer) -> i32 {
    unsafe {
        let (code, buffer) = (get::<u32>(location(irp), 0x18), get::<Pointer>(irp, 0x18));
        let own = extension(device);
        let registers = (*own).registers.load(Relaxed);
        match code {
            0x8000_2000 => {
                if !registers.is_null() {
                    write_volatile(registers.add(0x60).cast::<u32>(), 2);
                }
                put(buffer, 0, EVENTS.load(Relaxed));
                complete(irp, 0, 8)
            }
            0x8000_2004 => {
                VETO.store(get(buffer, 0), Relaxed);
                complete(irp, 0, 0)
            }
            0x8000_2008 => {
                (*own).buffer.write(get(buffer, 0));
                transfer(own, (*own).logical, 0x40000, 1);
                (*own).buffer.write(0);
                transfer(own, 0x40000, (*own).logical, 3);
                put(buffer, 0, (*own).buffer.read());
                complete(irp, 0, 1)
            }
            _ => complete(irp, UNSUCCESSFUL, 0),
        }
    }
}

unsafe fn transfer(own: *mut Extension, from: u64, to: u64, command: u64) {
    unsafe {
        let registers = (*own).registers.load(Relaxed);
        let from = if cfg!(defect_wrong_address) { from + 0x1000 } else { from };
        for (offset, value) in [(0x80, from), (0x88, to), (0x90, 1), (0x98, command)] {
            write_volatile(registers.add(offset).cast::<u64>(), value);
        }
        let mut event = [0_u64; 3];
        let event: Pointer = (&raw mut event).cast();
        KeInitializeEvent(event, 0, 0);
        while read_volatile(registers.add(0x98).cast::<u64>()) & 1 != 0 {
            KeWaitForSingleObject(event, 0, 0, 0, &-1_000_000);
        }
    }
}

unsafe extern "C" fn service(_interrupt: Pointer, own: *mut Extension) -> u8 {
    unsafe {
        let registers = (*own).registers.load(Relaxed);
        let reasons = read_volatile(registers.add(0x24).cast::<u32>());
        if reasons == 0 {
            return 0;
        }
        if !cfg!(defect_no_acknowledge) {
            write_volatile(registers.add(0x64).cast::<u32>(), reasons);
        }
        EVENTS.fetch_add(1, Relaxed);
        1
    }
}

unsafe extern "C" fn message_service(interrupt: Pointer, own: *mut Extension, _message: u32) -> u8 {
    unsafe { service(interrupt, own) }
}

unsafe fn start(own: *mut Extension, list: Pointer) -> i32 {
    unsafe {
        if list.is_null() {
            return 0;
        }
        for index in 0..get::<u32>(list, 16) as usize {
            let descriptor = list.add(20 + index * 20);
            if get::<u8>(descriptor, 0) == 3 {
                let address = u64::from(get::<u32>(descriptor, 4));
                (*own).registers.store(MmMapIoSpaceEx(address, 0x10_0000, 0x204), Relaxed);
            } else {
                let (level, group, vector, mask) = (
                    get::<u16>(descriptor, 4),
                    get::<u16>(descriptor, 6),
                    get::<u32>(descriptor, 8),
                    get::<u32>(descriptor, 12),
                );
                DbgPrint(
                    c"interrupt level %u group %u vector %u affinity %x".as_ptr().cast(),
                    u32::from(level),
                    u32::from(group),
                    vector,
                    mask,
                );
            }
        }
        let mut connect = Connect {
            version: 3,
            pdo: (*own).pdo,
            context: &raw mut (*own).connection,
            routine: message_service as *const c_void,
            service_context: own.cast(),
            lock: null_mut(),
            irql: 0,
            floating: 0,
            fallback: service as *const c_void,
            rest: [0; 4],
        };
        let status = IoConnectInterruptEx(&mut connect);
        (*own).version = connect.version;
        if (*own).adapter.is_null() {
            let description = Description {
                version: 3,
                master: 1,
                scatter_gather: 1,
                interface: 5,
                maximum: 4096,
                address_width: 28,
                ..Description::default()
            };
            (*own).adapter = IoGetDmaAdapter((*own).pdo, &description, &mut 0);
            (*own).buffer =
                ((*(*(*own).adapter).operations).allocate)((*own).adapter, 4096, &raw mut (*own).logical, 1);
        }
        DbgPrint(
            c"connected version %u identification %x buffer %s".as_ptr().cast(),
            connect.version,
            identification(own),
            if (*own).logical < 1 << 28 { c"low".as_ptr() } else { c"high".as_ptr() },
        );
        status
    }
}

unsafe fn identification(own: *mut Extension) -> u32 {
    unsafe { read_volatile((*own).registers.load(Relaxed).cast::<u32>()) }
}

unsafe fn stop(own: *mut Extension) {
    unsafe {
        if (*own).connection.is_null() {
            return;
        }
        let version = if cfg!(defect_disconnect_version) { 1 } else { (*own).version };
        if !cfg!(defect_stays_connected) {
            IoDisconnectInterruptEx(&Disconnect { version, context: (*own).connection });
        }
        (*own).connection = null_mut();
        MmUnmapIoSpace((*own).registers.swap(null_mut(), Relaxed), 0x10_0000);
    }
}

/// The requirements that come back up: every interrupt to all processors.
unsafe fn filter(irp: Pointer) {
    unsafe {
        let list: Pointer = get(irp, 0x38);
        if list.is_null() {
            return;
        }
        for index in 0..get::<u32>(list, 36) as usize {
            let descriptor = list.add(40 + index * 32);
            if get::<u8>(descriptor, 1) == 2 && get::<u16>(descriptor, 16) == 0 {
                put(descriptor, 4, get::<u16>(descriptor, 4) | 4);
                put(descriptor, 16, 3_u16);
                put(descriptor, 18, if cfg!(knows_groups) { 0xFFFF_u16 } else { 0 });
            }
        }
        put(irp, 0x30, 0);
    }
}

unsafe extern "C" fn pnp(device: Pointer, irp: Pointer) -> i32 {
    unsafe {
        let own = extension(device);
        let minor: u8 = get(location(irp), 1);
        DbgPrint(c"pnp %x".as_ptr().cast(), u32::from(minor));
        match minor {
            0x00 => {
                let list: Pointer = get(location(irp), 0x10);
                let mut status = forward_and_wait(device, irp);
                if status >= 0 {
                    status = start(own, list);
                    IoSetDeviceInterfaceState(&raw const (*own).link, 1);
                }
                complete(irp, status, 0)
            }
            0x06 => {
                let status = forward_and_wait(device, irp);
                complete(irp, status, 0)
            }
            0x0D => {
                forward_and_wait(device, irp);
                filter(irp);
                complete(irp, get(irp, 0x30), get(irp, 0x38))
            }
            0x05 if cfg!(defect_holds_query) => {
                put(location(irp), 3, get::<u8>(location(irp), 3) | 1);
                PENDING
            }
            0x05 if cfg!(refuses_stop) => complete(irp, UNSUCCESSFUL, 0),
            0x04 if cfg!(defect_fails_stop) => complete(irp, UNSUCCESSFUL, 0),
            0x04 | 0x17 => {
                stop(own);
                if minor == 0x17 {
                    IoSetDeviceInterfaceState(&raw const (*own).link, 0);
                }
                put(irp, 0x30, 0);
                skip(device, irp)
            }
            0x01 | 0x03 | 0x05 | 0x16 => {
                put(irp, 0x30, 0);
                skip(device, irp)
            }
            0x02 => {
                stop(own);
                IoSetDeviceInterfaceState(&raw const (*own).link, 0);
                RtlFreeUnicodeString(&raw mut (*own).link);
                if !(*own).adapter.is_null() {
                    ((*(*(*own).adapter).operations).free)((*own).adapter, 4096, (*own).logical, (*own).buffer, 1);
                    ((*(*(*own).adapter).operations).put)((*own).adapter);
                }
                if DEVICES.fetch_sub(1, Relaxed) == 1 && !cfg!(keeps_registration) {
                    IoUnregisterPlugPlayNotificationEx(ARRIVALS.load(Relaxed));
                }
                put(irp, 0x30, 0);
                let lower = (*own).lower;
                let status = skip(device, irp);
                IoDetachDevice(lower);
                IoDeleteDevice(device);
                status
            }
            0xFF if cfg!(defect_changes_unknown) => complete(irp, DELETE_PENDING, 0),
            _ => skip(device, irp),
        }
    }
}

/// Passes the system request up after the device is in the state that belongs to it.
unsafe extern "C" fn device_power_done(device: Pointer, _minor: u8, _state: u32, _context: Pointer, _status: Pointer) {
    unsafe {
        let irp = (*extension(device)).system_irp.swap(null_mut(), Relaxed);
        IofCompleteRequest(irp, 0);
    }
}

unsafe extern "C" fn system_power_passed(device: Pointer, irp: Pointer, _context: Pointer) -> i32 {
    unsafe {
        let state = get::<u32>(location(irp), 0x18);
        let wanted = if state == 1 { 1 } else { 4 };
        (*extension(device)).system_irp.store(irp, Relaxed);
        put(location(irp), 3, get::<u8>(location(irp), 3) | 1);
        PoRequestPowerIrp(device, 2, wanted, device_power_done as *const c_void, null_mut(), null_mut());
        MORE_PROCESSING
    }
}

unsafe extern "C" fn power(device: Pointer, irp: Pointer) -> i32 {
    unsafe {
        let (minor, kind, state) =
            (get::<u8>(location(irp), 1), get::<u32>(location(irp), 0x10), get::<u32>(location(irp), 0x18));
        DbgPrint(
            c"power %x %s%u".as_ptr().cast(),
            u32::from(minor),
            if kind == 0 { c"S".as_ptr() } else { c"D".as_ptr() },
            state - 1,
        );
        if minor == 2 && kind == 0 && !cfg!(defect_stays_in_d0) {
            put(location(irp), 3, get::<u8>(location(irp), 3) | 1);
            forward(device, irp, system_power_passed as *const c_void, null_mut());
            return PENDING;
        }
        skip(device, irp)
    }
}
