//! PnP requests, and what drivers may make of them ("Plug and Play Minor IRPs").

use std::{cell::Cell, rc::Rc};

use windows_sys::Win32::Foundation::{NTSTATUS, STATUS_NOT_SUPPORTED};

use super::devnode::Devnode;
use crate::{
    at,
    events::Kind,
    finding::Finding,
    io::{
        irp::{self, IO_MANAGER_VIOLATION},
        layout::Words,
        lost,
        rules::{self, MUST_SUCCEED},
        send::{self, IrpParameters},
    },
    kernel::Kernel,
};

/// A minor function that no driver knows.
pub const UNKNOWN_MINOR: u32 = 0xFF;
/// `DRIVER_PNP_WATCHDOG`.
const PNP_WATCHDOG: u32 = 0x1D5;
/// How long drivers may keep a PnP request: 5 minutes.
const PATIENCE: u64 = 300_000_000_000;

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// `IoStatus.Status`.
    pub status: NTSTATUS,
    /// `IoStatus.Information`.
    pub information: u64,
}

impl Answer {
    /// The information, or the error.
    pub const fn ok(self) -> Result<u64, NTSTATUS> {
        if self.status >= 0 { Ok(self.information) } else { Err(self.status) }
    }
}

/// Sends a PnP request without parameters to a device's stack, waits for it and judges what became of it.
pub fn send(k: &Kernel, devnode: &Devnode, minor: u32) -> Answer {
    send_with(k, devnode, minor, [0; 4], 0)
}

/// The same with parameters.
pub fn send_with(k: &Kernel, devnode: &Devnode, minor: u32, words: Words, information: u64) -> Answer {
    k.record(|| Kind::Note(format!("PnP request {minor:#04x} to device {}", devnode.id).into()));
    let parameters = IrpParameters { information, ..IrpParameters::pnp(minor, words) };
    let answer = deliver(k, devnode, &parameters, PATIENCE).unwrap_or_else(|| {
        let sentence = format!("a driver kept PnP request {minor:#04x} to device {} for 5 minutes", devnode.id);
        lost::kept(k, devnode.pdo, PNP_WATCHDOG, [0, 0, 0, PATIENCE / 1_000_000], &sentence).raise()
    });
    k.record(|| {
        Kind::Note(format!("PnP request {minor:#04x} to device {}: {:#010x}", devnode.id, answer.status).into())
    });
    judge(minor, information, answer);
    answer
}

/// Sends a request to a device's stack and waits for it; none if that takes longer than `patience`.
pub fn deliver(k: &Kernel, devnode: &Devnode, parameters: &IrpParameters, patience: u64) -> Option<Answer> {
    let answer = Rc::new(Cell::new(None));
    let (place, waiting) = (Rc::clone(&answer), k.thread_id());
    send::send_then(k, devnode.pdo, parameters, move |k, irp| {
        let information = at!(irp, IoStatus.Information).cast::<u64>().read();
        place.set(Some(Answer { status: irp::status(irp), information }));
        k.wake(waiting);
    });
    let deadline = k.now() + patience;
    loop {
        if answer.get().is_some() || !k.park("a driver to finish a request of the system", Some(deadline)) {
            return answer.get();
        }
    }
}

fn judge(minor: u32, information: u64, answer: Answer) {
    let violation = |code: u64, sentence: String| -> ! {
        Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, 0, u64::from(answer.status.cast_unsigned())], sentence)
            .raise()
    };
    let status = answer.status;
    if let Some((_, name)) = MUST_SUCCEED.iter().find(|(number, _)| *number == minor)
        && status < 0
    {
        let sentence = format!("{name} was completed with {status:#010x}; a driver must not fail it");
        violation(rules::failed_code(minor), sentence);
    }
    let untouched = status == STATUS_NOT_SUPPORTED && answer.information == information;
    if minor == UNKNOWN_MINOR && !untouched {
        let code = if status == STATUS_NOT_SUPPORTED { 0x214 } else { 0x213 };
        let sentence = format!(
            "a PnP request that no driver knows came back with {status:#010x}; drivers must pass it down as it is"
        );
        violation(code, sentence);
    }
}
