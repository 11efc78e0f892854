//! The INF against the driver: its devices, its service, its interface, its parameters, its security.

use std::collections::BTreeMap;
use std::fs;

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, each_seed, quick_edu, run, small, sys};
use ntlab::{config::Config, registry::Value};
use workload::{EDU_ID, SOFTWARE_ID};
use xtask::package::inf::Entry;

use super::{INX, inf, integer};

/// The decoration of the models, once stamped.
const MODELS: &str = "Models.NTamd64.10.0...19041";
/// The sections of the devices.
const DEVICES: [&str; 2] = ["Edu_Install.NT", "Software_Install.NT"];

/// The numbers that a section for the registry writes, by key and value name.
fn registry_numbers(name: &str) -> BTreeMap<(String, String), u32> {
    let inf = inf();
    let entries = inf.section(name).unwrap_or_default();
    let number = |entry: &Entry| {
        let flags = integer(&inf.expand(entry.value(3)).ok()?)?;
        let is_number = flags & !0x2 == 0x0001_0001;
        let place = (entry.value(1).to_owned(), entry.value(2).to_owned());
        is_number.then_some(())?;
        Some((place, integer(entry.value(4))?))
    };
    entries.iter().filter_map(number).collect()
}

fn place(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn the_parameters_are_those_of_the_driver_with_their_defaults() {
    let parameters = hotadd_policy::parameters::ALL;

    let expected: BTreeMap<_, _> =
        parameters.iter().map(|parameter| (place("Parameters", parameter.name), parameter.default)).collect();

    assert_eq!(registry_numbers("Parameters_AddReg"), expected);
}

#[test]
fn the_driver_takes_every_parameter_that_the_inf_sets() {
    each_seed(1, |seed| {
        let config = Config { memory: 256 << 20, ..small() };
        run(config.with_seed(seed), |system| {
            let parameters = registry_numbers("Parameters_AddReg").into_iter();
            let package = parameters.fold(workload::package(sys()), |package, ((_, name), number)| {
                package.with_parameter(&name, Value::dword(number))
            });
            let bench = Bench::with(system, package, quick_edu());
            assert!(bench.events(EventKind::ParameterIgnored).is_empty());
            bench.end();
        });
    });
}

#[test]
fn what_an_administrator_has_set_survives_an_update() {
    let inf = inf();
    let parameters = inf.section("Parameters_AddReg").unwrap_or_default();
    let interrupt = inf.section("Interrupt_AddReg").unwrap_or_default();
    let policy: Vec<_> = interrupt.iter().filter(|entry| entry.value(2) == "DevicePolicy").collect();

    assert_eq!((parameters.len(), policy.len()), (5, 1));
    for entry in parameters.iter().chain(policy) {
        assert_eq!(inf.expand(entry.value(3)).ok().as_deref(), Some("0x00010003"), "{entry:?}");
    }
}

#[test]
fn the_devices_are_those_that_the_driver_is_tested_with() {
    let inf = inf();

    let models = inf.section(MODELS).expect("Windows 10 2004 is the oldest system served");
    let ids: Vec<_> = models.iter().map(|entry| (entry.value(0), entry.value(1))).collect();

    assert_eq!(ids, [("Edu_Install", EDU_ID), ("Software_Install", SOFTWARE_ID)]);
    assert_eq!([EDU_ID, SOFTWARE_ID], [r"PCI\VEN_1234&DEV_11E8", r"ROOT\HOTADD"]);
}

#[test]
fn the_service_has_the_driver_s_name_runs_from_the_driver_store_and_starts_on_demand() {
    let inf = inf();

    for device in DEVICES {
        let services: Vec<_> = inf.entries(&format!("{device}.Services"), "AddService").collect();
        let [service] = services.as_slice() else { panic!("one service for {device}: {services:?}") };
        assert_eq!(service.value(0), workload::SERVICE);
        assert_eq!(inf.expand(service.value(1)).ok().as_deref(), Some("0x00000002"), "it is the function driver");
    }
    let value = |key| inf.value("Service_Install", key);
    assert_eq!(value("ServiceBinary").as_deref(), Some(r"%13%\hotadd.sys"));
    assert_eq!([value("ServiceType"), value("StartType")].map(Option::unwrap_or_default), ["1", "3"]);
    assert!(sys().ends_with("hotadd.sys"));
}

#[test]
fn the_interface_is_that_of_the_driver() {
    let (first, second, third, [a, b, c @ ..]) = hotadd_abi::INTERFACE_CLASS;
    let node = c.iter().fold(0_u64, |node, byte| node << 8 | u64::from(*byte));
    let class = format!("{{{first:08X}-{second:04X}-{third:04X}-{a:02X}{b:02X}-{node:012X}}}");

    for device in DEVICES {
        let interfaces = format!("{device}.Interfaces");
        assert_eq!(inf().value(&interfaces, "AddInterface").as_deref(), Some(class.as_str()));
    }
}

#[test]
fn the_interrupt_is_one_message_for_all_processors() {
    const MESSAGES: &str = r"Interrupt Management\MessageSignaledInterruptProperties";
    let numbers = registry_numbers("Interrupt_AddReg");

    assert_eq!(numbers[&place(MESSAGES, "MSISupported")], 1);
    assert_eq!(numbers[&place(MESSAGES, "MessageNumberLimit")], 1);
    assert_eq!(numbers[&place(r"Interrupt Management\Affinity Policy", "DevicePolicy")], 3, "all processors");
    assert_eq!(inf().value("Edu_Install.NT.HW", "AddReg").as_deref(), Some("Device_AddReg"));
}

/// "`DEVPKEY_Device_DHP_Rebalance_Policy`": absent, a device takes part, unless it is of class Net.
#[test]
fn the_devices_take_part_in_the_rebalance_after_a_processor_was_added() {
    let inf = inf();

    assert_ne!(inf.value("Version", "Class").as_deref(), Some("Net"));
    for section in &inf.sections {
        assert!(inf.entries(&section.name, "AddProperty").next().is_none(), "{} sets a property", section.name);
    }
}

#[test]
fn system_and_administrators_have_full_access_and_users_read() {
    let inf = inf();
    let device = inf.section("Device_AddReg").unwrap_or_default();
    let security = device.iter().find(|entry| entry.value(2) == "Security").expect("there is a descriptor");

    assert_eq!(security.value(4), "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GR;;;BU)");
    let numbers = registry_numbers("Device_AddReg");
    assert_eq!(numbers[&place("", "DeviceCharacteristics")], 0x100, "FILE_DEVICE_SECURE_OPEN");
    for device in DEVICES {
        assert_eq!(inf.value(&format!("{device}.HW"), "AddReg").as_deref(), Some("Device_AddReg"));
    }
}

#[test]
fn the_event_source_has_the_system_s_messages() {
    let inf = inf();
    let messages = inf.section("EventLog_AddReg").unwrap_or_default();
    let [file, types] = messages else { panic!("two values: {messages:?}") };

    assert_eq!(file.value(2), "EventMessageFile");
    assert_eq!(inf.expand(file.value(4)).ok().as_deref(), Some(r"%SystemRoot%\System32\IoLogMsg.dll"));
    assert_eq!((types.value(2), types.value(4)), ("TypesSupported", "7"));
    for device in DEVICES {
        let services = format!("{device}.Services");
        let service = inf.entries(&services, "AddService").next().map(|entry| entry.value(3).to_owned());
        assert_eq!(service.as_deref(), Some("EventLog_Install"));
    }
    assert_eq!(inf.value("EventLog_Install", "AddReg").as_deref(), Some("EventLog_AddReg"));
}

/// docs/parameters.md has the names, the ranges and the defaults; the INX writes what that document says.
#[test]
fn the_parameters_are_documented() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/parameters.md");
    let document = fs::read_to_string(document).expect("docs/parameters.md is there");

    for parameter in hotadd_policy::parameters::ALL {
        let row = document.lines().find(|line| line.contains(&format!("| `{}` |", parameter.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/parameters.md", parameter.name)).replace(',', "");
        let default = format!("| {} |", parameter.default);
        assert!(row.contains(&default), "docs/parameters.md has another default than {default}: {row}");
    }
    assert!(INX.contains("; docs/parameters.md describes them."));
}
