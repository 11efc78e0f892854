//! Notification of processors and of device interfaces.

use windows_sys::{
    Wdk::{
        Foundation::DRIVER_OBJECT,
        System::SystemServices::{
            EventCategoryDeviceInterfaceChange, KE_PROCESSOR_CHANGE_ADD_EXISTING,
            PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES,
        },
    },
    Win32::Foundation::{NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS},
    core::GUID,
};

use super::{Arguments, Export};
use crate::{
    export,
    finding::Finding,
    irql::{PASSIVE_LEVEL, exactly},
    kernel::Kernel,
    memory::Ptr,
    rule::Rule,
};

/// The functions of this module.
pub(super) const FUNCTIONS: &[Export] = &[
    export!("IoRegisterPlugPlayNotification", exactly(PASSIVE_LEVEL), io_register_plug_play_notification),
    export!("IoUnregisterPlugPlayNotificationEx", exactly(PASSIVE_LEVEL), io_unregister_plug_play_notification_ex),
    export!("KeDeregisterProcessorChangeCallback", exactly(PASSIVE_LEVEL), ke_deregister_processor_change_callback),
    export!("KeRegisterProcessorChangeCallback", exactly(PASSIVE_LEVEL), ke_register_processor_change_callback),
];

/// "`IoRegisterPlugPlayNotification` function". Device interface changes only.
fn io_register_plug_play_notification(
    k: &Kernel,
    category: i32,
    flags: u32,
    data: Ptr<GUID>,
    driver: Ptr<DRIVER_OBJECT>,
    mut rest: Arguments,
) -> NTSTATUS {
    let (callback, context, entry) = (rest.take(), rest.take(), Ptr::<u64>::new(rest.take()));
    if category != EventCategoryDeviceInterfaceChange {
        Finding::not_modelled(format!("IoRegisterPlugPlayNotification: event category {category}")).raise();
    }
    if data.is_null() || flags & !PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES != 0 {
        return STATUS_INVALID_PARAMETER;
    }
    let existing = flags & PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES != 0;
    let registration = k.pnp.notifications.register(k, &data.read(), existing, driver, (callback, context));
    entry.write(registration.address());
    STATUS_SUCCESS
}

/// "`IoUnregisterPlugPlayNotificationEx` function".
fn io_unregister_plug_play_notification_ex(k: &Kernel, entry: Ptr<u64>) -> NTSTATUS {
    if !k.pnp.notifications.unregister(k, entry) {
        let sentence =
            "IoUnregisterPlugPlayNotificationEx was called for something that is no registration, or not any more";
        Rule::NoRegistration.broken([0; 3], sentence).raise();
    }
    STATUS_SUCCESS
}

/// "`KeRegisterProcessorChangeCallback` function".
fn ke_register_processor_change_callback(k: &Kernel, function: u64, context: u64, flags: u32) -> Ptr<u64> {
    if flags & !KE_PROCESSOR_CHANGE_ADD_EXISTING != 0 {
        Finding::not_modelled(format!("KeRegisterProcessorChangeCallback: flags {flags:#x}")).raise();
    }
    k.hot_add.register(k, function, context, flags & KE_PROCESSOR_CHANGE_ADD_EXISTING != 0)
}

/// "`KeDeregisterProcessorChangeCallback` function".
fn ke_deregister_processor_change_callback(k: &Kernel, handle: Ptr<u64>) {
    if !k.hot_add.deregister(k, handle) {
        let sentence =
            "KeDeregisterProcessorChangeCallback was called for something that is no registration, or not any more";
        Rule::NoRegistration.broken([0; 3], sentence).raise();
    }
}
