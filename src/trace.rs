//! ETW: every event of the journal, under the provider `Hotadd`.

use hotadd_abi::Event;
use tracelogging::{Level, define_provider, write_event};
use wdm::etw::Registration;
use wdm::irql::Passive;

define_provider!(PROVIDER, "Hotadd");

/// The time during which events are traced.
pub struct Session(
    /// Without a registration nothing is traced; that is no reason not to start.
    #[expect(dead_code, reason = "it is what dropping ends")]
    Option<Registration>,
);

impl Session {
    /// Begins to trace.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn new(passive: Passive<'_>) -> Self {
        Self(Registration::new(&PROVIDER, passive).ok())
    }
}

/// Traces an event.
///
/// IRQL: <= DISPATCH_LEVEL.
#[inline]
pub fn event(event: &Event) {
    if PROVIDER.enabled(Level::Informational, 0) {
        write(event);
    }
}

#[cold]
fn write(event: &Event) {
    write_event!(
        PROVIDER,
        "Event",
        level(Level::Informational),
        u64("Sequence", &event.sequence),
        u64("Time", &event.time),
        u32("Kind", &event.kind),
        i32("Status", &event.status),
        u32("Device", &event.device),
        u32("Processor", &event.processor),
        u32("Group", &event.group),
        u32("Number", &event.number),
        u64_hex("Affinity", &event.affinity),
        u64("Before", &event.before),
        u64("Count", &event.count),
        u64("Duration", &event.duration),
    );
}
