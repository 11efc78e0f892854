//! Every accepted request completes exactly once, with the right result, whatever is added, stopped, cancelled, failed or unplugged
//! meanwhile. The driver in C that hotadd is measured against does so too.

use hotadd_abi::{INTERFACE_CLASS, IOCTL_HOTADD_FACTORIAL, Wire};
use hotadd_tests::{Bench, Traffic, each_seed, on_each_driver, status};
use ntlab::{
    config::Config,
    hot_add::NewProcessor,
    pnp::{DeviceState, Rebalance},
    power::SystemState,
    user::{self, Handle, Pending, Request},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a request that nobody cancelled may end on a device that goes.
const GONE: &[user::Status] = &[status::DELETE_PENDING, status::NO_SUCH_DEVICE];

fn factorial(number: u32) -> Request {
    let mut input = vec![0; hotadd_abi::FactorialInput::SIZE];
    input[..4].copy_from_slice(&number.to_le_bytes());
    Request::Control { code: IOCTL_HOTADD_FACTORIAL, input, output: hotadd_abi::FactorialOutput::SIZE }
}

#[test]
fn while_processors_and_memory_are_added() {
    on_each_driver(12, |bench, seed| {
        let traffic = Traffic::start(bench, 16, seed);
        for processor in 2..8 {
            traffic.run(20);
            assert_eq!(bench.system.add_processor(NewProcessor::default()), Ok(processor));
            if processor % 3 == 0 {
                assert_eq!(bench.system.add_memory(256 << 20, 0), Ok(()));
            }
        }
        traffic.run(60);
        bench.system.settle();
        let counts = traffic.stop_unharmed();
        assert!(counts.completed >= 100 && counts.cancelled > 0, "there was load: {counts:?}");
        assert_eq!(bench.edu_status().processors_steered, 8);
        assert_eq!(bench.edu_status().rebalances, 6, "one for each processor");
    });
}

#[test]
fn whatever_the_administrator_does_meanwhile() {
    on_each_driver(24, |bench, seed| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let traffic = Traffic::start(bench, 12, seed);
        for _ in 0..10 {
            traffic.run(random.random_range(1..30));
            disturb(bench, random.random_range(0..10));
        }
        traffic.run(40);
        traffic.stop_unharmed();
    });
}

/// One of the things that no request may suffer from.
fn disturb(bench: Bench<'_>, what: u32) {
    let Bench { system, edu, software } = bench;
    match what {
        0 => {
            let _full = system.add_processor(NewProcessor::default());
        }
        1 => assert_eq!(system.add_memory(256 << 20, 0), Ok(())),
        2 => assert_eq!(system.rebalance(), [Rebalance::Restarted, Rebalance::NotStopped]),
        3 => assert_eq!(edu.rebalance(system), Rebalance::Restarted),
        4 => assert_eq!(edu.query_stop(system), Ok(())),
        5 => software.cancel_stop_unasked(system),
        // It is open, so the query ends in a cancel.
        6 => assert_eq!(edu.query_remove(system), Err(status::DEVICE_BUSY)),
        7 => assert_eq!(software.disable(system), Err(status::DEVICE_BUSY)),
        8 => assert_eq!(system.sleep_system(SystemState::PseudoS4), Ok(())),
        _ => assert_eq!(system.sleep_system(SystemState::S3), Ok(())),
    }
}

#[test]
fn when_its_handle_is_closed() {
    on_each_driver(12, |bench, _| {
        let mut ends = [0; 2];
        for round in 0..6 {
            for device in [bench.open_edu(), bench.open_software()] {
                let pending = [0, 1, 2, 3, 4, 5, 6, 7].map(|number| device.submit(factorial(number)));
                let meanwhile = (round % 2 == 0).then(|| device.submit(Request::Read { offset: 0, length: 64 }));
                device.close();
                for pending in pending.into_iter().chain(meanwhile) {
                    match pending.wait().status {
                        user::Status::SUCCESS => ends[0] += 1,
                        status::CANCELLED => ends[1] += 1,
                        other => panic!("a request of a closed handle ended with {other}"),
                    }
                }
            }
        }
        let statuses = bench.statuses();
        let counted = |of: fn(&hotadd_abi::Status) -> u64| statuses.iter().map(of).sum::<u64>();
        assert_eq!([counted(|status| status.completed), counted(|status| status.cancelled)], ends);
        assert!(ends[1] > 0, "closing cancels what waits");
    });
}

#[test]
fn when_the_device_is_unplugged() {
    on_each_driver(24, |bench, seed| {
        let keeper = bench.open_edu();
        let traffic = Traffic::start_expecting(bench, 12, seed, GONE);
        traffic.run(30 + seed);
        bench.edu.surprise_remove(bench.system);
        traffic.run(60);
        let links = bench.system.interfaces(INTERFACE_CLASS);
        assert!(links.len() == 1 && !links[0].contains("PCI"), "its interface is gone: {links:?}");
        let software = bench.open_software();
        traffic.stop(|| vec![workload::status(&keeper), workload::status(&software)].into_iter().flatten().collect());
        assert_eq!(bench.edu.state(bench.system), DeviceState::SurpriseRemoved, "a handle is open");
        drop((keeper, software));
        bench.system.settle();
        assert_eq!(bench.edu.state(bench.system), DeviceState::Removed);
    });
}

#[test]
fn when_the_device_does_not_answer() {
    on_each_driver(6, |bench, seed| {
        let traffic = Traffic::start_sparse(bench, 8, seed, &[status::IO_TIMEOUT]);
        for _ in 0..2 {
            traffic.run(20);
            bench.edu.set_stuck(bench.system, true);
            let before = bench.edu_status().timeouts;
            while bench.edu_status().timeouts == before {
                bench.system.sleep(1_000_000_000);
            }
            bench.edu.set_stuck(bench.system, false);
            let completed = bench.edu_status().completed;
            while bench.edu_status().completed < completed + 10 {
                bench.system.sleep(1_000_000_000);
            }
        }
        let counts = traffic.stop(|| bench.statuses());
        assert_eq!(counts.failed, bench.edu_status().failed, "each time-out is told to one caller");
        assert!(counts.failed >= 2);
    });
}

#[test]
fn when_the_device_does_not_answer_and_is_rebalanced() {
    on_each_driver(6, |bench, seed| {
        let traffic = Traffic::start_sparse(bench, 8, seed, &[status::IO_TIMEOUT]);
        traffic.run(20);
        bench.edu.set_stuck(bench.system, true);
        bench.system.sleep(1_000_000);
        let system = bench.system;
        system.spawn("repair", move |system| {
            system.sleep(15_000_000_000);
            bench.edu.set_stuck(system, false);
        });
        // The drain ends, because the watchdog ends what is in flight.
        assert_eq!(bench.edu.rebalance(system), Rebalance::Restarted);
        traffic.run(50);
        traffic.stop(|| bench.statuses());
    });
}

#[test]
fn when_the_device_cannot_be_started_again() {
    on_each_driver(12, |bench, seed| {
        let keeper = bench.open_edu();
        let traffic = Traffic::start_expecting(bench, 12, seed, GONE);
        traffic.run(30);
        bench.edu.fail_next_start(bench.system);
        assert_eq!(bench.edu.rebalance(bench.system), Rebalance::RestartFailed(status::UNSUCCESSFUL));
        traffic.run(60);
        let software = bench.open_software();
        traffic.stop(|| vec![workload::status(&keeper), workload::status(&software)].into_iter().flatten().collect());
        drop((keeper, software));
        bench.system.settle();
        assert_eq!(bench.edu.state(bench.system), DeviceState::Failed(status::UNSUCCESSFUL));
        assert_eq!(bench.edu.enable(bench.system), Ok(()), "the next start succeeds");
        assert_eq!(workload::factorial(&bench.open_edu(), 4).map(|answer| answer.factorial), Ok(24));
    });
}

#[test]
fn when_devices_are_disabled_and_enabled_in_between() {
    on_each_driver(6, |bench, seed| {
        for round in 0..3 {
            let traffic = Traffic::start(bench, 8, seed + round);
            traffic.run(40);
            // The driver counts anew with each life of a device.
            traffic.stop_unharmed();
            for device in [bench.edu, bench.software] {
                assert_eq!(device.disable(bench.system), Ok(()));
                assert_eq!(device.state(bench.system), DeviceState::Disabled);
                assert_eq!(device.enable(bench.system), Ok(()));
            }
        }
    });
}

/// Cancels requests at every stage: before they pass the gate, while they wait for their turn, while the device works on them.
#[test]
fn when_it_is_cancelled_at_any_stage() {
    on_each_driver(16, |bench, seed| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let handle = bench.open_edu();
        let mut cancelled = 0;
        for _ in 0..8 {
            let pending: Vec<_> = (0..6).map(|number| handle.submit(factorial(number + 20))).collect();
            bench.system.sleep(random.random_range(0..200_000));
            cancelled += cancel_some(&pending, &mut random);
            ends_once(pending, &handle);
        }
        let status = bench.edu_status();
        assert_eq!(status.completed + status.cancelled, 48 + 8);
        assert!(status.cancelled <= cancelled, "only what was cancelled ends as cancelled");
    });
}

fn cancel_some(pending: &[Pending<'_>], random: &mut ChaCha8Rng) -> u64 {
    let chosen = pending.iter().filter(|_| random.random_range(0..2) == 0);
    chosen.map(|pending| u64::from(pending.cancel())).sum()
}

/// Each has ended with its own answer or as cancelled, and the device goes on.
fn ends_once(pending: Vec<Pending<'_>>, handle: &Handle<'_>) {
    for (number, pending) in (20..).zip(pending) {
        let done = pending.wait();
        if done.status != status::CANCELLED {
            let expected = (1..=number).fold(1_u32, u32::wrapping_mul).to_le_bytes();
            assert_eq!((done.status, &done.output[..4]), (user::Status::SUCCESS, &expected[..]));
        }
    }
    assert!(workload::factorial(handle, 3).is_ok());
}

#[test]
fn with_the_smallest_machine_there_is() {
    each_seed(4, |seed| {
        let config = Config { memory: 4 << 30, ..Config::new(1, 1).expect("one processor") };
        hotadd_tests::run(config.with_seed(seed), |system| {
            let bench = Bench::new(system);
            let traffic = Traffic::start(bench, 6, seed);
            traffic.run(50);
            traffic.stop_unharmed();
            bench.end();
        });
    });
}
