//! Exceptions, and the checks of user addresses that raise them.
#![allow(clippy::cast_possible_truncation, reason = "codes and verdicts have 32 bits in registers of 64")]

use windows_sys::Win32::System::Diagnostics::Debug::{CONTEXT, DISPATCHER_CONTEXT, EXCEPTION_RECORD};

use super::Export;
use crate::{
    at,
    exec::{self, CONTINUE_EXECUTION, CONTINUE_SEARCH, Exception, TARGET_UNWIND, UNWINDING},
    export,
    finding::Finding,
    irql::{APC_LEVEL, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::{Access, PAGE, Ptr, fault},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("__C_specific_handler", any_level(), c_specific_handler),
    export!("ExRaiseStatus", at_most(APC_LEVEL), ex_raise_status),
    export!("ExRaiseAccessViolation", exactly(PASSIVE_LEVEL), ex_raise_access_violation),
    export!("ExRaiseDatatypeMisalignment", exactly(PASSIVE_LEVEL), ex_raise_datatype_misalignment),
    export!("RtlAssert", any_level(), rtl_assert),
    export!("ProbeForRead", at_most(APC_LEVEL), probe_for_read),
    export!("ProbeForWrite", at_most(APC_LEVEL), probe_for_write),
];

/// `STATUS_DATATYPE_MISALIGNMENT`.
const DATATYPE_MISALIGNMENT: u32 = 0x8000_0002;
/// `STATUS_BREAKPOINT`.
const BREAKPOINT: u64 = 0x8000_0003;
/// As much of a text as is told.
const LONGEST_TEXT: usize = 200;
/// A filter that is none: the handler takes every exception.
const EXECUTE_HANDLER: u32 = 1;

/// A guarded region of a function: a row of its scope table ("x64 exception handling").
#[derive(Clone, Copy)]
struct Scope {
    begin: u32,
    end: u32,
    /// The filter, [`EXECUTE_HANDLER`], or the termination handler.
    handler: u32,
    /// The exception handler; 0 where `handler` is a termination handler.
    target: u32,
}

impl Scope {
    fn contains(&self, offset: u64) -> bool {
        (u64::from(self.begin)..u64::from(self.end)).contains(&offset)
    }
}

/// The scopes of a function that its language handler has not been through, each with its place, innermost first.
fn scopes(dispatcher: Ptr<DISPATCHER_CONTEXT>) -> impl Iterator<Item = (u32, Scope)> {
    let table = Ptr::<u32>::new(at!(dispatcher, HandlerData).cast::<u64>().read());
    let (count, first) = (table.read(), at!(dispatcher, ScopeIndex).read());
    (first..count).map(move |place| {
        let row = table.offset(1 + 4 * place as usize);
        let [begin, end, handler, target] = [0, 1, 2, 3].map(|word| row.offset(word).read());
        (place, Scope { begin, end, handler, target })
    })
}

/// `__C_specific_handler`, the language handler of C ("x64 exception handling"): runs the filters of a function when a handler is looked for,
/// its termination handlers when its frame is unwound.
fn c_specific_handler(
    k: &Kernel,
    record: Ptr<EXCEPTION_RECORD>,
    establisher: u64,
    context: Ptr<CONTEXT>,
    dispatcher: Ptr<DISPATCHER_CONTEXT>,
) -> i32 {
    let flags = at!(record, ExceptionFlags).read();
    if flags & UNWINDING == 0 {
        search(k, record, establisher, context, dispatcher)
    } else {
        unwind(k, flags, establisher, dispatcher)
    }
}

fn search(
    k: &Kernel,
    record: Ptr<EXCEPTION_RECORD>,
    establisher: u64,
    context: Ptr<CONTEXT>,
    dispatcher: Ptr<DISPATCHER_CONTEXT>,
) -> i32 {
    let base = at!(dispatcher, ImageBase).read();
    let offset = at!(dispatcher, ControlPc).read() - base;
    for (_, scope) in scopes(dispatcher).filter(|(_, scope)| scope.contains(offset) && scope.target != 0) {
        let filter = || {
            k.exec.on_driver_stack(16, |pointers| {
                Ptr::<[u64; 2]>::new(pointers).write([record.address(), context.address()]);
                k.call("exception filter", base + u64::from(scope.handler), &[pointers, establisher]) as i32
            })
        };
        let verdict = if scope.handler == EXECUTE_HANDLER { 1 } else { filter() };
        match verdict {
            0 => (),
            1.. => exec::take(establisher, base + u64::from(scope.target)),
            _ => return CONTINUE_EXECUTION,
        }
    }
    CONTINUE_SEARCH
}

fn unwind(k: &Kernel, flags: u32, establisher: u64, dispatcher: Ptr<DISPATCHER_CONTEXT>) -> i32 {
    let base = at!(dispatcher, ImageBase).read();
    let offset = at!(dispatcher, ControlPc).read() - base;
    let target = (flags & TARGET_UNWIND != 0).then(|| at!(dispatcher, TargetIp).read() - base);
    for (place, scope) in scopes(dispatcher).filter(|(_, scope)| scope.contains(offset)) {
        let reached = |target| scope.contains(target) || u64::from(scope.target) == target;
        if target.is_some_and(reached) {
            break;
        }
        if scope.target == 0 {
            at!(dispatcher, ScopeIndex).write(place + 1);
            k.call("termination handler", base + u64::from(scope.handler), &[1, establisher]);
        }
    }
    CONTINUE_SEARCH
}

/// "`ExRaiseStatus` function": does not return.
fn ex_raise_status(_: &Kernel, status: u32) -> u64 {
    Exception::status(status, "ExRaiseStatus").raise()
}

/// "`ExRaiseAccessViolation` function": does not return.
fn ex_raise_access_violation(_: &Kernel) -> u64 {
    Exception::status(fault::ACCESS_VIOLATION as u32, "ExRaiseAccessViolation").raise()
}

/// "`ExRaiseDatatypeMisalignment` function": does not return.
fn ex_raise_datatype_misalignment(_: &Kernel) -> u64 {
    Exception::status(DATATYPE_MISALIGNMENT, "ExRaiseDatatypeMisalignment").raise()
}

/// `RtlAssert`, which the headers' `ASSERT` calls in drivers built with `DBG`: without a debugger, a breakpoint that nobody handles.
fn rtl_assert(_: &Kernel, assertion: Ptr<u8>, file: Ptr<u8>, line: u32, _message: Ptr<u8>) -> u64 {
    let text = |place: Ptr<u8>| {
        let bytes = (0..LONGEST_TEXT).map(|at| place.offset(at).read()).take_while(|byte| *byte != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    };
    let path = text(file);
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    let sentence = format!("the driver's assertion {} failed ({name}:{line})", text(assertion));
    Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, [BREAKPOINT, 0, 0, 0], sentence).raise()
}

/// "`ProbeForRead` function": the address is a user's and aligned; whether it can be read shows when it is.
fn probe_for_read(k: &Kernel, address: u64, length: u64, alignment: u32) {
    if probe(k, "ProbeForRead", address, length, alignment) {
        k.memory.probe(address, length, Access::Read);
    }
}

/// "`ProbeForWrite` function": besides, each page can be written.
fn probe_for_write(k: &Kernel, address: u64, length: u64, alignment: u32) {
    if !probe(k, "ProbeForWrite", address, length, alignment) {
        return;
    }
    k.memory.probe(address, length, Access::Write);
    for page in address / PAGE..=(address + length - 1) / PAGE {
        let byte = Ptr::<u8>::new(address.max(page * PAGE));
        byte.write(byte.read());
    }
}

/// Raises an exception unless the range is one of a user's addresses; false if it is empty.
fn probe(k: &Kernel, function: &'static str, address: u64, length: u64, alignment: u32) -> bool {
    if !matches!(alignment, 1 | 2 | 4 | 8 | 16) {
        Finding::not_modelled(format!("{function} with alignment {alignment}")).raise();
    }
    if length == 0 {
        return false;
    }
    if !address.is_multiple_of(alignment.into()) {
        Exception::status(DATATYPE_MISALIGNMENT, function).raise();
    }
    let is_user = address.checked_add(length).is_some_and(|end| end <= k.memory.space.user_end());
    if !is_user {
        let sentence =
            format!("{function} of an address of the system's, and no handler of the driver takes its exception");
        let parameters = [fault::ACCESS_VIOLATION, 0, 0, address];
        let finding = Finding::bug_check(fault::KMODE_EXCEPTION_NOT_HANDLED, parameters, sentence);
        Exception::access_violation(address, Access::Read, finding).raise();
    }
    true
}
