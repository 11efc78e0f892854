//! Which processors the device's interrupts may reach.

/// `IRQ_DEVICE_POLICY` of wdm.h: how an interrupt is spread over processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy(pub u32);

impl Policy {
    /// Nobody asked for anything.
    pub const MACHINE_DEFAULT: Self = Self(0);
    /// Every processor of the machine.
    pub const ALL_PROCESSORS: Self = Self(3);
    /// Messages spread over every processor of the machine.
    pub const SPREAD_MESSAGES: Self = Self(5);
}

/// The policy to ask for instead of `current`, or `None` to leave it, because an administrator chose it.
#[must_use]
pub const fn requested(current: Policy, message_signaled: bool) -> Option<Policy> {
    if current.0 != Policy::MACHINE_DEFAULT.0 {
        return None;
    }
    Some(if message_signaled { Policy::SPREAD_MESSAGES } else { Policy::ALL_PROCESSORS })
}
