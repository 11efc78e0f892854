//! The journal's events in words, one line each.

use hotadd_abi::{Event, EventKind};

/// One line for an event; an event of a kind that is not known is told by its code.
#[must_use]
pub fn line(event: &Event) -> String {
    let (milliseconds, rest) = (event.time / 10_000, event.time / 10 % 1_000);
    let device = if event.device == 0 { "driver  ".to_owned() } else { format!("device {}", event.device) };
    format!("{milliseconds:>8}.{rest:03} ms  {device}  {}", words(event))
}

fn words(event: &Event) -> String {
    let Some(kind) = EventKind::from_code(event.kind) else { return format!("event of kind {}", event.kind) };
    let processor = format!("processor {} ({}:{})", event.processor, event.group, event.number);
    let (before, count) = (event.before, event.count);
    match kind {
        EventKind::DriverLoaded => format!("loaded on {count} processors"),
        EventKind::ProcessorAddStart => format!("AddStart: {processor} has its block"),
        EventKind::ProcessorAddComplete => format!("AddComplete: work is steered to {processor}, {count} in all"),
        EventKind::ProcessorAddFailure => format!("AddFailure: {processor} is not added, {}", status(event)),
        EventKind::ProcessorVetoed => format!("{processor} was refused, {}", status(event)),
        EventKind::ProcessorArrival => "a processor device arrived".to_owned(),
        EventKind::PlanRebuilt => format!("steering plan: {before} to {count} processors"),
        EventKind::MemoryArrival => "a memory device arrived".to_owned(),
        EventKind::MemoryGrew => format!("memory: {} to {} MiB", before >> 20, count >> 20),
        EventKind::PoolGrew => format!("buffer pool: {} to {} KiB", before >> 10, count >> 10),
        EventKind::QueryStop => format!("QUERY_STOP: {}", status(event)),
        EventKind::CancelStop => "CANCEL_STOP".to_owned(),
        EventKind::DeviceStopped => "STOP".to_owned(),
        EventKind::DeviceRestarted => format!("START with other resources: {}", status(event)),
        EventKind::GateDrained => format!("nothing in flight after {} us", event.duration / 10),
        EventKind::GateOpened => format!("requests flow again: {count} waited, {} us", event.duration / 10),
        EventKind::InterruptConnected => {
            format!("interrupt {} connected: group {}, affinity {:#x}", event.processor, event.group, event.affinity)
        }
        _ => format!("{kind:?}"),
    }
}

fn status(event: &Event) -> String {
    ntlab::user::Status(event.status).to_string()
}
