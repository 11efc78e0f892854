//! What the PnP manager tells drivers of a device: its properties and its registry keys ("Device Properties").

use std::{cell::RefCell, collections::BTreeMap};

use windows_sys::Wdk::{
    Foundation::DEVICE_OBJECT,
    System::SystemServices::{
        DEVICE_REGISTRY_PROPERTY, DevicePropertyEnumeratorName, DevicePropertyHardwareID, DevicePropertyInstallState,
        DevicePropertyPhysicalDeviceObjectName,
    },
};

use super::device;
use crate::{kernel::Kernel, memory::Ptr, registry::Value};

/// What of a `DEVICE_REGISTRY_PROPERTY` drivers pass: the kind of value beside it is for analysis tools, and windows-sys has it.
const NUMBER: DEVICE_REGISTRY_PROPERTY = 0xFFF;
/// `InstallStateInstalled`.
const INSTALLED: u32 = 0;

/// A property key: the bytes of `DEVPROPKEY.fmtid`, and `pid`.
pub type PropertyKey = ([u8; 16], u32);

/// A device node, as far as drivers can ask for it. The PnP manager makes one for each physical device object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceNode {
    /// Instance path below `Enum`, such as `PCI\VEN_1234&DEV_11E8\3&13C0B0C5&0&20`.
    pub instance: String,
    /// The path of its software key below `Control\Class`, such as `{4D36E97D-…}\0001`.
    pub class_key: String,
    /// `DEVICE_REGISTRY_PROPERTY` to its bytes.
    pub properties: BTreeMap<DEVICE_REGISTRY_PROPERTY, Vec<u8>>,
    /// Unified device properties: type and bytes.
    pub keys: BTreeMap<PropertyKey, (u32, Vec<u8>)>,
}

impl DeviceNode {
    /// The device with this instance path and these hardware IDs, with the properties that follow from them.
    #[must_use]
    pub fn of(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, instance: &str, ids: &[String]) -> Self {
        let enumerator = instance.split('\\').next().unwrap_or_default();
        let properties = [
            (DevicePropertyHardwareID, Value::list(ids)),
            (DevicePropertyEnumeratorName, Value::text(enumerator)),
            (DevicePropertyPhysicalDeviceObjectName, Value::text(&device::name_of(k, pdo).unwrap_or_default())),
            (DevicePropertyInstallState, Value::dword(INSTALLED)),
        ];
        let properties = properties.into_iter().map(|(which, value)| (which & NUMBER, value.data)).collect();
        Self { instance: instance.into(), properties, ..Self::default() }
    }
}

/// The device nodes by physical device object.
#[derive(Debug, Default)]
pub struct Properties {
    nodes: RefCell<BTreeMap<u64, DeviceNode>>,
}

/// Makes `pdo` a physical device object with these properties.
pub fn set_node(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, node: DeviceNode) {
    k.io.properties.nodes.borrow_mut().insert(pdo.address(), node);
}

/// Reads or changes the node of `pdo`; `None` if it is no physical device object.
pub fn with_node<T>(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, action: impl FnOnce(&mut DeviceNode) -> T) -> Option<T> {
    k.io.properties.nodes.borrow_mut().get_mut(&pdo.address()).map(action)
}

/// The registry path of a device instance.
#[must_use]
pub fn instance_key(instance: &str) -> String {
    format!("\\Registry\\Machine\\System\\CurrentControlSet\\Enum\\{instance}")
}

/// The registry path of the device's hardware key (`PLUGPLAY_REGKEY_DEVICE`).
#[must_use]
pub fn hardware_key(node: &DeviceNode) -> String {
    instance_key(&node.instance) + "\\Device Parameters"
}

/// The registry path of the device's software key (`PLUGPLAY_REGKEY_DRIVER`).
#[must_use]
pub fn software_key(node: &DeviceNode) -> String {
    format!("\\Registry\\Machine\\System\\CurrentControlSet\\Control\\Class\\{}", node.class_key)
}
