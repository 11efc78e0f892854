//! A driver whose every control code is one experiment with the I/O manager. Its device is `\Device\LabRequests`; over
//! `\Device\LabLower`, which does direct I/O, lies one without a name that passes everything down, in the way the control code's upper
//! bits say.
#![no_std]
#![allow(static_mut_refs)]

use core::panic::PanicInfo;

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn IoCreateDevice(
        driver: usize,
        extension: u32,
        name: *const Unicode,
        kind: u32,
        flags: u32,
        exclusive: u8,
        device: *mut usize,
    ) -> i32;
    fn IoDeleteDevice(device: usize);
    fn IoAttachDeviceToDeviceStack(source: usize, target: usize) -> usize;
    fn IoDetachDevice(lower: usize);
    fn MmMapLockedPagesSpecifyCache(
        mdl: usize,
        mode: i8,
        cache: i32,
        address: usize,
        bug_check: u32,
        priority: u32,
    ) -> usize;
    fn IoCreateSymbolicLink(link: *const Unicode, target: *const Unicode) -> i32;
    fn IoDeleteSymbolicLink(link: *const Unicode) -> i32;
    fn IofCompleteRequest(irp: usize, boost: i8);
    fn IofCallDriver(device: usize, irp: usize) -> i32;
    fn IoAllocateIrp(stack_size: i8, quota: u8) -> usize;
    fn IoFreeIrp(irp: usize);
    fn IoAllocateWorkItem(device: usize) -> usize;
    fn IoFreeWorkItem(item: usize);
    fn IoQueueWorkItem(item: usize, routine: extern "system" fn(usize, usize), queue: i32, context: usize);
    fn IoCsqInitialize(
        queue: *mut [usize; 8],
        insert: extern "system" fn(usize, usize),
        remove: extern "system" fn(usize, usize),
        peek: extern "system" fn(usize, usize, usize) -> usize,
        acquire: extern "system" fn(usize, *mut u8),
        release: extern "system" fn(usize, u8),
        complete: extern "system" fn(usize, usize),
    ) -> i32;
    fn IoCsqInsertIrp(queue: *mut [usize; 8], irp: usize, context: usize);
    fn IoCsqRemoveNextIrp(queue: *mut [usize; 8], peek: usize) -> usize;
    fn IoAcquireCancelSpinLock(irql: *mut u8);
    fn IoReleaseCancelSpinLock(irql: u8);
    fn IoInitializeRemoveLockEx(lock: *mut [u64; 4], tag: u32, minutes: u32, high: u32, size: u32);
    fn IoAcquireRemoveLockEx(lock: *mut [u64; 4], tag: usize, file: usize, line: u32, size: u32) -> i32;
    fn IoReleaseRemoveLockEx(lock: *mut [u64; 4], tag: usize, size: u32);
    fn IoReleaseRemoveLockAndWaitEx(lock: *mut [u64; 4], tag: usize, size: u32);
    fn KeAcquireSpinLockRaiseToDpc(lock: *mut usize) -> u8;
    fn KeReleaseSpinLock(lock: *mut usize, irql: u8);
    fn ZwOpenKey(handle: *mut usize, access: u32, attributes: *const Attributes) -> i32;
    fn ZwQueryValueKey(
        handle: usize,
        name: *const Unicode,
        class: i32,
        out: *mut u8,
        length: u32,
        needed: *mut u32,
    ) -> i32;
    fn EtwRegister(
        provider: *const [u32; 4],
        callback: extern "system" fn(usize, u32, u8, u64, u64, usize, usize),
        context: usize,
        handle: *mut u64,
    ) -> i32;
    fn EtwUnregister(handle: u64) -> i32;
    fn EtwWrite(handle: u64, event: *const [u64; 2], activity: usize, count: u32, data: *const [u64; 2]) -> i32;
    fn ZwClose(handle: usize) -> i32;
    fn memcpy(destination: *mut u8, source: *const u8, count: usize) -> *mut u8;
    fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32;
    fn memset(destination: *mut u8, value: i32, count: usize) -> *mut u8;
}

#[unsafe(no_mangle)]
pub static _fltused: i32 = 0;

/// Named by the unwind data of core; nothing unwinds here.
#[unsafe(no_mangle)]
pub extern "C" fn __CxxFrameHandler3() {}

/// What core calls must be imported, though nothing here names it.
#[used]
static CORE_NEEDS: (
    unsafe extern "system" fn(*const u8, *const u8, usize) -> i32,
    unsafe extern "system" fn(*mut u8, i32, usize) -> *mut u8,
) = (memcmp, memset);

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

#[repr(C)]
struct Unicode {
    length: u16,
    maximum: u16,
    buffer: *const u16,
}

#[repr(C)]
struct Attributes {
    length: u32,
    root: usize,
    name: *const Unicode,
    attributes: u32,
    security: usize,
    quality: usize,
}

const SUCCESS: i32 = 0;
const PENDING: i32 = 0x103;
const CANCELLED: i32 = 0xC000_0120_u32 as i32;
const INVALID_DEVICE_REQUEST: i32 = 0xC000_0010_u32 as i32;
const DEVICE_BUSY: i32 = 0x8000_0011_u32 as i32;
const UNSUCCESSFUL: i32 = 0xC000_0001_u32 as i32;
const MORE_PROCESSING: i32 = 0xC000_0016_u32 as i32;

fn wide<const N: usize>(text: &str, buffer: &mut [u16; N]) -> Unicode {
    for (unit, byte) in buffer.iter_mut().zip(text.bytes()) {
        *unit = byte.into();
    }
    let length = 2 * text.len() as u16;
    Unicode { length, maximum: length, buffer: buffer.as_ptr() }
}

unsafe fn get<T: Copy>(base: usize, offset: usize) -> T {
    unsafe { ((base + offset) as *const T).read_volatile() }
}
unsafe fn set<T>(base: usize, offset: usize, value: T) {
    unsafe { ((base + offset) as *mut T).write_volatile(value) }
}

/// Offsets in an IRP and in its stack locations.
mod at {
    pub const MDL: usize = 8;
    pub const SYSTEM_BUFFER: usize = 24;
    pub const STATUS: usize = 48;
    pub const INFORMATION: usize = 56;
    pub const PENDING_RETURNED: usize = 65;
    pub const CANCEL_IRQL: usize = 69;
    pub const CANCEL_ROUTINE: usize = 104;
    pub const CURRENT: usize = 67;
    pub const LIST: usize = 168;
    pub const LOCATION: usize = 184;
    pub const CONTROL: usize = 3;
    pub const WORDS: usize = 8;
    pub const COMPLETION: usize = 56;
    pub const CONTEXT: usize = 64;
}

static mut DEVICE: usize = 0;
static mut LOWER: usize = 0;
static mut UPPER: usize = 0;
static mut QUEUE: [usize; 8] = [0; 8];
static mut LOCK: usize = 0;
/// Queued packets, first come first.
static mut HEAD: [usize; 2] = [0; 2];
static mut WAITING: usize = 0;
static mut REMOVE_LOCK: [u64; 4] = [0; 4];
static mut PARAMETER: u32 = 0;
static mut OPENED: u32 = 0;
static mut CLEANED: u32 = 0;
static mut CLOSED: u32 = 0;
static mut LEAKED: usize = 0;

unsafe fn location(irp: usize) -> usize {
    unsafe { get(irp, at::LOCATION) }
}
unsafe fn mark_pending(irp: usize) {
    unsafe {
        let location = location(irp);
        set(location, at::CONTROL, get::<u8>(location, at::CONTROL) | 1);
    }
}
unsafe fn complete(irp: usize, status: i32, information: usize) -> i32 {
    unsafe {
        set(irp, at::STATUS, status);
        set(irp, at::INFORMATION, information);
        IofCompleteRequest(irp, 0);
    }
    status
}

extern "system" fn insert(_: usize, irp: usize) {
    unsafe {
        let entry = irp + at::LIST;
        let head = &raw mut HEAD as usize;
        let last: usize = get(head, 8);
        set(entry, 0, head);
        set(entry, 8, last);
        set(last, 0, entry);
        set(head, 8, entry);
    }
}
extern "system" fn remove(_: usize, irp: usize) {
    unsafe {
        let next: usize = get(irp, at::LIST);
        let previous: usize = get(irp, at::LIST + 8);
        set(previous, 0, next);
        set(next, 8, previous);
    }
}
extern "system" fn peek(_: usize, irp: usize, _: usize) -> usize {
    unsafe {
        let head = &raw mut HEAD as usize;
        let entry: usize = if irp == 0 { get(head, 0) } else { get(irp, at::LIST) };
        if entry == head { 0 } else { entry - at::LIST }
    }
}
extern "system" fn acquire(_: usize, irql: *mut u8) {
    unsafe { *irql = KeAcquireSpinLockRaiseToDpc(&raw mut LOCK) }
}
extern "system" fn release(_: usize, irql: u8) {
    unsafe { KeReleaseSpinLock(&raw mut LOCK, irql) }
}
extern "system" fn complete_cancelled(_: usize, irp: usize) {
    unsafe { complete(irp, CANCELLED, 0) };
}

extern "system" fn work(_: usize, context: usize) {
    unsafe {
        let irp: usize = get(context, 0);
        let item: usize = get(context, 8);
        complete(irp, SUCCESS, 16);
        IoFreeWorkItem(item);
    }
}

/// Holds the request outside any queue, with a cancel routine of its own.
extern "system" fn cancel(_: usize, irp: usize) {
    unsafe {
        WAITING = 0;
        IoReleaseCancelSpinLock(get(irp, at::CANCEL_IRQL));
        complete(irp, CANCELLED, 0);
    }
}

extern "system" fn keep(_: usize, _: usize, context: usize) -> i32 {
    unsafe { set(context, 0, 1_u64) };
    MORE_PROCESSING
}

/// Sends a packet of its own to its own device, with a control code that it does not know.
unsafe fn send_own() -> i32 {
    let mut done = 0_u64;
    unsafe {
        let irp = IoAllocateIrp(1, 0);
        let next = location(irp) - 72;
        set(next, 0, 14_u8);
        set(next, at::WORDS + 16, 0x22_03FC_u64);
        set(next, at::COMPLETION, keep as *const () as usize);
        set(next, at::CONTEXT, &raw mut done as usize);
        set(next, at::CONTROL, 0xE0_u8);
        let status = IofCallDriver(DEVICE, irp);
        let kept = core::ptr::read_volatile(&raw const done) == 1;
        let pending: u8 = get(irp, at::PENDING_RETURNED);
        IoFreeIrp(irp);
        if kept && pending == 0 { status } else { UNSUCCESSFUL }
    }
}

/// Propagates the mark.
extern "system" fn mark(_: usize, irp: usize, _: usize) -> i32 {
    unsafe {
        if get::<u8>(irp, at::PENDING_RETURNED) != 0 {
            mark_pending(irp);
        }
    }
    SUCCESS
}

/// Forgets to.
extern "system" fn forget(_: usize, _: usize, _: usize) -> i32 {
    SUCCESS
}

/// What the upper device does with a packet: function codes 0x9xx skip, 0xAxx copy and mark, 0xBxx copy and forget to mark, 0xCxx copy
/// without a completion routine, 0xDxx copy and return STATUS_SUCCESS whatever the lower driver returned, 0xExx do neither, 0xFxx mark
/// and skip.
unsafe fn pass_down(irp: usize, way: u32) -> i32 {
    unsafe {
        let place = location(irp);
        if way == 0xE {
            return IofCallDriver(LOWER, irp);
        }
        if way == 0xF {
            mark_pending(irp);
        }
        if way == 9 || way == 0xF {
            set(irp, at::CURRENT, get::<i8>(irp, at::CURRENT) + 1);
            set(irp, at::LOCATION, place + 72);
            return IofCallDriver(LOWER, irp);
        }
        memcpy((place - 72) as *mut u8, place as *const u8, 56);
        set(place - 72, at::CONTROL, if way == 0xC { 0_u8 } else { 0xE0 });
        let routine: extern "system" fn(usize, usize, usize) -> i32 = if way == 0xB { forget } else { mark };
        set(place - 72, at::COMPLETION, routine as *const () as usize);
        let status = IofCallDriver(LOWER, irp);
        if way == 0xD { SUCCESS } else { status }
    }
}

extern "system" fn enabled(_: usize, control: u32, level: u8, _: u64, _: u64, _: usize, context: usize) {
    unsafe { set(context, 0, control * 100 + u32::from(level)) };
}

/// Writes an event of level 3 with the payload 7, and returns what the provider's callback was told, or 0.
unsafe fn write_event() -> u32 {
    let (mut told, mut handle) = (0, 0);
    let metadata = *b"\x12\0\0Counted\0count\0\x04";
    let payload = 7_u8;
    unsafe {
        EtwRegister(&[0x1234_5678, 0, 0, 0], enabled, &raw mut told as usize, &mut handle);
        let data = [[metadata.as_ptr() as u64, 18 | 1 << 32], [&raw const payload as u64, 1]];
        EtwWrite(handle, &[3 << 32, 1], 0, 2, data.as_ptr());
        EtwUnregister(handle);
        core::ptr::read_volatile(&raw const told)
    }
}

extern "system" fn control(device: usize, irp: usize) -> i32 {
    unsafe {
        if device == UPPER {
            let code: u32 = get(location(irp), at::WORDS + 16);
            return pass_down(irp, code >> 10 & 0xF);
        }
        let place = location(irp);
        let output = get::<u32>(place, at::WORDS) as usize;
        let input = get::<u32>(place, at::WORDS + 8) as usize;
        let code: u32 = get(place, at::WORDS + 16);
        let buffer: usize = get(irp, at::SYSTEM_BUFFER);
        match code >> 2 & 0xFF | 0x800 {
            // Echo.
            0x800 => complete(irp, SUCCESS, input.min(output)),
            // Hold in the queue.
            0x801 => {
                IoCsqInsertIrp(&raw mut QUEUE, irp, 0);
                PENDING
            }
            // Let the oldest held one go.
            0x802 => {
                let held = IoCsqRemoveNextIrp(&raw mut QUEUE, 0);
                if held != 0 {
                    complete(held, SUCCESS, 0);
                }
                complete(irp, if held == 0 { DEVICE_BUSY } else { SUCCESS }, 0)
            }
            // Completed twice; the second time nothing of the packet is touched.
            0x803 => {
                complete(irp, SUCCESS, 0);
                IofCompleteRequest(irp, 0);
                SUCCESS
            }
            // Kept for good.
            0x817 => {
                mark_pending(irp);
                PENDING
            }
            // Read after completion.
            0x818 => {
                complete(irp, SUCCESS, 0);
                get(irp, at::STATUS)
            }
            // Passed down after completion.
            0x819 => {
                complete(irp, SUCCESS, 0);
                IofCallDriver(LOWER, irp)
            }
            // STATUS_PENDING without the mark.
            0x804 => {
                complete(irp, SUCCESS, 0);
                PENDING
            }
            // The mark without STATUS_PENDING.
            0x805 => {
                mark_pending(irp);
                complete(irp, SUCCESS, 0)
            }
            // More output than there is room for.
            0x806 => complete(irp, SUCCESS, output + 1),
            // Forgotten.
            0x807 => SUCCESS,
            // An error with output, a warning with output.
            0x808 => complete(irp, UNSUCCESSFUL, output),
            0x809 => complete(irp, DEVICE_BUSY, output),
            // Written after completion.
            0x80A => {
                complete(irp, SUCCESS, 0);
                set(buffer, 0, 1_u8);
                SUCCESS
            }
            // Completed by a worker thread.
            0x80B => {
                mark_pending(irp);
                let item = IoAllocateWorkItem(DEVICE);
                set(buffer, 0, irp);
                set(buffer, 8, item);
                IoQueueWorkItem(item, work, 1, buffer);
                PENDING
            }
            0x80C => {
                let status = send_own();
                complete(irp, status, 0)
            }
            // Held with a cancel routine.
            0x80D => {
                let mut irql = 0;
                mark_pending(irp);
                IoAcquireCancelSpinLock(&mut irql);
                set(irp, at::CANCEL_ROUTINE, cancel as *const () as usize);
                WAITING = irp;
                IoReleaseCancelSpinLock(irql);
                PENDING
            }
            // Another status than it completed with.
            0x80E => {
                complete(irp, SUCCESS, 0);
                UNSUCCESSFUL
            }
            // Completed although its cancel routine is set.
            0x80F => {
                set(irp, at::CANCEL_ROUTINE, cancel as *const () as usize);
                complete(irp, SUCCESS, 0)
            }
            // What the driver counted.
            0x810 => {
                for (index, count) in [OPENED, CLEANED, CLOSED, PARAMETER].into_iter().enumerate() {
                    set(buffer, index * 4, count);
                }
                complete(irp, SUCCESS, 16)
            }
            // Leaves a work item behind.
            0x811 => {
                LEAKED = IoAllocateWorkItem(DEVICE);
                complete(irp, SUCCESS, 0)
            }
            // A remove lock's life.
            0x812 => {
                let lock = &raw mut REMOVE_LOCK;
                IoInitializeRemoveLockEx(lock, 1, 0, 0, 32);
                let first = IoAcquireRemoveLockEx(lock, 0, 0, 0, 32);
                let second = IoAcquireRemoveLockEx(lock, 0, 0, 0, 32);
                IoReleaseRemoveLockEx(lock, 0, 32);
                IoReleaseRemoveLockAndWaitEx(lock, 0, 32);
                let third = IoAcquireRemoveLockEx(lock, 0, 0, 0, 32);
                for (index, status) in [first, second, third].into_iter().enumerate() {
                    set(buffer, index * 4, status);
                }
                complete(irp, SUCCESS, 12)
            }
            // Puts the upper device over the lower one, and takes it off.
            0x814 => {
                let on = IoAttachDeviceToDeviceStack(UPPER, LOWER) == LOWER;
                complete(irp, if on { SUCCESS } else { UNSUCCESSFUL }, 0)
            }
            0x815 => {
                IoDetachDevice(LOWER);
                complete(irp, SUCCESS, 0)
            }
            0x816 => {
                set(buffer, 0, write_event());
                complete(irp, SUCCESS, 4)
            }
            // Writes beyond the end of the buffer.
            0x813 => {
                set(buffer, output, 1_u8);
                complete(irp, SUCCESS, 0)
            }
            _ => complete(irp, INVALID_DEVICE_REQUEST, 0),
        }
    }
}

/// Reads return the low byte of each byte's offset; writes are accepted if that is what they have.
extern "system" fn read_write(device: usize, irp: usize) -> i32 {
    unsafe {
        if device == UPPER {
            return pass_down(irp, 9);
        }
        let place = location(irp);
        let length = get::<u32>(place, at::WORDS) as usize;
        let offset: i64 = get(place, at::WORDS + 16);
        let mdl: usize = get(irp, at::MDL);
        let buffer = match mdl {
            0 => get(irp, at::SYSTEM_BUFFER),
            _ => MmMapLockedPagesSpecifyCache(mdl, 0, 1, 0, 0, 16),
        };
        let is_read = get::<u8>(place, 0) == 3;
        let mut same = true;
        for index in 0..length {
            let wanted = (offset as usize + index) as u8;
            if is_read {
                set(buffer, index, wanted);
            } else {
                same &= get::<u8>(buffer, index) == wanted;
            }
        }
        complete(irp, if same { SUCCESS } else { UNSUCCESSFUL }, length)
    }
}

extern "system" fn create(device: usize, irp: usize) -> i32 {
    unsafe {
        if device == UPPER {
            return pass_down(irp, 9);
        }
        OPENED += 1;
        complete(irp, SUCCESS, 0)
    }
}
extern "system" fn cleanup(device: usize, irp: usize) -> i32 {
    unsafe {
        if device == UPPER {
            return pass_down(irp, 9);
        }
        CLEANED += 1;
        loop {
            let held = IoCsqRemoveNextIrp(&raw mut QUEUE, 0);
            if held == 0 {
                break;
            }
            complete(held, CANCELLED, 0);
        }
        complete(irp, SUCCESS, 0)
    }
}
extern "system" fn close(device: usize, irp: usize) -> i32 {
    unsafe {
        if device == UPPER {
            return pass_down(irp, 9);
        }
        CLOSED += 1;
        complete(irp, SUCCESS, 0)
    }
}

unsafe fn read_parameter(path: *const Unicode) {
    unsafe {
        let mut text = [0_u16; 128];
        let length = usize::from((*path).length / 2);
        memcpy(text.as_mut_ptr().cast(), (*path).buffer.cast(), length * 2);
        for (unit, byte) in text[length..].iter_mut().zip("\\Parameters".bytes()) {
            *unit = byte.into();
        }
        let bytes = 2 * (length as u16 + 11);
        let name = Unicode { length: bytes, maximum: bytes, buffer: text.as_ptr() };
        let attributes = Attributes { length: 48, root: 0, name: &name, attributes: 0x240, security: 0, quality: 0 };
        let mut handle = 0;
        if ZwOpenKey(&mut handle, 0x2_0019, &attributes) < 0 {
            return;
        }
        let mut value_name = [0; 16];
        let value_name = wide("Answer", &mut value_name);
        let (mut value, mut needed) = ([0_u32; 4], 0);
        if ZwQueryValueKey(handle, &value_name, 2, value.as_mut_ptr().cast(), 16, &mut needed) == SUCCESS {
            PARAMETER = value[3];
        }
        ZwClose(handle);
    }
}

extern "system" fn unload(_: usize) {
    unsafe {
        let mut text = [0; 32];
        IoDeleteSymbolicLink(&wide("\\??\\LabRequests", &mut text));
        IoDeleteDevice(DEVICE);
        IoDeleteDevice(UPPER);
        IoDeleteDevice(LOWER);
    }
}

/// Makes the devices of the stack.
unsafe fn make_others(driver: usize) -> i32 {
    unsafe {
        let mut name = [0; 32];
        let name = wide("\\Device\\LabLower", &mut name);
        let status = IoCreateDevice(driver, 0, &name, 0x22, 0, 0, &raw mut LOWER);
        if status < 0 {
            return status;
        }
        let status = IoCreateDevice(driver, 0, core::ptr::null(), 0x22, 0, 0, &raw mut UPPER);
        if status < 0 {
            return status;
        }
        for device in [LOWER, UPPER] {
            set(device, 48, get::<u32>(device, 48) & !0x80 | 0x10);
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "INIT")]
pub extern "system" fn DriverEntry(driver: usize, path: *const Unicode) -> i32 {
    unsafe {
        read_parameter(path);
        HEAD = [&raw mut HEAD as usize; 2];
        IoCsqInitialize(&raw mut QUEUE, insert, remove, peek, acquire, release, complete_cancelled);
        let (mut name, mut link) = ([0; 32], [0; 32]);
        let (name, link) = (wide("\\Device\\LabRequests", &mut name), wide("\\??\\LabRequests", &mut link));
        let mut device = 0;
        let status = IoCreateDevice(driver, 0, &name, 0x22, 0, 0, &mut device);
        if status < 0 {
            return status;
        }
        DEVICE = device;
        IoCreateSymbolicLink(&link, &name);
        set(device, 48, get::<u32>(device, 48) | 4);
        let table = driver + 112;
        let handlers: [(usize, extern "system" fn(usize, usize) -> i32); 6] =
            [(0, create), (2, close), (3, read_write), (4, read_write), (14, control), (18, cleanup)];
        for (major, handler) in handlers {
            set(table, major * 8, handler as *const () as usize);
        }
        set(driver, 104, unload as *const () as usize);
        make_others(driver)
    }
}
