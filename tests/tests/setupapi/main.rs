//! Wine's setupapi installs the INF for both devices, and what it writes to the registry is what the INF says: a second opinion on its syntax.
//!
//! Wine 8 knows neither the build in the decoration of the models, which is cut off for it, nor directory 13, nor event sources, which
//! are installed by a call of their own. The driver is an empty file here: Wine would start it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use workload::{EDU_ID, SERVICE, SOFTWARE_ID};
use xtask::package::{inf::Inf, stamp};

const INX: &str = include_str!("../../../inf/hotadd.inx");
/// The key of the device that has the instance's number 1, and of the first one that Wine numbers.
const EDU: &str = r"System\CurrentControlSet\Enum\PCI\VEN_1234&DEV_11E8\1";
const SOFTWARE: &str = r"System\CurrentControlSet\Enum\ROOT\HOTADD\0000";
const SERVICES: &str = r"System\CurrentControlSet\Services";

/// Values by the names of their keys, below some key, and their own.
type Values = BTreeMap<(String, String), String>;

fn inf() -> Inf {
    Inf::parse(&text()).expect("the INF can be parsed")
}

fn text() -> String {
    stamp(INX, "11/21/2026", "0.1.0.0").expect("the INX can be stamped").replace("NTamd64.10.0...19041", "NTamd64")
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask setup` installs it"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// A Wine of our own: its files are links to those that are installed, its registry is empty.
struct Wine {
    program: PathBuf,
    prefix: PathBuf,
}

impl Wine {
    fn new(directory: &Path) -> Self {
        let program = kit::wine().expect("Wine is installed: `cargo xtask setup` does it");
        let prefix = directory.join("prefix");
        let system = prefix.join("drive_c/windows/system32");
        for name in ["inf", "temp"] {
            fs::create_dir_all(system.with_file_name(name)).expect("a directory can be made");
        }
        fs::create_dir_all(&system).expect("a directory can be made");
        let libraries = kit::wine_libraries().expect("Wine's libraries are installed");
        for library in fs::read_dir(libraries).expect("they can be listed") {
            let library = library.expect("they can be listed");
            symlink(library.path(), system.join(library.file_name())).expect("a link can be made");
        }
        fs::write(prefix.join(".update-timestamp"), "disable\n").expect("a file can be written");
        Self { program, prefix }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all").env("WINEDLLOVERRIDES", "mscoree,mshtml=");
        command.env_remove("DISPLAY").stdin(Stdio::null());
        command
    }

    /// Waits until it has ended, which it does by itself; the registry is in its file then.
    fn end(self) -> String {
        let server = kit::wine_server(&self.program).unwrap_or_else(|error| panic!("{error:#}"));
        run(self.command(&server).arg("-w"));
        fs::read_to_string(self.prefix.join("system.reg")).expect("it has a registry")
    }
}

/// The registry after both devices were installed.
fn registry() -> &'static str {
    static REGISTRY: OnceLock<String> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("setupapi");
        if directory.exists() {
            fs::remove_dir_all(&directory).expect("the last run's files can be removed");
        }
        let package = directory.join("package");
        fs::create_dir_all(&package).expect("a directory can be made");
        fs::write(package.join("hotadd.inf"), text()).expect("the INF can be written");
        for name in ["hotadd.sys", "hotadd.cat"] {
            fs::write(package.join(name), "").expect("a file can be written");
        }
        let install = directory.join("install.exe");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setupapi/install.c");
        let mut compiler = Command::new("x86_64-w64-mingw32-gcc");
        run(compiler.args(["-Wall", "-Werror", "-municode", "-o"]).arg(&install).args([source, "-lsetupapi"]));
        let wine = Wine::new(&directory);
        for (id, instance) in [(EDU_ID, r"PCI\VEN_1234&DEV_11E8\1"), (SOFTWARE_ID, "HOTADD")] {
            let inf = format!("Z:{}", package.join("hotadd.inf").display());
            run(wine.command(&wine.program).arg(&install).args([inf.replace('/', r"\").as_str(), id, instance]));
        }
        wine.end()
    })
}

/// All values at and below the key `base`.
fn values(base: &str) -> Values {
    let mut values = Values::new();
    let mut key = None;
    for line in registry().lines() {
        if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.rsplit_once(']')) {
            let name = name.replace(r"\\", r"\");
            let below = name.strip_prefix(base).filter(|below| below.is_empty() || below.starts_with('\\'));
            key = below.map(|below| below.trim_start_matches('\\').to_owned());
        } else if let (Some(key), Some((name, value))) = (&key, line.split_once('='))
            && name.starts_with('"')
        {
            values.insert((key.clone(), name.trim_matches('"').to_owned()), value.replace(r"\\", r"\"));
        }
    }
    values
}

/// What the section `name` of the INF writes, as Wine's file has it.
fn written(name: &str) -> Values {
    let inf = inf();
    let entries = inf.section(name).expect("the section is there");
    let written = entries.iter().map(|entry| {
        let [flags, value] = [3, 4].map(|index| inf.expand(entry.value(index)).expect("every string is there"));
        let value = match flags.as_str() {
            "0x00010001" | "0x00010003" => {
                let number = value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u32::from_str_radix(hex, 16));
                format!("dword:{:08x}", number.expect("a number"))
            }
            "0x00020000" => format!("str(2):\"{value}\""),
            "" => format!("\"{value}\""),
            other => panic!("flags {other} in {name}"),
        };
        ((entry.value(1).to_owned(), entry.value(2).to_owned()), value)
    });
    written.collect()
}

#[test]
fn the_service_is_a_kernel_driver_started_on_demand() {
    let service = values(&format!(r"{SERVICES}\{SERVICE}"));
    let value = |name: &str| service.get(&(String::new(), name.to_owned())).map_or("", String::as_str);

    assert_eq!(
        [value("Type"), value("Start"), value("ErrorControl")],
        ["dword:00000001", "dword:00000003", "dword:00000001"]
    );
    assert_eq!(value("DisplayName"), "\"hotadd\"");
    assert!(value("ImagePath").ends_with("\\hotadd.sys\""), "{}", value("ImagePath"));
}

#[test]
fn the_parameters_have_the_values_of_the_inf() {
    let service = values(&format!(r"{SERVICES}\{SERVICE}"));

    let parameters: Values = service.into_iter().filter(|((key, _), _)| !key.is_empty()).collect();

    assert_eq!(parameters, written("Parameters_AddReg"));
}

#[test]
fn each_device_has_its_hardware_key_and_its_driver() {
    let mut edu = written("Device_AddReg");
    edu.extend(written("Interrupt_AddReg"));

    for (device, keys) in [(EDU, edu), (SOFTWARE, written("Device_AddReg"))] {
        assert_eq!(values(&format!(r"{device}\Device Parameters")), keys, "{device}");
        let device = values(device);
        let value = |name: &str| device.get(&(String::new(), name.to_owned())).map_or("", String::as_str);
        assert_eq!([value("Service"), value("Class")], ["\"hotadd\"", "\"System\""]);
        assert!(value("DeviceDesc").starts_with("\"Hot-add aware "), "{}", value("DeviceDesc"));
    }
}

#[test]
fn each_device_has_the_interface() {
    let class = inf().expand("%InterfaceClass%").expect("the INF has it");
    let class = values(&format!(r"System\CurrentControlSet\Control\DeviceClasses\{class}"));

    for device in [EDU, SOFTWARE].map(|key| key.replace(r"System\CurrentControlSet\Enum\", "")) {
        let instance = format!("\"{device}\"");
        let has = |((_, name), value): (&(String, String), &String)| name == "DeviceInstance" && *value == instance;
        assert!(class.iter().any(has), "{device}: {class:?}");
    }
}

#[test]
fn the_event_source_has_the_values_of_the_inf() {
    assert_eq!(values(&format!(r"{SERVICES}\EventLog\System\{SERVICE}")), written("EventLog_AddReg"));
}
