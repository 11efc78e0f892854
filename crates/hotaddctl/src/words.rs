//! The driver's codes and figures in words.

use hotadd_abi::{EngineKind, Gate, InterruptMode, PnpState, Status};

/// A code, in the word for it; one that this version does not know, in digits.
fn word<T>(code: u32, known: Option<T>, word: impl FnOnce(T) -> &'static str) -> String {
    known.map_or_else(|| format!("code {code}"), |known| word(known).to_owned())
}

/// The device's state under PnP.
pub fn pnp_state(status: &Status) -> String {
    word(status.pnp_state, PnpState::from_code(status.pnp_state), |state| match state {
        PnpState::NotStarted => "not started",
        PnpState::Started => "started",
        PnpState::StopPending => "stop pending",
        PnpState::Stopped => "stopped",
        PnpState::RemovePending => "remove pending",
        PnpState::SurpriseRemoved => "surprise removed",
        PnpState::Removed => "removed",
    })
}

/// What processes requests.
pub fn engine(status: &Status) -> String {
    word(status.engine, EngineKind::from_code(status.engine), |engine| match engine {
        EngineKind::None => "none",
        EngineKind::Edu => "edu",
        EngineKind::Software => "software",
    })
}

/// How interrupts reach the driver.
pub fn interrupt_mode(status: &Status) -> String {
    word(status.interrupt_mode, InterruptMode::from_code(status.interrupt_mode), |mode| match mode {
        InterruptMode::None => "none",
        InterruptMode::Line => "line",
        InterruptMode::Message => "message",
    })
}

/// What the gate does, and why.
pub fn gate(status: &Status) -> String {
    let gate = word(status.gate, Gate::from_code(status.gate), |gate| match gate {
        Gate::Running => "running",
        Gate::Holding => "holding",
        Gate::Refusing => "refusing",
    });
    match status.hold_reasons {
        0 => gate,
        reasons => format!("{gate} ({})", recording::words::reasons(reasons.into())),
    }
}

/// The interrupt's mode, and which processors it reaches.
pub fn interrupt(status: &Status) -> String {
    let mode = interrupt_mode(status);
    if status.interrupt_messages == 0 {
        return mode;
    }
    let (group, affinity) = (status.interrupt_group, status.interrupt_affinity);
    format!("{} {mode}, group {group}, affinity {affinity:#x}", status.interrupt_messages)
}

/// Bytes, in the greatest unit of which there is at least one.
pub fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift != 0) else {
        return format!("{bytes} bytes");
    };
    let tenths = (bytes >> (shift - 10)) % 1024 * 10 / 1024;
    let whole = bytes >> shift;
    if tenths == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") }
}

/// A time in 100 ns units.
pub fn duration(units: u64) -> String {
    match units {
        0..10_000 => format!("{} us", units / 10),
        10_000..10_000_000 => format!("{}.{:02} ms", units / 10_000, units / 100 % 100),
        _ => format!("{}.{:02} s", units / 10_000_000, units / 100_000 % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_told_in_units_of_their_size() {
        assert_eq!(bytes(512), "512 bytes");
        assert_eq!(bytes(64 << 10), "64 KiB");
        assert_eq!(bytes((8 << 30) + (512 << 20)), "8.5 GiB");
        assert_eq!(duration(1234), "123 us");
        assert_eq!(duration(123_456), "12.34 ms");
        assert_eq!(duration(612_345_678), "61.23 s");
    }

    #[test]
    fn a_code_that_is_not_known_is_told_as_it_is() {
        assert_eq!(engine(&Status { engine: 9, ..Status::default() }), "code 9");
        assert_eq!(
            gate(&Status { gate: 1, hold_reasons: 2, ..Status::default() }),
            "holding (stop for other resources)"
        );
    }
}
