//! PnP, interrupts, DMA, power and hot add, with a small function driver that says what happens to it.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use ntlab::{
    config::{Config, Group},
    events::{Event, Kind},
    hot_add::NewProcessor,
    machine::{Machine, Outcome, System},
    pnp::{Device, DeviceSpec, DeviceState, DriverPackage, PnpRequest, Rebalance, Usage},
    power::SystemState,
    report::Report,
    user::{Access, Handle, Status},
};

const UNSUCCESSFUL: Status = Status(0xC000_0001_u32.cast_signed());
const NO_SUCH_DEVICE: Status = Status(0xC000_000E_u32.cast_signed());
const SERVICE: &str = "function";
const CLASS: (u32, u16, u16, [u8; 8]) = (0x0707_0707, 0x0707, 0x0707, [7; 8]);

/// The driver of tests/guest/function.rs, compiled with these settings.
fn driver(settings: &[&str]) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().expect("no build panics");
    built.entry(settings.join("-")).or_insert_with_key(|name| build(name, settings)).clone()
}

fn build(name: &str, settings: &[&str]) -> PathBuf {
    let folder = env::current_exe().expect("a test knows its file").with_extension("guests");
    std::fs::create_dir_all(&folder).expect("the target directory is writable");
    let image = folder.join(format!("function-{name}.sys"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/function.rs");
    let output = Command::new("rustc")
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "--target=x86_64-pc-windows-msvc",
            "-Cpanic=abort",
            "-Copt-level=2",
        ])
        .args([
            "-Cdebuginfo=line-tables-only",
            "-Clinker=rust-lld",
            "-Clink-arg=/NODEFAULTLIB",
            "-Clink-arg=/SUBSYSTEM:NATIVE",
        ])
        .args([
            "-Clink-arg=/DRIVER",
            "-Clink-arg=/ENTRY:DriverEntry",
            "-Clink-arg=/DYNAMICBASE",
            "-Clink-arg=/SECTION:INIT,ERD",
        ])
        .args(["-Aunexpected_cfgs"])
        .args(settings.iter().flat_map(|setting| ["--cfg", setting]))
        .arg("-o")
        .args([&image, &source])
        .output()
        .expect("rustc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    image
}

/// Runs a scenario in a machine where the driver, compiled with these settings, is installed.
fn run_with<T>(config: Config, settings: &[&str], scenario: impl for<'k> FnOnce(&'k System) -> T) -> Outcome<T> {
    let package = DriverPackage::new(SERVICE, driver(settings)).for_ids(["PCI\\VEN_1234&DEV_11E8", "ROOT\\FUNCTION"]);
    Machine::new(config).expect("a possible machine").run(move |system| {
        system.install(package);
        scenario(system)
    })
}

fn traced() -> Config {
    Config { keep_trace: true, ..Config::default() }
}

fn run<T>(scenario: impl for<'k> FnOnce(&'k System) -> T) -> (T, Vec<String>) {
    finish(run_with(traced(), &[], scenario))
}

fn finish<T>(outcome: Outcome<T>) -> (T, Vec<String>) {
    let said = said(&outcome.events);
    let result = outcome.result.unwrap_or_else(|report| panic!("{report}"));
    (result, said)
}

/// What the driver said.
fn said(events: &[Event]) -> Vec<String> {
    let text = |event: &Event| match &event.kind {
        Kind::Print(text) => Some(text.to_string()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn only<'a>(said: &'a [String], beginning: &str) -> Vec<&'a str> {
    said.iter().map(String::as_str).filter(|line| line.starts_with(beginning)).collect()
}

/// What the lab finds in the driver with a defect.
fn finding(defect: &str, scenario: impl for<'k> FnOnce(&'k System)) -> Report {
    let outcome = run_with(traced(), &[defect], scenario);
    *outcome.result.expect_err("the defect is found")
}

fn edu(system: &System) -> Device {
    let device = system.plug(DeviceSpec::edu());
    assert_eq!(device.state(system), DeviceState::Started);
    device
}

#[test]
fn a_device_is_added_filtered_started_and_asked_and_unknown_requests_pass_through() {
    let (_, said) = run(edu);
    let pnp: Vec<_> = said.iter().filter(|line| line.starts_with("pnp") || line.starts_with("add")).collect();
    assert_eq!(pnp, ["add device", "pnp d", "pnp 0", "pnp 9", "pnp 14", "pnp 7", "pnp ff"]);
    assert_eq!(only(&said, "connected"), ["connected version 3 identification 10000ed buffer low"]);
}

#[test]
fn a_device_that_no_driver_is_installed_for_waits_for_one() {
    let outcome = Machine::new(Config::default()).expect("a possible machine").run(|system| {
        let device = system.plug(DeviceSpec::software("ROOT\\FUNCTION"));
        assert_eq!(device.state(system), DeviceState::NoDriver);
        system.install(DriverPackage::new(SERVICE, driver(&[])).for_ids(["ROOT\\FUNCTION"]));
        device.state(system)
    });
    assert_eq!(outcome.result.expect("no finding"), DeviceState::Started);
}

#[test]
fn existing_processors_get_add_start_all_of_them_then_add_complete() {
    let (_, said) = run(edu);
    let expected = ["state 0 index 0", "state 0 index 1", "state 1 index 0", "state 1 index 1"];
    let told: Vec<_> =
        only(&said, "processor").iter().map(|line| line["processor ".len()..][..15].to_owned()).collect();
    assert_eq!(told, expected);
}

fn open(system: &System) -> Handle<'_> {
    system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled")
}

/// Has the device raise an interrupt `times` times, and says how many the driver counted.
fn raise(system: &System, times: u64) -> u64 {
    let handle = open(system);
    for _ in 0..times {
        handle.device_control(0x8000_2000, &[], 8).expect("the driver answers");
        system.sleep(1_000_000);
    }
    let output = handle.device_control(0x8000_2000, &[], 8).expect("the driver answers");
    system.sleep(1_000_000);
    handle.close();
    u64::from_le_bytes(output.try_into().expect("eight bytes"))
}

#[test]
fn interrupts_reach_every_active_processor_and_a_new_one_only_after_the_rebalance() {
    let ((before, after), said) = run(|system| {
        let edu = edu(system);
        assert_eq!(raise(system, 60), 60);
        let before = edu.interrupt_counts(system);
        assert_eq!(system.add_processor(NewProcessor::default()), Ok(2));
        assert_eq!(edu.interrupts(system)[0].affinity, 0b111);
        raise(system, 90);
        (before, edu.interrupt_counts(system))
    });
    assert_eq!(before.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(after.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(after.values().sum::<u64>(), 60 + 1 + 90 + 1);
    let pnp: Vec<_> =
        only(&said, "pnp").into_iter().skip_while(|line| *line != "pnp 5").filter(|line| *line != "pnp d").collect();
    assert_eq!(pnp, ["pnp 5", "pnp 4", "pnp 0"]);
}

#[test]
fn a_line_is_served_as_well_as_messages_with_the_fallback_routine() {
    let (counted, said) = run(|system| {
        let device = system.plug(DeviceSpec::edu().with_line_interrupts_only());
        assert_eq!(device.rebalance(system), Rebalance::Restarted);
        raise(system, 50)
    });
    assert_eq!(counted, 50);
    assert!(only(&said, "connected")[0].starts_with("connected version 2"), "{said:?}");
}

#[test]
fn dma_reaches_memory_and_the_device_buffer() {
    let (byte, _) = run(|system| {
        edu(system);
        open(system).device_control(0x8000_2008, &[0xA5], 1).expect("the transfers end")
    });
    assert_eq!(byte, [0xA5]);
}

#[test]
fn a_device_without_resources_is_asked_to_stop_and_never_stopped() {
    let (outcome, said) = run(|system| {
        let device = system.plug(DeviceSpec::software("ROOT\\FUNCTION"));
        assert_eq!(device.state(system), DeviceState::Started);
        device.rebalance(system)
    });
    assert_eq!(outcome, Rebalance::NotStopped);
    assert_eq!(only(&said, "pnp")[6..], ["pnp 5", "pnp 6"]);
}

#[test]
fn whoever_refuses_to_stop_cancels_the_stop_of_all() {
    let (rebalanced, said) = finish(run_with(traced(), &["refuses_stop"], |system| {
        edu(system);
        system.plug(DeviceSpec::edu());
        system.rebalance()
    }));
    assert_eq!(rebalanced, [Rebalance::Refused(UNSUCCESSFUL); 2]);
    let pnp: Vec<_> =
        only(&said, "pnp").into_iter().filter(|line| ["pnp 4", "pnp 5", "pnp 6"].contains(line)).collect();
    assert_eq!(pnp, ["pnp 5", "pnp 6"]);
}

#[test]
fn the_rebalance_policy_decides_who_takes_part_after_a_hot_add_and_only_then() {
    let (outcome, said) = run(|system| {
        let device = system.plug(DeviceSpec::edu().with_rebalance_policy(1));
        system.add_processor(NewProcessor::default()).expect("nobody refuses");
        assert_eq!(device.interrupts(system)[0].affinity, 0b11);
        device.rebalance(system)
    });
    assert_eq!(outcome, Rebalance::Restarted);
    assert_eq!(only(&said, "pnp 4").len(), 1);
}

#[test]
fn a_device_whose_restart_fails_is_removed_once_its_last_handle_is_closed() {
    let (state, said) = run(|system| {
        let device = edu(system);
        let handle = open(system);
        device.fail_next_start(system);
        assert_eq!(device.rebalance(system), Rebalance::RestartFailed(UNSUCCESSFUL));
        system.settle();
        assert_eq!(device.state(system), DeviceState::SurpriseRemoved);
        handle.close();
        system.settle();
        let failed = device.state(system);
        assert_eq!(device.enable(system), Ok(()));
        failed
    });
    assert_eq!(state, DeviceState::Failed(UNSUCCESSFUL));
    let pnp = only(&said, "pnp");
    let end: Vec<_> = pnp.iter().skip_while(|line| **line != "pnp 17").take(2).collect();
    assert_eq!(end, [&"pnp 17", &"pnp 2"]);
}

#[test]
fn a_device_pulled_out_is_removed_and_its_registers_read_as_ones() {
    let (state, said) = run(|system| {
        let device = edu(system);
        device.surprise_remove(system);
        system.settle();
        device.state(system)
    });
    assert_eq!(state, DeviceState::Removed);
    assert_eq!(only(&said, "pnp")[6..], ["pnp 17", "pnp 2"]);
}

#[test]
fn an_open_device_cannot_be_disabled_and_a_closed_one_can_and_comes_back() {
    let ((), said) = run(|system| {
        let device = edu(system);
        let handle = open(system);
        assert!(device.disable(system).is_err());
        handle.close();
        assert_eq!(device.disable(system), Ok(()));
        assert_eq!(device.state(system), DeviceState::Disabled);
        assert_eq!(device.enable(system), Ok(()));
        assert_eq!(device.state(system), DeviceState::Started);
    });
    let pnp: Vec<_> = only(&said, "pnp")[6..].iter().take(4).copied().collect();
    assert_eq!(pnp, ["pnp 1", "pnp 3", "pnp 1", "pnp 2"]);
}

#[test]
fn a_device_that_agreed_to_go_is_not_opened_until_it_is_told_that_it_stays() {
    run(|system| {
        let device = edu(system);
        let open_again = || system.open_interface(CLASS, 0, Access::ReadWrite).map(Handle::close);
        assert_eq!(device.send(system, PnpRequest::QueryRemove), Ok(()));
        assert_eq!(open_again(), Err(NO_SUCH_DEVICE));
        assert_eq!(device.send(system, PnpRequest::CancelRemove), Ok(()));
        assert_eq!(open_again(), Ok(()));
    });
}

#[test]
fn the_driver_is_unloaded_when_its_registrations_are_gone() {
    let ((), said) = run(|system| {
        edu(system);
        assert_eq!(system.unload(SERVICE), Ok(()));
        assert!(!system.is_loaded(SERVICE));
    });
    assert_eq!(only(&said, "unload"), ["unload"]);
}

#[test]
fn a_veto_keeps_the_processor_out_and_others_come_in() {
    run(|system| {
        edu(system);
        open(system)
            .device_control(0x8000_2004, &2_u32.to_le_bytes(), 0)
            .expect("the driver takes the processor to veto");
        assert_eq!(system.add_processor(NewProcessor::default()), Err(UNSUCCESSFUL));
        assert_eq!(system.add_processor(NewProcessor { place: Some(3), ..NewProcessor::default() }), Ok(3));
    });
}

#[test]
fn a_processor_that_does_not_start_is_reported_as_failure() {
    let (added, said) = run(|system| {
        edu(system);
        system.add_processor(NewProcessor { fails: Some(UNSUCCESSFUL), ..NewProcessor::default() })
    });
    assert_eq!(added, Err(UNSUCCESSFUL));
    let told = only(&said, "processor");
    assert_eq!(told[4..], ["processor state 0 index 2 group 0 number 2", "processor state 2 index 2 group 0 number 2"]);
}

#[test]
fn the_arrival_of_a_processor_is_told_before_or_after_add_complete_depending_on_the_seed() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let ((), said) = finish(run_with(traced().with_seed(seed), &[], |system| {
            edu(system);
            system.add_processor(NewProcessor::default()).expect("nobody refuses");
            system.settle();
        }));
        let arrival = said.iter().position(|line| line == "arrival").expect("it is told");
        let complete = said.iter().position(|line| line.starts_with("processor state 1 index 2")).expect("it is told");
        orders.insert(arrival < complete);
    }
    assert_eq!(orders.len(), 2);
}

#[test]
fn existing_interfaces_are_told_once_or_twice_to_who_asks_for_them() {
    let mut told = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let ((), said) = finish(run_with(traced().with_seed(seed), &["asks_for_existing"], |system| {
            edu(system);
            system.settle();
        }));
        told.insert(only(&said, "arrival").len());
    }
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn groups_and_gaps_show_in_the_processor_number() {
    let groups = vec![Group::new(0b1011), Group::new(0b110)];
    let config = Config { processors: 3, groups, ..traced() };
    let (added, said) = finish(run_with(config, &[], |system| {
        edu(system);
        system.add_processor(NewProcessor::default())
    }));
    assert_eq!(added, Ok(3));
    assert_eq!(
        only(&said, "processor state 0 index")[2..],
        ["processor state 0 index 2 group 0 number 3", "processor state 0 index 3 group 1 number 1"]
    );
}

#[test]
fn the_processors_of_a_module_are_all_told_before_the_one_rebalance_that_follows() {
    let (added, said) = run(|system| {
        edu(system);
        system.add_processors(vec![NewProcessor::default(); 3])
    });
    assert_eq!(added, [Ok(2), Ok(3), Ok(4)]);
    assert_eq!(only(&said, "processor state 1").len(), 5);
    let stop = said.iter().position(|line| line == "pnp 5");
    assert!(stop > said.iter().rposition(|line| line.starts_with("processor state")), "{said:?}");
    assert_eq!(only(&said, "pnp 5").len(), 1);
}

#[test]
fn every_one_of_many_devices_finds_a_place_for_its_registers() {
    let places = run(|system| {
        let plug = |_| system.plug(DeviceSpec::pci(0x1234, 0x11E8, 0x10_0000)).state(system);
        (0..100).map(plug).collect::<Vec<_>>()
    });
    assert_eq!(places.0, [DeviceState::Started; 100]);
}

#[test]
fn two_thousand_processors_can_be_added_one_by_one() {
    let config = Config::new(2, 2048).expect("possible");
    let outcome = run_with(config, &[], |system| {
        let device = edu(system);
        for index in 2..2048 {
            assert_eq!(system.add_processor(NewProcessor::default()), Ok(index));
        }
        system.settle();
        device.interrupts(system)[0].affinity
    });
    assert_eq!(outcome.result.expect("no finding"), u64::MAX);
}

#[test]
fn whatever_the_seed_devices_come_through_additions_rebalances_and_sleep() {
    for seed in 0..40 {
        let ((), said) = finish(run_with(traced().with_seed(seed), &[], |system| {
            let device = system.plug(DeviceSpec::edu().with_scarce_messages());
            for _ in 0..3 {
                system.add_processor(NewProcessor::default()).expect("nobody refuses");
                raise(system, 3);
            }
            system.sleep_system(SystemState::S3).expect("nobody refuses");
            assert_eq!(device.rebalance(system), Rebalance::Restarted);
            raise(system, 3);
            system.unload(SERVICE).expect("nothing holds it");
            system.settle();
        }));
        assert_eq!(only(&said, "unload").len(), 1, "seed {seed}");
    }
}

#[test]
fn sleep_takes_devices_to_d3_and_back() {
    let ((), said) = run(|system| {
        edu(system);
        for state in [SystemState::S3, SystemState::S4, SystemState::PseudoS4] {
            assert_eq!(system.sleep_system(state), Ok(()));
        }
        assert!(raise(system, 5) >= 5);
    });
    let power = only(&said, "power");
    assert_eq!(power[..5], ["power 3 S3", "power 2 S3", "power 2 D3", "power 2 S0", "power 2 D0"]);
    assert_eq!(power[5..10], ["power 3 S4", "power 2 S4", "power 2 D3", "power 2 S0", "power 2 D0"]);
}

#[test]
fn a_file_in_the_path_is_told_to_the_driver() {
    let (told, said) = run(|system| edu(system).set_in_path(system, Usage::Paging, true));
    assert_eq!(told, Ok(()));
    assert_eq!(only(&said, "pnp").last(), Some(&"pnp 16"));
}

#[test]
fn same_seed_same_trace() {
    let trace = || {
        let outcome = run_with(traced().with_seed(7), &[], |system| {
            edu(system);
            system.add_processor(NewProcessor::default()).expect("nobody refuses");
            raise(system, 20);
            system.settle();
        });
        outcome.events
    };
    assert_eq!(trace(), trace());
}

/// A mistake of the driver, what brings it to light, and what the lab says of it.
type Defect = (&'static str, fn(&System), &'static str);

const DEFECTS: [Defect; 13] = [
    ("defect_holds_query", rebalanced, "kept PnP request 0x05 to device 1 for 5 minutes"),
    (
        "defect_wrong_address",
        |system| {
            edu(system);
            let _ = open(system).device_control(0x8000_2008, &[0xA5], 1);
        },
        "memory that are not, or not any more, mapped for DMA",
    ),
    ("defect_fails_stop", rebalanced, "IRP_MN_STOP_DEVICE was completed with 0xc0000001"),
    ("defect_changes_unknown", rebalanced, "a driver changed the status of a PnP request that it does not know"),
    (
        "defect_disconnect_version",
        rebalanced,
        "connected as CONNECT_MESSAGE_BASED is disconnected as CONNECT_FULLY_SPECIFIED",
    ),
    ("defect_stays_connected", unloaded, "completed IRP_MN_REMOVE_DEVICE with 1 interrupts still connected"),
    ("defect_status_at_complete", added, "to OperationStatus during AddComplete; only AddStart may"),
    ("defect_writes_context", added, "wrote to its change context during AddStart"),
    ("defect_arrival_status", added, "notification callback returned 0xc0000001"),
    (
        "keeps_registration",
        unloaded,
        "is to be unloaded and has no devices to drive any more, but left behind: a PnP notification registration",
    ),
    ("defect_leaves_callback", unloaded, "left behind: a processor change callback"),
    (
        "defect_no_acknowledge",
        |system| {
            system.plug(DeviceSpec::edu().with_line_interrupts_only());
            raise(system, 1);
        },
        "stayed up through 10000 calls",
    ),
    (
        "defect_stays_in_d0",
        |system| {
            edu(system);
            let _ = system.sleep_system(SystemState::S3);
        },
        "is in D0 though",
    ),
];

fn rebalanced(system: &System) {
    edu(system).rebalance(system);
}

fn added(system: &System) {
    edu(system);
    let _ = system.add_processor(NewProcessor::default());
    system.settle();
}

fn unloaded(system: &System) {
    edu(system);
    let _ = system.unload(SERVICE);
}

#[test]
fn what_a_driver_must_not_do_is_found() {
    for (defect, scenario, sentence) in DEFECTS {
        let report = finding(defect, scenario);
        assert!(report.finding.sentence.contains(sentence), "{defect}: {}", report.finding.sentence);
    }
}
