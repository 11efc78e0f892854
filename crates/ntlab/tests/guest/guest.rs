//! A driver image whose every export is one experiment. The lab's unit tests compile it for Windows and load it; the functions called
//! `Lab…` are theirs.
#![no_std]

use core::{
    arch::{asm, naked_asm},
    panic::PanicInfo,
    ptr::{read_volatile, write_volatile},
};

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn LabSum(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> u64;
    fn LabInvoke(function: extern "C" fn(u64, u64) -> u64, a: u64, b: u64) -> u64;
    fn LabClobber() -> u64;
    fn LabPanic() -> u64;
    fn LabForbidPaging();
    fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32;
    fn memcpy(destination: *mut u8, source: *const u8, count: usize) -> *mut u8;
    fn memmove(destination: *mut u8, source: *const u8, count: usize) -> *mut u8;
    fn memset(destination: *mut u8, value: i32, count: usize) -> *mut u8;
    fn RtlCompareMemory(a: *const u8, b: *const u8, count: usize) -> usize;
    fn __chkstk();
}

#[unsafe(no_mangle)]
pub static _fltused: i32 = 0;
static READ_ONLY: [u64; 4] = [1, 2, 3, 4];

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "INIT")]
pub extern "C" fn DriverEntry(_driver: *mut u8, _path: *mut u8) -> i32 {
    0x1234
}

/// Pageable code.
#[unsafe(no_mangle)]
#[unsafe(link_section = "PAGE")]
#[inline(never)]
pub extern "C" fn pageable(a: u64, b: u64) -> u64 {
    a + b
}

/// Pageable code that calls the kernel, once or, after a call that raises the IRQL, twice.
#[unsafe(no_mangle)]
#[unsafe(link_section = "PAGE")]
pub extern "C" fn pageable_call(raise: u64, _: u64) -> u64 {
    unsafe {
        if raise != 0 {
            LabForbidPaging();
        }
        LabSum(0, 0, 0, 0, 0, 0)
    }
}

/// Code that is not pageable and calls pageable code.
#[unsafe(no_mangle)]
pub extern "C" fn jump_to_pageable(a: u64, b: u64) -> u64 {
    pageable(a, b) + 1
}

// Kernel calls and calls back.

#[unsafe(no_mangle)]
pub extern "C" fn sum_loop(count: u64, b: u64) -> u64 {
    (0..count).fold(0, |sum, i| sum.wrapping_add(unsafe { LabSum(i, b, 2, 3, 4, 5) }))
}
#[unsafe(no_mangle)]
pub extern "C" fn add(a: u64, b: u64) -> u64 {
    a + b
}
#[unsafe(no_mangle)]
pub extern "C" fn invoke_loop(count: u64, _: u64) -> u64 {
    (0..count).fold(0, |sum, i| sum.wrapping_add(unsafe { LabInvoke(add, i, 1) }))
}
/// Kernel call, call back, kernel call, ... `depth` deep.
#[unsafe(no_mangle)]
pub extern "C" fn nest(depth: u64, x: u64) -> u64 {
    if depth == 0 { unsafe { LabSum(x, 0, 0, 0, 0, 0) } } else { unsafe { LabInvoke(nest, depth - 1, x + 1) + 1 } }
}
#[unsafe(no_mangle)]
pub extern "C" fn nest_then_panic(depth: u64, x: u64) -> u64 {
    if depth == 0 { unsafe { LabPanic() } } else { unsafe { LabInvoke(nest_then_panic, depth - 1, x) + 1 } }
}
/// Loads every register that win64 functions preserve, makes a kernel call, and compares: 1 if all survived.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn registers_survive(_: u64, _: u64) -> u64 {
    naked_asm!(
        "push rbx","push rbp","push rdi","push rsi","push r12","push r13","push r14","push r15",
        "sub rsp, 200",
        "movaps [rsp+32], xmm6","movaps [rsp+48], xmm7","movaps [rsp+64], xmm8","movaps [rsp+80], xmm9","movaps [rsp+96], xmm10",
        "movaps [rsp+112], xmm11","movaps [rsp+128], xmm12","movaps [rsp+144], xmm13","movaps [rsp+160], xmm14","movaps [rsp+176], xmm15",
        "mov rbx, 0x11","mov rbp, 0x22","mov rdi, 0x33","mov rsi, 0x44","mov r12, 0x55","mov r13, 0x66","mov r14, 0x77","mov r15, 0x78",
        "movq xmm6, rbx","movq xmm7, rbp","movq xmm8, rdi","movq xmm9, rsi","movq xmm10, r12","movq xmm11, r13","movq xmm12, r14",
        "movq xmm13, r15","movq xmm14, rbx","movq xmm15, rbp",
        "call {f}",
        "xor eax, eax",
        "cmp rbx, 0x11","jne 2f","cmp rbp, 0x22","jne 2f","cmp rdi, 0x33","jne 2f","cmp rsi, 0x44","jne 2f",
        "cmp r12, 0x55","jne 2f","cmp r13, 0x66","jne 2f","cmp r14, 0x77","jne 2f","cmp r15, 0x78","jne 2f",
        "movq rcx, xmm6","cmp rcx, rbx","jne 2f","movq rcx, xmm7","cmp rcx, rbp","jne 2f","movq rcx, xmm8","cmp rcx, rdi","jne 2f",
        "movq rcx, xmm9","cmp rcx, rsi","jne 2f","movq rcx, xmm10","cmp rcx, r12","jne 2f","movq rcx, xmm11","cmp rcx, r13","jne 2f",
        "movq rcx, xmm12","cmp rcx, r14","jne 2f","movq rcx, xmm13","cmp rcx, r15","jne 2f","movq rcx, xmm14","cmp rcx, rbx","jne 2f",
        "movq rcx, xmm15","cmp rcx, rbp","jne 2f",
        "mov eax, 1",
        "2:",
        "movaps xmm6,[rsp+32]","movaps xmm7,[rsp+48]","movaps xmm8,[rsp+64]","movaps xmm9,[rsp+80]","movaps xmm10,[rsp+96]",
        "movaps xmm11,[rsp+112]","movaps xmm12,[rsp+128]","movaps xmm13,[rsp+144]","movaps xmm14,[rsp+160]","movaps xmm15,[rsp+176]",
        "add rsp, 200",
        "pop r15","pop r14","pop r13","pop r12","pop rsi","pop rdi","pop rbp","pop rbx","ret",
        f = sym clobber,
    )
}
extern "C" fn clobber() -> u64 {
    unsafe { LabClobber() }
}

// Stack.

#[inline(never)]
fn big_frame(n: u64) -> u64 {
    let mut bytes = [0_u8; 6000];
    unsafe { write_volatile(&mut bytes[(n % 6000) as usize], 7) };
    bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>() + unsafe { LabSum(0, 0, 0, 0, 0, 0) }
}
#[unsafe(no_mangle)]
pub extern "C" fn big(n: u64, _: u64) -> u64 {
    big_frame(n)
}
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn overflow(n: u64, x: u64) -> u64 {
    if n == u64::MAX {
        return x;
    }
    let mut words = [x; 64];
    unsafe { write_volatile(&mut words[(n % 64) as usize], n) };
    let r = overflow(n + 1, words[3]);
    unsafe { read_volatile(&words[(r % 64) as usize]) + r }
}

// Device registers.

/// Accesses in the forms that compilers make of volatile reads and writes.
/// Reads a register with an instruction of two bytes and adds two with instructions of two bytes; or begins at the `entry`th of them.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn mmio_short(_: u64, _: u64) -> u64 {
    naked_asm!(
        "xor eax, eax",
        "cmp edx, 1", "je 3f",
        "cmp edx, 2", "je 4f",
        "2:", "mov eax, [rcx]", "3:", "inc eax", "4:", "inc eax",
        "cmp edx, 3", "jne 5f",
        "xor edx, edx", "jmp 2b",
        "5:", "ret",
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmio_forms(p: u64, _: u64) -> u64 {
    let p = p as *mut u32;
    unsafe {
        let mut r = 0_u64;
        write_volatile(p, 0x1234);
        r += u64::from(read_volatile(p) == 0x1234);
        if read_volatile(p.add(1)) & 0x80 != 0 {
            r += 2;
        }
        write_volatile(p.add(2), read_volatile(p.add(2)) | 0x100);
        r += u64::from(read_volatile(p.add(2)));
        write_volatile(p.cast::<u64>().add(2), 0xFFFF_FFFF_0000_0001);
        r = r.wrapping_add(read_volatile(p.cast::<u64>().add(2)));
        r = r.wrapping_add(read_volatile(p.cast::<u8>().add(24)) as i8 as i64 as u64);
        r = r.wrapping_add(u64::from(read_volatile(p.cast::<u16>().add(14))));
        write_volatile(p.cast::<f32>().add(8), r as f32);
        r = r.wrapping_add(read_volatile(p.cast::<u128>().add(3)) as u64);
        r
    }
}
/// Interlocked and read-modify-write forms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmio_modify(p: u64, value: u64) -> u64 {
    let mut exchanged = value as u32;
    unsafe {
        asm!("xchg [{p}], {v:e}", p = in(reg) p, v = inout(reg) exchanged);
        asm!("inc dword ptr [{p}]", p = in(reg) p);
        asm!("add [{p}], {v:e}", p = in(reg) p, v = in(reg) 3_u32);
        asm!("push qword ptr [{p}]", "pop {v}", p = in(reg) p, v = out(reg) _);
    }
    u64::from(exchanged)
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmio_string(p: u64, to: u64) -> u64 {
    unsafe { asm!("movsd", inout("rsi") p => _, inout("rdi") to => _) };
    0
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmio_read_loop(p: *const u32, count: u64) -> u64 {
    (0..count).fold(0, |sum: u64, _| sum.wrapping_add(u64::from(unsafe { read_volatile(p) })))
}

// Faults.

#[inline(never)]
fn store(p: *mut u32, value: u32) {
    unsafe { write_volatile(p, value) }
}
#[inline(always)]
fn inlined(p: *mut u32, value: u32) {
    if value < 100 {
        store(p, value + 1);
    }
}
#[inline(never)]
fn middle(p: *mut u32, value: u32) -> u32 {
    let mut pad = [value; 700];
    unsafe { write_volatile(&mut pad[(value % 700) as usize], 1) };
    inlined(p, pad[5]);
    pad.iter().fold(0, |a, b| a ^ b)
}
/// Writes to an address, three functions down.
#[unsafe(no_mangle)]
pub extern "C" fn write_to(p: u64, value: u64) -> u64 {
    u64::from(middle(p as *mut u32, value as u32)) + 1
}
/// The same under a kernel call.
#[unsafe(no_mangle)]
pub extern "C" fn write_to_nested(p: u64, value: u64) -> u64 {
    unsafe { LabInvoke(write_to, p, value) + 1 }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read_from(p: *const u64, _: u64) -> u64 {
    unsafe { read_volatile(p) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn call_to(p: u64, a: u64) -> u64 {
    let function: extern "C" fn(u64) -> u64 = unsafe { core::mem::transmute(p) };
    function(a) + 1
}
#[unsafe(no_mangle)]
pub extern "C" fn write_read_only(_: u64, _: u64) -> u64 {
    unsafe { write_volatile((&raw const READ_ONLY).cast::<u64>().cast_mut(), 5) };
    READ_ONLY[1]
}
#[unsafe(no_mangle)]
pub extern "C" fn read_cr8(_: u64, _: u64) -> u64 {
    let level: u64;
    unsafe { asm!("mov {}, cr8", out(reg) level) };
    level
}
#[unsafe(no_mangle)]
pub extern "C" fn write_cr8(level: u64, _: u64) -> u64 {
    unsafe { asm!("mov cr8, {}", in(reg) level) };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn fast_fail(code: u64, _: u64) -> u64 {
    unsafe { asm!("int 0x29", in("rcx") code) };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn breakpoint(_: u64, _: u64) -> u64 {
    unsafe { asm!("int3") };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn undefined(_: u64, _: u64) -> u64 {
    unsafe { asm!("ud2") };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn divide(a: u64, b: u64) -> u64 {
    let quotient: u64;
    unsafe { asm!("div {}", in(reg) b, inout("rax") a => quotient, inout("rdx") 0_u64 => _) };
    quotient
}
#[unsafe(no_mangle)]
pub extern "C" fn read_processor_control(_: u64, _: u64) -> u64 {
    let value: u64;
    unsafe { asm!("mov {}, gs:[0x20]", out(reg) value) };
    value
}

// C runtime.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy(destination: *mut u8, source: *const u8, count: usize) -> *mut u8 {
    unsafe { memcpy(destination, source, count) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn move_bytes(destination: *mut u8, source: *const u8, count: usize) -> *mut u8 {
    unsafe { memmove(destination, source, count) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fill(destination: *mut u8, value: i32, count: usize) -> *mut u8 {
    unsafe { memset(destination, value, count) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn compare(a: *const u8, b: *const u8, count: usize) -> i64 {
    i64::from(unsafe { memcmp(a, b, count) })
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn matching(a: *const u8, b: *const u8, count: usize) -> usize {
    unsafe { RtlCompareMemory(a, b, count) }
}
