//! A driver image with races that have no kernel call in them, and with their correct twins. The lab's unit tests compile it for Windows
//! and call its exports.
#![no_std]

use core::{
    arch::{asm, naked_asm},
    panic::PanicInfo,
    ptr::{null_mut, read_volatile, write_volatile},
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn ExAllocatePool2(flags: u64, bytes: usize, tag: u32) -> *mut u8;
    fn ExFreePoolWithTag(block: *mut u8, tag: u32);
    fn KeAcquireSpinLockRaiseToDpc(lock: *mut usize) -> u8;
    fn KeReleaseSpinLock(lock: *mut usize, irql: u8);
}

const TAG: u32 = u32::from_le_bytes(*b"Race");
const NON_PAGED: u64 = 0x40;

static mut COUNTER: u64 = 0;
static mut SPIN_LOCK: usize = 0;
static READY: AtomicU64 = AtomicU64::new(0);
static INITIALISED: AtomicU64 = AtomicU64::new(0);
static BLOCK: AtomicPtr<u8> = AtomicPtr::new(null_mut());

#[unsafe(no_mangle)]
pub static _fltused: i32 = 0;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
pub extern "C" fn DriverEntry(_driver: *mut u8, _path: *mut u8) -> i32 {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn counter(_: u64, _: u64) -> u64 {
    unsafe { read_volatile(&raw const COUNTER) }
}

/// One instruction that reads and writes.
#[unsafe(no_mangle)]
pub extern "C" fn count_in_one(times: u64, _: u64) -> u64 {
    for _ in 0..times {
        unsafe { asm!("inc qword ptr [{}]", in(reg) &raw mut COUNTER) };
    }
    0
}

/// One that nothing comes in between of.
#[unsafe(no_mangle)]
pub extern "C" fn count_locked(times: u64, _: u64) -> u64 {
    for _ in 0..times {
        unsafe { asm!("lock inc qword ptr [{}]", in(reg) &raw mut COUNTER) };
    }
    0
}

/// A lock made of `xchg`, which is locked without a prefix, around a load and a store.
#[unsafe(no_mangle)]
pub extern "C" fn count_in_lock(times: u64, _: u64) -> u64 {
    static LOCK: AtomicU64 = AtomicU64::new(0);
    for _ in 0..times {
        while LOCK.swap(1, Ordering::Acquire) != 0 {}
        unsafe { write_volatile(&raw mut COUNTER, read_volatile(&raw const COUNTER) + 1) };
        LOCK.store(0, Ordering::Release);
    }
    0
}

/// A kernel's lock around a load and a store.
#[unsafe(no_mangle)]
pub extern "C" fn count_in_spin_lock(times: u64, _: u64) -> u64 {
    for _ in 0..times {
        let irql = unsafe { KeAcquireSpinLockRaiseToDpc(&raw mut SPIN_LOCK) };
        unsafe { write_volatile(&raw mut COUNTER, read_volatile(&raw const COUNTER) + 1) };
        unsafe { KeReleaseSpinLock(&raw mut SPIN_LOCK, irql) };
    }
    0
}

/// Looks whether somebody has initialised, and does it if not: two may.
#[unsafe(no_mangle)]
pub extern "C" fn initialise_checked(_: u64, _: u64) -> u64 {
    if READY.load(Ordering::Acquire) == 0 {
        INITIALISED.fetch_add(1, Ordering::AcqRel);
        READY.store(1, Ordering::Release);
    }
    INITIALISED.load(Ordering::Acquire)
}

/// The same where one wins.
#[unsafe(no_mangle)]
pub extern "C" fn initialise_once(_: u64, _: u64) -> u64 {
    if READY.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        INITIALISED.fetch_add(1, Ordering::AcqRel);
    }
    INITIALISED.load(Ordering::Acquire)
}

#[unsafe(no_mangle)]
pub extern "C" fn allocate(_: u64, _: u64) -> u64 {
    let block = unsafe { ExAllocatePool2(NON_PAGED, 64, TAG) };
    BLOCK.store(block, Ordering::Release);
    u64::from(!block.is_null())
}

/// Frees the block if it is there: two may find it there.
#[unsafe(no_mangle)]
pub extern "C" fn free_checked(_: u64, _: u64) -> u64 {
    let block = BLOCK.load(Ordering::Acquire);
    if !block.is_null() {
        BLOCK.store(null_mut(), Ordering::Release);
        unsafe { ExFreePoolWithTag(block, TAG) };
    }
    0
}

/// The same where one takes it.
#[unsafe(no_mangle)]
pub extern "C" fn free_taken(_: u64, _: u64) -> u64 {
    let block = BLOCK.swap(null_mut(), Ordering::AcqRel);
    if !block.is_null() {
        unsafe { ExFreePoolWithTag(block, TAG) };
    }
    0
}

/// Waits for a flag that nobody sets.
#[unsafe(no_mangle)]
pub extern "C" fn spin_for_ever(_: u64, _: u64) -> u64 {
    while READY.load(Ordering::Acquire) != 2 {}
    0
}

/// `count` times a `dec` and a branch, and two more instructions.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn spin(count: u64, _: u64) -> u64 {
    naked_asm!("xor eax, eax", "2:", "dec rcx", "jne 2b", "ret")
}

/// A block for each answer.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn is_odd(n: u64, _: u64) -> u64 {
    naked_asm!("test cl, 1", "jne 2f", "xor eax, eax", "ret", "2:", "mov eax, 1", "ret")
}

/// Sums, products, vectors and calls: for the measure of speed.
#[unsafe(no_mangle)]
pub extern "C" fn compute(count: u64, seed: u64) -> u64 {
    let mut words = [seed; 16];
    for i in 0..count {
        let at = (i % 16) as usize;
        words[at] = words[at].rotate_left(7).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ i;
        if is_odd(words[at], 0) == 1 {
            words[(at + 5) % 16] = words[(at + 5) % 16].wrapping_add(words[at]);
        }
    }
    words.iter().fold(0, |sum, word| sum ^ word)
}

/// Code with a vector instruction whose upper half would be lost.
#[unsafe(no_mangle)]
pub extern "C" fn vex(_: u64, _: u64) -> u64 {
    unsafe { asm!("vxorps xmm0, xmm0, xmm0", out("xmm0") _) };
    0
}
