//! Events in words: one line each, for terminals and tables.

use hotadd_abi::EventKind;
use windows_sys::Win32::Foundation::{
    STATUS_ACCESS_DENIED, STATUS_BUFFER_TOO_SMALL, STATUS_CANCELLED, STATUS_DELETE_PENDING, STATUS_DEVICE_BUSY,
    STATUS_DEVICE_NOT_READY, STATUS_DISK_FULL, STATUS_END_OF_FILE, STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_BUFFER_SIZE, STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_PARAMETER,
    STATUS_IO_TIMEOUT, STATUS_NO_SUCH_DEVICE, STATUS_NOT_SUPPORTED, STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
};

use crate::Event;

macro_rules! names {
    ($($name:ident)*) => {
        /// A status by its name, or as a number where it has none here.
        #[must_use]
        pub fn status(status: i32) -> String {
            match status {
                $($name => stringify!($name).to_owned(),)*
                _ => format!("{status:#010x}"),
            }
        }
    };
}
names! {
    STATUS_ACCESS_DENIED STATUS_BUFFER_TOO_SMALL STATUS_CANCELLED STATUS_DELETE_PENDING STATUS_DEVICE_BUSY STATUS_DEVICE_NOT_READY
    STATUS_DISK_FULL STATUS_END_OF_FILE STATUS_INFO_LENGTH_MISMATCH STATUS_INSUFFICIENT_RESOURCES STATUS_INVALID_BUFFER_SIZE
    STATUS_INVALID_DEVICE_REQUEST STATUS_INVALID_PARAMETER STATUS_IO_TIMEOUT STATUS_NO_SUCH_DEVICE STATUS_NOT_SUPPORTED STATUS_SUCCESS
    STATUS_UNSUCCESSFUL
}

/// The reasons for a hold, a sum of [`hotadd_abi::hold`]'s constants.
#[must_use]
pub fn reasons(reasons: u64) -> String {
    use hotadd_abi::hold::{NOT_STARTED, PNP_STOP, POWER, QUERY_REMOVE};
    let known = [
        (NOT_STARTED, "not started"),
        (PNP_STOP, "stop for other resources"),
        (POWER, "power"),
        (QUERY_REMOVE, "removal is asked for"),
    ];
    let names: Vec<&str> =
        known.iter().filter(|(bit, _)| reasons & u64::from(*bit) != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { format!("reasons {reasons:#x}") } else { names.join(", ") }
}

/// Milliseconds and microseconds of a time: `12.034 ms`.
#[must_use]
pub fn time(ns: u64) -> String {
    format!("{}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000)
}

/// One line for an event, beginning with its time and its device.
#[must_use]
pub fn line(event: &Event) -> String {
    let device = if event.device == 0 { "driver  ".to_owned() } else { format!("device {}", event.device) };
    format!("{:>15}  {device}  {}", time(event.time), sentence(event))
}

/// What an event tells; one of a kind that is not known is told by its code.
#[must_use]
pub fn sentence(event: &Event) -> String {
    let Some(kind) = event.kind.known() else { return format!("event of kind {}", event.kind) };
    let processor = format!("processor {} ({}:{})", event.processor, event.group, event.number);
    let (before, count, ended) = (event.before, event.count, status(event.status));
    let us = event.duration / 1_000;
    match kind {
        EventKind::DriverLoaded => format!("loaded on {count} processors"),
        EventKind::ParameterIgnored => {
            format!("parameter {count} of docs/parameters.md is ignored, its default is used")
        }
        EventKind::ProcessorAddStart => format!("AddStart: {processor} has its block"),
        EventKind::ProcessorAddComplete => format!("AddComplete: {processor} is there, {count} in all"),
        EventKind::ProcessorAddFailure => format!("AddFailure: {processor} is not added, {ended}"),
        EventKind::ProcessorVetoed => format!("{processor} was refused, {ended}"),
        EventKind::ProcessorArrival => "a processor device arrived".to_owned(),
        EventKind::PlanRebuilt => format!("steering plan: {before} to {count} processors"),
        EventKind::MemoryArrival => "a memory device arrived".to_owned(),
        EventKind::HighMemory => "the high memory condition was signaled".to_owned(),
        EventKind::MemoryGrew => format!("memory: {} to {} MiB", before >> 20, count >> 20),
        EventKind::PoolGrew => format!("buffer pool: {} to {} KiB", before >> 10, count >> 10),
        EventKind::PoolGrowthFailed => {
            format!("buffer pool: {} KiB of {} KiB, {ended}", before >> 10, count >> 10)
        }
        EventKind::NotificationsRegistered => "the interface notifications are registered".to_owned(),
        EventKind::NotificationsReleased => "the interface notifications are let go".to_owned(),
        EventKind::DeviceAdded => "the device was added".to_owned(),
        EventKind::DeviceStarted => format!("START for the first time: {ended}"),
        EventKind::QueryStop => format!("QUERY_STOP: {ended}"),
        EventKind::CancelStop => "CANCEL_STOP".to_owned(),
        EventKind::DeviceStopped => "STOP".to_owned(),
        EventKind::DeviceRestarted => format!("START with other resources: {ended}"),
        EventKind::QueryRemove => format!("QUERY_REMOVE: {ended}"),
        EventKind::CancelRemove => "CANCEL_REMOVE".to_owned(),
        EventKind::SurpriseRemoved => "SURPRISE_REMOVAL: the device is gone".to_owned(),
        EventKind::DeviceRemoved => "REMOVE".to_owned(),
        EventKind::UsageChanged => format!("{count} paging, hibernation and dump files are in the device's path"),
        EventKind::RequirementsFiltered => format!("resource requirements: policy of {count} interrupts set, {ended}"),
        EventKind::GateClosed => format!("requests are held: {}", reasons(count)),
        EventKind::GateDrained => format!("nothing in flight after {us} us"),
        EventKind::GateOpened => format!("requests flow again: {count} waited, {us} us"),
        EventKind::GateRefusing => format!("requests are refused from now on, {count} that waited have failed"),
        EventKind::InterruptConnected => {
            format!("interrupt {} connected: group {}, affinity {:#x}", event.processor, event.group, event.affinity)
        }
        EventKind::InterruptDisconnected => {
            format!("interrupt {} disconnected: group {}, affinity {:#x}", event.processor, event.group, event.affinity)
        }
        EventKind::PowerDown => format!("the device left D0: {ended}"),
        EventKind::PowerUp => format!("the device is in D0 again: {ended}"),
        EventKind::RequestTimeout => "the device did not answer a request in time".to_owned(),
        EventKind::DeviceReset => format!("the device was reset: {ended}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind) -> Event {
        Event::from(&hotadd_abi::Event { kind: kind.code(), count: 3, status: 0, ..hotadd_abi::Event::default() })
    }

    #[test]
    fn every_kind_has_words_of_its_own() {
        let mut sentences: Vec<String> = EventKind::ALL.iter().map(|&kind| sentence(&event(kind))).collect();
        sentences.sort();
        sentences.dedup();
        assert_eq!(sentences.len(), EventKind::ALL.len());
        assert!(sentences.iter().all(|sentence| !sentence.contains('\n')));
    }

    #[test]
    fn a_kind_of_a_later_driver_is_told_by_its_number() {
        assert_eq!(sentence(&Event { kind: crate::Kind(999), ..event(EventKind::PowerUp) }), "event of kind 999");
    }

    #[test]
    fn a_line_begins_with_time_and_device() {
        let event = Event { time: 12_034_567, device: 2, duration: 45_000, ..event(EventKind::GateOpened) };
        assert_eq!(line(&event), "      12.034 ms  device 2  requests flow again: 3 waited, 45 us");
    }

    #[test]
    fn statuses_and_reasons_have_names() {
        assert_eq!(status(STATUS_IO_TIMEOUT), "STATUS_IO_TIMEOUT");
        assert_eq!(status(-1), "0xffffffff");
        assert_eq!(reasons(6), "stop for other resources, power");
        assert_eq!(reasons(64), "reasons 0x40");
    }
}
