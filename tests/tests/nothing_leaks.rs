//! After any failure of any kernel call, at any point, nothing leaks and unload succeeds.
//!
//! A driver's whole life is run again and again. Each time another call fails: every distinct stack from which the driver calls a function
//! that can fail, in each way that the function's page documents, for that call only, for that function from then on, and as the
//! beginning of the end of all memory. The lab stops the run where anything is left behind at unload.
//!
//! The test runs a part of the cases; `cargo xtask campaign` runs them all. `HOTADD_CASE` in the environment makes the test run one.

use std::{env, num::NonZero, path::Path, thread};

use hotadd_tests::{peer, small, sys};
use ntlab::config::Config;
use workload::systematic::{Broken, Case, Results, Search, Shard};

const CASE: &str = "HOTADD_CASE";
/// The test runs one case in so many.
const PART: NonZero<u32> = NonZero::new(8).expect("it is not 0");
/// The same of the driver in C that hotadd is measured against.
const PART_OF_PEER: NonZero<u32> = NonZero::new(3).expect("it is not 0");

/// Functions that are among those that can fail in a life.
const FUNCTIONS: &[&str] = &[
    "AllocateCommonBuffer",
    "EtwRegister",
    "EtwWriteTransfer",
    "ExAllocateCacheAwareRundownProtection",
    "ExAllocatePool2",
    "ExAllocatePool3",
    "IoAllocateWorkItem",
    "IoAttachDeviceToDeviceStackSafe",
    "IoConnectInterruptEx",
    "IoCreateDevice",
    "IoCreateNotificationEvent",
    "IoCsqInitializeEx",
    "IoGetDmaAdapter",
    "IoRegisterDeviceInterface",
    "IoRegisterPlugPlayNotification",
    "IoSetDeviceInterfaceState",
    "KeQueryLogicalProcessorRelationship",
    "KeRegisterProcessorChangeCallback",
    "KeSetTargetProcessorDpcEx",
    "MmGetPhysicalMemoryRanges",
    "MmGetSystemRoutineAddress",
    "MmMapIoSpaceEx",
    "MmMapLockedPagesSpecifyCache",
    "PoRequestPowerIrp",
    "PsCreateSystemThread",
    "ZwOpenKey",
    "ZwQueryValueKey",
];

fn search(sys: &Path, part: NonZero<u32>) -> Search<'_> {
    Search {
        sys,
        life: workload::life::live,
        machine: Config { processors: 1, ..small() },
        seeds: 2,
        shard: Shard { index: 0, count: part },
        threads: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    }
}

fn tell(Broken { what, case }: &Broken) -> String {
    let case = serde_json::to_string(case).expect("a case is plain data");
    format!("{what}\nto repeat this: {CASE}='{case}' cargo test --package hotadd-tests --test nothing_leaks")
}

#[test]
fn whichever_call_fails_in_whichever_way() {
    let search = search(sys(), PART);
    if let Ok(case) = env::var(CASE) {
        let case: Case = serde_json::from_str(&case).expect("HOTADD_CASE is a case");
        assert_eq!(search.run_case(&case), None);
        return;
    }
    let results = search.run(Results::default(), |results| results.broken.is_empty());
    let broken: Vec<String> = results.broken.iter().map(tell).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));

    let functions = results.functions();
    println!("{} runs; distinct calls that can fail: {functions:?}", results.runs);
    let missing: Vec<_> = FUNCTIONS.iter().filter(|function| !functions.contains_key(**function)).collect();
    assert!(missing.is_empty(), "the driver's life does not come to {missing:?}");
}

/// Functions that are among those that can fail in the life of the driver in C.
const FUNCTIONS_OF_PEER: &[&str] = &[
    "AllocateCommonBuffer",
    "EtwRegister",
    "ExAllocatePool2",
    "IoAllocateWorkItem",
    "IoAttachDeviceToDeviceStack",
    "IoConnectInterruptEx",
    "IoCreateDevice",
    "IoCsqInitializeEx",
    "IoGetDmaAdapter",
    "IoOpenDriverRegistryKey",
    "IoRegisterDeviceInterface",
    "IoRegisterPlugPlayNotification",
    "IoSetDeviceInterfaceState",
    "KeRegisterProcessorChangeCallback",
    "MmGetPhysicalMemoryRanges",
    "MmMapIoSpaceEx",
    "MmMapLockedPagesSpecifyCache",
    "PoRequestPowerIrp",
];

#[test]
fn whichever_call_fails_of_the_driver_in_c() {
    let search = search(peer(), PART_OF_PEER);
    let results = search.run(Results::default(), |results| results.broken.is_empty());
    let broken: Vec<String> = results.broken.iter().map(|broken| broken.what.clone()).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));

    let functions = results.functions();
    println!("{} runs; distinct calls that can fail: {functions:?}", results.runs);
    let missing: Vec<_> = FUNCTIONS_OF_PEER.iter().filter(|function| !functions.contains_key(**function)).collect();
    assert!(missing.is_empty(), "the driver's life does not come to {missing:?}");
}
