//! What a power request makes of the device.

/// `DEVICE_POWER_STATE` as far as the driver uses it: on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// `PowerDeviceD0`.
    D0,
    /// `PowerDeviceD1` to `PowerDeviceD3`: the device can do nothing.
    D3,
}

/// The device state that belongs to the system's, which is working, S0, or not; the function driver owns this policy.
#[must_use]
pub const fn device_for_system(working: bool) -> Device {
    if working { Device::D0 } else { Device::D3 }
}

/// What to do on a set-power request for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Pass it down: nothing changes.
    PassDown,
    /// Hold requests, let those in flight finish, save the device's state, then pass it down.
    TurnOff,
    /// Pass it down, then restore the device's state and let requests through.
    TurnOn,
}

/// What to do when a device in state `now` is asked for `asked`.
#[must_use]
pub const fn decide(now: Device, asked: Device) -> Action {
    match (now, asked) {
        (Device::D0, Device::D3) => Action::TurnOff,
        (Device::D3, Device::D0) => Action::TurnOn,
        (Device::D0, Device::D0) | (Device::D3, Device::D3) => Action::PassDown,
    }
}
