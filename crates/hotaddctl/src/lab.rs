//! Devices in a machine of the lab, which runs inside this process.
//!
//! The machine is the demo's: an `edu` and a software device, and processors and memory that are added. What happens in it goes along with
//! the command.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    rc::Rc,
    thread,
    time::Duration,
};

use clap::Args;
use hotadd_abi::{INTERFACE_CLASS, TRACE_PROVIDER};
use ntlab::{
    config::Config,
    hw::qemu,
    machine::{Machine, System},
    user::{self, Handle, Pending},
};
use recording::{Origin, Recording};
use workload::{Additions, Hardware, Load, MachineOptions, Plan, Target, record};

use crate::{
    device::{Access, Completion, Device, Host, Place, Request},
    failure::Failure,
    ntstatus::NtStatus,
    stop,
    styles::WEAK,
};

/// Virtual time between two additions, where the command's own requests are the load.
const PACE: Duration = Duration::from_millis(2);
/// Requests that end between two additions, for each that is in flight.
const ROUNDS: u64 = 8;
/// Informational: all that the driver writes to ETW.
const TRACE_LEVEL: u8 = 4;
/// Virtual nanoseconds that requests may take.
const PATIENCE: u64 = 60_000_000_000;

/// The machine in the lab.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Use devices in a machine of the lab, which runs inside this process.
    #[arg(long, global = true)]
    pub lab: bool,
    /// The driver that runs in it; without it, the one that `cargo xtask build` made.
    #[arg(long, global = true, value_name = "FILE")]
    pub driver: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// What happens in the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// Processors and memory are added under load, and then the command runs.
    Before,
    /// Processors and memory are added under load while the command runs.
    Alongside,
    /// The same, and the machine keeps what only the lab can see.
    Recorded,
    /// Processors and memory are added while the command runs, whose requests are the load.
    AddOnly,
}

/// Runs a command in a machine of the lab.
///
/// # Errors
///
/// The options make no machine, there is no driver, the command failed, or the lab found something.
pub fn run(
    options: &Options,
    story: Story,
    command_line: &str,
    err: &mut dyn Write,
    command: impl FnOnce(&dyn Host) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let seed = options.machine.seed();
    let mut repeat = command_line.to_owned();
    if options.machine.seed.is_none() {
        repeat = format!("{repeat} --seed {seed}");
    }
    let config = options.machine.config(seed, command_line).map_err(Failure::Usage)?;
    let config = Config { keep_timeline: story == Story::Recorded, repeat: Some(repeat.clone()), ..config };
    let origin = Origin::Lab { seed, command: Some(repeat.clone()) };
    if options.machine.hardware == Hardware::Qemu {
        qemu::version().map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let driver = driver(options.driver.as_deref())?;
    let additions = Additions { processors: config.maximum_processors() - config.processors };
    let machine = Machine::new(config).map_err(|error| Failure::Usage(error.to_string()))?;
    if options.machine.seed.is_none() {
        writeln!(err, "{WEAK}the seed of this run is {seed}{WEAK:#}")?;
    }
    let outcome = machine.run(|system| Play { options, seed, origin, additions, system }.run(&driver, story, command));
    match outcome.result {
        Ok(Err(Failure::Broken(what))) => Err(Failure::Broken(format!("{what}; to repeat this: {repeat}"))),
        Ok(ended) => ended,
        // It says itself what repeats it.
        Err(report) => Err(Failure::Broken(report.to_string())),
    }
}

/// The driver's image.
fn driver(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path.to_path_buf())
        } else {
            Err(Failure::Usage(format!("--driver {}: there is no such file", path.display())))
        };
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/x86_64-pc-windows-msvc/release/hotadd.sys");
    let absent = || {
        Failure::Usage(
            "--lab: hotadd.sys has not been built; run `cargo xtask build`, or name one with --driver".into(),
        )
    };
    built.canonicalize().map_err(|_| absent())
}

/// A machine that is running.
struct Play<'a, 'k> {
    options: &'a Options,
    seed: u64,
    origin: Origin,
    additions: Additions,
    system: &'k System,
}

impl<'k> Play<'_, 'k> {
    fn run(
        &self,
        driver: &Path,
        story: Story,
        command: impl FnOnce(&dyn Host) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let system = self.system;
        system.trace(TRACE_PROVIDER, TRACE_LEVEL);
        system.install(workload::package(driver));
        let edu = system.plug(workload::quick_edu().on_hardware(self.options.machine.hardware.into()));
        let devices = [edu, system.plug(workload::software())];
        let host = LabHost { system, devices, origin: self.origin.clone(), is_over: Rc::default() };
        let load = if story == Story::AddOnly { None } else { Some(self.load()?) };
        let broken = self.spawn_additions(load, &host.is_over);
        if story == Story::Before {
            host.wait_until_over();
        }
        let done = command(&host);
        host.wait_until_over();
        system.settle();
        let mut broken = broken.take();
        broken.extend(
            system.unload(workload::SERVICE).err().map(|error| format!("the driver was not unloaded: {error}")),
        );
        done?;
        if broken.is_empty() { Ok(()) } else { Err(Failure::Broken(broken.join("; "))) }
    }

    fn load(&self) -> Result<Load<'k>, Failure> {
        let system = self.system;
        let mut targets = Vec::new();
        for number in 0..2 {
            let target = Target::new(workload::open(system, number).map_err(not_opened)?);
            targets.extend([target.clone(), target.and(workload::open(system, number).map_err(not_opened)?)]);
        }
        let plan = Plan { lanes: self.options.machine.requests, seed: self.seed, cancel_one_in: 16 };
        Ok(Load::start(system, &targets, plan))
    }

    /// Adds processors and memory on a thread of its own. What promises are broken meanwhile.
    fn spawn_additions(&self, load: Option<Load<'k>>, is_over: &Rc<Cell<bool>>) -> Rc<RefCell<Vec<String>>> {
        let broken = Rc::new(RefCell::new(Vec::new()));
        let (told, is_over, additions) = (Rc::clone(&broken), Rc::clone(is_over), self.additions);
        let ended = ROUNDS * u64::from(self.options.machine.requests);
        self.system.spawn("additions", move |system| {
            let say = |sentence: String| told.borrow_mut().push(sentence);
            let flow = || match &load {
                Some(load) if !load.run(ended, PATIENCE) => say("requests stopped flowing for a minute".to_owned()),
                Some(_) => (),
                None => system.sleep(nanoseconds(PACE)),
            };
            flow();
            for addition in additions.all() {
                if let Err(status) = addition.make(system) {
                    say(format!("{addition} was not added: {status}"));
                }
                flow();
            }
            system.settle();
            flow();
            if let Some(load) = load {
                let (counts, wrong) = load.stop(PATIENCE);
                told.borrow_mut().extend(wrong);
                if counts.lost != 0 {
                    say(format!("{} requests were lost", counts.lost));
                }
            }
            is_over.set(true);
        });
        broken
    }
}

fn not_opened(status: user::Status) -> Failure {
    Failure::Broken(format!("a device of the lab does not open: {status}"))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

struct LabHost<'k> {
    system: &'k System,
    /// By the number that the driver gives them, from 1.
    devices: [ntlab::pnp::Device; 2],
    origin: Origin,
    is_over: Rc<Cell<bool>>,
}

impl LabHost<'_> {
    fn wait_until_over(&self) {
        self.system.wait_until("the end of the additions", || self.is_over.get());
    }
}

impl Host for LabHost<'_> {
    fn places(&self) -> Result<Vec<Place>, Failure> {
        let links = self.system.interfaces(INTERFACE_CLASS);
        Ok((0..).zip(links).map(|(index, link)| Place { index, instance: instance(&link), link }).collect())
    }

    fn open(&self, place: &Place, access: Access) -> Result<Box<dyn Device + '_>, Failure> {
        let access = match access {
            Access::Nothing => user::Access::Attributes,
            Access::Read => user::Access::Read,
            Access::ReadWrite => user::Access::ReadWrite,
        };
        let handle = self.system.open(&place.link, access);
        let handle = handle.map_err(|status| Failure::of_request(&place.instance, NtStatus(status.0)))?;
        Ok(Box::new(LabDevice {
            system: self.system,
            handle,
            pending: BTreeMap::new(),
            number: 0,
            alarm: Rc::default(),
        }))
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.system.now())
    }

    fn pause(&self, time: Duration) {
        self.system.sleep(nanoseconds(time) / 100);
        thread::sleep(time);
    }

    fn tick(&self) -> Duration {
        Duration::from_micros(100)
    }

    fn origin(&self) -> Origin {
        self.origin.clone()
    }

    fn complete(&self, recording: &mut Recording) {
        record::add_timeline(recording, &self.system.take_timeline(), &self.devices);
    }

    fn traced(&self) -> Option<Vec<String>> {
        Some(self.system.trace_events().iter().map(ToString::to_string).collect())
    }

    fn is_over(&self) -> bool {
        self.is_over.get() || stop::is_asked_for()
    }
}

/// The instance path in an interface's link, which is `\??\` with `#` for `\` and the class at its end.
fn instance(link: &str) -> String {
    let path = link.trim_start_matches(r"\??\").trim_start_matches(r"\\?\");
    let path = path.rsplit_once("#{").map_or(path, |(path, _)| path);
    path.replace('#', r"\")
}

fn completion(done: user::Completion) -> Completion {
    let bytes = usize::try_from(done.information).unwrap_or(usize::MAX);
    Completion { status: NtStatus(done.status.0), bytes, output: done.output }
}

struct LabDevice<'k> {
    system: &'k System,
    handle: Handle<'k>,
    /// By the order in which they were sent.
    pending: BTreeMap<u64, (u64, Pending<'k>)>,
    number: u64,
    /// Whether a thread sleeps that lets time pass while several requests are waited for.
    alarm: Rc<Cell<bool>>,
}

impl LabDevice<'_> {
    fn first_done(&self) -> Option<u64> {
        self.pending.iter().find(|(_, (_, pending))| pending.is_done()).map(|(number, _)| *number)
    }

    /// Sees to it that time passes at least until `deadline`.
    fn set_alarm(&self, deadline: u64) {
        if !self.alarm.replace(true) {
            let alarm = Rc::clone(&self.alarm);
            let rest = deadline.saturating_sub(self.system.now());
            self.system.spawn("alarm", move |system| {
                system.sleep(rest);
                alarm.set(false);
            });
        }
    }
}

impl Device for LabDevice<'_> {
    fn submit(&mut self, ticket: u64, request: Request) {
        let request = match request {
            Request::Control { code, input, output } => user::Request::Control { code, input, output },
            Request::Read { offset, length } => user::Request::Read { offset, length },
            Request::Write { offset, data } => user::Request::Write { offset, data },
        };
        self.pending.insert(self.number, (ticket, self.handle.submit(request)));
        self.number += 1;
    }

    fn wait(&mut self, patience: Duration) -> Option<(u64, Completion)> {
        let deadline = self.system.now().saturating_add(nanoseconds(patience));
        while self.pending.len() > 1 && self.first_done().is_none() {
            if self.system.now() >= deadline {
                return None;
            }
            self.set_alarm(deadline);
            let alarm = &self.alarm;
            self.system.wait_until("any of several requests", || self.first_done().is_some() || !alarm.get());
        }
        let number = self.first_done().or_else(|| self.pending.keys().next().copied())?;
        let (ticket, pending) = self.pending.remove(&number)?;
        match pending.wait_for(deadline.saturating_sub(self.system.now())) {
            Ok(done) => Some((ticket, completion(done))),
            Err(pending) => {
                self.pending.insert(number, (ticket, pending));
                None
            }
        }
    }

    fn cancel(&mut self) {
        self.handle.cancel_all();
    }
}

impl Drop for LabDevice<'_> {
    fn drop(&mut self) {
        self.cancel();
    }
}
