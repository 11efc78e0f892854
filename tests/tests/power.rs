//! Sleep, hibernation and the pseudo-hibernation of hot replace: requests wait while the device is off, and go on after it.

use std::{cell::Cell, rc::Rc};

use hotadd_abi::{EventKind, Gate, PnpState, hold};
use hotadd_tests::{Bench, Traffic, each_seed, on_bench, run, small, status, sys};
use ntlab::{
    hot_add::NewProcessor,
    pnp::{BusManner, BusRequest, DeviceSpec, Rebalance},
    power::SystemState,
    user::{self, Request},
};

const STATES: [SystemState; 3] = [SystemState::S3, SystemState::S4, SystemState::PseudoS4];

/// The `power_state` of a device that is off.
const OFF: u32 = 3;

#[test]
fn no_request_is_lost_over_any_of_them() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let traffic = Traffic::start(bench, 16, seed);
            for state in STATES {
                traffic.run(30);
                assert_eq!(bench.system.sleep_system(state), Ok(()));
                traffic.run(30);
            }
            let status = bench.edu_status();
            assert!(status.waited > 0, "requests waited meanwhile");
            assert_eq!((status.power_state, status.pnp_state), (0, PnpState::Started.code()));
            traffic.stop_unharmed();
            for kind in [EventKind::PowerDown, EventKind::PowerUp] {
                let events = bench.events(kind);
                for device in [1, 2] {
                    assert_eq!(events.iter().filter(|event| event.device == device).count(), STATES.len());
                }
                assert!(events.iter().all(|event| event.status == 0));
            }
        });
    });
}

/// How the system's sleep ended, once it has.
type Sleep = Rc<Cell<Option<Result<(), user::Status>>>>;

/// Puts the system to sleep on another thread, and returns when both devices are off.
fn begin_sleep(bench: Bench<'_>, state: SystemState) -> Sleep {
    let ended = Rc::new(Cell::new(None));
    let end = Rc::clone(&ended);
    bench.system.spawn("sleep", move |system| end.set(Some(system.sleep_system(state))));
    while bench.statuses().iter().any(|status| status.power_state != OFF) {
        bench.system.sleep(2_000_000);
    }
    ended
}

/// Waits until the system is awake again.
fn wake_up(bench: Bench<'_>, sleep: &Sleep) {
    while sleep.get().is_none() {
        bench.system.sleep(1_000_000);
    }
    assert_eq!(sleep.get(), Some(Ok(())));
}

#[test]
fn requests_that_come_while_it_is_off_wait_until_it_is_on() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let (edu, software) = (bench.open_edu(), bench.open_software());
            for state in [SystemState::S3, SystemState::S4] {
                let ended = begin_sleep(bench, state);
                let pending: Vec<_> = [&edu, &software, &edu, &software]
                    .map(|device| device.submit(Request::Read { offset: 16, length: 8 }))
                    .into();
                bench.system.sleep(200_000_000);
                assert_eq!(ended.get(), None, "it sleeps");
                assert!(pending.iter().all(|pending| !pending.is_done()));
                for status in bench.statuses() {
                    assert_eq!((status.gate, status.hold_reasons), (Gate::Holding.code(), hold::POWER));
                    assert_eq!(status.held, 2);
                }
                for pending in pending {
                    assert_eq!(pending.wait().status, user::Status::SUCCESS);
                }
                wake_up(bench, &ended);
                assert!(bench.statuses().iter().all(|status| status.last_hold_waited == 2));
            }
        });
    });
}

#[test]
fn a_request_that_waits_can_be_cancelled_and_its_handle_closed() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let (device, closed) = (bench.open_edu(), bench.open_edu());
            let ended = begin_sleep(bench, SystemState::S3);
            let cancelled = device.submit(Request::Read { offset: 0, length: 8 });
            let of_closed = closed.submit(Request::Read { offset: 0, length: 8 });
            cancelled.cancel();
            closed.close();
            assert_eq!(cancelled.wait().status, status::CANCELLED);
            assert_eq!(of_closed.wait().status, status::CANCELLED);
            assert_eq!(ended.get(), None, "it sleeps");
            assert_eq!(device.read(0, 8).map(|bytes| bytes.len()), Ok(8));
        });
    });
}

#[test]
fn a_transfer_that_is_under_way_ends_before_the_device_is_off() {
    each_seed(4, |seed| {
        run(small().with_seed(seed), |system| {
            // A transfer takes 100 ms.
            let bench = Bench::with(system, workload::package(sys()), DeviceSpec::edu());
            let device = bench.open_edu();
            for state in STATES {
                let pending = device.submit(Request::Write { offset: 0, data: vec![9; 16] });
                system.sleep(10_000_000);
                assert!(!pending.is_done());
                let ended = begin_sleep(bench, state);
                assert!(pending.is_done());
                assert_eq!(pending.wait().status, user::Status::SUCCESS);
                wake_up(bench, &ended);
                assert_eq!(device.read(0, 16), Ok(vec![9; 16]));
            }
            drop(device);
            bench.end();
        });
    });
}

#[test]
fn what_the_device_forgets_without_power_is_there_again() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let devices = [bench.open_edu(), bench.open_software()];
            let data: Vec<u8> = (0..4000_u32).map(|at| (at % 251) as u8).collect();
            for state in STATES {
                for device in &devices {
                    assert_eq!(device.write(50, &data), Ok(4000));
                }
                assert_eq!(bench.system.sleep_system(state), Ok(()));
                for device in &devices {
                    assert!(device.read(50, 4000).is_ok_and(|read| read == data), "after {state:?}");
                    assert_eq!(workload::factorial(device, 10).map(|answer| answer.factorial), Ok(3_628_800));
                }
            }
        });
    });
}

#[test]
fn processors_rebalances_and_sleep_may_alternate() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let traffic = Traffic::start(bench, 12, seed);
            for state in STATES {
                assert!(bench.system.add_processor(NewProcessor::default()).is_ok());
                assert_eq!(bench.system.sleep_system(state), Ok(()));
                assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
                traffic.run(20);
            }
            bench.system.settle();
            traffic.stop_unharmed();
            assert_eq!(bench.edu_status().processors_steered, 5);
        });
    });
}

#[test]
fn a_device_that_does_not_answer_does_not_keep_the_system_awake() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let device = bench.open_edu();
            bench.edu.set_stuck(bench.system, true);
            let pending = device.submit(Request::Read { offset: 0, length: 8 });
            bench.system.sleep(1_000_000);
            assert!(!pending.is_done());
            let ended = begin_sleep(bench, SystemState::S3);
            assert!(pending.is_done());
            assert_eq!(pending.wait().status, status::IO_TIMEOUT);
            // Without power it has forgotten what it was stuck with.
            bench.edu.set_stuck(bench.system, false);
            wake_up(bench, &ended);
            assert_eq!(device.read(0, 8).map(|bytes| bytes.len()), Ok(8));
        });
    });
}

/// Turns the system off and on with a request that comes while it sleeps: how that request ends.
fn sleep_with_a_request(bench: Bench<'_>) -> user::Status {
    let device = bench.open_edu();
    let ended = begin_sleep(bench, SystemState::S3);
    let pending = device.submit(Request::Read { offset: 0, length: 8 });
    wake_up(bench, &ended);
    pending.wait().status
}

fn stay_off(bench: Bench<'_>) {
    bench.edu.set_bus_manner(bench.system, BusRequest::TurnOn, Some(BusManner::Fails(status::UNSUCCESSFUL)));
    assert_eq!(sleep_with_a_request(bench), status::DEVICE_NOT_READY);
}

#[test]
fn a_device_that_the_bus_does_not_turn_on_gives_its_requests_back_until_it_is_on() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            stay_off(bench);
            assert_eq!(bench.open_edu().read(0, 8), Err(status::DEVICE_NOT_READY), "nor does it take others");
            bench.edu.set_bus_manner(bench.system, BusRequest::TurnOn, None);
            assert_eq!(bench.system.sleep_system(SystemState::S3), Ok(()));
            assert_eq!(bench.open_edu().read(0, 8).map(|bytes| bytes.len()), Ok(8));
        });
    });
}

/// The lab stops a driver that fails a request to set a power state.
#[test]
fn a_device_that_wakes_up_and_does_not_answer_gives_its_requests_back_and_fails_no_power_request() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            assert_eq!(bench.open_edu().write(0, b"saved"), Ok(5));
            let device = bench.open_edu();
            let ended = begin_sleep(bench, SystemState::S3);
            let pending = device.submit(Request::Read { offset: 0, length: 5 });
            bench.edu.set_stuck(bench.system, true);
            wake_up(bench, &ended);
            assert_eq!(pending.wait().status, status::DEVICE_NOT_READY);
            bench.edu.set_stuck(bench.system, false);
            assert_eq!(bench.system.sleep_system(SystemState::S3), Ok(()));
            assert_eq!(device.read(0, 5).as_deref(), Ok(&b"saved"[..]), "nothing that was saved is forgotten");
        });
    });
}

/// The lab stops a driver that touches the registers of a device that is not in D0.
#[test]
fn a_device_that_stayed_off_is_stopped_and_removed_without_a_touch() {
    type End = fn(Bench<'_>);
    let ends: [End; 3] = [
        |bench| assert_eq!(bench.edu.disable(bench.system), Ok(())),
        |bench| bench.edu.surprise_remove(bench.system),
        |bench| {
            assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
            assert_eq!(bench.open_edu().read(0, 8).map(|bytes| bytes.len()), Ok(8), "a start turns it on");
        },
    ];
    for end in ends {
        each_seed(2, |seed| {
            on_bench(seed, |bench| {
                stay_off(bench);
                end(bench);
            });
        });
        // It was on in between, and did not answer.
        each_seed(2, |seed| {
            on_bench(seed, |bench| {
                let ended = begin_sleep(bench, SystemState::S3);
                bench.edu.set_stuck(bench.system, true);
                wake_up(bench, &ended);
                bench.edu.set_stuck(bench.system, false);
                stay_off(bench);
                end(bench);
            });
        });
    }
}
