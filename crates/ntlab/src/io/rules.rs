//! What drivers may do with a packet when they pass it on or complete it, as I/O Verification and Enhanced I/O Verification of Driver
//! Verifier check it ("Bug Check 0xC9").

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, IO_STACK_LOCATION, IRP},
        System::SystemServices::{
            IRP_MJ_PNP, IRP_MJ_POWER, IRP_MN_CANCEL_REMOVE_DEVICE, IRP_MN_CANCEL_STOP_DEVICE,
            IRP_MN_QUERY_CAPABILITIES, IRP_MN_QUERY_POWER, IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_QUERY_STOP_DEVICE,
            IRP_MN_REMOVE_DEVICE, IRP_MN_SET_POWER, IRP_MN_START_DEVICE, IRP_MN_STOP_DEVICE, IRP_MN_SURPRISE_REMOVAL,
            SL_PENDING_RETURNED,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_NOT_SUPPORTED},
};

use super::{
    device,
    irp::{self, IO_MANAGER_VIOLATION},
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
    if minor == IRP_MN_REMOVE_DEVICE { 0x306 } else { 0x247 }
}

/// Whether a PnP minor function is one that no driver knows.
pub const fn is_unknown(major: u8, minor: u8) -> bool {
    major as u32 == IRP_MJ_PNP && minor as u32 > LAST_PNP_MINOR
}

fn violation(k: &Kernel, code: u64, packet: Ptr<IRP>, index: usize, what: &str) -> ! {
    let sentence = format!("{}: {what}", k.io.irps.title(index));
    Finding::bug_check(IO_MANAGER_VIOLATION, [code, 0, packet.address(), 0], sentence).raise()
}

/// The stack location that the next driver gets must have been set up by the one that passes the packet on.
pub fn check_next_location(k: &Kernel, device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>, index: usize) {
    /// Minor function and flags.
    const MINOR_AND_FLAGS: u64 = 0x00FF_FF00;
    let next = irp::next_location(packet);
    let [head, first, second, third, fourth, of_device, file, ..] = next.cast::<[u64; LOCATION_WORDS]>().read();
    if head >> 24 & u64::from(SL_PENDING_RETURNED) != 0 {
        violation(
            k,
            0x206,
            packet,
            index,
            "passed down with the next stack location marked pending: its control field was copied, or was marked before it was skipped",
        );
    }
    if head & MINOR_AND_FLAGS != 0 || first | second | third | fourth | file != 0 {
        return;
    }
    let fresh = head.to_le_bytes()[0] == 0 && of_device == 0;
    let has_current = at!(packet, CurrentLocation).read() <= at!(packet, StackCount).read();
    let left_over = has_current && of_device == device.address();
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

const LOCATION_WORDS: usize = size_of::<IO_STACK_LOCATION>() / size_of::<u64>();

/// Judges a PnP or power packet that is sent to a driver; returns its status. Its current stack location is that driver's already.
pub fn forwarded(k: &Kernel, packet: Ptr<IRP>, index: usize) -> NTSTATUS {
    let status = irp::status(packet);
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
        return status;
    };
    if is_unknown(major, minor) && status != call.entered {
        violation(k, 0x213, packet, index, "a driver changed the status of a PnP request that it does not know");
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
    if status == STATUS_NOT_SUPPORTED && call.entered != STATUS_NOT_SUPPORTED {
        let code = if is_pnp { 0x216 } else { 0x21A };
        violation(
            k,
            code,
            packet,
            index,
            "a driver set the status to STATUS_NOT_SUPPORTED, which is the system's to set",
        );
    }
    status
}

/// Judges a PnP or power packet that a driver completes.
pub fn completed(k: &Kernel, packet: Ptr<IRP>, index: usize, major: u8, minor: u8) {
    let Some(call) = k.io.irps.call_at(index, at!(packet, CurrentLocation).read()) else { return };
    // A driver that completes the removal of its device may have deleted it.
    let is_above_another = device::number(k, call.device) != 0 && !device::lower(call.device).is_null();
    if !is_above_another || call.forwarded {
        return;
    }
    let status = irp::status(packet);
    if is_unknown(major, minor) {
        let (code, what) = if status == call.entered {
            (0x22D, "a driver completed a PnP request that it does not know; it must pass it down")
        } else {
            (0x213, "a driver changed the status of a PnP request that it does not know")
        };
        violation(k, code, packet, index, what);
    }
    if u32::from(major) == IRP_MJ_PNP {
        completed_pnp(k, packet, index, minor.into(), (call, status));
    } else {
        completed_power(k, packet, index, minor.into(), status);
    }
}

fn completed_pnp(k: &Kernel, packet: Ptr<IRP>, index: usize, minor: u32, (call, status): (Call, NTSTATUS)) {
    if status == STATUS_NOT_SUPPORTED && call.entered == status {
        violation(k, 0x22F, packet, index, "a driver completed a PnP request untouched; it must pass it down");
    }
    if let Some((_, name)) = MUST_SUCCEED.iter().find(|(number, _)| *number == minor)
        && status < 0
    {
        let what = format!("{name} was completed with {status:#010x}; a driver must not fail it");
        violation(k, failed_code(minor), packet, index, &what);
    }
    if status >= 0 && FOR_ALL.contains(&minor) {
        violation(k, 0x22E, packet, index, "a driver completed a PnP request with success and did not pass it down");
    }
}

fn completed_power(k: &Kernel, packet: Ptr<IRP>, index: usize, minor: u32, status: NTSTATUS) {
    if status == STATUS_NOT_SUPPORTED {
        violation(k, 0x232, packet, index, "a driver completed a power request untouched; it must pass it down");
    }
    if status >= 0 && matches!(minor, IRP_MN_QUERY_POWER | IRP_MN_SET_POWER) {
        violation(k, 0x231, packet, index, "a driver completed a power request with success and did not pass it down");
    }
}
