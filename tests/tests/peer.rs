//! `bench/peer`, the driver in C that hotadd is measured against, keeps the same promises.

use std::cell::Cell;

use hotadd_abi::Status;
use hotadd_tests::{PATIENCE, each_seed, end, run, small, status, with_all_seeds};
use ntlab::{
    hot_add::NewProcessor,
    machine::System,
    pnp::{Device, DeviceState, Rebalance},
    power::SystemState,
    user,
};
use workload::{Counts, Load, Manner, Plan, Target};
use xtask::drivers::Driver;

/// How a request may end on a device that goes.
const GONE: &[user::Status] = &[status::DELETE_PENDING, status::NO_SUCH_DEVICE];

/// Runs a scenario on a machine with the peer's software device, and unloads the driver.
fn with_peer(seeds: u64, scenario: impl Fn(&System, Device, u64)) {
    let sys = Driver::PEER.build().unwrap_or_else(|error| panic!("the peer builds: {error:#}")).sys;
    each_seed(seeds, |seed| {
        run(small().with_seed(seed), |system| {
            system.install(workload::package(&sys));
            let device = system.plug(workload::software());
            assert_eq!(device.state(system), DeviceState::Started);
            scenario(system, device, seed);
            end(system);
        });
    });
}

/// Uses the device through two handles while something is done; what became of the requests, and what the driver says of them.
fn under_load(
    system: &System,
    seed: u64,
    expected: &'static [user::Status],
    action: impl FnOnce(&Load<'_>),
) -> (Counts, Status) {
    let target = Target::new(workload::open(system, 0).expect("the device opens"));
    let handle = target.handle().clone();
    let targets = [target.clone(), target.and(workload::open(system, 0).expect("it opens again"))];
    let manner = Manner { expected, pause: 100_000, ..Manner::default() };
    let load = Load::start_with(system, &targets, Plan { lanes: 12, seed, cancel_one_in: 8 }, manner);
    drop((target, targets));
    action(&load);
    let (counts, broken) = load.stop(PATIENCE);
    assert_eq!(broken, Vec::<String>::new(), "every answer is right");
    assert_eq!(counts.lost, 0, "no request is lost");
    let told = workload::status(&handle).expect("any handle may ask for the status");
    assert_eq!((told.completed, told.cancelled), (counts.completed, counts.cancelled), "each is counted once");
    assert_eq!(told.accepted, told.completed + told.cancelled + told.failed, "what was accepted has ended");
    (counts, told)
}

#[test]
fn every_request_completes_exactly_once_while_the_machine_changes() {
    let cancelled = Cell::new(0);
    with_peer(12, |system, device, seed| {
        let (counts, told) = under_load(system, seed, &[], |load| {
            for processor in 2..8 {
                assert!(load.run(20, PATIENCE), "requests end");
                assert_eq!(system.add_processor(NewProcessor::default()), Ok(processor));
                assert_eq!(device.rebalance(system), Rebalance::NotStopped);
            }
            assert_eq!(system.add_memory(256 << 20, 0), Ok(()));
            assert_eq!(system.sleep_system(SystemState::S3), Ok(()));
            assert_eq!(device.query_remove(system), Err(status::DEVICE_BUSY), "it is open");
            assert!(load.run(40, PATIENCE), "requests end");
            system.settle();
        });
        assert_eq!(counts.failed, 0);
        cancelled.update(|before| before + counts.cancelled);
        assert_eq!((told.processors_known, told.processors_steered, told.processors_active), (8, 8, 8));
        assert_eq!(told.memory_bytes - told.memory_bytes_at_load, 256 << 20);
    });
    assert!(cancelled.get() > 0 || !with_all_seeds(), "no request was cancelled");
}

#[test]
fn every_request_completes_exactly_once_when_the_device_is_pulled_out() {
    with_peer(12, |system, device, seed| {
        under_load(system, seed, GONE, |load| {
            assert!(load.run(30 + seed, PATIENCE), "requests end");
            device.surprise_remove(system);
            assert!(load.run(30, PATIENCE), "requests end");
        });
    });
}

#[test]
fn a_processor_that_never_comes_leaves_nothing_behind() {
    with_peer(4, |system, _, _| {
        let fails = Some(status::UNSUCCESSFUL);
        let failed = system.add_processor(NewProcessor { fails, ..NewProcessor::default() });
        assert_eq!(failed, Err(status::UNSUCCESSFUL));
        let handle = workload::open(system, 0).expect("the device opens");
        assert_eq!(workload::status(&handle).map(|told| told.processors_known), Ok(2));
        assert_eq!(workload::processors(&handle).map(|known| known.len()), Ok(2));
    });
}
