//! The parameters, read once from the service's `Parameters` key; see docs/parameters.md.

use hotadd_abi::{Event, EventKind};
use hotadd_policy::parameters::{
    ALL, BUFFER_POOL_MAXIMUM, Found, HIGH_MEMORY_NOTIFICATION, JOURNAL_EVENTS, JOURNAL_WAITERS, Parameter,
    REQUEST_TIMEOUT,
};
use wdm::irql::Passive;
use wdm::registry::Key;
use wdm::status::NtStatus;
use wdm::string::UnicodeStr;

use crate::journal::Journal;

/// What the administrator asked for, or the defaults.
pub struct Parameters {
    values: [u32; ALL.len()],
    ignored: [bool; ALL.len()],
}

impl Parameters {
    /// Reads them; what is absent or bad has its default.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn read(service: UnicodeStr<'_>, passive: Passive<'_>) -> Self {
        let key = Key::open_parameters(service, passive).ok();
        let mut parameters = Self { values: [0; ALL.len()], ignored: [false; ALL.len()] };
        let places = parameters.values.iter_mut().zip(&mut parameters.ignored);
        for (parameter, (value, ignored)) in ALL.iter().zip(places) {
            let found = key.as_ref().map_or(Found::Nothing, |key| look_up(key, parameter, passive));
            let decided = parameter.value(found);
            (*value, *ignored) = (decided.value, decided.ignored);
        }
        parameters
    }

    /// Tells the journal which values were ignored.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn report(&self, journal: &Journal) {
        for (number, _) in (1..).zip(self.ignored).filter(|(_, ignored)| *ignored) {
            journal.record(EventKind::ParameterIgnored, Event { count: number, ..Event::default() });
        }
    }

    fn value(&self, parameter: Parameter) -> u32 {
        let place = ALL.iter().position(|known| *known == parameter);
        place.and_then(|place| self.values.get(place)).copied().unwrap_or(parameter.default)
    }

    /// The most bytes the buffer pool takes.
    pub fn buffer_pool_maximum(&self) -> u64 {
        self.value(BUFFER_POOL_MAXIMUM).into()
    }

    /// How many events the journal keeps.
    pub fn journal_events(&self) -> usize {
        self.value(JOURNAL_EVENTS) as usize
    }

    /// How many requests may wait for an event.
    pub fn journal_waiters(&self) -> usize {
        self.value(JOURNAL_WAITERS) as usize
    }

    /// How many milliseconds the device has to answer.
    pub fn request_timeout(&self) -> u32 {
        self.value(REQUEST_TIMEOUT)
    }

    /// Whether to wait for the high memory condition.
    pub fn high_memory_notification(&self) -> bool {
        self.value(HIGH_MEMORY_NOTIFICATION) != 0
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
