//! `ntlab run`: a driver, once.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use ntlab::{
    config::Config,
    hw::qemu,
    machine::{Machine, Outcome as Ran, System},
    pnp::{DeviceSpec, DeviceState, DriverPackage, Hardware},
    scenario::PciId,
};
use serde::Serialize;

use crate::{Outcome, files, repeat::Line};

/// What `run` is told.
#[derive(Args)]
pub struct Options {
    /// The driver's image.
    driver: PathBuf,
    /// A scenario file, which says what the machine has and what happens.
    #[arg(long, conflicts_with_all = ["root_device", "edu", "pci", "bar", "processors", "maximum"])]
    scenario: Option<PathBuf>,
    /// Plug in a device without hardware that has this hardware ID. Without a device the driver is started as a service.
    #[arg(long, value_name = "ID", conflicts_with_all = ["edu", "pci"])]
    root_device: Option<String>,
    /// Plug in QEMU's `edu`, PCI 1234:11E8.
    #[arg(long, conflicts_with = "pci")]
    edu: bool,
    /// Plug in a PCI function with these IDs, hexadecimal, with an interrupt line and a memory BAR that keeps what is written to it.
    #[arg(long, value_name = "VENDOR:DEVICE")]
    pci: Option<PciId>,
    /// Bytes of that BAR: a power of two.
    #[arg(long, value_name = "BYTES", requires = "pci", default_value_t = 4096, value_parser = bar)]
    bar: u32,
    /// What is behind `edu` devices, those of a scenario too.
    #[arg(long, value_enum)]
    hardware: Option<Behind>,
    /// Processors that are active at boot.
    #[arg(long, default_value_t = 2)]
    processors: u32,
    /// Places for processors.
    #[arg(long, default_value_t = 8)]
    maximum: u32,
    /// What decides the interleaving.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print what came of it as JSON.
    #[arg(long)]
    json: bool,
}

/// What is behind `edu` devices.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// The lab's model.
    Model,
    /// The real one, in a QEMU that is started for it. A run with QEMU need not be the same every time.
    Qemu,
}

fn bar(text: &str) -> Result<u32, String> {
    let bytes = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16));
    let bytes = bytes.ok().filter(|bytes| bytes.is_power_of_two() && DeviceSpec::BAR_SIZES.contains(bytes));
    bytes.ok_or_else(|| "a BAR has a power of two of bytes, from 16 to 16 MiB".into())
}

/// What came of a run.
#[derive(Serialize)]
struct Told {
    driver: PathBuf,
    seed: u64,
    virtual_ns: u64,
    /// What the driver did.
    done: Option<String>,
    /// The report of what was found.
    found: Option<String>,
}

impl Options {
    /// What repeats the run.
    fn repeat(&self) -> String {
        let line = Line::new("run").file(&self.driver).option("--seed", &self.seed);
        let line = match &self.scenario {
            Some(path) => line.option("--scenario", &path.display()),
            None => line.option("--processors", &self.processors).option("--maximum", &self.maximum),
        };
        let line = self.root_device.iter().fold(line, |line, id| line.option("--root-device", id));
        let line = self.pci.iter().fold(line, |line, id| line.option("--pci", id).option("--bar", &self.bar));
        let line = if self.hardware == Some(Behind::Qemu) { line.option("--hardware", &"qemu") } else { line };
        if self.edu { line.word("--edu") } else { line }.text()
    }
}

/// Runs a driver and tells what came of it.
pub fn run(options: &Options) -> Result<Outcome> {
    ensure!(options.driver.is_file(), "{}: there is no such driver image", options.driver.display());
    let told = match &options.scenario {
        Some(path) => {
            let mut scenario = files::scenario_with(path, Some(&options.driver))?;
            if let Some(behind) = options.hardware {
                scenario.set_qemu(behind == Behind::Qemu);
            }
            if scenario.needs_qemu() {
                qemu::version()?;
            }
            let config = Config { repeat: Some(options.repeat()), ..scenario.config()?.with_seed(options.seed) };
            tell(options, scenario.run(config), |()| "the scenario came to its end".to_owned())
        }
        None => alone(options)?,
    };
    let found = told.found.is_some();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!("{}", told.found.as_deref().or(told.done.as_deref()).unwrap_or_default());
    }
    Ok(if found { Outcome::Found } else { Outcome::Nothing })
}

fn tell<T>(options: &Options, ran: Ran<T>, describe: impl FnOnce(T) -> String) -> Told {
    let (driver, seed, virtual_ns) = (options.driver.clone(), ran.seed, ran.elapsed);
    match ran.result {
        Ok(value) => Told { driver, seed, virtual_ns, done: Some(describe(value)), found: None },
        Err(report) => Told { driver, seed, virtual_ns, done: None, found: Some(report.to_string()) },
    }
}

/// Without a scenario: from loading to unloading.
fn alone(options: &Options) -> Result<Told> {
    files::ensure_complete(&options.driver)?;
    if options.edu && options.hardware == Some(Behind::Qemu) {
        qemu::version()?;
    }
    let config = Config {
        repeat: Some(options.repeat()),
        ..Config::new(options.processors, options.maximum)?.with_seed(options.seed)
    };
    let service = options.driver.file_stem().map_or_else(|| "driver".into(), |name| name.to_string_lossy());
    let package = DriverPackage::new(&service, &options.driver);
    let (package, spec) = match device(options) {
        Some((id, spec)) => (package.for_ids([id.as_str()]), Some(spec)),
        None => (package, None),
    };
    let ran = Machine::new(config)?.run(|system| live(system, &service, package, spec));
    Ok(tell(options, ran, |lines| lines.join("\n")))
}

/// The device that the options name, and the hardware ID that the driver is installed for.
fn device(options: &Options) -> Option<(String, DeviceSpec)> {
    if let Some(id) = &options.root_device {
        return Some((id.clone(), DeviceSpec::software(id)));
    }
    if let Some(PciId { vendor, device }) = options.pci {
        let id = format!(r"PCI\VEN_{vendor:04X}&DEV_{device:04X}");
        return Some((id, DeviceSpec::pci(vendor, device, options.bar)));
    }
    let behind = if options.hardware == Some(Behind::Qemu) { Hardware::Qemu } else { Hardware::Model };
    options.edu.then(|| (r"PCI\VEN_1234&DEV_11E8".to_owned(), DeviceSpec::edu().on_hardware(behind)))
}

fn live(system: &System, service: &str, package: DriverPackage, spec: Option<DeviceSpec>) -> Vec<String> {
    let mut lines = Vec::new();
    match spec {
        Some(spec) => {
            system.install(package);
            let device = system.plug(spec);
            lines.push(format!("the device: {:?}", device.state(system)));
            if device.state(system) == DeviceState::Started {
                lines.push(format!("rebalanced: {:?}", device.rebalance(system)));
            }
        }
        None => match system.load(package) {
            Ok(()) => lines.push("DriverEntry succeeded".to_owned()),
            Err(error) => lines.push(error.to_string()),
        },
    }
    if system.is_loaded(service) {
        lines.push(match system.unload(service) {
            Ok(()) => "unloaded, with nothing left".to_owned(),
            Err(error) => format!("not unloaded: {error}"),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_is_found_is_told_with_its_report() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ntlab/tests/c/leaking.c");
        let image = kit::c_driver(&source).unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys;
        let line = Line::parse_from(["run".as_ref(), image.as_os_str(), "--seed".as_ref(), "3".as_ref()]);

        let told = alone(&line.options).expect("the lab has what it imports");

        assert_eq!((told.seed, told.done), (3, None));
        let report = told.found.expect("it leaves a block behind");
        assert!(report.contains("pool is still allocated") && report.contains("leaking!DriverEntry"), "{report}");

        let (_, command) = report.rsplit_once("to repeat this: ").expect("it ends with a command");
        let words = shlex::split(command.trim_end()).expect("a shell takes it");
        let words = words.into_iter().skip_while(|word| word != "run");
        let again = alone(&Line::parse_from(words).options).expect("the command parses");
        assert_eq!(again.found, Some(report));
    }
}
