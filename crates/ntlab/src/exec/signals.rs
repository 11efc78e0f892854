//! The host's signals, for faults and its clock. A handler only rewrites the interrupted context, so that the thread goes on in `event_entry` on its
//! host stack, never on the driver's; nothing else runs in a handler. Faults outside driver code go to whoever handled them before.

use std::{
    arch::asm,
    io,
    mem::{self, offset_of},
    ptr,
    sync::OnceLock,
};

use super::{
    entry::{BORDER, Border, event_entry},
    event::{EVENT_SIZE, Event, MARKER},
    watchdog,
};
use crate::memory::{Arena, PageKind, Space, current};

const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
const ALTERNATE_STACK: usize = 64 << 10;
/// Trap and direction flags, which host code does not expect.
const STEP_AND_DIRECTION: i64 = 0x100 | 0x400;
/// Where the host has the registers in the machine's numbering.
const GENERAL: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// What handled each signal before.
static BEFORE: OnceLock<Vec<(i32, libc::sigaction)>> = OnceLock::new();

/// Installs the handlers, once for the process.
pub fn install() -> io::Result<()> {
    let mut refused = None;
    BEFORE.get_or_init(|| {
        let each = SIGNALS.into_iter().chain([watchdog::signal()]).map(|signal| (signal, replace(signal)));
        each.filter_map(|(signal, before)| {
            before.map_err(|error| refused = Some(error)).ok().map(|before| (signal, before))
        })
        .collect()
    });
    refused.map_or(Ok(()), Err)
}

fn replace(signal: i32) -> io::Result<libc::sigaction> {
    // SAFETY: a `sigaction` of zeros is a valid value: no handler, no flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: both structures are valid; the handler is safe to run at any instruction.
    match unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } {
        0 => Ok(before),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The handler of all signals.
///
/// # Safety
/// Called by the host's kernel only.
unsafe extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the host passes a `ucontext_t` that is this handler's alone until it returns.
    let interrupted = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let machine = &mut interrupted.uc_mcontext;
    if signal == watchdog::signal() {
        let in_driver = current::get().is_some_and(|memory| runs_driver(&memory.space, machine));
        if in_driver && watchdog::tick() {
            redirect(signal, 0, machine);
        }
        return;
    }
    let ours = current::get().is_some_and(|memory| in_driver(&memory.space, machine));
    if ours {
        // SAFETY: the host passes a valid `siginfo_t`.
        let information = unsafe { &*info };
        // SAFETY: it has an address for faults, and a harmless number else.
        let address = unsafe { information.si_addr() } as u64;
        redirect(signal, address, machine);
    } else {
        forward(signal, info, context);
    }
}

/// Driver code runs on a kernel stack; one that lost its stack pointer is still known by where it runs.
fn in_driver(space: &Space, machine: &libc::mcontext_t) -> bool {
    let rip = register(machine, libc::REG_RIP);
    space.contains(Arena::Stacks, register(machine, libc::REG_RSP))
        || space.contains(Arena::Images, rip)
        || space.kind(rip) == PageKind::KernelCode
}

/// Whether the instruction is the driver's, not one on the way to the kernel or back.
fn runs_driver(space: &Space, machine: &libc::mcontext_t) -> bool {
    let rip = register(machine, libc::REG_RIP);
    space.contains(Arena::Images, rip) || space.kind(rip) == PageKind::KernelCode
}

/// Lets the thread go on in `event_entry`, with the interrupted registers in an [`Event`] on its host stack.
fn redirect(signal: i32, address: u64, machine: &mut libc::mcontext_t) {
    let host_sp: u64;
    // SAFETY: driver code runs only while gs points at the page before the border (`border::enter`).
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) host_sp, const BORDER + offset_of!(Border, host_sp),
            options(nostack, pure, readonly, preserves_flags));
    }
    let segments = register(machine, libc::REG_CSGSFS);
    let event = Event {
        registers: GENERAL.map(|name| register(machine, name)),
        rip: register(machine, libc::REG_RIP),
        cs: segments & 0xFFFF,
        flags: register(machine, libc::REG_EFL),
        rsp: register(machine, libc::REG_RSP),
        ss: segments >> 48,
        address,
        error: register(machine, libc::REG_ERR),
        exception: register(machine, libc::REG_TRAPNO),
        signal: signal.unsigned_abs().into(),
        marker: MARKER,
        ..Event::default()
    };
    let place = host_sp - EVENT_SIZE as u64;
    // SAFETY: `call_guest` left the host stack free below `host_sp`, which is a multiple of 64.
    unsafe { (place as *mut Event).write(event) };
    machine.gregs[libc::REG_RSP as usize] = place.cast_signed();
    machine.gregs[libc::REG_RIP as usize] = (event_entry as *const () as u64).cast_signed();
    machine.gregs[libc::REG_EFL as usize] &= !STEP_AND_DIRECTION;
}

const fn register(machine: &libc::mcontext_t, name: i32) -> u64 {
    machine.gregs[name.unsigned_abs() as usize].cast_unsigned()
}

/// A fault of the lab itself, or of another part of the process: as if this handler were not there.
fn forward(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get().and_then(|all| all.iter().find(|(number, _)| *number == signal));
    match before {
        Some((_, action)) if action.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with SA_SIGINFO the field holds a function of this type.
            let handler = unsafe { mem::transmute::<usize, Handler>(action.sa_sigaction) };
            // SAFETY: it gets what the host would have given it.
            unsafe { handler(signal, info, context) };
        }
        _ => {
            // SAFETY: the default action is always valid; the fault comes again and ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// The stack of this OS thread's signal handlers, while a machine runs on it.
#[derive(Debug)]
pub struct AlternateStack {
    before: libc::stack_t,
    _memory: Box<[u8]>,
}

impl AlternateStack {
    /// Makes one and puts it in place.
    pub fn new() -> io::Result<Self> {
        let mut memory = vec![0_u8; ALTERNATE_STACK].into_boxed_slice();
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        let mut before = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
        // SAFETY: the memory lives until the drop below takes it out of use.
        match unsafe { libc::sigaltstack(&raw const stack, &raw mut before) } {
            0 => Ok(Self { before, _memory: memory }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: `before` is what the host said was in place; no handler of ours is running.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
    }
}
