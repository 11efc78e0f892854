//! Calls over the border, and what unwinds over it.

use std::{
    any::Any,
    arch::asm,
    array, io,
    marker::PhantomData,
    mem::offset_of,
    panic::{self, AssertUnwindSafe},
    ptr::NonNull,
};

use super::{
    entry::{BORDER, Border, abandon, call_guest},
    exception, signals,
    step::Stepper,
    watchdog::Watchdog,
};
use crate::{
    exports::{Arguments, Export},
    finding::Finding,
    kernel::Kernel,
    memory::{Arena, Memory, PAGE, PageKind, Ptr, Space, current, fault},
};

/// What kernel functions of Windows would use of the kernel stack between the driver's call and its callback.
const KERNEL_FRAMES: u64 = 256;
/// The least a call into the driver is made with.
pub(super) const LEAST_STACK: u64 = 2048;
/// The arguments that win64 passes in registers have places on the stack too.
const HOMED: usize = 4;

const ARCH_SET_GS: i32 = 0x1001;
const ARCH_GET_GS: i32 = 0x1004;

/// Makes what gs points at: a page that faults, and the border.
pub fn allocate(space: &Space) -> NonNull<Border> {
    let page = space.take(Arena::Kernel, 2 * PAGE);
    space.mark(page, PAGE, PageKind::ProcessorControl);
    space.open(page + BORDER as u64, PAGE, PageKind::Host);
    NonNull::new((page + BORDER as u64) as *mut Border).expect("the reservation does not start at 0")
}

/// While it lives, the machine runs on this OS thread: its memory can be accessed and its driver called.
#[derive(Debug)]
pub struct Entered<'k> {
    memory_before: *const Memory,
    gs_before: u64,
    _stack: signals::AlternateStack,
    _watchdog: Option<Watchdog>,
    kernel: PhantomData<&'k Kernel>,
}

/// Makes `k` the machine that runs on this OS thread.
///
/// # Errors
/// The host's, where it refuses a signal stack or a timer.
pub fn enter(k: &Kernel) -> io::Result<Entered<'_>> {
    signals::install()?;
    let stack = signals::AlternateStack::new()?;
    let watchdog = k.exec.stepper.is_none().then(Watchdog::new).transpose()?;
    let border = k.exec.border();
    border.kernel.set(k);
    let memory_before = current::set(&raw const k.memory);
    let gs_before = gs_base();
    set_gs_base(k.exec.border.as_ptr() as u64 - BORDER as u64);
    Ok(Entered { memory_before, gs_before, _stack: stack, _watchdog: watchdog, kernel: PhantomData })
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        set_gs_base(self.gs_before);
        current::set(self.memory_before);
    }
}

fn gs_base() -> u64 {
    let mut base = 0_u64;
    // SAFETY: the call writes one u64 to `base`.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut base) };
    base
}

fn set_gs_base(base: u64) {
    // SAFETY: user space of x86-64 Linux does not use gs: thread-local storage is behind fs.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
}

/// The machine whose driver code called or faulted on this thread.
pub fn running<'k>() -> &'k Kernel {
    let kernel: *const Kernel;
    // SAFETY: only reached from driver code, for which `enter` made gs point at the page before the border.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) kernel, const BORDER + offset_of!(Border, kernel),
            options(nostack, pure, readonly, preserves_flags));
    }
    // SAFETY: `enter` stored a kernel that stays borrowed while the machine runs, that is, while there is driver code to come from.
    unsafe { &*kernel }
}

/// Called by `trap_entry`: runs a kernel function.
///
/// # Safety
/// `export` comes from a thunk; `arguments` is the address of the argument array on the driver's stack.
pub unsafe extern "sysv64" fn kernel_call(export: &'static Export, arguments: u64) -> u64 {
    let k = running();
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        k.exec.border().ticks.set(0);
        k.exec.border().events.set(0);
        let caller = return_address(arguments);
        k.exec.space.check_code(caller);
        k.interleavings.pass(k, caller);
        if let Some(stepper) = &k.exec.stepper {
            note_stepped_call(k, stepper, export, arguments);
        }
        k.faults.steps.step(k);
        k.enter(export);
        let failed = k.faults.strike(k, export.name, Arguments::new(Ptr::new(arguments)));
        let value = failed.unwrap_or_else(|| (export.call)(k, Arguments::new(Ptr::new(arguments))));
        k.leave();
        k.exec.space.go_on_at(caller);
        value
    }));
    match result {
        Ok(value) => value,
        Err(payload) => exception::after_kernel_call(k, payload).unwrap_or_else(|payload| stop(k, payload)),
    }
}

/// Not the way of driver code that runs as fast as it can, which is so the shorter.
#[cold]
#[inline(never)]
fn note_stepped_call(k: &Kernel, stepper: &Stepper, export: &Export, arguments: u64) {
    stepper.note_call(k);
    k.counting.kernel_call(k, export.name, arguments);
}

/// Where a kernel call returns to: the address below its arguments.
fn return_address(arguments: u64) -> u64 {
    Ptr::new(arguments - size_of::<u64>() as u64).read()
}

/// Carries what unwinds over the driver's frames to the `call` above them, where it goes on unwinding.
pub fn stop(k: &Kernel, payload: Box<dyn Any + Send>) -> ! {
    if payload.is::<Finding>() {
        k.exec.note_place(k);
    }
    k.exec.stopped.replace(Some(payload));
    // SAFETY: kernel calls and events are the only callers, and nothing of theirs is left to drop.
    unsafe { abandon() }
}

/// Calls the driver's `function`, which is a `what`, on the kernel stack of the thread that runs. For the scheduler: everything else goes
/// through [`Kernel::call`].
pub fn call(k: &Kernel, what: &'static str, function: u64, arguments: &[u64]) -> u64 {
    k.exec.space.check_code(function);
    let border = k.exec.border();
    let places = arguments.len().max(HOMED).next_multiple_of(2);
    let stack = (border.guest_sp.get() - KERNEL_FRAMES) / 16 * 16 - (places * size_of::<u64>()) as u64;
    if stack < border.stack_low.get() + LEAST_STACK {
        let left = stack.saturating_sub(border.stack_low.get());
        fault::stack_overflow(stack, format!("call into the driver with {left} bytes of kernel stack left")).raise();
    }
    let argument = |place: usize| arguments.get(place).copied().unwrap_or(0);
    Ptr::<[u64; HOMED]>::new(stack).write(array::from_fn(argument));
    for place in HOMED..places {
        Ptr::new(stack).offset(place).write(argument(place));
    }
    let function = k.exec.entry(k, function);
    if k.exec.stepper.is_some() {
        k.counting.enter(k, what, arguments, stack);
    }
    // SAFETY: `stack` is aligned and in the free part of the kernel stack, as checked; the writes above were checked against the
    // machine that runs on this thread, so that gs is its own.
    let returned = unsafe { call_guest(function, stack) };
    if let Some(stepper) = &k.exec.stepper {
        stepper.charge(k);
        k.counting.leave(k);
    }
    if returned.stopped != 0 {
        let payload = k.exec.stopped.take();
        panic::resume_unwind(
            payload.unwrap_or_else(|| Box::new(Finding::not_modelled("driver code was left for no reason"))),
        );
    }
    returned.value
}
