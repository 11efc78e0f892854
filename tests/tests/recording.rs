//! A recording of a run: what the lab saw is what the driver counted, and it depends on the seed alone.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode, sync::LazyLock};

use hotadd_abi::EventKind;
use hotadd_tests::sys;
use recording::{
    ActivityKind, Origin, Recording,
    derived::{Added, Ending},
};
use workload::MachineOptions;
use xtask::demo::{self, Options};

/// The recording of a demo with few requests in flight, as it is written to the file `name`.
fn record(name: &str) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let record = Some(file.clone());
    let options = Options {
        machine: MachineOptions { seed: Some(7), requests: 8, ..MachineOptions::default() },
        record,
        quiet: true,
        ..Options::default()
    };
    let code = demo::run(&options, || Ok(sys().to_owned())).expect("the demo runs");
    assert_eq!(code, ExitCode::SUCCESS, "every promise is kept");
    fs::read_to_string(file).expect("the recording is there")
}

static TEXT: LazyLock<String> = LazyLock::new(|| record("recording.json"));
static RECORDING: LazyLock<Recording> = LazyLock::new(|| Recording::from_json(&TEXT).expect("it can be read"));

#[test]
fn two_runs_with_the_same_seed_are_recorded_byte_for_byte_alike() {
    assert!(*TEXT == record("again.json"), "the two recordings of seed 7 differ");
}

#[test]
fn its_requests_are_those_that_the_driver_counted() {
    let after = RECORDING.after();
    for device in &after.devices {
        let requests = RECORDING.requests.iter().filter(|request| request.device == device.number);
        let succeeded = requests.clone().filter(|request| request.status == 0).count() as u64;
        assert_eq!((requests.count() as u64, succeeded), (device.accepted, device.completed), "{}", device.name);
    }
    let mut finished: BTreeMap<u32, u64> = BTreeMap::new();
    for request in &RECORDING.requests {
        *finished.entry(request.processor.expect("the lab knows it")).or_default() += 1;
    }
    let counted: u64 = after.processors.iter().map(|processor| processor.requests).sum();
    assert!(counted > 100);
    assert_eq!(finished.keys().copied().collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}

#[test]
fn its_interrupts_and_dpcs_cover_those_that_the_driver_counted() {
    for processor in &RECORDING.after().processors {
        let of = |kind| {
            let activities = RECORDING.activities.iter();
            activities.filter(|activity| (activity.kind, activity.processor) == (kind, processor.index)).count() as u64
        };
        let (interrupts, dpcs) = (of(ActivityKind::Interrupt), of(ActivityKind::Dpc));
        assert_eq!(interrupts, processor.interrupts, "interrupts of processor {}", processor.index);
        assert!(dpcs >= processor.dpcs, "{dpcs} DPCs of processor {}, not {}", processor.index, processor.dpcs);
    }
}

#[test]
fn activities_of_a_processor_nest() {
    for processor in 0..8 {
        let mut open: Vec<u64> = Vec::new();
        for activity in RECORDING.activities.iter().filter(|activity| activity.processor == processor) {
            while open.last().is_some_and(|&end| end <= activity.begin) {
                open.pop();
            }
            assert!(open.last().is_none_or(|&end| activity.end <= end), "{activity:?} outlasts what it interrupted");
            open.push(activity.end);
        }
    }
}

#[test]
fn additions_holds_and_rebalances_follow_from_its_journal() {
    let added: Vec<Added> = RECORDING.hot_adds().iter().map(|hot_add| hot_add.what).collect();
    let processors = added.iter().filter(|what| matches!(what, Added::Processor { .. })).count();
    assert_eq!((processors, added.len()), (6, 8), "{added:?}");
    let holds = RECORDING.holds();
    assert_eq!(holds.len(), RECORDING.events_of(EventKind::GateOpened).count() - 2, "two of them were a first start");
    assert!(holds.iter().all(|hold| hold.duration() > 0 && hold.drained.is_some()));
    let rebalances = RECORDING.rebalances();
    let ended = |ending| rebalances.iter().filter(|rebalance| rebalance.ending == ending).count();
    assert_eq!((ended(Ending::Restarted), ended(Ending::Cancelled), rebalances.len()), (6, 6, 12));
    let last = rebalances.iter().rfind(|rebalance| rebalance.affinity.is_some()).expect("the edu was restarted");
    assert_eq!(last.affinity, Some((0, 0xFF)));
}

#[test]
fn it_tells_where_it_comes_from_and_the_machine_before_and_after() {
    let Origin::Lab { seed: 7, command: Some(command) } = &RECORDING.origin else { panic!("{:?}", RECORDING.origin) };
    assert!(command.starts_with("cargo xtask demo --seed 7 "), "{command}");
    let counts: Vec<usize> = RECORDING.snapshots.iter().map(|snapshot| snapshot.processors.len()).collect();
    assert_eq!(counts, [2, 2, 8, 8]);
    assert_eq!(RECORDING.after().memory_bytes - RECORDING.before().memory_bytes, 4 << 30);
    assert_eq!(RECORDING.missed, 0);
    assert!(RECORDING.samples.iter().any(|sample| sample.held > 0));
    assert!(RECORDING.samples.iter().any(|sample| sample.in_flight > 0));
}
