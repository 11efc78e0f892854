//! The parameters under the service's `Parameters` key, with their ranges and defaults.

/// A parameter: a `REG_DWORD` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// The value's name, in ASCII.
    pub name: &'static str,
    /// The least it can be.
    pub least: u32,
    /// The most it can be.
    pub most: u32,
    /// What it is when it is absent or bad.
    pub default: u32,
}

/// The most bytes the buffer pool takes.
pub const BUFFER_POOL_MAXIMUM: Parameter =
    Parameter { name: "BufferPoolMaximum", least: 64 << 10, most: 1 << 30, default: 16 << 20 };
/// How many events the journal keeps, rounded up to a power of two.
pub const JOURNAL_EVENTS: Parameter = Parameter { name: "JournalEvents", least: 64, most: 65_536, default: 4_096 };
/// How many requests may wait for the journal's next event at a time.
pub const JOURNAL_WAITERS: Parameter = Parameter { name: "JournalWaiters", least: 1, most: 1_024, default: 64 };
/// How many milliseconds the device has to answer a request.
pub const REQUEST_TIMEOUT: Parameter =
    Parameter { name: "RequestTimeout", least: 1_000, most: 600_000, default: 10_000 };
/// 1 to wait for the high memory condition.
pub const HIGH_MEMORY_NOTIFICATION: Parameter =
    Parameter { name: "HighMemoryNotification", least: 0, most: 1, default: 0 };

/// All of them, in the order of docs/parameters.md.
pub const ALL: [Parameter; 5] =
    [BUFFER_POOL_MAXIMUM, JOURNAL_EVENTS, JOURNAL_WAITERS, REQUEST_TIMEOUT, HIGH_MEMORY_NOTIFICATION];

/// What was found under a parameter's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No such value.
    Nothing,
    /// A `REG_DWORD`.
    Dword(u32),
    /// A value of another type, or one that could not be read.
    Unusable,
}

/// A parameter's value, and whether what was found had to be ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// What to use.
    pub value: u32,
    /// What was found is of the wrong type or out of range.
    pub ignored: bool,
}

impl Parameter {
    /// The value to use, given what was found.
    #[must_use]
    pub const fn value(&self, found: Found) -> Value {
        match found {
            Found::Dword(value) if self.least <= value && value <= self.most => Value { value, ignored: false },
            Found::Nothing => Value { value: self.default, ignored: false },
            Found::Dword(_) | Found::Unusable => Value { value: self.default, ignored: true },
        }
    }
}
