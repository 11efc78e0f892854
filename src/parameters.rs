//! The parameters, read once from the service's `Parameters` key; see docs/parameters.md.

use hotadd_abi::{Event, EventKind};
use hotadd_policy::parameters::{ALL, Found, Parameter};
use wdm::irql::Passive;
use wdm::registry::Key;
use wdm::status::NtStatus;
use wdm::string::UnicodeStr;

use crate::journal::Journal;

/// What the administrator asked for, or the defaults.
pub struct Parameters {
    buffer_pool_maximum: u32,
    journal_events: u32,
    journal_waiters: u32,
    request_timeout: u32,
    high_memory_notification: u32,
    /// In the order of [`ALL`].
    ignored: [bool; ALL.len()],
}

impl Parameters {
    /// Reads them; what is absent or bad has its default.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn read(service: UnicodeStr<'_>, passive: Passive<'_>) -> Self {
        let key = Key::open_parameters(service, passive).ok();
        let found = |parameter: &Parameter| key.as_ref().map_or(Found::Nothing, |key| look_up(key, parameter, passive));
        let decided = ALL.map(|parameter| parameter.value(found(&parameter)));
        // In the order of `ALL`.
        let [buffer_pool_maximum, journal_events, journal_waiters, request_timeout, high_memory_notification] =
            decided.map(|decided| decided.value);
        let ignored = decided.map(|decided| decided.ignored);
        Self {
            buffer_pool_maximum,
            journal_events,
            journal_waiters,
            request_timeout,
            high_memory_notification,
            ignored,
        }
    }

    /// Tells the journal which values were ignored.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn report(&self, journal: &Journal) {
        for (number, _) in (1..).zip(self.ignored).filter(|(_, ignored)| *ignored) {
            journal.record(EventKind::ParameterIgnored, Event { count: number, ..Event::default() });
        }
    }

    /// The most bytes the buffer pool takes.
    pub fn buffer_pool_maximum(&self) -> u64 {
        self.buffer_pool_maximum.into()
    }

    /// How many events the journal keeps at least.
    pub const fn journal_events(&self) -> u32 {
        self.journal_events
    }

    /// How many requests may wait for an event.
    pub const fn journal_waiters(&self) -> usize {
        self.journal_waiters as usize
    }

    /// How many milliseconds the device has to answer.
    pub const fn request_timeout(&self) -> u32 {
        self.request_timeout
    }

    /// Whether to wait for the high memory condition.
    pub const fn high_memory_notification(&self) -> bool {
        self.high_memory_notification != 0
    }
}

fn look_up(key: &Key, parameter: &Parameter, passive: Passive<'_>) -> Found {
    let mut wide = [0_u16; 32];
    let mut length = 0;
    for (unit, byte) in wide.iter_mut().zip(parameter.name.bytes()) {
        *unit = byte.into();
        length += 1;
    }
    let Some(name) = wide.get(..length) else { return Found::Unusable };
    match key.read_u32(UnicodeStr::new(name), passive) {
        Ok(value) => Found::Dword(value),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND) => Found::Nothing,
        Err(_) => Found::Unusable,
    }
}
