//! The machine code between the two stacks.

use std::{arch::naked_asm, cell::Cell, mem::offset_of};

use super::{
    border::kernel_call,
    event::{EVENT_SIZE, Event, event},
};
use crate::kernel::Kernel;

/// What the machine code keeps about the thread that runs. gs points one page before it: what Windows has there, the processor control
/// region, faults and so is not silently something else.
#[derive(Debug)]
#[repr(C)]
pub struct Border {
    /// Where the host stack is free: the next kernel call or event starts below. 64-byte aligned; 0 if no driver code runs.
    pub host_sp: Cell<u64>,
    /// The driver's rsp at the kernel call or event that runs: the next call into the driver starts below.
    pub guest_sp: Cell<u64>,
    /// The kernel of the machine.
    pub kernel: Cell<*const Kernel>,
    /// The lowest usable address of the kernel stack.
    pub stack_low: Cell<u64>,
    /// Ticks of the host's clock in driver code since it last called the kernel or caused an event.
    pub ticks: Cell<u64>,
    /// Events since the driver last called the kernel.
    pub events: Cell<u64>,
    /// The driver's rsp for the two instructions in which `resume_entry` has no register free.
    pub scratch: Cell<u64>,
    /// The number of the detour that leads to `resume_entry`; 0 for what else does.
    pub detour: Cell<u64>,
    /// Stepped code: instructions that may run until it has to come back to the stepper.
    pub budget: Cell<i64>,
    /// Stepped code: why it came back; 0 where it did not.
    pub exit: Cell<u64>,
    /// Stepped code: where an indirect branch or a return goes.
    pub target: Cell<u64>,
    /// Stepped code: the address of the table of branch targets.
    pub targets: Cell<u64>,
    /// Stepped code: rax, rcx and rdx for the few instructions that need a register.
    pub saved: [Cell<u64>; 3],
}

/// Offset of [`Border`] from gs.
pub const BORDER: usize = 4096;
/// Offset from gs that detours use.
pub const DETOUR: usize = BORDER + offset_of!(Border, detour);
/// Offsets from gs that stepped code uses.
pub const BUDGET: usize = BORDER + offset_of!(Border, budget);
pub const EXIT: usize = BORDER + offset_of!(Border, exit);
pub const TARGET: usize = BORDER + offset_of!(Border, target);
pub const TARGETS: usize = BORDER + offset_of!(Border, targets);
pub const SAVED: usize = BORDER + offset_of!(Border, saved);
const HOST_SP: usize = BORDER + offset_of!(Border, host_sp);
const GUEST_SP: usize = BORDER + offset_of!(Border, guest_sp);
const SCRATCH: usize = BORDER + offset_of!(Border, scratch);

/// What a kernel call leaves on the host stack, just below `host_sp`.
#[derive(Debug)]
#[repr(C)]
pub struct TrapFrame {
    /// xmm6 to xmm15.
    pub xmm: [u128; 10],
    /// The address of the [`Export`](crate::exports::Export).
    pub export: u64,
    /// Registers that the driver expects to survive.
    pub r15: u64,
    /// As above.
    pub r14: u64,
    /// As above.
    pub r13: u64,
    /// As above.
    pub r12: u64,
    /// As above.
    pub rsi: u64,
    /// As above.
    pub rdi: u64,
    /// As above.
    pub rbp: u64,
    /// As above.
    pub rbx: u64,
    /// The driver's rsp at the call: it points at the return address, which makes it a multiple of 8.
    pub rsp: u64,
}

impl TrapFrame {
    /// The first of its xmm registers.
    pub const FIRST_XMM: usize = 6;
}

/// What a call into the driver leaves on the host stack, at `host_sp`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CallFrame {
    /// `guest_sp` before the call.
    pub guest_sp: u64,
    /// `host_sp` before the call; 0 for the outermost.
    pub host_sp: u64,
    /// The host's rsp to return with.
    rsp: u64,
}
const CALL_FRAME_ROOM: usize = 64;
const _: () = assert!(size_of::<CallFrame>() <= CALL_FRAME_ROOM && size_of::<TrapFrame>().is_multiple_of(16));

/// What `call_guest` returns, in rax and rdx.
#[repr(C)]
pub struct Returned {
    /// The driver function's rax.
    pub value: u64,
    /// Not 0: it did not return, a kernel function under it was stopped.
    pub stopped: u64,
}

/// Defines the two ways into a kernel call, which differ in how they go back to the driver.
macro_rules! trap_entry {
    ($(#[$doc:meta])* $name:ident, $($back:tt)*) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Only a driver may get here, through a thunk, called from `call_guest`.
        #[unsafe(naked)]
        pub unsafe extern "win64" fn $name() {
            naked_asm!(
                "mov [rsp+8], rcx", "mov [rsp+16], rdx", "mov [rsp+24], r8", "mov [rsp+32], r9",
                "mov r10, rsp",
                "mov rsp, gs:[{host_sp}]",
                "mov gs:[{guest_sp}], r10",
                "push r10", "push rbx", "push rbp", "push rdi", "push rsi", "push r12", "push r13", "push r14", "push r15", "push rax",
                "sub rsp, 160",
                "movaps [rsp], xmm6", "movaps [rsp+16], xmm7", "movaps [rsp+32], xmm8", "movaps [rsp+48], xmm9",
                "movaps [rsp+64], xmm10", "movaps [rsp+80], xmm11", "movaps [rsp+96], xmm12", "movaps [rsp+112], xmm13",
                "movaps [rsp+128], xmm14", "movaps [rsp+144], xmm15",
                "mov rdi, rax",
                "lea rsi, [r10+8]",
                "call {inner}",
                "movaps xmm6, [rsp]", "movaps xmm7, [rsp+16]", "movaps xmm8, [rsp+32]", "movaps xmm9, [rsp+48]",
                "movaps xmm10, [rsp+64]", "movaps xmm11, [rsp+80]", "movaps xmm12, [rsp+96]", "movaps xmm13, [rsp+112]",
                "movaps xmm14, [rsp+128]", "movaps xmm15, [rsp+144]",
                "add rsp, 168",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rsi", "pop rdi", "pop rbp", "pop rbx", "pop rsp",
                $($back)*
                host_sp = const HOST_SP, guest_sp = const GUEST_SP, inner = sym kernel_call,
            )
        }
    };
}

trap_entry!(
    /// Entered from an import thunk with the export's address in rax. Homes the four register arguments, so that all arguments, variadic
    /// ones too, are one array; keeps what win64 wants kept and System V does not; calls `kernel_call` on the host stack.
    trap_entry,
    "ret",
);
trap_entry!(
    /// [`trap_entry`](fn@trap_entry) for stepped code, which goes on in the translation of where it called from.
    stepped_trap_entry,
    "pop qword ptr gs:[{target}]", "jmp {lookup}",
    target = const TARGET, lookup = sym super::step::lookup_entry,
);

/// Calls the driver's `function` with rsp = `stack`, where its arguments lie: the first four are loaded to registers.
///
/// # Safety
/// `stack` is 16-byte aligned, in the free part of the thread's kernel stack; gs is that of the machine that runs.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn call_guest(function: u64, stack: u64) -> Returned {
    naked_asm!(
        "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
        "mov rdx, rsp",
        "and rsp, -64",
        "sub rsp, {room}",
        "mov [rsp+16], rdx",
        "mov rax, gs:[{host_sp}]", "mov [rsp+8], rax",
        "mov rax, gs:[{guest_sp}]", "mov [rsp], rax",
        "mov gs:[{host_sp}], rsp",
        "mov rsp, rsi",
        "mov rax, rdi",
        "mov rcx, [rsp]", "mov rdx, [rsp+8]", "mov r8, [rsp+16]", "mov r9, [rsp+24]",
        "call rax",
        "xor edx, edx",
        "jmp {back}",
        room = const CALL_FRAME_ROOM, host_sp = const HOST_SP, guest_sp = const GUEST_SP, back = sym leave_guest,
    )
}

/// The end of `call_guest`: the driver returned, or its frames are given up.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave_guest() {
    naked_asm!(
        "mov rcx, gs:[{host_sp}]",
        "mov rsi, [rcx]", "mov gs:[{guest_sp}], rsi",
        "mov rsi, [rcx+8]", "mov gs:[{host_sp}], rsi",
        "mov rsp, [rcx+16]",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
        "ret",
        host_sp = const HOST_SP, guest_sp = const GUEST_SP,
    )
}

/// Returns from the innermost `call_guest` as stopped. The driver's frames under it are given up: they have nothing to unwind.
///
/// # Safety
/// Called from a kernel call or event, by a function that has nothing left to drop.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn abandon() -> ! {
    naked_asm!("xor eax, eax", "mov edx, 1", "jmp {back}", back = sym leave_guest)
}

/// Entered from a signal handler, with rsp at an [`Event`] on the host stack whose xmm registers are still in place. What the event
/// says afterwards is where the driver goes on.
///
/// # Safety
/// Only `signals::handler` and `resume_entry` may get here.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn event_entry() {
    naked_asm!(
        "movaps [rsp], xmm0", "movaps [rsp+16], xmm1", "movaps [rsp+32], xmm2", "movaps [rsp+48], xmm3",
        "movaps [rsp+64], xmm4", "movaps [rsp+80], xmm5", "movaps [rsp+96], xmm6", "movaps [rsp+112], xmm7",
        "movaps [rsp+128], xmm8", "movaps [rsp+144], xmm9", "movaps [rsp+160], xmm10", "movaps [rsp+176], xmm11",
        "movaps [rsp+192], xmm12", "movaps [rsp+208], xmm13", "movaps [rsp+224], xmm14", "movaps [rsp+240], xmm15",
        "mov rbx, rsp",
        "mov rdi, rsp",
        "call {event}",
        "movaps xmm0, [rbx]", "movaps xmm1, [rbx+16]", "movaps xmm2, [rbx+32]", "movaps xmm3, [rbx+48]",
        "movaps xmm4, [rbx+64]", "movaps xmm5, [rbx+80]", "movaps xmm6, [rbx+96]", "movaps xmm7, [rbx+112]",
        "movaps xmm8, [rbx+128]", "movaps xmm9, [rbx+144]", "movaps xmm10, [rbx+160]", "movaps xmm11, [rbx+176]",
        "movaps xmm12, [rbx+192]", "movaps xmm13, [rbx+208]", "movaps xmm14, [rbx+224]", "movaps xmm15, [rbx+240]",
        "lea rsp, [rbx+{registers}]",
        "pop rax", "pop rcx", "pop rdx", "pop rbx", "add rsp, 8", "pop rbp", "pop rsi", "pop rdi",
        "pop r8", "pop r9", "pop r10", "pop r11", "pop r12", "pop r13", "pop r14", "pop r15",
        "iretq",
        event = sym event, registers = const offset_of!(Event, registers),
    )
}

/// Entered by a jump from a re-encoded instruction that wrote to its cell, from a detour or from stepped code, with every register the driver's: makes
/// an [`Event`] without a signal.
///
/// # Safety
/// Only slots of `registers`, detours and code of `step` may get here.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn resume_entry() {
    naked_asm!(
        "mov gs:[{scratch}], rsp",
        "mov rsp, gs:[{host_sp}]",
        "lea rsp, [rsp-{size}]",
        "mov [rsp+{r}], rax", "mov [rsp+{r}+8], rcx", "mov [rsp+{r}+16], rdx", "mov [rsp+{r}+24], rbx",
        "mov [rsp+{r}+40], rbp", "mov [rsp+{r}+48], rsi", "mov [rsp+{r}+56], rdi",
        "mov [rsp+{r}+64], r8", "mov [rsp+{r}+72], r9", "mov [rsp+{r}+80], r10", "mov [rsp+{r}+88], r11",
        "mov [rsp+{r}+96], r12", "mov [rsp+{r}+104], r13", "mov [rsp+{r}+112], r14", "mov [rsp+{r}+120], r15",
        "pushfq", "pop rax", "cld",
        "mov [rsp+{flags}], rax",
        "mov rax, gs:[{scratch}]",
        "mov [rsp+{r}+32], rax", "mov [rsp+{rsp_after}], rax",
        "mov eax, cs", "mov [rsp+{cs}], rax",
        "mov eax, ss", "mov [rsp+{ss}], rax",
        "mov qword ptr [rsp+{signal}], 0",
        "mov qword ptr [rsp+{marker}], {mark}",
        "jmp {entry}",
        scratch = const SCRATCH, host_sp = const HOST_SP, size = const EVENT_SIZE,
        r = const offset_of!(Event, registers), flags = const offset_of!(Event, flags), rsp_after = const offset_of!(Event, rsp),
        cs = const offset_of!(Event, cs), ss = const offset_of!(Event, ss), signal = const offset_of!(Event, signal),
        marker = const offset_of!(Event, marker), mark = const super::event::MARKER,
        entry = sym event_entry,
    )
}
