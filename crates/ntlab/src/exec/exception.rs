//! Exceptions: a kernel function raises them in the driver that called it, the processor at an instruction of the driver's. The driver's
//! own handlers are found over its unwind information ("Handling Exceptions", "x64 exception handling").
//!
//! First each frame's language handler is asked, innermost first, and `__C_specific_handler` runs the filters. When one takes the
//! exception, the frames up to it are unwound, their termination handlers run, and the driver goes on in the handler. All of them run
//! on the driver's stack, below the frame with the exception.

#![allow(clippy::cast_possible_truncation, reason = "codes, counts and dispositions have 32 bits in registers of 64")]

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
};

use windows_sys::Win32::System::Diagnostics::Debug::{CONTEXT, DISPATCHER_CONTEXT, EXCEPTION_RECORD};

use super::{
    Exec,
    border::LEAST_STACK,
    entry::{CallFrame, TrapFrame},
    event::Event,
    unwind::{Frame, LanguageHandler, Position, RSP},
};
use crate::{
    at,
    events::Kind,
    finding::Finding,
    kernel::Kernel,
    memory::{Access, Ptr, fault, host},
};

/// What unwinds.
type Payload = Box<dyn Any + Send>;

/// Flags of `EXCEPTION_RECORD`.
const NONCONTINUABLE: u32 = 0x1;
/// The frames up to a handler are unwound; the handler's own frame is.
pub const UNWINDING: u32 = 0x2;
/// The frame of the handler is unwound.
pub const TARGET_UNWIND: u32 = 0x20;
/// What language handlers return: `ExceptionContinueExecution`, `ExceptionContinueSearch`.
pub const CONTINUE_EXECUTION: i32 = 0;
/// As above.
pub const CONTINUE_SEARCH: i32 = 1;
/// `CONTEXT_FULL` of x64: control, integer and floating-point registers.
const CONTEXT_FULL: u32 = 0x0010_000B;
/// `STATUS_NONCONTINUABLE_EXCEPTION`.
const NONCONTINUABLE_EXCEPTION: u64 = 0xC000_0025;

/// Where the record, the context and the dispatcher context lie in what is taken of the driver's stack.
const CONTEXT_AT: u64 = 160;
const DISPATCHER_AT: u64 = CONTEXT_AT + size_of::<CONTEXT>() as u64;
const ROOM: u64 = DISPATCHER_AT + size_of::<DISPATCHER_CONTEXT>() as u64;
const _: () = assert!(size_of::<EXCEPTION_RECORD>() as u64 <= CONTEXT_AT);

/// An exception on its way to a handler of the driver's.
#[derive(Debug)]
pub struct Exception {
    code: u32,
    parameters: Vec<u64>,
    /// What it means where no handler takes it.
    unhandled: Finding,
}

impl Exception {
    /// A status that `function` raises.
    #[must_use]
    pub fn status(code: u32, function: &str) -> Self {
        let sentence = format!("{function} raised {code:#010x}, and no handler of the driver takes it");
        let unhandled = Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, [u64::from(code), 0, 0, 0], sentence);
        Self { code, parameters: Vec::new(), unhandled }
    }

    /// An access that memory does not allow, which is this finding where no handler takes it.
    #[must_use]
    pub fn access_violation(address: u64, access: Access, unhandled: Finding) -> Self {
        Self { code: fault::ACCESS_VIOLATION as u32, parameters: vec![access.parameter(), address], unhandled }
    }

    /// An exception of the processor's without parameters, which is this finding where no handler takes it.
    #[must_use]
    pub const fn of_processor(code: u32, unhandled: Finding) -> Self {
        Self { code, parameters: Vec::new(), unhandled }
    }

    /// What it is where no driver code could handle it.
    #[must_use]
    pub fn unhandled(self) -> Finding {
        self.unhandled
    }

    /// Raises it in the driver code that led here.
    pub fn raise(self) -> ! {
        panic::resume_unwind(Box::new(self))
    }
}

/// A handler takes the exception: from [`take`] to the search.
struct Taken {
    establisher: u64,
    target: u64,
}

/// Ends the search: the handler at `target` of the function whose frame is `establisher` takes the exception.
pub fn take(establisher: u64, target: u64) -> ! {
    panic::resume_unwind(Box::new(Taken { establisher, target }))
}

/// What unwinds from the search because a handler takes the exception.
fn taken(payload: Payload) -> Result<Box<Taken>, Payload> {
    payload.downcast()
}

/// Turns what unwinds into an exception, if it is one.
fn exception(payload: Payload) -> Result<Exception, Payload> {
    payload.downcast::<Exception>().map(|exception| *exception)
}

/// After a kernel function unwound: if it raised an exception, and a handler of the driver's takes that, has the driver go on there, with
/// the returned value in rax.
pub fn after_kernel_call(k: &Kernel, payload: Payload) -> Result<u64, Payload> {
    let exception = exception(payload)?;
    let host_sp = k.exec.save().host_sp;
    let mut position = k.exec.start(host_sp);
    settle(k, exception, &mut position, false)?;
    let values = position.registers.values;
    let frame = (host_sp - size_of::<TrapFrame>() as u64) as *mut TrapFrame;
    // SAFETY: a kernel call left its frame just below `host_sp`; nothing else refers to it until the call returns.
    let frame = unsafe { &mut *frame };
    let [rax, _, _, rbx, rsp, rbp, rsi, rdi, .., r12, r13, r14, r15] = values;
    frame.xmm.copy_from_slice(&position.registers.xmm[TrapFrame::FIRST_XMM..]);
    (frame.rbx, frame.rbp, frame.rsi, frame.rdi) = (rbx, rbp, rsi, rdi);
    (frame.r12, frame.r13, frame.r14, frame.r15) = (r12, r13, r14, r15);
    // The call returns to what lies at its rsp: the frames below the handler's are gone.
    frame.rsp = rsp - size_of::<u64>() as u64;
    Ptr::new(frame.rsp).write(position.rip);
    Ok(rax)
}

/// After serving an event unwound: the same for an exception at an instruction of the driver's.
pub fn after_event(k: &Kernel, payload: Payload, event: &mut Event) -> Result<(), Payload> {
    let exception = exception(payload)?;
    let mut position = k.exec.start(k.exec.save().host_sp);
    settle(k, exception, &mut position, true)?;
    event.registers = position.registers.values;
    event.xmm = position.registers.xmm;
    event.rsp = position.registers.values[RSP];
    event.rip = position.rip;
    k.exec.stepper.as_ref().map_or(Ok(()), |stepper| panic::catch_unwind(AssertUnwindSafe(|| stepper.resume(k, event))))
}

/// Finds where the driver goes on.
fn settle(k: &Kernel, exception: Exception, position: &mut Position<'_>, continuable: bool) -> Result<(), Payload> {
    let settled = panic::catch_unwind(AssertUnwindSafe(|| {
        k.record(|| Kind::Exception(exception.code));
        k.exec.on_driver_stack(ROOM, |room| Dispatch::new(k, &exception, position, continuable, room).run(position))
    }));
    match settled {
        Ok(true) => Ok(()),
        Ok(false) => Err(Box::new(exception.unhandled)),
        // An exception in a filter or in a termination handler.
        Err(payload) => Err(self::exception(payload).map_or_else(|payload| payload, |inner| Box::new(inner.unhandled))),
    }
}

/// One exception, and what handlers are told of it.
struct Dispatch<'k> {
    k: &'k Kernel,
    record: Ptr<EXCEPTION_RECORD>,
    context: Ptr<CONTEXT>,
    dispatcher: Ptr<DISPATCHER_CONTEXT>,
    code: u32,
    continuable: bool,
}

impl<'k> Dispatch<'k> {
    fn new(k: &'k Kernel, exception: &Exception, position: &Position<'_>, continuable: bool, room: u64) -> Self {
        let record = Ptr::<EXCEPTION_RECORD>::new(room);
        Ptr::<u8>::new(room).fill(host::to_usize(ROOM), 0);
        at!(record, ExceptionCode).write(exception.code.cast_signed());
        at!(record, ExceptionFlags).write(if continuable { 0 } else { NONCONTINUABLE });
        at!(record, ExceptionAddress).cast().write(position.rip);
        at!(record, NumberParameters).write(exception.parameters.len() as u32);
        for (index, parameter) in exception.parameters.iter().enumerate() {
            at!(record, ExceptionInformation[index]).cast().write(*parameter);
        }
        let context = Ptr::<CONTEXT>::new(room + CONTEXT_AT);
        at!(context, ContextFlags).write(CONTEXT_FULL);
        let dispatcher = Ptr::new(room + DISPATCHER_AT);
        Self { k, record, context, dispatcher, code: exception.code, continuable }
    }

    /// Searches, unwinds, and sets the position to where the driver goes on; false if no handler takes the exception.
    fn run(&self, position: &mut Position<'_>) -> bool {
        if self.k.exec.is_wild(position) && position.leave_wild().is_none() {
            return false;
        }
        self.write_context(position);
        match self.search(position) {
            Found::Handler(taken) => self.unwind(position, &taken),
            Found::GoOn => self.go_on(position),
            Found::Nothing => {
                self.refuse_handlers_beyond();
                return false;
            }
        }
        true
    }

    /// Asks the language handlers, innermost first.
    fn search(&self, position: &Position<'_>) -> Found {
        let mut position = position.clone();
        while self.k.exec.is_code(position.rip) {
            if let Some((frame, handler)) = self.frame(&position).filter(|(_, handler)| handler.exception) {
                let asked = panic::catch_unwind(AssertUnwindSafe(|| self.call(&position, &frame, &handler, 0)));
                match asked.map_err(taken) {
                    Ok(CONTINUE_SEARCH) => (),
                    Ok(CONTINUE_EXECUTION) => return Found::GoOn,
                    Ok(other) => refuse_disposition(other),
                    Err(Ok(taken)) => return Found::Handler(*taken),
                    Err(Err(payload)) => panic::resume_unwind(payload),
                }
            }
            if self.k.exec.unwind(&mut position).is_none() {
                break;
            }
        }
        Found::Nothing
    }

    /// Has the frames up to the handler's clean up after themselves, and goes to the handler.
    fn unwind(&self, position: &mut Position<'_>, taken: &Taken) {
        let flags = at!(self.record, ExceptionFlags);
        flags.write(flags.read() | UNWINDING);
        loop {
            let frame = self.frame(position);
            let is_target = frame.as_ref().is_some_and(|(frame, _)| frame.establisher == taken.establisher);
            if is_target {
                flags.write(flags.read() | TARGET_UNWIND);
            }
            if let Some((frame, handler)) = frame.filter(|(_, handler)| handler.termination) {
                match self.call(position, &frame, &handler, taken.target) {
                    CONTINUE_SEARCH => (),
                    other => refuse_disposition(other),
                }
            }
            if is_target {
                break;
            }
            if self.k.exec.unwind(position).is_none() {
                Finding::not_modelled("an exception handler whose frame is not on the stack").raise();
            }
        }
        position.registers.values[0] = self.code.into();
        position.rip = taken.target;
    }

    /// A filter had the driver go on as the context now says.
    fn go_on(&self, position: &mut Position<'_>) {
        if !self.continuable {
            let parameters = [NONCONTINUABLE_EXCEPTION, 0, 0, 0];
            let sentence = format!("a filter goes on after exception {:#010x}, which cannot be continued", self.code);
            Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, parameters, sentence).raise();
        }
        position.registers.values = at!(self.context, Rax).cast().read();
        position.registers.xmm = at!(self.context, Anonymous.FltSave.XmmRegisters).cast().read();
        position.rip = at!(self.context, Rip).read();
    }

    fn frame(&self, position: &Position<'_>) -> Option<(Frame, LanguageHandler)> {
        let mut frame = self.k.exec.frame_at(position)?;
        let handler = frame.handler.take()?;
        Some((frame, handler))
    }

    fn call(&self, position: &Position<'_>, frame: &Frame, handler: &LanguageHandler, target: u64) -> i32 {
        let Self { record, context, dispatcher, .. } = *self;
        let words = [
            position.rip,
            frame.base,
            frame.entry,
            frame.establisher,
            target,
            context.address(),
            handler.function,
            handler.data,
            0,
            0,
        ];
        dispatcher.cast().write(words);
        let arguments = [record.address(), frame.establisher, context.address(), dispatcher.address()];
        self.k.call("language handler", handler.function, &arguments) as i32
    }

    fn write_context(&self, position: &Position<'_>) {
        at!(self.context, Rax).cast().write(position.registers.values);
        at!(self.context, Anonymous.FltSave.XmmRegisters).cast().write(position.registers.xmm);
        at!(self.context, Rip).write(position.rip);
    }

    /// Kernel functions have no frames that could be unwound, as Windows' have: a handler on the other side of one is not asked.
    fn refuse_handlers_beyond(&self) {
        let exec = &self.k.exec;
        let mut host_sp = exec.save().host_sp;
        loop {
            // SAFETY: `host_sp` is where `call_guest` left a call frame, and driver code above it has not returned.
            host_sp = unsafe { (host_sp as *const CallFrame).read() }.host_sp;
            if host_sp == 0 {
                return;
            }
            let mut position = exec.start(host_sp);
            while exec.is_code(position.rip) {
                if self.frame(&position).is_some_and(|(_, handler)| handler.exception) {
                    let sentence = format!(
                        "exception {:#010x} in a routine that a kernel function called, for a handler of that function's caller",
                        self.code
                    );
                    Finding::not_modelled(sentence).raise();
                }
                if exec.unwind(&mut position).is_none() {
                    break;
                }
            }
        }
    }
}

enum Found {
    Handler(Taken),
    GoOn,
    Nothing,
}

fn refuse_disposition(disposition: i32) -> ! {
    Finding::not_modelled(format!("a language handler that returns {disposition}")).raise()
}

impl Exec {
    /// Runs `action` with so many bytes of the driver's stack, below all of its frames: what the kernel has in its own frames there.
    pub fn on_driver_stack<T>(&self, bytes: u64, action: impl FnOnce(u64) -> T) -> T {
        let border = self.border();
        let before = border.guest_sp.get();
        let place = (before - bytes) / 16 * 16;
        if place < border.stack_low.get() + LEAST_STACK {
            fault::stack_overflow(place, "an exception with too little kernel stack left".to_owned()).raise();
        }
        border.guest_sp.set(place);
        let done = action(place);
        border.guest_sp.set(before);
        done
    }
}

/// What unwinds to the base of a thread or a scenario: an exception that no driver code can handle there is its finding.
pub fn at_base(payload: Payload) -> Payload {
    match exception(payload) {
        Ok(exception) => Box::new(exception.unhandled()),
        Err(payload) => payload,
    }
}
