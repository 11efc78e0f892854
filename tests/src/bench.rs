//! A machine's devices with the driver installed for them.

use std::{cell::Cell, path::Path};

use hotadd_abi::{Event, EventKind, INTERFACE_CLASS, Status};
use ntlab::{
    hot_add::NewProcessor,
    machine::System,
    pnp::{Device, DeviceSpec, DeviceState, DriverPackage},
    user::{self, Access, Handle},
};

use crate::{Traffic, each_seed, end, peer, run, seeds::when_failing, small, sys, with_all_seeds};

/// An `edu` and a software device that work.
#[derive(Clone, Copy)]
pub struct Bench<'k> {
    /// The machine.
    pub system: &'k System,
    /// The device with hardware.
    pub edu: Device,
    /// The one without.
    pub software: Device,
}

impl<'k> Bench<'k> {
    /// Installs the driver and plugs both devices in.
    ///
    /// # Panics
    ///
    /// Where a device does not work.
    #[must_use]
    pub fn new(system: &'k System) -> Self {
        Self::with(system, workload::package(sys()), workload::quick_edu())
    }

    /// The same with parameters in the package, or a particular `edu`.
    ///
    /// # Panics
    ///
    /// As [`Bench::new`].
    #[must_use]
    pub fn with(system: &'k System, package: DriverPackage, edu: DeviceSpec) -> Self {
        system.install(package);
        let edu = system.plug(edu);
        let software = system.plug(workload::software());
        for device in [edu, software] {
            assert_eq!(device.state(system), DeviceState::Started, "the driver starts its device");
        }
        Self { system, edu, software }
    }

    /// Opens the `edu` device.
    ///
    /// # Panics
    ///
    /// Where it cannot be opened.
    #[must_use]
    pub fn open_edu(&self) -> Handle<'k> {
        open(self.system, "PCI").expect("the edu device opens")
    }

    /// Opens the software device.
    ///
    /// # Panics
    ///
    /// Where it cannot be opened.
    #[must_use]
    pub fn open_software(&self) -> Handle<'k> {
        open(self.system, "ROOT").expect("the software device opens")
    }

    /// What the driver says of the `edu` device.
    ///
    /// # Panics
    ///
    /// Where the driver refuses to say it.
    #[must_use]
    pub fn edu_status(&self) -> Status {
        workload::status(&self.open_edu()).expect("any handle may ask for the status")
    }

    /// What the driver says of both devices.
    ///
    /// # Panics
    ///
    /// Where the driver refuses to say it.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        let handles = [self.open_edu(), self.open_software()];
        handles.iter().map(|handle| workload::status(handle).expect("any handle may ask for the status")).collect()
    }

    /// Every event that the driver's journal keeps.
    ///
    /// # Panics
    ///
    /// Where the driver refuses to say it.
    #[must_use]
    pub fn journal(&self) -> Vec<Event> {
        workload::journal_from(&self.open_software(), 0).expect("the journal can be read").events
    }

    /// The journal's events of one kind.
    #[must_use]
    pub fn events(&self, kind: EventKind) -> Vec<Event> {
        self.journal().into_iter().filter(|event| event.kind == kind.code()).collect()
    }

    /// Unloads the driver; see [`end`].
    pub fn end(self) {
        end(self.system);
    }
}

/// Opens the first device of the driver's whose bus is `bus`.
///
/// # Errors
///
/// The status that opening ended with.
pub fn open<'k>(system: &'k System, bus: &str) -> Result<Handle<'k>, user::Status> {
    let links = system.interfaces(INTERFACE_CLASS);
    let link = links.iter().find(|link| link.to_uppercase().contains(&format!("{bus}#")));
    link.map_or(Err(crate::status::NO_SUCH_DEVICE), |link| system.open(link, Access::ReadWrite))
}

/// Runs `scenario` on a small machine with both devices, and unloads the driver afterwards.
pub fn on_bench<T>(seed: u64, scenario: impl for<'k> FnOnce(Bench<'k>) -> T) -> T {
    run(small().with_seed(seed), |system| {
        let bench = Bench::new(system);
        let result = scenario(bench);
        bench.end();
        result
    })
}

/// Runs `scenario` as [`on_bench`] does, with so many seeds of hotadd.sys and with a third as many of the driver in C that it is measured
/// against, which keeps the same promises.
pub fn on_each_driver(seeds: u64, scenario: impl for<'k> Fn(Bench<'k>, u64)) {
    for (sys, seeds) in [(sys(), seeds), (peer(), seeds.div_ceil(3))] {
        let _failure = when_failing(|| eprintln!("the driver is {}", sys.display()));
        each_seed(seeds, |seed| {
            run(small().with_seed(seed), |system| {
                let bench = Bench::with(system, workload::package(sys), workload::quick_edu());
                scenario(bench, seed);
                bench.end();
            });
        });
    }
}

/// Requests that arrived on processors before AddComplete was delivered for them.
fn early(bench: Bench<'_>) -> u64 {
    let statistics = workload::processors(&bench.open_software()).expect("statistics can be read");
    statistics.iter().map(|processor| u64::from(processor.early_requests)).sum()
}

/// Holds the driver in the file `sys` to it that a new processor can send it requests from the end of AddStart on.
///
/// # Panics
///
/// If it breaks a promise, or with all seeds no request came so early.
pub fn requests_come_before_add_complete(sys: &Path) {
    let served = Cell::new(0);
    each_seed(4, |seed| {
        run(small().with_seed(seed), |system| {
            // Without a rebalance, for which the software device's requests would not wait.
            let bench = Bench::with(system, workload::package(sys), workload::quick_edu().with_rebalance_policy(1));
            let traffic = Traffic::start_dense(bench, 48, seed);
            traffic.run(100);
            for _ in 2..8 {
                system.add_processor(NewProcessor::default()).expect("there is room");
            }
            traffic.run(200);
            served.update(|served| served + early(bench));
            traffic.stop_unharmed();
            bench.end();
        });
    });
    assert!(served.get() > 0 || !with_all_seeds(), "the scenario never came to what it is for");
}
