//! What happens in the demo, and which promises it looks at.

use std::{collections::BTreeMap, path::Path, rc::Rc};

use hotadd_abi::{EngineKind, ProcessorStatistics};
use ntlab::{config::Config, machine::System, pnp::Device, user::Status};
use recording::{Origin, Recording};
use workload::{
    Additions, Hardware, Load, Plan, Target,
    record::{Recorded, Recorder},
};

use super::{
    journal::{self, Watch},
    options::Options,
    results::{Change, Processor, Results},
    view::View,
};

/// An `edu` and a software device.
const DEVICES: u32 = 2;
/// Requests that end between two changes of the machine, for each that is in flight.
const ROUNDS: u64 = 8;
/// Virtual nanoseconds that the load goes on when all are there.
const LAST_STAGE: u64 = 10_000_000;
/// Virtual nanoseconds that requests may take: a minute.
const PATIENCE: u64 = 60_000_000_000;

/// The demo, before it begins.
pub struct Scenario {
    seed: u64,
    requests: u32,
    hardware: Hardware,
    processors: u32,
    additions: Additions,
    /// Where a recording comes from, if one is wanted.
    origin: Option<Origin>,
}

/// What the demo ended with.
pub struct Played {
    /// The figures.
    pub results: Results,
    /// The recording, where one was wanted.
    pub recording: Option<Recording>,
}

/// The devices while the load runs.
struct Devices<'k> {
    /// Two for each device, the `edu` first.
    targets: Vec<Target<'k>>,
    names: BTreeMap<u32, &'static str>,
}

impl Scenario {
    /// The scenario on a machine made as `config` says.
    pub fn new(options: &Options, seed: u64, config: &Config) -> Self {
        let processors = config.processors;
        Self {
            seed,
            requests: options.machine.requests,
            hardware: options.machine.hardware,
            processors,
            additions: Additions { processors: config.maximum_processors() - processors },
            origin: options.record.as_ref().map(|_| Origin::Lab { seed, command: config.repeat.clone() }),
        }
    }

    /// How many stages it has.
    pub fn stages(&self) -> u64 {
        self.additions.all().len() as u64 + 2
    }

    /// Plays it.
    ///
    /// # Panics
    ///
    /// If the driver does not load, start or answer at all.
    pub fn play(&self, system: &System, sys: &Path, view: &Rc<View>) -> Played {
        view.stage(&format!(
            "{} processors, an edu and a software device, {} requests in flight",
            self.processors, self.requests
        ));
        system.install(workload::package(sys));
        let plugged = [workload::quick_edu().on_hardware(self.hardware.into()), workload::software()];
        let plugged = plugged.map(|spec| system.plug(spec));
        let devices = Devices::open(system).expect("the driver starts its two devices");
        let watch = Watch::start(system, Rc::clone(devices.targets[0].handle()), Rc::clone(view));
        let recorder = self.record(system, &plugged, &devices);
        let load =
            Load::start(system, &devices.targets, Plan { lanes: self.requests, seed: self.seed, cancel_one_in: 16 });

        let mut broken = Vec::new();
        let first = devices.status();
        self.keep_flowing(&load, view, &mut broken);
        recorder.iter().for_each(Recorder::snapshot);
        self.add(system, &load, view, &mut broken);
        system.settle();
        recorder.iter().for_each(Recorder::snapshot);
        let middle = devices.processors();
        view.stage("all are there");
        let until = system.now() + LAST_STAGE;
        while system.now() < until {
            self.keep_flowing(&load, view, &mut broken);
        }
        let (last, end) = (devices.status(), devices.processors());

        let (counts, wrong) = load.stop(PATIENCE);
        broken.extend(wrong);
        let recording = recorder.map(|recorder| recorder.finish().expect("the driver always tells its status"));
        let (events, missed) = watch.stop(system);
        let results = Results {
            seed: self.seed,
            counts,
            processors: rows(&middle, &end),
            rebalances: journal::rebalances(&events, &devices.names),
            memory_bytes: Change { before: first.memory_bytes, after: last.memory_bytes },
            pool_bytes: Change { before: first.pool_bytes, after: last.pool_bytes },
            elapsed_us: system.now() / 1_000,
            broken,
            host_seconds: 0.0,
        };
        drop(devices);
        let not_unloaded = system.unload("hotadd").err().map(|error| error.to_string());
        Played { results: self.judge(results, missed, not_unloaded), recording }
    }

    /// Starts to record, if that is wanted.
    fn record<'k>(&self, system: &'k System, plugged: &[Device], devices: &Devices<'k>) -> Option<Recorder<'k>> {
        let origin = self.origin.clone()?;
        let recorded = plugged.iter().zip(devices.names.values()).zip(devices.targets.chunks(2));
        let recorded = recorded.map(|((device, name), targets)| Recorded {
            device: *device,
            name: (*name).to_owned(),
            handle: Rc::clone(targets[0].handle()),
        });
        Some(Recorder::start(system, origin, recorded.collect()).expect("the driver always tells its status"))
    }

    fn add(&self, system: &System, load: &Load<'_>, view: &View, broken: &mut Vec<String>) {
        for addition in self.additions.all() {
            view.stage(&format!("add {addition}"));
            if let Err(status) = addition.make(system) {
                broken.push(format!("{addition} was not added: {status}"));
            }
            self.keep_flowing(load, view, broken);
        }
    }

    fn keep_flowing(&self, load: &Load<'_>, view: &View, broken: &mut Vec<String>) {
        if !load.run(ROUNDS * u64::from(self.requests), PATIENCE) {
            broken.push("requests stopped flowing for a minute".to_owned());
        }
        view.progress(load.counts());
    }

    /// Adds a sentence for each promise that the results break.
    fn judge(&self, mut results: Results, missed: u64, not_unloaded: Option<String>) -> Results {
        let counts = results.counts;
        let idle = results.processors.iter().filter(|row| row.requests.after == 0).count();
        let checks = [
            (counts.lost != 0, format!("{} requests were lost", counts.lost)),
            (missed != 0, format!("the journal lost {missed} events that were waited for")),
            (
                results.processors.len() != (self.processors + self.additions.processors) as usize,
                "a processor has no statistics".to_owned(),
            ),
            (idle != 0, format!("{idle} processors got no request after the last was added")),
            (
                results.memory_bytes.after < results.memory_bytes.before + Additions::MEMORY,
                "memory was not noticed".to_owned(),
            ),
        ];
        results.broken.extend(checks.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, sentence)| sentence));
        results.broken.extend(not_unloaded.map(|why| format!("the driver was not unloaded: {why}")));
        results
    }
}

impl<'k> Devices<'k> {
    fn open(system: &'k System) -> Result<Self, Status> {
        let (mut targets, mut names) = (Vec::new(), BTreeMap::new());
        for number in 0..DEVICES {
            let target = Target::new(workload::open(system, number as usize)?);
            let engine = EngineKind::from_code(workload::status(target.handle())?.engine);
            targets.extend([target.clone(), target.and(workload::open(system, number as usize)?)]);
            names.insert(number + 1, if engine == Some(EngineKind::Edu) { "edu" } else { "software" });
        }
        Ok(Self { targets, names })
    }

    fn status(&self) -> hotadd_abi::Status {
        workload::status(self.targets[0].handle()).expect("the driver always tells its status")
    }

    fn processors(&self) -> Vec<ProcessorStatistics> {
        workload::processors(self.targets[0].handle()).expect("the driver always tells its statistics")
    }
}

fn rows(middle: &[ProcessorStatistics], end: &[ProcessorStatistics]) -> Vec<Processor> {
    let before: BTreeMap<u32, &ProcessorStatistics> = middle.iter().map(|row| (row.index, row)).collect();
    let change = |row: &ProcessorStatistics, figure: fn(&ProcessorStatistics) -> u64| {
        let until = before.get(&row.index).map_or(0, |row| figure(row));
        Change { before: until, after: figure(row) - until }
    };
    end.iter()
        .map(|row| Processor {
            index: row.index,
            group: row.group,
            number: row.number,
            joined_us: row.joined_at / 10,
            interrupts: change(row, |row| row.interrupts),
            dpcs: change(row, |row| row.dpcs),
            requests: change(row, |row| row.requests),
        })
        .collect()
}
