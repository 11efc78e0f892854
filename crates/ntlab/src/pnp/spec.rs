//! What is plugged into a machine, and which driver is installed for it.

use std::{ops::RangeInclusive, path::PathBuf};

use crate::{
    hw::{edu::EduModel, edu_device::BAR_BYTES},
    registry::Value,
};

/// A device to be plugged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceSpec {
    pub(crate) kind: DeviceKind,
    pub(crate) node: u16,
    pub(crate) rebalance_policy: Option<u32>,
    pub(crate) affinity_policy: u16,
    pub(crate) affinity_mask: u64,
    pub(crate) group: u16,
}

/// What kind of device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// QEMU's `edu`.
    Edu {
        /// Its variant.
        model: EduModel,
        /// Its interrupts.
        messages: Messages,
        /// What is behind it.
        hardware: Hardware,
    },
    /// A PCI function whose registers are memory.
    Pci {
        /// Vendor ID.
        vendor: u16,
        /// Device ID.
        device: u16,
        /// Bytes of its BAR.
        bar: u32,
    },
    /// A device that the root bus enumerates, without hardware; its hardware ID.
    Software(String),
}

impl DeviceKind {
    /// The size of its BAR and its interrupts, where it has hardware.
    pub const fn resources(&self) -> Option<(u32, Messages)> {
        match *self {
            Self::Edu { messages, .. } => Some((BAR_BYTES, messages)),
            Self::Pci { bar, .. } => Some((bar, Messages::Never)),
            Self::Software(_) => None,
        }
    }
}

/// What is behind an `edu` device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hardware {
    /// The model in this process.
    #[default]
    Model,
    /// The real one, in a QEMU of its own, which is started when the device is plugged in: of the model only the times count, and they are
    /// the longest. It always has a message capability.
    Qemu,
}

/// Whether a PCI function gets message-signaled interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Messages {
    /// Always.
    Always,
    /// Sometimes the system has none left, and assigns a line instead.
    Scarce,
    /// It cannot send any.
    Never,
}

impl DeviceSpec {
    /// A PCI `edu`, as QEMU 7.2 has it.
    #[must_use]
    pub const fn edu() -> Self {
        Self::of(DeviceKind::Edu { model: EduModel::QEMU_7, messages: Messages::Always, hardware: Hardware::Model })
    }

    /// A PCI function with one interrupt line and one memory BAR of so many bytes, which keeps what is written to it.
    ///
    /// # Panics
    ///
    /// Where the BAR's size is none of [`DeviceSpec::BAR_SIZES`].
    #[must_use]
    pub fn pci(vendor: u16, device: u16, bar: u32) -> Self {
        assert!(Self::BAR_SIZES.contains(&bar) && bar.is_power_of_two(), "no BAR has {bar} bytes");
        Self::of(DeviceKind::Pci { vendor, device, bar })
    }

    /// The sizes that the BAR of [`DeviceSpec::pci`] may have: the powers of two among them.
    pub const BAR_SIZES: RangeInclusive<u32> = 0x10..=0x100_0000;

    /// A root-enumerated device without hardware resources.
    #[must_use]
    pub fn software(hardware_id: &str) -> Self {
        Self::of(DeviceKind::Software(hardware_id.into()))
    }

    const fn of(kind: DeviceKind) -> Self {
        Self { kind, node: 0, rebalance_policy: None, affinity_policy: 0, affinity_mask: 0, group: 0 }
    }

    /// Another variant of `edu`.
    #[must_use]
    pub const fn with_model(mut self, new: EduModel) -> Self {
        if let DeviceKind::Edu { model, .. } = &mut self.kind {
            *model = new;
        }
        self
    }

    /// With something else than the model behind it.
    #[must_use]
    pub const fn on_hardware(mut self, new: Hardware) -> Self {
        if let DeviceKind::Edu { hardware, .. } = &mut self.kind {
            *hardware = new;
        }
        self
    }

    /// Without message-signaled interrupts.
    #[must_use]
    pub const fn with_line_interrupts_only(self) -> Self {
        self.with_messages(Messages::Never)
    }

    /// The system does not always have messages left for it, and a rebalance may change what it gets.
    #[must_use]
    pub const fn with_scarce_messages(self) -> Self {
        self.with_messages(Messages::Scarce)
    }

    const fn with_messages(mut self, new: Messages) -> Self {
        if let DeviceKind::Edu { messages, .. } = &mut self.kind {
            *messages = new;
        }
        self
    }

    /// On a NUMA node.
    #[must_use]
    pub const fn on_node(mut self, node: u16) -> Self {
        self.node = node;
        self
    }

    /// With `DEVPKEY_Device_DHP_Rebalance_Policy` set.
    #[must_use]
    pub const fn with_rebalance_policy(mut self, policy: u32) -> Self {
        self.rebalance_policy = Some(policy);
        self
    }

    /// With `DevicePolicy` and `AssignmentSetOverride` below `Interrupt Management\Affinity Policy` set.
    #[must_use]
    pub const fn with_affinity_policy(mut self, policy: u16, mask: u64) -> Self {
        self.affinity_policy = policy;
        self.affinity_mask = mask;
        self
    }
}

/// A driver with what its INF says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriverPackage {
    pub(crate) service: String,
    pub(crate) image: PathBuf,
    pub(crate) hardware_ids: Vec<String>,
    pub(crate) parameters: Vec<(String, Value)>,
    pub(crate) upper_filters: Vec<String>,
    pub(crate) lower_filters: Vec<String>,
}

impl DriverPackage {
    /// The driver in `image`, which becomes the service `service`.
    #[must_use]
    pub fn new(service: &str, image: impl Into<PathBuf>) -> Self {
        Self {
            service: service.into(),
            image: image.into(),
            hardware_ids: Vec::new(),
            parameters: Vec::new(),
            upper_filters: Vec::new(),
            lower_filters: Vec::new(),
        }
    }

    /// The devices it is for.
    #[must_use]
    pub fn for_ids<'a>(mut self, ids: impl IntoIterator<Item = &'a str>) -> Self {
        self.hardware_ids.extend(ids.into_iter().map(Into::into));
        self
    }

    /// A parameter.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: Value) -> Self {
        self.parameters.push((name.into(), value));
        self
    }

    /// `UpperFilters` of its devices: services that are installed for no device of their own, the lowest first.
    #[must_use]
    pub fn with_upper_filters<'a>(mut self, services: impl IntoIterator<Item = &'a str>) -> Self {
        self.upper_filters.extend(services.into_iter().map(Into::into));
        self
    }

    /// `LowerFilters` of its devices, the lowest first.
    #[must_use]
    pub fn with_lower_filters<'a>(mut self, services: impl IntoIterator<Item = &'a str>) -> Self {
        self.lower_filters.extend(services.into_iter().map(Into::into));
        self
    }

    pub(crate) fn matches(&self, ids: &[String]) -> bool {
        self.hardware_ids.iter().any(|own| ids.iter().any(|id| own.eq_ignore_ascii_case(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_matches_any_of_its_hardware_ids_whatever_their_case() {
        let package = DriverPackage::new("toaster", "toaster.sys").for_ids(["PCI\\VEN_1234&DEV_11E8", "ROOT\\TOASTER"]);
        assert!(package.matches(&["pci\\ven_1234&dev_11e8".into()]));
        assert!(!package.matches(&["PCI\\VEN_1234".into()]));
        assert!(!package.matches(&[]));
    }
}
