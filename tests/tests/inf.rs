//! The INF says what the driver and its documentation say.

use std::collections::BTreeMap;

const INX: &str = include_str!("../../inf/hotadd.inx");

/// A section's lines, comments aside.
fn section(name: &str) -> Vec<&'static str> {
    let header = format!("[{name}]");
    let mut lines = INX.lines().map(|line| line.split(';').next().unwrap_or_default().trim());
    assert!(lines.any(|line| line == header), "there is no section {name}");
    lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty()).collect()
}

/// A section's `name = value` entries.
fn entries(name: &str) -> BTreeMap<&'static str, &'static str> {
    section(name)
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect()
}

fn integer(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok())
}

/// The numbers that a section for the registry writes, by key and value name.
fn registry_numbers(name: &str) -> BTreeMap<(&'static str, &'static str), u32> {
    let flags = entries("Strings");
    let lines = section(name).into_iter().map(|line| line.split(',').collect::<Vec<_>>());
    let numbers = lines.filter_map(|fields| match fields[..] {
        ["HKR", key, value, flag, number] if flags.get(flag.trim_matches('%'))?.starts_with("0x0001000") => {
            Some(((key, value), integer(number)?))
        }
        _ => None,
    });
    numbers.collect()
}

#[test]
fn the_parameters_are_those_of_the_driver_with_their_defaults() {
    let parameters = hotadd_policy::parameters::ALL;

    let expected: BTreeMap<_, _> =
        parameters.iter().map(|parameter| (("Parameters", parameter.name), parameter.default)).collect();

    assert_eq!(registry_numbers("Parameters_AddReg"), expected);
}

#[test]
fn what_an_administrator_has_set_survives_an_update() {
    let writes_only_if_absent = |line: &&str| line.contains("%REG_DWORD_IF_ABSENT%");

    assert_eq!(entries("Strings")["REG_DWORD_IF_ABSENT"], "0x00010003");
    assert!(section("Parameters_AddReg").iter().all(writes_only_if_absent));
    assert!(section("Interrupt_AddReg").iter().filter(|line| line.contains("DevicePolicy")).all(writes_only_if_absent));
}

#[test]
fn windows_10_2004_is_the_oldest_system_served() {
    let models = entries("Models.NT$ARCH$.10.0...19041");

    assert_eq!(entries("Manufacturer")["%Manufacturer%"], "Models,NT$ARCH$.10.0...19041");
    assert_eq!(models["%EduDevice%"], r"Edu_Install, PCI\VEN_1234&DEV_11E8");
    assert_eq!(models["%SoftwareDevice%"], r"Software_Install, ROOT\HOTADD");
}

#[test]
fn every_section_that_is_named_is_there() {
    for device in ["Edu_Install", "Software_Install"] {
        assert_eq!(entries(&format!("{device}.NT"))["CopyFiles"], "Driver_Files");
        let service = entries(&format!("{device}.NT.Services"))["AddService"];
        assert_eq!(service, "hotadd, %SPSVCINST_ASSOCSERVICE%, Service_Install");
        for named in entries(&format!("{device}.NT.HW"))["AddReg"].split(',') {
            assert!(!section(named.trim()).is_empty());
        }
    }
    assert!(!section(entries("Service_Install")["AddReg"]).is_empty());
    assert!(!section(entries("ClassInstall32")["AddReg"]).is_empty());
}

#[test]
fn every_string_that_is_named_is_there() {
    let strings = entries("Strings");
    let body = INX.split("[Strings]").next().unwrap_or_default();
    let lines = body.lines().map(|line| line.split(';').next().unwrap_or_default());

    for name in lines.flat_map(|line| line.split('%').skip(1).step_by(2)) {
        assert!(name == "13" || strings.contains_key(name), "%{name}% is not in [Strings]");
    }
}

#[test]
fn the_driver_runs_from_the_driver_store_and_starts_on_demand() {
    let service = entries("Service_Install");

    assert_eq!(entries("DestinationDirs")["DefaultDestDir"], "13");
    assert_eq!(service["ServiceBinary"], r"%13%\hotadd.sys");
    assert_eq!((service["ServiceType"], service["StartType"]), ("1", "3"));
    assert_eq!(entries("Version")["PnpLockdown"], "1");
}

#[test]
fn system_and_administrators_have_full_access_and_users_read() {
    let numbers = registry_numbers("Device_AddReg");

    assert!(INX.contains("\nHKR,,Security,,\"D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GR;;;BU)\"\n"));
    assert_eq!(numbers[&("", "DeviceCharacteristics")], 0x100, "FILE_DEVICE_SECURE_OPEN");
}
