//! The drivers that complete every request in their dispatch routine (`bench/floor-c`, `bench/floor-rust`) keep the interface's promises for
//! what they serve, so that what they take can be compared.

use hotadd_abi::{
    FactorialInput, FactorialOutput, INTERFACE_CLASS, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_STATUS, Status,
};
use hotadd_tests::{PATIENCE, command, each_seed, end, run, small, status};
use ntlab::{
    hot_add::NewProcessor,
    machine::System,
    pnp::{Device, DeviceState, Rebalance},
    power::SystemState,
    user::{self, Handle},
};
use workload::{Load, Manner, Plan, Target};
use xtask::drivers::{Driver, Jobs};

/// Runs a scenario with each floor on a machine with its software device, and unloads the driver.
fn with_each(seeds: u64, scenario: impl Fn(&System, Device)) {
    for driver in Driver::ALL.into_iter().filter(|driver| driver.jobs == Jobs::Floor) {
        let image = driver.build().unwrap_or_else(|error| panic!("{driver} builds: {error:#}")).sys;
        each_seed(seeds, |seed| {
            let repeat = Some(format!("{} ({driver})", command(seed)));
            run(ntlab::config::Config { repeat, ..small() }.with_seed(seed), |system| {
                system.install(workload::package(&image));
                let device = system.plug(workload::software());
                assert_eq!(device.state(system), DeviceState::Started, "{driver} starts its device");
                scenario(system, device);
                end(system);
            });
        });
    }
}

fn open(system: &System) -> Handle<'_> {
    workload::open(system, 0).expect("the device opens")
}

/// How a factorial's request ends with this input and room for so many bytes.
fn ask(handle: &Handle<'_>, input: &[u8], output: usize) -> Result<Vec<u8>, user::Status> {
    handle.device_control(IOCTL_HOTADD_FACTORIAL, input, output)
}

#[test]
fn they_compute_factorials() {
    with_each(2, |system, _| {
        let handle = open(system);
        for (number, factorial) in
            [(0, 1), (1, 1), (5, 120), (13, 1_932_053_504), (33, 1 << 31), (34, 0), (u32::MAX, 0)]
        {
            assert_eq!(workload::factorial(&handle, number).map(|answer| answer.factorial), Ok(factorial), "{number}!");
        }
    });
}

#[test]
fn they_refuse_what_the_interface_does() {
    with_each(1, |system, _| {
        let handle = open(system);
        let (input, output) = (size_of::<FactorialInput>(), size_of::<FactorialOutput>());
        assert_eq!(ask(&handle, &[0; 7], output), Err(status::INFO_LENGTH_MISMATCH));
        assert_eq!(ask(&handle, &[0; 9], output), Err(status::INFO_LENGTH_MISMATCH));
        assert_eq!(ask(&handle, &[0, 0, 0, 0, 0, 0, 0, 1], output), Err(status::INVALID_PARAMETER));
        assert_eq!(ask(&handle, &vec![0; input], output - 1), Err(status::BUFFER_TOO_SMALL));
        assert_eq!(ask(&handle, &vec![0; input], output + 9).map(|answer| answer.len()), Ok(output));
        let unserved = handle.device_control(IOCTL_HOTADD_STATUS, &[], size_of::<Status>());
        assert_eq!(unserved, Err(status::INVALID_DEVICE_REQUEST));
    });
}

#[test]
fn no_request_is_lost_while_the_machine_grows() {
    with_each(4, |system, device| {
        let target = Target::new(open(system));
        let plan = Plan { lanes: 8, seed: 3, cancel_one_in: 8 };
        let manner = Manner { factorials_only: true, pause: 20_000, ..Manner::default() };
        let load = Load::start_with(system, &[target.clone(), target.and(open(system))], plan, manner);
        for _ in 2..6 {
            assert!(load.run(50, PATIENCE), "requests end");
            system.add_processor(NewProcessor::default()).expect("there is room");
            assert_eq!(device.rebalance(system), Rebalance::NotStopped);
        }
        assert_eq!(device.query_remove(system), Err(status::DEVICE_BUSY), "it is open");
        assert!(load.run(50, PATIENCE), "requests end");
        let (counts, broken) = load.stop(PATIENCE);
        assert_eq!((broken, counts.failed, counts.lost), (vec![], 0, 0));
        assert_eq!(system.sleep_system(SystemState::S3), Ok(()));
        assert!(workload::factorial(&open(system), 3).is_ok(), "it works on");
    });
}

#[test]
fn a_device_that_is_pulled_out_cannot_be_opened_and_goes_with_its_last_handle() {
    with_each(4, |system, device| {
        let handle = open(system);
        assert!(workload::factorial(&handle, 3).is_ok());
        device.surprise_remove(system);
        assert_eq!(device.state(system), DeviceState::SurpriseRemoved);
        assert_eq!(system.interfaces(INTERFACE_CLASS), Vec::<String>::new());
        handle.close();
        system.settle();
        assert!(device.is_gone(system), "nobody has it open");
    });
}

#[test]
fn a_device_that_was_disabled_works_again_when_it_is_enabled() {
    with_each(2, |system, device| {
        device.disable(system).expect("nobody uses it");
        device.enable(system).expect("it works");
        assert_eq!(workload::factorial(&open(system), 6).map(|answer| answer.factorial), Ok(720));
    });
}
