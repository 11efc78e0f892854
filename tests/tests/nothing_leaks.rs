//! After any failure of any allocation or kernel call, at any point, nothing leaks and unload succeeds.
//!
//! A driver's whole life is run again and again, and each time another kernel call fails that may fail for want of resources: in
//! DriverEntry, AddDevice, start, while processors and memory are added, rebalance, power, requests, removal. The lab stops the run where
//! anything is left behind at unload.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use hotadd_tests::{end, open, quick_edu, run, small, status, sys, with_all_seeds};
use ntlab::{
    config::Config,
    hot_add::NewProcessor,
    machine::System,
    pnp::{Device, DeviceState},
    power::SystemState,
    registry::Value,
    user::{Handle, Pending, Request},
};

/// Calls that can fail in one life, at most: the enumeration must end.
const MOST_CALLS: u64 = 4000;

/// The driver's whole life on a machine where kernel call number `n` fails, counted from when `armed` says; which one that was.
fn life(seed: u64, n: u64, armed: Armed) -> Option<&'static str> {
    let config = Config { processors: 1, ..small() };
    run(config.with_seed(seed), |system| {
        if armed == Armed::FromTheStart {
            system.fail_call(n);
        }
        system.install(workload::package(sys()).with_parameter("HighMemoryNotification", Value::dword(1)));
        let devices = [system.plug(quick_edu()), system.plug(workload::software())];
        if armed == Armed::WhenStarted {
            system.fail_call(n);
        }
        use_all(system);
        change_machine(system, devices);
        use_all(system);
        let failed = system.failed_call();
        system.fail_call(0);
        recover(system, devices);
        end(system);
        failed
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    FromTheStart,
    WhenStarted,
}

/// Uses what there is; any of it may fail.
fn use_all(system: &System) {
    for bus in ["PCI", "ROOT"] {
        let Ok(device) = open(system, bus) else { continue };
        let pending = [
            device.submit(Request::Read { offset: 8, length: 32 }),
            device.submit(Request::Read { offset: 8, length: 32 }),
            device.submit(Request::Write { offset: 8, data: vec![1; 32] }),
            device.submit(workload::journal(u64::from(u32::MAX)).0),
        ];
        let (wait, _) = workload::journal(next_event(&device));
        let waiting = device.submit(wait);
        let _answer = workload::factorial(&device, 10);
        let _ends = pending.map(Pending::wait);
        // Closing ends the wait.
        device.close();
        drop(waiting.wait());
    }
}

fn next_event(device: &Handle<'_>) -> u64 {
    workload::status(device).map_or(0, |status| status.journal_next)
}

/// Everything that can happen to a machine; any of it may fail.
fn change_machine(system: &System, devices: [Device; 2]) {
    let _added = system.add_processor(NewProcessor::default());
    let _failed = system.add_processor(NewProcessor { fails: Some(status::UNSUCCESSFUL), ..NewProcessor::default() });
    assert_eq!(system.add_memory(64 << 20, 0), Ok(()), "what the driver lacks is nothing to the machine");
    system.settle();
    system.rebalance();
    let _asleep = system.sleep_system(SystemState::S4);
    for device in devices {
        let _answer = device.query_remove(system);
        let _disabled = device.disable(system);
        let _enabled = device.enable(system);
    }
}

/// Now that nothing fails any more, everything works again.
fn recover(system: &System, devices: [Device; 2]) {
    system.settle();
    for device in devices {
        if device.state(system) != DeviceState::Started {
            assert_eq!(device.enable(system), Ok(()), "a second attempt succeeds");
        }
    }
    for bus in ["PCI", "ROOT"] {
        let device = open(system, bus).expect("a device that works opens");
        assert_eq!(workload::factorial(&device, 5).map(|answer| answer.factorial), Ok(120));
    }
    assert!(system.add_processor(NewProcessor::default()).is_ok());
}

/// Fails call after call, until there are no more; tells how often each function was made to fail.
fn fail_each(armed: Armed) -> BTreeMap<&'static str, u32> {
    let failed = RefCell::new(BTreeMap::new());
    let more = Cell::new(true);
    hotadd_tests::each_seed(MOST_CALLS, |n| {
        if !more.get() {
            return;
        }
        match life(n, n + 1, armed) {
            Some(function) => *failed.borrow_mut().entry(function).or_default() += 1,
            None => more.set(false),
        }
    });
    failed.into_inner()
}

/// Fails each call and holds that these functions were among them, so that the scenario comes to what it is for.
fn fail_each_and_among_them(armed: Armed, functions: &[&str]) {
    let failed = fail_each(armed);
    println!("made to fail: {failed:?}");
    if with_all_seeds() {
        let missing: Vec<_> = functions.iter().filter(|function| !failed.contains_key(**function)).collect();
        assert!(missing.is_empty(), "never made to fail: {missing:?}");
    }
}

#[test]
fn whichever_call_fails_from_driver_entry_on() {
    fail_each_and_among_them(
        Armed::FromTheStart,
        &[
            "AllocateCommonBuffer",
            "ExAllocateCacheAwareRundownProtection",
            "ExAllocatePool2",
            "ExAllocatePool3",
            "IoAllocateWorkItem",
            "IoConnectInterruptEx",
            "IoCreateDevice",
            "IoGetDmaAdapter",
            "IoRegisterDeviceInterface",
            "IoRegisterPlugPlayNotification",
            "KeRegisterProcessorChangeCallback",
            "MmMapIoSpaceEx",
            "PsCreateSystemThread",
        ],
    );
}

#[test]
fn whichever_call_fails_once_the_devices_work() {
    fail_each_and_among_them(
        Armed::WhenStarted,
        &["AllocateCommonBuffer", "ExAllocatePool2", "IoConnectInterruptEx", "MmMapLockedPagesSpecifyCache"],
    );
}
