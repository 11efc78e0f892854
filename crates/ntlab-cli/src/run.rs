//! `ntlab run`: a driver, once.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use ntlab::{
    config::Config,
    machine::{Machine, Outcome as Ran, System},
    pnp::{DeviceSpec, DeviceState, DriverPackage},
};
use serde::Serialize;

use crate::{Outcome, files};

/// What `run` is told.
#[derive(Args)]
pub struct Options {
    /// The driver's image.
    driver: PathBuf,
    /// A scenario file, which says what the machine has and what happens.
    #[arg(long, conflicts_with_all = ["root_device", "edu", "processors", "maximum"])]
    scenario: Option<PathBuf>,
    /// Plug in a device without hardware that has this hardware ID.
    #[arg(long, value_name = "ID", conflicts_with = "edu")]
    root_device: Option<String>,
    /// Plug in QEMU's `edu`, PCI 1234:11E8. Without a device the driver is started as a service.
    #[arg(long)]
    edu: bool,
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

/// Runs a driver and tells what came of it.
pub fn run(options: &Options) -> Result<Outcome> {
    ensure!(options.driver.is_file(), "{}: there is no such driver image", options.driver.display());
    let told = match &options.scenario {
        Some(path) => {
            let scenario = files::scenario_with(path, Some(&options.driver))?;
            let config = scenario.config()?.with_seed(options.seed);
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
    // What it lacks is a wrong file, and not something that was found.
    let lacking = ntlab::exec::imports(&options.driver)?.into_iter().filter(|import| !import.has);
    let lacking: Vec<String> = lacking.map(|import| format!("{}!{}", import.module, import.name)).collect();
    ensure!(lacking.is_empty(), "the lab lacks what this driver imports: {}", lacking.join(", "));
    let config = Config::new(options.processors, options.maximum)?.with_seed(options.seed);
    let spec = options.root_device.as_deref().map(DeviceSpec::software).or_else(|| options.edu.then(DeviceSpec::edu));
    let service = options.driver.file_stem().map_or_else(|| "driver".into(), |name| name.to_string_lossy());
    let ids = options.root_device.clone().unwrap_or_else(|| r"PCI\VEN_1234&DEV_11E8".to_owned());
    let package = DriverPackage::new(&service, &options.driver).for_ids([ids.as_str()]);
    let ran = Machine::new(config)?.run(|system| live(system, &service, package, spec));
    Ok(tell(options, ran, |lines| lines.join("\n")))
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
    }
}
