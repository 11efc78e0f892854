//! Calls that fail now and then or for good, each function's or all, through the driver's whole life: nothing is lost, nothing leaks, unload succeeds.

use hotadd_tests::{Bench, each_seed, on_bench, run, small, sys};
use ntlab::{
    faults::{Fault, Lasting, Plan},
    hot_add::NewProcessor,
    pnp::DeviceState,
    power::SystemState,
};

fn lives_though(seed: u64, plan: Plan) {
    run(small().with_seed(seed).with_faults(plan), |system| workload::life::live(system, sys()));
}

#[test]
fn one_call_in_a_hundred() {
    each_seed(8, |seed| lives_though(seed, Plan::at_random(100)));
}

#[test]
fn one_call_in_ten() {
    each_seed(8, |seed| lives_though(seed, Plan::at_random(10)));
}

#[test]
fn one_allocation_in_four() {
    each_seed(8, |seed| lives_though(seed, Plan::of_function("ExAllocatePool2", 4)));
}

/// The first 1400 or so of the calls that can fail reach to the end of the driver's life.
#[test]
fn no_memory_from_some_call_on() {
    let mut failed = 0;
    for call in (1..1400).step_by(99) {
        let fault = Fault { call, failure: 0, lasting: Lasting::Memory };
        let plan = Plan { faults: vec![fault], ..Plan::default() };
        failed += run(small().with_faults(plan), |system| {
            workload::life::live(system, sys());
            system.failed_calls().len()
        });
    }
    assert!(failed > 100, "{failed} calls found no memory");
}

#[test]
fn when_nothing_fails_any_more_everything_works_again() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let Bench { system, edu, software } = bench;
            system.set_faults(Plan::at_random(20));
            for _ in 0..3 {
                let _vetoed = system.add_processor(NewProcessor::default());
                system.rebalance();
                let _asleep = system.sleep_system(SystemState::S3);
            }
            system.end_faults();
            assert!(!system.failed_calls().is_empty(), "something failed");
            system.settle();
            for device in [edu, software] {
                if device.state(system) != DeviceState::Started {
                    assert_eq!(device.enable(system), Ok(()));
                }
            }
            assert_eq!(system.sleep_system(SystemState::S3), Ok(()), "a device that stayed off comes back");
            for handle in [bench.open_edu(), bench.open_software()] {
                assert_eq!(workload::factorial(&handle, 6).map(|answer| answer.factorial), Ok(720));
            }
        });
    });
}
