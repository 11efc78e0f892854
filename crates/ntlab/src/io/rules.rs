//! What drivers may do with a packet when they pass it on or complete it, as I/O Verification and Enhanced I/O Verification of Driver
//! Verifier check it ("Bug Check 0xC9").

use std::array;

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, IRP},
        System::SystemServices::{
            IRP_MJ_PNP, IRP_MJ_POWER, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_CANCEL_STOP_DEVICE,
            IRP_MN_QUERY_CAPABILITIES, IRP_MN_QUERY_POWER, IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_QUERY_STOP_DEVICE,
            IRP_MN_REMOVE_DEVICE, IRP_MN_SET_POWER, IRP_MN_START_DEVICE, IRP_MN_STOP_DEVICE, IRP_MN_SURPRISE_REMOVAL,
            SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_NOT_SUPPORTED},
};

use super::{
    device,
    irp::{self, IO_MANAGER_VIOLATION},
    layout::{LOCATION_ROUTINE, Location, Packet},
    packet::Call,
};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr};

/// The last PnP minor function that the documents know: `IRP_MN_DEVICE_ENUMERATED`.
const LAST_PNP_MINOR: u32 = 0x19;

/// PnP requests that every driver of a stack has to see.
const FOR_ALL: [u32; 9] = [
    IRP_MN_START_DEVICE,
    IRP_MN_QUERY_REMOVE_DEVICE,
    IRP_MN_REMOVE_DEVICE,
    IRP_MN_CANCEL_REMOVE_DEVICE,
    IRP_MN_STOP_DEVICE,
    IRP_MN_QUERY_STOP_DEVICE,
    IRP_MN_CANCEL_STOP_DEVICE,
    IRP_MN_QUERY_CAPABILITIES,
    IRP_MN_SURPRISE_REMOVAL,
];

/// PnP requests that a driver must not fail.
pub const MUST_SUCCEED: [(u32, &str); 5] = [
    (IRP_MN_STOP_DEVICE, "IRP_MN_STOP_DEVICE"),
    (IRP_MN_CANCEL_STOP_DEVICE, "IRP_MN_CANCEL_STOP_DEVICE"),
    (IRP_MN_CANCEL_REMOVE_DEVICE, "IRP_MN_CANCEL_REMOVE_DEVICE"),
    (IRP_MN_SURPRISE_REMOVAL, "IRP_MN_SURPRISE_REMOVAL"),
    (IRP_MN_REMOVE_DEVICE, "IRP_MN_REMOVE_DEVICE"),
];

/// Whether packets of the major function are judged by their status; those of users' requests are not.
pub const fn is_judged(major: u8) -> bool {
    matches!(major as u32, IRP_MJ_PNP | IRP_MJ_POWER)
}

/// Failure of a request that must succeed: `IRP_MN_REMOVE_DEVICE` has a code of its own.
pub const fn failed_code(minor: u32) -> u64 {
    if minor == IRP_MN_REMOVE_DEVICE { 0x306 } else { MUST_NOT_FAIL }
}

/// A driver has failed an IRP that must not be failed.
pub const MUST_NOT_FAIL: u64 = 0x247;

/// Whether a PnP minor function is one that no driver knows.
pub const fn is_unknown(major: u8, minor: u8) -> bool {
    major as u32 == IRP_MJ_PNP && minor as u32 > LAST_PNP_MINOR
}

fn violation(k: &Kernel, code: u64, packet: Ptr<IRP>, index: usize, what: &str) -> ! {
    let sentence = format!("{}: {what}", k.io.irps.title(index));
    Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, packet.address(), 0], sentence).raise()
}

/// The stack location that the next driver gets must have been set up by the one that passes the packet on.
pub fn check_next_location(k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>, now: &Packet, index: usize) {
    /// Minor function and flags.
    const MINOR_AND_FLAGS: u64 = 0x00FF_FF00;
    let next = Ptr::<Location>::new(now.location.address() - size_of::<Location>() as u64);
    let words = next.readable();
    let word = |place| words.get(next.element(place));
    let [head, first, second, third, fourth, of_device, file] = array::from_fn(word);
    if head >> 24 & u64::from(SL_PENDING_RETURNED) != 0 {
        violation(
            k,
            0x206,
            packet,
            index,
            "passed down with the next stack location marked pending: its control field was copied, or was marked before it was skipped",
        );
    }
    if head >> 24 & u64::from(INVOKE_ALWAYS) != 0 {
        check_completion_routine(k, packet, now, &next.read(), index);
    }
    if head & MINOR_AND_FLAGS != 0 || first | second | third | fourth | file != 0 {
        return;
    }
    let fresh = head.to_le_bytes()[0] == 0 && of_device == 0;
    let left_over = now.current <= now.count && of_device == device.address();
    if fresh || left_over {
        violation(
            k,
            0x212,
            packet,
            index,
            "passed down without the next stack location set up: neither copied nor skipped",
        );
    }
}

/// A driver must not call the completion routine of the driver above it: it copied that with the rest of its stack location.
fn check_completion_routine(k: &Kernel, packet: Ptr<IRP>, now: &Packet, next: &Location, index: usize) {
    if next[LOCATION_ROUTINE] == 0 {
        return;
    }
    let is_own = k.io.irps.call_at(index, now.current).is_some_and(|call| !call.forwarded);
    if is_own && now.location.cast::<Location>().read()[LOCATION_ROUTINE..] == next[LOCATION_ROUTINE..] {
        let what =
            "passed down with the completion routine of the driver above, which was copied with the stack location";
        violation(k, 0x207, packet, index, what);
    }
}

/// A driver passes a packet to the next lower device, not to one farther down. The packet's current stack location is that device's already.
pub fn check_next_device(k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>, index: usize) {
    let Some(call) = k.io.irps.call_above(index, at!(packet, CurrentLocation).read()) else { return };
    if device::number(k, call.device) == 0 {
        return;
    }
    let next = device::lower(call.device);
    if next == device || next.is_null() {
        return;
    }
    let below = std::iter::successors(Some(next), |&next| Some(device::lower(next)).filter(|next| !next.is_null()));
    if below.skip(1).any(|other| other == device) {
        let what = "passed down past a device of the stack: to the physical device object, for example, and not to what IoAttachDeviceToDeviceStack returned";
        violation(k, 0x211, packet, index, what);
    }
}

const INVOKE_ALWAYS: u32 = SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL;

/// Judges a PnP or power packet that is sent to a driver; returns its status and information. Its current stack location is that driver's
/// already.
pub fn forwarded(k: &Kernel, packet: Ptr<IRP>, index: usize) -> (NTSTATUS, u64) {
    let status = irp::status(packet);
    let information = at!(packet, IoStatus.Information).cast::<u64>().read();
    let location = irp::current_location(packet);
    let (major, minor) = (at!(location, MajorFunction).read(), at!(location, MinorFunction).read());
    let is_pnp = u32::from(major) == IRP_MJ_PNP;
    let Some(call) = k.io.irps.call_above(index, at!(packet, CurrentLocation).read()) else {
        if status != STATUS_NOT_SUPPORTED {
            let code = if is_pnp { 0x20E } else { 0x20F };
            violation(
                k,
                code,
                packet,
                index,
                "a PnP or power IRP is sent with another status than STATUS_NOT_SUPPORTED",
            );
        }
        return (status, information);
    };
    let (entered, brought) = call.entered;
    if is_unknown(major, minor) && status != entered {
        violation(k, 0x213, packet, index, STATUS_CHANGED);
    }
    if is_unknown(major, minor) && information != brought {
        let what = "a driver changed the information of a PnP request that it does not know";
        violation(k, 0x214, packet, index, what);
    }
    if status < 0 && status != STATUS_NOT_SUPPORTED {
        let code = if is_pnp { 0x215 } else { 0x219 };
        violation(
            k,
            code,
            packet,
            index,
            &format!("passed down with status {status:#010x}: a failed request must be completed"),
        );
    }
    if status == STATUS_NOT_SUPPORTED && entered != STATUS_NOT_SUPPORTED {
        let code = if is_pnp { 0x216 } else { 0x21A };
        violation(
            k,
            code,
            packet,
            index,
            "a driver set the status to STATUS_NOT_SUPPORTED, which is the system's to set",
        );
    }
    (status, information)
}

const STATUS_CHANGED: &str = "a driver changed the status of a PnP request that it does not know";

/// Judges a PnP or power packet that a driver completes.
pub fn completed(k: &Kernel, packet: Ptr<IRP>, index: usize, major: u8, minor: u8) {
    let Some(call) = k.io.irps.call_at(index, at!(packet, CurrentLocation).read()) else { return };
    // A driver that completes the removal of its device may have deleted it.
    let is_above_another = device::number(k, call.device) != 0 && !device::lower(call.device).is_null();
    if !is_above_another {
        return;
    }
    let status = irp::status(packet);
    if call.forwarded {
        return completed_later(k, packet, index, (major, minor), (call.below, status));
    }
    if is_unknown(major, minor) {
        let (code, what) = if status == call.entered.0 {
            (0x22D, "a driver completed a PnP request that it does not know; it must pass it down")
        } else {
            (0x213, STATUS_CHANGED)
        };
        violation(k, code, packet, index, what);
    }
    if u32::from(major) == IRP_MJ_PNP {
        completed_pnp(k, packet, index, minor.into(), (call, status));
    } else {
        completed_power(k, packet, index, minor.into(), status);
    }
}

/// A driver completes what a lower driver has completed, with the status `below`, and it took back.
fn completed_later(
    k: &Kernel,
    packet: Ptr<IRP>,
    index: usize,
    (major, minor): (u8, u8),
    (below, status): (Option<NTSTATUS>, NTSTATUS),
) {
    let Some(below) = below else { return };
    if is_unknown(major, minor) && status != below {
        violation(k, 0x213, packet, index, STATUS_CHANGED);
    }
    if status < 0
        && below >= 0
        && let Some((code, name)) = must_succeed(major, minor.into())
    {
        let what = format!("{name} was completed with {status:#010x} after the lower driver had done it");
        violation(k, code, packet, index, &what);
    }
}

/// What a driver above the bus driver must not fail: the code of doing so, and the request's name.
pub fn must_succeed(major: u8, minor: u32) -> Option<(u64, &'static str)> {
    match u32::from(major) {
        IRP_MJ_PNP => {
            let (_, name) = MUST_SUCCEED.iter().find(|(number, _)| *number == minor)?;
            Some((failed_code(minor), name))
        }
        IRP_MJ_POWER if minor == IRP_MN_SET_POWER => Some((MUST_NOT_FAIL, "IRP_MN_SET_POWER")),
        _ => None,
    }
}

fn completed_pnp(k: &Kernel, packet: Ptr<IRP>, index: usize, minor: u32, (call, status): (Call, NTSTATUS)) {
    if status == STATUS_NOT_SUPPORTED && call.entered.0 == status {
        violation(k, 0x22F, packet, index, "a driver completed a PnP request untouched; it must pass it down");
    }
    check_not_failed(k, packet, index, must_succeed(IRP_MJ_PNP as u8, minor), status);
    if status >= 0 && FOR_ALL.contains(&minor) {
        violation(k, 0x22E, packet, index, "a driver completed a PnP request with success and did not pass it down");
    }
}

fn check_not_failed(k: &Kernel, packet: Ptr<IRP>, index: usize, rule: Option<(u64, &str)>, status: NTSTATUS) {
    if let Some((code, name)) = rule.filter(|_| status < 0) {
        let what = format!("{name} was completed with {status:#010x}; a driver must not fail it");
        violation(k, code, packet, index, &what);
    }
}

fn completed_power(k: &Kernel, packet: Ptr<IRP>, index: usize, minor: u32, status: NTSTATUS) {
    if status == STATUS_NOT_SUPPORTED {
        violation(k, 0x232, packet, index, "a driver completed a power request untouched; it must pass it down");
    }
    check_not_failed(k, packet, index, must_succeed(IRP_MJ_POWER as u8, minor), status);
    if status >= 0 && matches!(minor, IRP_MN_QUERY_POWER | IRP_MN_SET_POWER) {
        violation(k, 0x231, packet, index, "a driver completed a power request with success and did not pass it down");
    }
}
