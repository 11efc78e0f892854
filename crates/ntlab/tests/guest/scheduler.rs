//! A driver image that uses processors, locks, waits, DPCs and timers. The lab's unit tests compile it for Windows and call its exports.
#![no_std]

use core::{
    panic::PanicInfo,
    ptr::{null, null_mut, read_volatile, write_volatile},
};

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn DbgPrint(format: *const u8, ...) -> u32;
    fn ExAcquireRundownProtection(reference: *mut u64) -> u8;
    fn ExReleaseRundownProtection(reference: *mut u64);
    fn ExWaitForRundownProtectionRelease(reference: *mut u64);
    fn KeAcquireSpinLockAtDpcLevel(lock: *mut usize);
    fn KeAcquireSpinLockRaiseToDpc(lock: *mut usize) -> u8;
    fn KeCancelTimer(timer: *mut u64) -> u8;
    fn KeDelayExecutionThread(mode: i8, alertable: u8, interval: *const i64) -> i32;
    fn KeFlushQueuedDpcs();
    fn KeGetCurrentIrql() -> u8;
    fn KeGetCurrentProcessorNumberEx(number: *mut u32) -> u32;
    fn KeGetProcessorIndexFromNumber(number: *const u32) -> u32;
    fn KeGetProcessorNumberFromIndex(index: u32, number: *mut u32) -> i32;
    fn KeInitializeDpc(dpc: *mut u64, routine: extern "C" fn(*mut u64, u64, u64, u64), context: u64);
    fn KeInitializeEvent(event: *mut u64, kind: i32, state: u8);
    fn KeInitializeMutex(mutex: *mut u64, level: u32);
    fn KeInitializeSemaphore(semaphore: *mut u64, count: i32, limit: i32);
    fn KeInitializeTimerEx(timer: *mut u64, kind: i32);
    fn KeInsertQueueDpc(dpc: *mut u64, a: u64, b: u64) -> u8;
    fn KeLowerIrql(irql: u8);
    fn KeQueryActiveGroupCount() -> u16;
    fn KeQueryActiveProcessorCountEx(group: u16) -> u32;
    fn KeQueryGroupAffinity(group: u16) -> u64;
    fn KeQueryHighestNodeNumber() -> u16;
    fn KeQueryMaximumGroupCount() -> u16;
    fn KeQueryMaximumProcessorCountEx(group: u16) -> u32;
    fn KeQueryNodeActiveAffinity(node: u16, affinity: *mut u64, count: *mut u16);
    fn KeRaiseIrqlToDpcLevel() -> u8;
    fn KeReleaseMutex(mutex: *mut u64, wait: u8) -> i32;
    fn KeReleaseSemaphore(semaphore: *mut u64, increment: i32, adjustment: i32, wait: u8) -> i32;
    fn KeReleaseSpinLock(lock: *mut usize, irql: u8);
    fn KeReleaseSpinLockFromDpcLevel(lock: *mut usize);
    fn KeRevertToUserGroupAffinityThread(previous: *const u64);
    fn KeSetEvent(event: *mut u64, increment: i32, wait: u8) -> i32;
    fn KeSetSystemGroupAffinityThread(affinity: *const u64, previous: *mut u64);
    fn KeSetTargetProcessorDpcEx(dpc: *mut u64, number: *const u32) -> i32;
    fn KeSetTimerEx(timer: *mut u64, due: i64, period: i32, dpc: *mut u64) -> u8;
    fn KeStallExecutionProcessor(microseconds: u32);
    fn KeWaitForMultipleObjects(
        count: u32, objects: *const *mut u64, kind: i32, reason: i32, mode: i8, alertable: u8, timeout: *const i64, blocks: *mut u64,
    ) -> i32;
    fn PsCreateSystemThread(
        handle: *mut u64, access: u32, attributes: *const u64, process: u64, id: *mut u64, routine: extern "C" fn(u64), context: u64,
    ) -> i32;
    fn PsTerminateSystemThread(status: i32) -> i32;
    fn ZwClose(handle: u64) -> i32;
    fn ZwWaitForSingleObject(handle: u64, alertable: u8, timeout: *const i64) -> i32;
    fn KeWaitForSingleObject(object: *mut u64, reason: i32, mode: i8, alertable: u8, timeout: *const i64) -> i32;
}

#[unsafe(no_mangle)]
pub static _fltused: i32 = 0;

/// Room for any kernel object.
type Object = [u64; 16];
static mut LOCKS: [usize; 2] = [0; 2];
static mut EVENTS: [Object; 4] = [[0; 16]; 4];
static mut MUTEX: Object = [0; 16];
static mut SEMAPHORE: Object = [0; 16];
static mut TIMER: Object = [0; 16];
static mut DPCS: [Object; 4] = [[0; 16]; 4];
static mut RUNDOWN: u64 = 0;
static mut COUNTER: u64 = 0;
/// The processors on which the DPCs ran, a bit each.
static mut RAN_ON: u64 = 0;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
pub extern "C" fn DriverEntry(_driver: *mut u8, _path: *mut u8) -> i32 {
    unsafe {
        KeInitializeEvent(event(0), 0, 0);
        KeInitializeEvent(event(1), 1, 0);
        KeInitializeEvent(event(2), 1, 0);
        KeInitializeMutex((&raw mut MUTEX).cast(), 0);
        KeInitializeSemaphore((&raw mut SEMAPHORE).cast(), 0, 3);
        KeInitializeTimerEx((&raw mut TIMER).cast(), 1);
        for index in 0..4 {
            KeInitializeDpc(dpc(index), on_dpc, index as u64);
        }
    }
    0
}

fn event(index: usize) -> *mut u64 {
    (&raw mut EVENTS).cast::<Object>().wrapping_add(index).cast()
}
fn dpc(index: usize) -> *mut u64 {
    (&raw mut DPCS).cast::<Object>().wrapping_add(index).cast()
}
fn lock(index: usize) -> *mut usize {
    (&raw mut LOCKS).cast::<usize>().wrapping_add(index)
}
fn add(counter: *mut u64) {
    unsafe {
        let before = read_volatile(counter);
        KeGetCurrentProcessorNumberEx(null_mut());
        write_volatile(counter, before + 1);
    }
}

/// Counts `times` under a spin lock; returns the counter.
#[unsafe(no_mangle)]
pub extern "C" fn count_locked(times: u64, _: u64) -> u64 {
    for _ in 0..times {
        unsafe {
            let irql = KeAcquireSpinLockRaiseToDpc(lock(0));
            add(&raw mut COUNTER);
            KeReleaseSpinLock(lock(0), irql);
        }
    }
    unsafe { read_volatile(&raw const COUNTER) }
}
/// The same without the lock.
#[unsafe(no_mangle)]
pub extern "C" fn count_unlocked(times: u64, _: u64) -> u64 {
    for _ in 0..times {
        add(&raw mut COUNTER);
    }
    unsafe { read_volatile(&raw const COUNTER) }
}
#[unsafe(no_mangle)]
pub extern "C" fn counter(_: u64, _: u64) -> u64 {
    unsafe { read_volatile(&raw const COUNTER) }
}
#[unsafe(no_mangle)]
pub extern "C" fn ran_on(_: u64, _: u64) -> u64 {
    unsafe { read_volatile(&raw const RAN_ON) }
}

extern "C" fn on_dpc(_dpc: *mut u64, context: u64, a: u64, b: u64) {
    unsafe {
        let at_dispatch = u64::from(KeGetCurrentIrql() == 2);
        RAN_ON |= 1 << KeGetCurrentProcessorNumberEx(null_mut());
        KeAcquireSpinLockAtDpcLevel(lock(0));
        COUNTER += at_dispatch + a * 100 + b * 10000 + context * 0;
        KeReleaseSpinLockFromDpcLevel(lock(0));
    }
}
/// Targets a DPC to a number of group 0 and queues it twice; returns the status, and what the insertions returned in bits 32 and 33.
#[unsafe(no_mangle)]
pub extern "C" fn queue_on(index: u64, number: u64) -> u64 {
    let number = (number as u32) << 16;
    unsafe {
        let status = KeSetTargetProcessorDpcEx(dpc(index as usize), &raw const number);
        let irql = KeRaiseIrqlToDpcLevel();
        let first = KeInsertQueueDpc(dpc(index as usize), 1, 2);
        let second = KeInsertQueueDpc(dpc(index as usize), 3, 4);
        KeLowerIrql(irql);
        u64::from(status as u32) | u64::from(first) << 32 | u64::from(second) << 33
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn flush(_: u64, _: u64) -> u64 {
    unsafe {
        KeFlushQueuedDpcs();
        read_volatile(&raw const COUNTER)
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn flush_at_dispatch(_: u64, _: u64) -> u64 {
    unsafe {
        KeRaiseIrqlToDpcLevel();
        KeFlushQueuedDpcs();
    }
    0
}

/// Sets the timer to `due` units from now, then every `period` milliseconds, with DPC 0.
#[unsafe(no_mangle)]
pub extern "C" fn set_timer(due: u64, period: u64) -> u64 {
    unsafe { KeSetTimerEx((&raw mut TIMER).cast(), -(due as i64), period as i32, dpc(0)).into() }
}
#[unsafe(no_mangle)]
pub extern "C" fn cancel_timer(_: u64, _: u64) -> u64 {
    unsafe { KeCancelTimer((&raw mut TIMER).cast()).into() }
}
#[unsafe(no_mangle)]
pub extern "C" fn wait_for_timer(_: u64, _: u64) -> u64 {
    unsafe { KeWaitForSingleObject((&raw mut TIMER).cast(), 0, 0, 0, null()) as u64 }
}

/// Waits for an event, with a time-out in units unless it is 0.
#[unsafe(no_mangle)]
pub extern "C" fn wait_for_event(index: u64, timeout: u64) -> u64 {
    let timeout = -(timeout as i64);
    let timeout = if timeout == 0 { null() } else { &raw const timeout };
    unsafe { KeWaitForSingleObject(event(index as usize), 0, 0, 0, timeout) as u64 }
}
#[unsafe(no_mangle)]
pub extern "C" fn test_event(index: u64, _: u64) -> u64 {
    let now = 0;
    unsafe { KeWaitForSingleObject(event(index as usize), 0, 0, 0, &raw const now) as u64 }
}
#[unsafe(no_mangle)]
pub extern "C" fn set_event(index: u64, _: u64) -> u64 {
    unsafe { KeSetEvent(event(index as usize), 0, 0) as u64 }
}
/// Lets whoever waits for event 1 go; returns the counter as it is right after that.
#[unsafe(no_mangle)]
pub extern "C" fn announce(_: u64, _: u64) -> u64 {
    set_event(1, 0);
    counter(0, 0)
}
#[unsafe(no_mangle)]
pub extern "C" fn wait_then_count(_: u64, _: u64) -> u64 {
    wait_for_event(1, 0);
    unsafe { write_volatile(&raw mut COUNTER, 7) };
    0
}
/// Waits for events 1 and 2: all (0) or any (1).
#[unsafe(no_mangle)]
pub extern "C" fn wait_for_two(kind: u64, _: u64) -> u64 {
    let objects = [event(1), event(2)];
    unsafe { KeWaitForMultipleObjects(2, objects.as_ptr(), kind as i32, 0, 0, 0, null(), null_mut()) as u64 }
}
#[unsafe(no_mangle)]
pub extern "C" fn wait_at_dispatch(_: u64, _: u64) -> u64 {
    unsafe { KeRaiseIrqlToDpcLevel() };
    wait_for_event(0, 0)
}
#[unsafe(no_mangle)]
pub extern "C" fn release_semaphore(adjustment: u64, _: u64) -> u64 {
    unsafe { KeReleaseSemaphore((&raw mut SEMAPHORE).cast(), 0, adjustment as i32, 0) as u64 }
}
#[unsafe(no_mangle)]
pub extern "C" fn take_semaphore(_: u64, _: u64) -> u64 {
    unsafe { KeWaitForSingleObject((&raw mut SEMAPHORE).cast(), 0, 0, 0, null()) as u64 }
}
/// Counts under a mutex that it acquires twice.
#[unsafe(no_mangle)]
pub extern "C" fn count_with_mutex(times: u64, _: u64) -> u64 {
    let mutex = (&raw mut MUTEX).cast();
    for _ in 0..times {
        unsafe {
            KeWaitForSingleObject(mutex, 0, 0, 0, null());
            KeWaitForSingleObject(mutex, 0, 0, 0, null());
            add(&raw mut COUNTER);
            KeReleaseMutex(mutex, 0);
            KeReleaseMutex(mutex, 0);
        }
    }
    counter(0, 0)
}
#[unsafe(no_mangle)]
pub extern "C" fn release_mutex(_: u64, _: u64) -> u64 {
    unsafe { KeReleaseMutex((&raw mut MUTEX).cast(), 0) as u64 }
}
#[unsafe(no_mangle)]
pub extern "C" fn delay(units: u64, _: u64) -> u64 {
    let interval = -(units as i64);
    unsafe { KeDelayExecutionThread(0, 0, &raw const interval) as u64 }
}

extern "C" fn system_thread(context: u64) {
    delay(100, 0);
    add(&raw mut COUNTER);
    if context == 1 {
        unsafe { PsTerminateSystemThread(0) };
        add(&raw mut COUNTER);
    }
}
/// Runs a system thread to its end, which `kind` 1 brings about in the middle; returns the counter.
#[unsafe(no_mangle)]
pub extern "C" fn run_system_thread(kind: u64, _: u64) -> u64 {
    // OBJECT_ATTRIBUTES with OBJ_KERNEL_HANDLE.
    let attributes = [48, 0, 0, 0x200, 0, 0];
    let mut handle = 0;
    unsafe {
        let status = PsCreateSystemThread(&raw mut handle, 0x1F_FFFF, attributes.as_ptr(), 0, null_mut(), system_thread, kind);
        let waited = ZwWaitForSingleObject(handle, 0, null());
        let closed = ZwClose(handle);
        counter(0, 0) | u64::from(status != 0 || waited != 0 || closed != 0) << 32
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn terminate(_: u64, _: u64) -> u64 {
    unsafe { PsTerminateSystemThread(0) as u64 }
}

// Defects.

#[unsafe(no_mangle)]
pub extern "C" fn returns_raised(_: u64, _: u64) -> u64 {
    unsafe { KeRaiseIrqlToDpcLevel().into() }
}
#[unsafe(no_mangle)]
pub extern "C" fn returns_with_lock(_: u64, _: u64) -> u64 {
    unsafe {
        let irql = KeAcquireSpinLockRaiseToDpc(lock(0));
        KeLowerIrql(irql);
    }
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn acquires_twice(_: u64, _: u64) -> u64 {
    unsafe {
        KeAcquireSpinLockRaiseToDpc(lock(0));
        KeAcquireSpinLockAtDpcLevel(lock(0));
    }
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn releases_what_it_has_not(_: u64, _: u64) -> u64 {
    unsafe {
        let irql = KeRaiseIrqlToDpcLevel();
        KeReleaseSpinLock(lock(0), irql);
    }
    0
}
/// Acquires both locks, `first` first.
#[unsafe(no_mangle)]
pub extern "C" fn acquires_both(first: u64, _: u64) -> u64 {
    let first = first as usize;
    unsafe {
        let irql = KeAcquireSpinLockRaiseToDpc(lock(first));
        KeStallExecutionProcessor(50);
        KeAcquireSpinLockAtDpcLevel(lock(1 - first));
        KeReleaseSpinLockFromDpcLevel(lock(1 - first));
        KeReleaseSpinLock(lock(first), irql);
    }
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn waits_for_nothing(_: u64, _: u64) -> u64 {
    wait_for_event(3, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn acquire_rundown(_: u64, _: u64) -> u64 {
    unsafe { ExAcquireRundownProtection(&raw mut RUNDOWN).into() }
}
#[unsafe(no_mangle)]
pub extern "C" fn release_rundown(_: u64, _: u64) -> u64 {
    unsafe { ExReleaseRundownProtection(&raw mut RUNDOWN) };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn run_down(_: u64, _: u64) -> u64 {
    unsafe { ExWaitForRundownProtectionRelease(&raw mut RUNDOWN) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn print(number: u64, _: u64) -> u64 {
    let wide = [u16::from(b'w'), u16::from(b'i'), 0];
    let place = &raw const COUNTER;
    unsafe {
        DbgPrint(
            b"%d|%5u|%-4x|%04X|%lld|%s|%.2s|%ws|%c|%%|%I64x\n\0".as_ptr(),
            number as i32, 7_u32, 0xab_u32, 0xab_u32, -5_i64, b"text\0".as_ptr(), b"text\0".as_ptr(), wide.as_ptr(), 33_u32, 1_u64 << 40,
        );
        DbgPrint(b"%p\0".as_ptr(), place)
    };
    0
}

/// What the processor functions say, by number.
#[unsafe(no_mangle)]
pub extern "C" fn ask(question: u64, argument: u64) -> u64 {
    let mut number = argument as u32;
    let mut affinity = [0_u64; 2];
    let mut count = 0;
    unsafe {
        match question {
            0 => KeQueryActiveProcessorCountEx(argument as u16).into(),
            1 => KeQueryMaximumProcessorCountEx(argument as u16).into(),
            2 => KeQueryActiveGroupCount().into(),
            3 => KeQueryMaximumGroupCount().into(),
            4 => KeQueryGroupAffinity(argument as u16),
            5 => KeGetProcessorIndexFromNumber(&raw const number).into(),
            6 => match KeGetProcessorNumberFromIndex(argument as u32, &raw mut number) {
                0 => number.into(),
                status => u64::from(status as u32) << 32,
            },
            7 => KeQueryHighestNodeNumber().into(),
            8 => {
                KeQueryNodeActiveAffinity(argument as u16, affinity.as_mut_ptr(), &raw mut count);
                affinity[0] | (affinity[1] & 0xFFFF) << 32 | u64::from(count) << 48
            }
            _ => 0,
        }
    }
}
/// Moves to a processor of group 0 and back; returns where it was then.
#[unsafe(no_mangle)]
pub extern "C" fn visit(number: u64, _: u64) -> u64 {
    let affinity = [1 << number, 0];
    let mut previous = [u64::MAX; 2];
    unsafe {
        KeSetSystemGroupAffinityThread(affinity.as_ptr(), previous.as_mut_ptr());
        let index = KeGetCurrentProcessorNumberEx(null_mut());
        KeRevertToUserGroupAffinityThread(previous.as_ptr());
        u64::from(index) | previous[0] << 32
    }
}
