//! What a test does with the driver, and what it expects of it.

use std::{cell::Cell, path::PathBuf, sync::OnceLock};

use hotadd_tests::{command, each_seed, small};
use ntlab::{
    config::{Config, SpecialPool},
    exec::StackFrame,
    finding::Cause,
    machine::{Machine, Outcome, System},
    pnp::{Device, DeviceSpec, DeviceState, DriverPackage},
    registry::Value,
    report::Report,
    user::Access,
};

use crate::{report, sources};

/// The class of the interface that the driver registers.
pub const CLASS: (u32, u16, u16, [u8; 8]) =
    (0xD5B1_5A3C, 0x7A44, 0x4E6B, [0x8C, 0x21, 0x0F, 0x3A, 0x55, 0xD2, 0x91, 0x6E]);
/// The service that the driver is installed as.
pub const SERVICE: &str = "defects";
/// A control code: the driver takes any. `METHOD_BUFFERED`, any access.
pub const CONTROL: u32 = 0x22 << 16 | 0x800 << 2;

const SOFTWARE: &str = r"ROOT\DEFECTS";
const EDU: &str = r"PCI\VEN_1234&DEV_11E8";

/// A run of the driver: a device, a machine and what is done with them before the driver is unloaded.
#[derive(Clone, Debug)]
pub struct Scenario {
    device: DeviceSpec,
    config: Config,
    act: fn(&System, Device),
    seeds: u64,
    earlier: bool,
}

impl Scenario {
    /// A device without hardware, one request.
    pub fn software() -> Self {
        Self { device: DeviceSpec::software(SOFTWARE), config: small(), act: request, seeds: 1, earlier: false }
    }

    /// An `edu`, one request.
    pub fn edu() -> Self {
        Self { device: hotadd_tests::quick_edu(), ..Self::software() }
    }

    /// On a machine with one processor, so that nothing else runs while the driver is at `DISPATCH_LEVEL`.
    pub fn on_one_processor(self) -> Self {
        Self { config: Config { processors: 1, ..self.config }, ..self }
    }

    /// An `edu` without messages, one request.
    pub fn line() -> Self {
        Self { device: hotadd_tests::quick_edu().with_line_interrupts_only(), ..Self::software() }
    }

    /// With this instead of the one request.
    pub fn with(self, act: fn(&System, Device)) -> Self {
        Self { act, ..self }
    }

    /// With small pool blocks at the end of their pages, where overruns are found at once.
    pub const fn verify_end(mut self) -> Self {
        self.config.special_pool = SpecialPool::VerifyEnd;
        self
    }

    /// With small pool blocks at the start of their pages, where underruns are found at once.
    pub const fn verify_start(mut self) -> Self {
        self.config.special_pool = SpecialPool::VerifyStart;
        self
    }

    /// The line with the mark is not where the driver was when it was noticed, but where the report says that it began: what is leaked
    /// was allocated there, what is held too long was acquired there.
    pub fn earlier(self) -> Self {
        Self { earlier: true, ..self }
    }

    /// In a machine whose time limit is longer than drivers may keep a power request.
    pub const fn patient(mut self) -> Self {
        self.config.time_limit_ns *= 2;
        self
    }

    /// The driver that acts correctly is not stopped, and unloads.
    pub fn passes(&self, name: &str) {
        each_seed(self.seeds, |seed| {
            if let Err(report) = self.run(seed, name, true).result {
                panic!("{report}");
            }
        });
    }

    /// The driver is stopped with the bug check `code`, at the line with the mark; returns the first parameter.
    pub fn stops(&self, test: &str, name: &str, code: u32) -> u64 {
        let first = Cell::new(0);
        each_seed(self.seeds, |seed| {
            let stops = || {
                let report = self.run(seed, name, false).result.expect_err("the verifier notices it");
                let Cause::BugCheck { code: found, parameters } = report.finding.cause else {
                    panic!("{report}");
                };
                assert_eq!(found, code, "the bug check is another one: {report}");
                self.check_place(&report, test, name);
                report::check(&report, seed, &command(seed));
                parameters[0]
            };
            first.set(stops());
            // The next machine leaves its memory to the one after it, in which it must be noticed too.
            let correct = self.run(seed, name, true).result;
            correct.unwrap_or_else(|report| panic!("{report}"));
            stops();
        });
        first.get()
    }

    fn check_place(&self, report: &Report, test: &str, name: &str) {
        let topic = sources::topic(test);
        let line = sources::marked_line(&topic, name);
        let frames: Vec<&StackFrame> = if self.earlier {
            report.related.iter().flat_map(|(_, stack)| stack).collect()
        } else {
            report.place.iter().flat_map(|place| &place.stack).collect()
        };
        let own = format!("defects/src/{topic}");
        let is_marked =
            |frame: &&StackFrame| frame.line.as_ref().is_some_and(|(file, at)| file.ends_with(&own) && *at == line);
        assert!(frames.iter().any(is_marked), "the driver is not at the line with the mark, {own}:{line}: {report}");
    }

    fn run(&self, seed: u64, name: &str, correct: bool) -> Outcome<()> {
        let config = Config { repeat: Some(command(seed)), ..self.config.clone().with_seed(seed) };
        Machine::new(config).expect("the machine makes sense").run(|system| {
            system.install(package(name, correct));
            let device = system.plug(self.device.clone());
            assert_eq!(device.state(system), DeviceState::Started, "the device starts");
            (self.act)(system, device);
            system.settle();
            assert_eq!(system.outstanding_requests(), Vec::<String>::new(), "every request has ended");
            if system.is_loaded(SERVICE) {
                system.unload(SERVICE).expect("nothing keeps the driver");
            }
        })
    }
}

fn package(name: &str, correct: bool) -> DriverPackage {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let build = || kit::driver("defects").unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys;
    DriverPackage::new(SERVICE, IMAGE.get_or_init(build))
        .for_ids([SOFTWARE, EDU])
        .with_parameter("Defect", Value::text(name))
        .with_parameter("Correct", Value::dword(correct.into()))
}

/// Opens the device, sends it one request, and closes it.
pub fn request(system: &System, _: Device) {
    let handle = system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled");
    handle.device_control(CONTROL, &[], 0).expect("the driver takes any request");
    handle.close();
}
