//! What `InfVerif` looks at, each function for the rules whose numbers it gives.

use std::collections::BTreeSet;

use xtask::package::inf::{Entry, Inf};

use super::Violations;
use crate::integer;

/// Sections whose names mean something by themselves, below a device's section.
const BELOW_A_DEVICE: [&str; 3] = [".HW", ".Services", ".Interfaces"];
/// The other sections whose names mean something by themselves.
const WELL_KNOWN: [&str; 6] =
    ["Version", "SourceDisksNames", "SourceDisksFiles", "DestinationDirs", "Manufacturer", "Strings"];
/// Directives that name sections, with the index of the first one that they name.
const NAMING: [(&str, usize); 4] = [("AddReg", 0), ("CopyFiles", 0), ("AddService", 2), ("AddInterface", 2)];
/// Directives that a universal INF must not have.
const LEGACY: [&str; 13] = [
    "BitReg",
    "DelFiles",
    "DelProperty",
    "DelReg",
    "DelService",
    "Ini2Reg",
    "LogConfig",
    "ProfileItems",
    "RegisterDlls",
    "RenFiles",
    "UnregisterDlls",
    "UpdateIniFields",
    "UpdateInis",
];
/// Sections that a universal INF must not have, by the end of their names.
const LEGACY_SECTIONS: [&str; 3] = [".CoInstallers", ".FactDef", ".LogConfigOverride"];
/// The first build of Windows 10 that runs drivers from the driver store, 1709.
const RUNS_FROM_STORE: u32 = 16299;
/// Values that Windows reads, and that must be numbers.
const NUMBERS: [&str; 5] =
    ["DeviceCharacteristics", "MSISupported", "MessageNumberLimit", "DevicePolicy", "TypesSupported"];

/// An INF being looked at.
struct Checked<'a> {
    text: &'a str,
    inf: Inf,
    found: Violations,
}

/// What `text` violates.
pub fn violations(text: &str) -> Violations {
    let inf = match Inf::parse(text) {
        Ok(inf) => inf,
        Err(error) => return Violations::from([(1002, vec![format!("{error:#}")])]),
    };
    let mut checked = Checked { text, inf, found: Violations::new() };
    for check in [
        Checked::text,
        Checked::version,
        Checked::driver_version,
        Checked::class,
        Checked::strings,
        Checked::sections,
        Checked::references,
        Checked::legacy,
        Checked::models,
        Checked::devices,
        Checked::files,
        Checked::services,
        Checked::service_binaries,
        Checked::registry,
        Checked::registry_values,
        Checked::parameters,
    ] {
        check(&mut checked);
    }
    checked.found
}

impl Checked<'_> {
    fn require(&mut self, holds: bool, code: u16, what: impl Into<String>) {
        if !holds {
            self.found.entry(code).or_default().push(what.into());
        }
    }

    /// A value of the section `Version`.
    fn of_version(&self, key: &str) -> String {
        self.inf.value("Version", key).unwrap_or_default()
    }

    fn expanded(&self, text: &str) -> String {
        self.inf.expand(text).unwrap_or_default()
    }

    /// The entries of all sections, each with its section's name.
    fn all(&self) -> Vec<(String, Entry)> {
        let sections = self.inf.sections.iter();
        sections.flat_map(|section| section.entries.iter().map(|entry| (section.name.clone(), entry.clone()))).collect()
    }

    fn text(&mut self) {
        self.require(self.text.is_ascii(), 1003, "there are characters that are not ASCII");
        self.require(!self.text.contains("$ARCH$"), 1274, "$ARCH$ is not resolved");
    }

    fn version(&mut self) {
        let signature = self.of_version("Signature");
        self.require(signature.eq_ignore_ascii_case("$WINDOWS NT$"), 1001, signature);
        for key in ["Class", "ClassGuid", "Provider", "DriverVer"] {
            self.require(!self.of_version(key).is_empty(), 1234, key);
        }
        let catalog = self.of_version("CatalogFile");
        self.require(!catalog.is_empty(), 1233, "CatalogFile");
        let is_file = catalog.strip_suffix(".cat").is_some_and(|name| !name.is_empty() && !name.contains(['\\', '/']));
        self.require(catalog.is_empty() || is_file, 1214, catalog);
        let provider = self.of_version("Provider").to_ascii_lowercase();
        self.require(!provider.starts_with("microsoft"), 1204, provider);
        self.require(self.of_version("PnpLockdown") == "1", 1324, "PnpLockdown");
    }

    fn driver_version(&mut self) {
        let Some(entry) = self.inf.entries("Version", "DriverVer").next().cloned() else { return };
        let numbers = |text: &str, separator| -> Option<Vec<u16>> {
            text.split(separator).map(|number| number.parse().ok()).collect()
        };
        let date = numbers(entry.value(0), '/');
        let is_date = matches!(date.as_deref(), Some([1..=12, 1..=31, 1980..=9999]))
            && entry.value(0).len() == "MM/DD/YYYY".len();
        self.require(is_date, 1218, entry.value(0));
        let version = numbers(entry.value(1), '.');
        self.require(version.is_some_and(|version| version.len() == 4), 1217, entry.value(1));
    }

    fn class(&mut self) {
        let guid = self.of_version("ClassGuid");
        self.require(is_guid(&guid), 1010, guid.clone());
        let is_system = guid.eq_ignore_ascii_case("{4D36E97D-E325-11CE-BFC1-08002BE10318}");
        self.require(self.of_version("Class") == "System" && is_system, 1280, guid);
        let installs_a_class = self.inf.sections.iter().any(|section| section.name.starts_with("ClassInstall32"));
        self.require(!installs_a_class, 1285, "ClassInstall32 for a class of Microsoft's");
    }

    fn strings(&mut self) {
        for (section, entry) in self.all() {
            for text in entry.key.iter().chain(&entry.values) {
                let problem = self.inf.expand(text).err().map(|error| format!("[{section}]: {error:#}"));
                self.require(problem.is_none(), 1235, problem.unwrap_or_default());
            }
        }
    }

    fn sections(&mut self) {
        let mut names = BTreeSet::new();
        for section in self.inf.sections.clone() {
            self.require(names.insert(section.name.to_ascii_lowercase()), 1209, section.name);
        }
    }

    /// The sections that are named somewhere, in lower case.
    fn named(&self) -> BTreeSet<String> {
        let mut named: BTreeSet<String> = self
            .all()
            .iter()
            .flat_map(|(_, entry)| {
                let key = entry.key.clone().unwrap_or_default();
                let naming = NAMING.iter().find(|(directive, _)| key.eq_ignore_ascii_case(directive));
                let first = naming.map_or(usize::MAX, |(_, first)| *first);
                entry.values.iter().skip(first).filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>()
            })
            .collect();
        named.extend(self.inf.models().unwrap_or_default().into_iter().map(|(_, name)| name));
        named.into_iter().map(|name| name.to_ascii_lowercase()).collect()
    }

    fn references(&mut self) {
        let there: BTreeSet<_> = self.inf.sections.iter().map(|section| section.name.to_ascii_lowercase()).collect();
        let named = self.named();
        let mut used: BTreeSet<String> = named.iter().cloned().collect();
        used.extend(WELL_KNOWN.map(str::to_ascii_lowercase));
        for (device, _) in self.models_of_devices() {
            let device = format!("{device}.NT").to_ascii_lowercase();
            used.extend(BELOW_A_DEVICE.map(|end| format!("{device}{}", end.to_ascii_lowercase())));
            used.insert(device);
        }
        for name in named.difference(&there) {
            self.require(false, 1203, name.clone());
        }
        for name in there.difference(&used) {
            self.require(false, 2083, name.clone());
        }
    }

    fn legacy(&mut self) {
        for section in self.inf.sections.clone() {
            let is_legacy = LEGACY_SECTIONS.iter().any(|end| section.name.ends_with(end));
            self.require(!is_legacy, 1300, section.name);
        }
        for (section, entry) in self.all() {
            let key = entry.key.unwrap_or_default();
            let is_legacy = LEGACY.iter().any(|directive| key.eq_ignore_ascii_case(directive));
            self.require(!is_legacy, 1301, format!("{key} in [{section}]"));
        }
    }

    /// For each device its section and its hardware ID.
    fn models_of_devices(&self) -> Vec<(String, String)> {
        let models = self.inf.models().unwrap_or_default();
        let entries = models.iter().flat_map(|(_, name)| self.inf.section(name).unwrap_or_default());
        entries.map(|entry| (entry.value(0).to_owned(), entry.value(1).to_owned())).collect()
    }

    fn models(&mut self) {
        for (decoration, name) in self.inf.models().unwrap_or_default() {
            let build = build(&decoration);
            self.require(build.is_some(), 1287, format!("{decoration} of {name}"));
            self.require(build.is_none_or(|build| build >= RUNS_FROM_STORE), 1199, format!("%13% in {name}"));
        }
        for (device, id) in self.models_of_devices() {
            self.require(!device.is_empty(), 1271, format!("the section for {id}"));
            self.require(!id.is_empty(), 1297, format!("the device of {device}"));
        }
    }

    fn devices(&mut self) {
        let mut services = BTreeSet::new();
        for (device, id) in self.models_of_devices() {
            let entries: Vec<Entry> =
                self.inf.entries(&format!("{device}.NT.Services"), "AddService").cloned().collect();
            let is_function =
                |entry: &&Entry| integer(&self.expanded(entry.value(1))).is_some_and(|flags| flags & 2 != 0);
            let functions = entries.iter().filter(is_function).count();
            self.require(functions >= 1, 1296, id);
            self.require(functions <= 1, 1211, device);
            services.extend(entries.iter().map(|entry| (entry.value(0).to_owned(), entry.value(2).to_owned())));
        }
        let names: BTreeSet<_> = services.iter().map(|(name, _)| name).collect();
        let agree = names.len() == services.len();
        self.require(agree, 1333, format!("{services:?}"));
    }

    /// The files that are copied.
    fn copied(&self) -> Vec<Entry> {
        let all = self.all();
        let lists = all.iter().filter(|(_, entry)| entry.key.as_deref() == Some("CopyFiles"));
        let lists: BTreeSet<String> = lists.flat_map(|(_, entry)| entry.values.clone()).collect();
        lists.iter().flat_map(|list| self.inf.section(list).unwrap_or_default()).cloned().collect()
    }

    fn files(&mut self) {
        let disks: Vec<_> = self.inf.section("SourceDisksNames").unwrap_or_default().to_vec();
        let sources: Vec<_> = self.inf.section("SourceDisksFiles").unwrap_or_default().to_vec();
        for source in &sources {
            let name = source.key.clone().unwrap_or_default();
            self.require(disks.iter().any(|disk| disk.key.as_deref() == Some(source.value(0))), 1273, name.clone());
            self.require(source.value(1).is_empty(), 1100, format!("{name} is in a directory of the source"));
            self.require(!name.to_ascii_lowercase().ends_with(".cat"), 1213, name);
        }
        for file in self.copied() {
            let is_source = sources.iter().any(|source| source.key.as_deref() == Some(file.value(0)));
            self.require(is_source, 1230, file.value(0));
            self.require(file.value(1).is_empty(), 1100, format!("{} is renamed", file.value(0)));
        }
        let destinations: Vec<_> = self.inf.section("DestinationDirs").unwrap_or_default().to_vec();
        let has_default = destinations.iter().any(|entry| entry.key.as_deref() == Some("DefaultDestDir"));
        self.require(has_default, 1275, "DefaultDestDir");
        for destination in destinations {
            self.require(destination.values == ["13"], 1322, format!("{destination:?}"));
        }
    }

    /// The sections that `AddService` names with its value at `index`.
    fn of_services(&self, index: usize) -> BTreeSet<String> {
        let all = self.all();
        let services = all.iter().filter(|(_, entry)| entry.key.as_deref() == Some("AddService"));
        services.map(|(_, entry)| entry.value(index).to_owned()).filter(|name| !name.is_empty()).collect()
    }

    fn services(&mut self) {
        for section in self.of_services(2) {
            for key in ["ServiceType", "StartType", "ErrorControl", "ServiceBinary"] {
                let is_there = self.inf.entries(&section, key).next().is_some();
                self.require(is_there, 1289, format!("{key} of {section}"));
            }
        }
    }

    fn service_binaries(&mut self) {
        for section in self.of_services(2) {
            let Some(binary) = self.inf.value(&section, "ServiceBinary") else { continue };
            self.require(!binary.is_empty() && !binary.contains(' '), 1254, section);
            let below = binary.strip_prefix('%').and_then(|rest| rest.split_once("%\\"));
            self.require(below.is_some_and(|(number, _)| integer(number).is_some()), 2085, binary.clone());
            let file = below.map_or("", |(_, file)| file);
            self.require(self.copied().iter().any(|copied| copied.value(0) == file), 2084, binary);
        }
    }

    /// The entries that write to the registry.
    fn registered(&self) -> Vec<Entry> {
        let all = self.all();
        let sections = all.iter().filter(|(_, entry)| entry.key.as_deref() == Some("AddReg"));
        let sections: BTreeSet<String> = sections.flat_map(|(_, entry)| entry.values.clone()).collect();
        sections.iter().flat_map(|name| self.inf.section(name).unwrap_or_default()).cloned().collect()
    }

    fn registry(&mut self) {
        for entry in self.registered() {
            let root = entry.value(0);
            self.require(["HKCR", "HKCU", "HKLM", "HKU", "HKR"].contains(&root), 1224, root);
            self.require(root == "HKR", 1320, format!("{entry:?}"));
            let is_filter = ["UpperFilters", "LowerFilters"].contains(&entry.value(2));
            self.require(!is_filter, 1329, entry.value(2));
        }
    }

    fn registry_values(&mut self) {
        for entry in self.registered() {
            let flags = self.expanded(entry.value(3));
            let flags = if flags.is_empty() { Some(0) } else { integer(&flags) };
            let is_number = flags.is_some_and(|flags| flags & 0xFFFF_0001 == 0x0001_0001);
            let value = self.expanded(entry.value(4));
            self.require(flags.is_some() && (!is_number || integer(&value).is_some()), 1268, format!("{entry:?}"));
            self.require(is_number || !NUMBERS.contains(&entry.value(2)), 1431, entry.value(2));
            self.require(!["%10%", "%11%", "%12%"].iter().any(|directory| value.contains(directory)), 1257, value);
        }
    }

    /// What a service's section writes lies under `Parameters`.
    fn parameters(&mut self) {
        for section in self.of_services(2) {
            let lists: Vec<_> = self.inf.entries(&section, "AddReg").flat_map(|entry| entry.values.clone()).collect();
            let entries = lists.iter().flat_map(|list| self.inf.section(list).unwrap_or_default());
            let keys: Vec<String> = entries.map(|entry| entry.value(1).to_owned()).collect();
            for key in keys {
                self.require(key == "Parameters" || key.starts_with(r"Parameters\"), 1323, key);
            }
        }
    }
}

/// The build in a decoration such as `NTamd64.10.0...19041`.
fn build(decoration: &str) -> Option<u32> {
    let version = decoration.strip_prefix("NTamd64.").or_else(|| decoration.strip_prefix("NTarm64."))?;
    let fields: Vec<_> = version.split('.').collect();
    let ["10", "0", "", "", build] = fields.as_slice() else { return None };
    build.parse().ok()
}

fn is_guid(text: &str) -> bool {
    let digits = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let lengths: Vec<_> = digits.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && digits.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}
