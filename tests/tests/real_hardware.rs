//! The same binary on the real device: QEMU's own `edu`, in a QEMU that the lab starts and ends.
//!
//! A run here need not be the same every time, so these tests have few seeds. Without QEMU they fail and say which package it is in.

use std::{fs, process::Command};

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, Traffic, each_seed, end, quick_edu, run, small, status, sys};
use ntlab::{
    hot_add::NewProcessor,
    hw::qemu,
    machine::{Machine, System},
    pnp::{DeviceSpec, DeviceState, Hardware, Rebalance},
    power::SystemState,
    user,
};

/// How a request may end on a device that goes.
const GONE: &[user::Status] = &[status::DELETE_PENDING, status::NO_SUCH_DEVICE];

fn on_qemu(seed: u64, edu: DeviceSpec, scenario: impl for<'k> FnOnce(Bench<'k>)) {
    if let Err(error) = qemu::version() {
        panic!("{error}");
    }
    run(small().with_seed(seed), |system| {
        scenario(Bench::with(system, workload::package(sys()), edu.on_hardware(Hardware::Qemu)));
        end(system);
    });
}

/// The driver never had reason to take the device for stuck.
fn assert_no_timeout(bench: Bench<'_>) {
    assert_eq!(bench.events(EventKind::RequestTimeout), []);
    assert_eq!(bench.events(EventKind::DeviceReset), []);
}

#[test]
fn factorials_reads_and_writes_have_the_right_answers() {
    each_seed(2, |seed| {
        on_qemu(seed, quick_edu(), |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            traffic.run(200);
            let counts = traffic.stop_unharmed();
            assert!(counts.completed > 100, "{counts:?}");
            assert_no_timeout(bench);
        });
    });
}

#[test]
fn with_a_line_interrupt_too() {
    each_seed(1, |seed| {
        on_qemu(seed, quick_edu().with_line_interrupts_only(), |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            traffic.run(150);
            traffic.stop_unharmed();
            assert_no_timeout(bench);
        });
    });
}

#[test]
fn no_request_suffers_when_processors_are_added_and_resources_rebalanced() {
    each_seed(2, |seed| {
        on_qemu(seed, quick_edu(), |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            for processor in 2..6 {
                traffic.run(20);
                assert_eq!(bench.system.add_processor(NewProcessor::default()), Ok(processor));
                traffic.run(20);
                assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
            }
            traffic.run(40);
            bench.system.settle();
            traffic.stop_unharmed();
            assert_no_timeout(bench);
            assert_eq!(bench.edu_status().processors_steered, 6);
        });
    });
}

#[test]
fn what_the_device_holds_survives_sleep_whether_or_not_its_power_is_cut() {
    each_seed(2, |seed| {
        on_qemu(seed, quick_edu(), |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            for state in [SystemState::S3, SystemState::PseudoS4, SystemState::S3, SystemState::S3] {
                traffic.run(20);
                assert_eq!(bench.system.sleep_system(state), Ok(()));
            }
            traffic.run(40);
            traffic.stop_unharmed();
            assert_no_timeout(bench);
        });
    });
}

#[test]
fn a_transfer_of_100_milliseconds_does_not_look_like_a_device_that_is_stuck() {
    on_qemu(0, DeviceSpec::edu(), |bench| {
        let traffic = Traffic::start(bench, 2, 0);
        traffic.run(40);
        traffic.stop_unharmed();
        assert_no_timeout(bench);
    });
}

#[test]
fn every_request_ends_when_the_device_is_pulled_out() {
    each_seed(2, |seed| {
        on_qemu(seed, quick_edu(), |bench| {
            let device = bench.edu;
            loses_its_device(bench, seed, |system| device.surprise_remove(system));
        });
    });
}

#[test]
fn the_end_of_qemu_is_the_loss_of_the_device() {
    each_seed(2, |seed| {
        on_qemu(seed, quick_edu(), |bench| loses_its_device(bench, seed, |_| kill_qemu()));
    });
}

fn loses_its_device(bench: Bench<'_>, seed: u64, lose: impl FnOnce(&System)) {
    let keeper = bench.open_edu();
    let traffic = Traffic::start_expecting(bench, 8, seed, GONE);
    traffic.run(40 + seed);
    lose(bench.system);
    traffic.run(60);
    let software = bench.open_software();
    traffic.stop(|| [&keeper, &software].map(|device| workload::status(device).expect("it answers")).into());
    assert_eq!(bench.edu.state(bench.system), DeviceState::SurpriseRemoved, "a handle is open");
    drop((keeper, software));
    bench.system.settle();
    assert_eq!(bench.edu.state(bench.system), DeviceState::Removed);
}

#[test]
fn a_device_that_gets_stuck_on_request_is_refused_by_name() {
    let machine = Machine::new(small()).expect("the machine makes sense");
    let outcome = machine.run(|system| {
        let edu = quick_edu().on_hardware(Hardware::Qemu);
        Bench::with(system, workload::package(sys()), edu).edu.set_stuck(system, true);
    });
    let report = outcome.result.expect_err("real hardware cannot do it").to_string();
    assert!(report.contains("real hardware that gets stuck on request"), "{report}");
}

/// Kills the only child process that this thread has.
fn kill_qemu() {
    let children = fs::read_to_string("/proc/thread-self/children").expect("the host tells a thread's children");
    let killed = Command::new("kill").args(["-KILL", children.trim()]).status().expect("kill is there");
    assert!(killed.success(), "there is one child: {children:?}");
}
