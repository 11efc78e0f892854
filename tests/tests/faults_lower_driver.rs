//! Whatever the driver below keeps for a while, or fails, no request suffers that need not, and the device works again afterwards.

use hotadd_tests::{Bench, Traffic, each_seed, on_bench, status};
use ntlab::{
    pnp::{BusManner, BusRequest, DeviceState, Usage},
    power::SystemState,
};

/// 3 milliseconds.
const WHILE: u64 = 3_000_000;

/// Everything after which every request must have ended well.
fn disturb(bench: Bench<'_>) {
    let Bench { system, edu, software } = bench;
    system.rebalance();
    for device in [edu, software] {
        let _answer = device.query_stop(system);
        device.cancel_stop_unasked(system);
        let _answer = device.query_remove(system);
        if device.set_in_path(system, Usage::Paging, true).is_ok() {
            assert_eq!(device.set_in_path(system, Usage::Paging, false), Ok(()));
        }
    }
    let _asleep = system.sleep_system(SystemState::S3);
    let _asleep = system.sleep_system(SystemState::PseudoS4);
}

fn set_all(bench: Bench<'_>, manner: Option<BusManner>) {
    for device in [bench.edu, bench.software] {
        for request in BusRequest::ALL {
            device.set_bus_manner(bench.system, request, manner);
        }
    }
}

fn goes_on_though_the_bus(manner: BusManner) {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            set_all(bench, Some(manner));
            let traffic = Traffic::start(bench, 8, seed);
            traffic.run(20);
            disturb(bench);
            traffic.run(20);
            traffic.stop_unharmed();
            for device in [bench.edu, bench.software] {
                assert_eq!(device.disable(bench.system), Ok(()));
                assert_eq!(device.enable(bench.system), Ok(()));
            }
            for handle in [bench.open_edu(), bench.open_software()] {
                assert_eq!(workload::factorial(&handle, 6).map(|answer| answer.factorial), Ok(720));
            }
            bench.edu.surprise_remove(bench.system);
        });
    });
}

#[test]
fn every_request_is_served_though_the_bus_takes_its_time() {
    goes_on_though_the_bus(BusManner::Pends(WHILE));
}

#[test]
fn every_request_is_served_though_the_bus_is_done_in_a_dpc() {
    goes_on_though_the_bus(BusManner::PendsForDpc(WHILE));
}

#[test]
fn whatever_the_bus_fails_ends_every_request_and_lets_the_device_be_started_again() {
    let gone = &[status::DELETE_PENDING, status::NO_SUCH_DEVICE, status::DEVICE_NOT_READY, status::IO_TIMEOUT];
    for request in BusRequest::ALL.into_iter().filter(|request| request.may_fail()) {
        each_seed(2, |seed| {
            on_bench(seed, |bench| {
                let system = bench.system;
                let fails = BusManner::Fails(status::UNSUCCESSFUL);
                // A device that was given up still tells what it has counted.
                let keeper = bench.open_edu();
                let traffic = Traffic::start_expecting(bench, 8, seed, gone);
                traffic.run(20);
                bench.edu.set_bus_manner(system, request, Some(fails));
                disturb(bench);
                traffic.run(20);
                bench.edu.set_bus_manner(system, request, None);
                let software = bench.open_software();
                traffic.stop(|| {
                    [&keeper, &software].into_iter().filter_map(|device| workload::status(device).ok()).collect()
                });
                drop((keeper, software));
                system.settle();
                works_again(bench, request);
            });
        });
    }
}

/// A device that was given up can be started again, one that could not be turned on is after another sleep.
fn works_again(bench: Bench<'_>, request: BusRequest) {
    let Bench { system, edu, .. } = bench;
    if edu.state(system) != DeviceState::Started {
        assert_eq!(edu.enable(system), Ok(()), "the bus failed {request:?}");
    } else if request == BusRequest::TurnOn {
        assert_eq!(system.sleep_system(SystemState::S3), Ok(()));
    }
    let answer = workload::factorial(&bench.open_edu(), 6);
    assert_eq!(answer.map(|answer| answer.factorial), Ok(720), "the bus failed {request:?}");
}
