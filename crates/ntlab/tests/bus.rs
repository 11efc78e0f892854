//! A bus driver that reports children (tests/c/bus.c), with a function driver and a filter for each child (tests/c/stack.c).

use std::path::{Path, PathBuf};

use ntlab::{
    config::Config,
    events::{Event, Kind},
    finding::Cause,
    machine::{Machine, System},
    pnp::{Device, DeviceSpec, DeviceState, DriverPackage},
    power::SystemState,
    registry::Value,
    report::Report,
    rule::Rule,
    user::{Access, Class, Handle},
};

/// Control codes of stack.h.
const fn code(function: u32) -> u32 {
    0x22 << 16 | (0x800 + function) << 2
}
const TRAIL: u32 = code(0x40);
const PLUG: u32 = code(0x50);
const UNPLUG: u32 = code(0x51);
const EJECT: u32 = code(0x52);
const STACK_INTERFACE: Class = Class(0x5b0f_9d1c_60e2_4f0b_8f9d_2c6f_0d1b_7a31);
const BUS_INTERFACE: Class = Class(0x5b0f_9d1c_60e2_4f0b_8f9d_2c6f_0d1b_7a32);
const PATIENCE: u64 = 1_000_000_000;

fn image(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name).with_extension("c");
    kit::c_driver(&source).unwrap_or_else(|error| panic!("{name} builds: {error:#}")).sys
}

/// Installs function driver and filter for children, and plugs in a bus with them.
fn plug_bus(system: &System, children: u32, defect: u32) -> Device {
    let stack = |service: &str| DriverPackage::new(service, image("stack"));
    system.install(stack("filter").with_parameter("Place", Value::dword(2)));
    let function = stack("function").for_ids([r"STACK\CHILD"]).with_upper_filters(["filter"]);
    system.install(function.with_parameter("Place", Value::dword(1)).with_parameter("Function", Value::dword(1)));
    let bus = DriverPackage::new("bus", image("bus")).for_ids([r"ROOT\BUS"]);
    let bus = bus.with_parameter("Children", Value::dword(children));
    system.install(bus.with_parameter("Defect", Value::dword(defect)));
    system.plug(DeviceSpec::software(r"ROOT\BUS"))
}

fn run<T>(seed: u64, scenario: impl FnOnce(&System) -> T) -> Result<T, Box<Report>> {
    Machine::new(Config { seed, ..Config::default() }).expect("a possible machine").run(scenario).result
}

/// Runs `scenario` with a bus, and unloads every driver afterwards.
fn with_bus(children: u32, scenario: impl Fn(&System, Device)) {
    for seed in 0..6 {
        let ran = run(seed, |system| {
            let bus = plug_bus(system, children, 0);
            assert_eq!(bus.state(system), DeviceState::Started);
            scenario(system, bus);
            system.settle();
            for service in ["bus", "function", "filter"] {
                if system.is_loaded(service) {
                    assert_eq!(system.unload(service), Ok(()), "{service}");
                }
            }
        });
        ran.unwrap_or_else(|report| panic!("seed {seed}: {report}"));
    }
}

fn open(system: &System) -> Handle<'_> {
    system.open_interface(BUS_INTERFACE, 0, Access::ReadWrite).expect("the bus has an interface")
}

fn tell(system: &System, code: u32, serial: u8) {
    let bus = open(system);
    bus.device_control(code, &[serial], 0).expect("the bus does so");
    bus.close();
}

fn child(system: &System) -> Option<Handle<'_>> {
    system.open_interface(STACK_INTERFACE, 0, Access::ReadWrite).ok()
}

#[test]
fn children_that_are_there_at_the_start_get_their_drivers() {
    with_bus(0b101, |system, bus| {
        let children = bus.children(system);
        assert_eq!(children.len(), 2);
        assert!(children.iter().all(|child| child.state(system) == DeviceState::Started));
        assert_eq!(bus.child(system, "2"), Some(children[1]));
        let handle = child(system).expect("its interface is enabled");
        let trail = handle.device_control(TRAIL, &[0; 16], 16).expect("it is answered");
        assert_eq!(trail[1..], [2, 1], "filter, then function driver");
    });
}

#[test]
fn a_child_that_comes_later_is_started_and_one_that_goes_is_removed() {
    with_bus(0b1, |system, bus| {
        tell(system, PLUG, 7);
        system.settle();
        let late = bus.child(system, "7").expect("it was reported");
        assert_eq!(late.state(system), DeviceState::Started);

        tell(system, UNPLUG, 7);
        system.settle();
        assert_eq!((late.state(system), bus.children(system).len()), (DeviceState::Removed, 1));

        tell(system, PLUG, 7);
        system.settle();
        let again = bus.child(system, "7").expect("it is there again");
        assert!(again != late && again.state(system) == DeviceState::Started);
    });
}

#[test]
fn a_child_that_goes_while_it_is_open_is_removed_when_its_handle_is_closed() {
    with_bus(0b1, |system, bus| {
        let only = bus.child(system, "0").expect("it was reported");
        let handle = child(system).expect("it is enabled");
        tell(system, UNPLUG, 0);
        system.sleep(PATIENCE);
        assert_eq!(only.state(system), DeviceState::SurpriseRemoved);
        assert!(child(system).is_none(), "its interface is disabled");
        assert!(bus.disable(system).is_err(), "the bus stays as long as its child is open");
        handle.close();
        system.sleep(PATIENCE);
        assert_eq!(only.state(system), DeviceState::Removed);
    });
}

#[test]
fn a_child_whose_eject_button_is_pressed_is_removed_and_let_go() {
    with_bus(0b11, |system, bus| {
        let first = bus.child(system, "0").expect("it was reported");
        tell(system, EJECT, 0);
        system.settle();
        assert_eq!(first.state(system), DeviceState::Removed);

        let second = bus.child(system, "1").expect("it was reported");
        let handle = child(system).expect("it is enabled");
        assert!(second.eject(system).is_err(), "it is open");
        assert_eq!(second.state(system), DeviceState::Started);
        handle.close();
        assert_eq!(second.eject(system), Ok(()));
        assert_eq!(second.state(system), DeviceState::Removed);
    });
}

#[test]
fn the_children_of_a_bus_are_removed_before_it_and_asked_before_it() {
    with_bus(0b11, |system, bus| {
        let handle = child(system).expect("it is enabled");
        assert!(bus.disable(system).is_err(), "a child is open");
        assert!(bus.children(system).iter().all(|child| child.state(system) == DeviceState::Started));
        handle.close();
        assert_eq!(bus.disable(system), Ok(()));
        assert!(bus.children(system).is_empty());
        assert_eq!(bus.enable(system), Ok(()));
        assert_eq!(bus.children(system).len(), 2);
    });
}

#[test]
fn a_bus_that_is_pulled_out_takes_its_children_with_it() {
    with_bus(0b11, |system, bus| {
        let children = bus.children(system);
        let handle = child(system).expect("it is enabled");
        bus.surprise_remove(system);
        system.sleep(PATIENCE);
        assert_eq!(bus.state(system), DeviceState::SurpriseRemoved, "a child is open");
        handle.close();
        system.settle();
        assert_eq!(bus.state(system), DeviceState::Removed);
        assert!(children.iter().all(|child| child.state(system) == DeviceState::Removed));
    });
}

#[test]
fn a_bus_sleeps_after_its_children_and_wakes_before_them() {
    let ran = Machine::new(Config::default()).expect("a possible machine").run(|system| {
        let bus = plug_bus(system, 0b1, 0);
        assert_eq!(system.sleep_system(SystemState::S3), Ok(()));
        bus.children(system).len()
    });
    let order = |state: &str| -> Vec<char> {
        let what = format!("system power request 0x02 {state} to device ");
        let device = |event: &Event| match &event.kind {
            Kind::Note(note) if note.starts_with(&what) => note.chars().last(),
            _ => None,
        };
        ran.events.iter().filter_map(device).collect()
    };
    assert_eq!((order("S3"), order("S0")), (vec!['2', '1'], vec!['1', '2']));
    assert_eq!(ran.result.unwrap_or_else(|report| panic!("{report}")), 1);
}

#[test]
fn what_a_bus_driver_may_not_report_is_found() {
    let defects = [
        (1, 0xCA, 5, "without a reference"),
        (2, 0xCA, 3, "an ID with a space"),
        (3, 0xCA, 1, "two with one path"),
        (4, 0xCA, 8, "a null pointer"),
        (6, 0xCA, 4, "a deleted one"),
    ];
    for (defect, code, first, what) in defects {
        let found = run(1, |system| plug_bus(system, 0b11, defect)).expect_err(what);
        let Cause::BugCheck { code: own, parameters } = found.finding.cause else { panic!("{what}: {found}") };
        assert_eq!((own, parameters[0]), (code, first), "{what}: {found}");
    }
}

#[test]
fn a_bus_driver_that_fails_a_request_to_set_the_power_state_of_the_system_is_found() {
    let found = run(1, |system| {
        plug_bus(system, 0b1, 7);
        system.sleep_system(SystemState::S3)
    });
    let report = found.expect_err("nobody may");
    let Cause::BugCheck { code, parameters } = report.finding.cause else { panic!("{report}") };
    assert_eq!((code, parameters[0]), (0xC9, 0x247), "{report}");
    let is_named =
        report.related.iter().flat_map(|(_, stack)| stack).any(|frame| frame.function.as_deref() == Some("Dispatch"));
    assert!(is_named, "{report}");
}

#[test]
fn a_bus_driver_that_keeps_a_child_that_is_gone_is_found() {
    let found = run(1, |system| {
        plug_bus(system, 0b1, 5);
        tell(system, UNPLUG, 0);
        system.settle();
    });
    let report = found.expect_err("it has not deleted its device object");
    let Cause::BugCheck { parameters, .. } = report.finding.cause else { panic!("{report}") };
    assert_eq!(parameters[0], Rule::DeviceLeft as u64, "{report}");
}
