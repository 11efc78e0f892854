//! Drivers in a stack: filters over and under a function driver (tests/c/stack.c).

use std::path::{Path, PathBuf};

use ntlab::{
    config::Config,
    finding::Cause,
    machine::{Machine, System},
    pnp::{Device, DeviceSpec, DeviceState, DriverPackage},
    registry::Value,
    report::Report,
    user::{Access, Class, Handle, Status},
};

/// `IOCTL_TRAIL` of stack.h.
const TRAIL: u32 = 0x22 << 16 | 0x840 << 2;
const STACK_INTERFACE: Class = Class(0x5b0f_9d1c_60e2_4f0b_8f9d_2c6f_0d1b_7a31);
const STACKED: &str = r"ROOT\STACKED";

fn image(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name).with_extension("c");
    kit::c_driver(&source).unwrap_or_else(|error| panic!("{name} builds: {error:#}")).sys
}

/// A driver of a stack, which writes `place` into a trail.
fn member(service: &str, place: u32) -> DriverPackage {
    DriverPackage::new(service, image("stack")).with_parameter("Place", Value::dword(place))
}

fn function() -> DriverPackage {
    member("function", 0x50).with_parameter("Function", Value::dword(1)).for_ids([STACKED])
}

fn run<T>(seed: u64, scenario: impl FnOnce(&System) -> T) -> Result<T, Box<Report>> {
    Machine::new(Config { seed, ..Config::default() }).expect("a possible machine").run(scenario).result
}

fn run_well<T>(seed: u64, scenario: impl FnOnce(&System) -> T) -> T {
    run(seed, scenario).unwrap_or_else(|report| panic!("seed {seed}: {report}"))
}

fn plug(system: &System, packages: impl IntoIterator<Item = DriverPackage>) -> Device {
    packages.into_iter().for_each(|package| system.install(package));
    system.plug(DeviceSpec::software(STACKED))
}

fn trail(handle: &Handle<'_>) -> Vec<u8> {
    handle.device_control(TRAIL, &[0; 16], 16).expect("the function driver ends it well")[1..].to_vec()
}

#[test]
fn a_request_goes_through_upper_filters_function_driver_and_lower_filters_as_the_lists_have_them() {
    for seed in 0..8 {
        run_well(seed, |system| {
            let filtered = function().with_upper_filters(["first", "second"]).with_lower_filters(["third", "fourth"]);
            let filters = [("first", 1), ("second", 2), ("third", 3), ("fourth", 4)];
            let device =
                plug(system, filters.map(|(service, place)| member(service, place)).into_iter().chain([filtered]));
            assert_eq!(device.state(system), DeviceState::Started);

            let handle = system.open_interface(STACK_INTERFACE, 0, Access::ReadWrite).expect("it is enabled");
            assert_eq!(trail(&handle), [2, 1, 0x50, 4, 3], "from the highest driver to the lowest");
            handle.close();

            assert_eq!(device.disable(system), Ok(()));
            for service in ["first", "second", "third", "fourth", "function"] {
                if system.is_loaded(service) {
                    assert_eq!(system.unload(service), Ok(()), "{service}");
                }
            }
        });
    }
}

#[test]
fn one_filter_serves_several_stacks() {
    run_well(1, |system| {
        let filtered = function().with_upper_filters(["filter"]);
        let first = plug(system, [member("filter", 7), filtered]);
        let second = system.plug(DeviceSpec::software(STACKED));
        first.surprise_remove(system);
        let handle = system.open_interface(STACK_INTERFACE, 0, Access::ReadWrite).expect("the second device's");
        assert_eq!(trail(&handle), [7, 0x50]);
        handle.close();
        assert_eq!(second.disable(system), Ok(()));
    });
}

#[test]
fn a_device_whose_filter_fails_does_not_start_and_nothing_of_its_stack_is_left() {
    for (filters, place) in [(["good", "bad"], "over"), (["bad", "good"], "under")] {
        run_well(2, |system| {
            let bad = member("bad", 1).with_parameter("FailAdd", Value::dword(1));
            let filtered = if place == "over" {
                function().with_upper_filters(filters)
            } else {
                function().with_lower_filters(filters)
            };
            let device = plug(system, [bad, member("good", 2), filtered]);

            assert_eq!(
                device.state(system),
                DeviceState::Failed("STATUS_INSUFFICIENT_RESOURCES".parse().expect("known"))
            );
            for service in ["bad", "good", "function"] {
                if system.is_loaded(service) {
                    assert_eq!(system.unload(service), Ok(()), "{service} has no device");
                }
            }
        });
    }
}

#[test]
fn a_filter_that_is_not_installed_keeps_the_device_from_starting() {
    run_well(3, |system| {
        let device = plug(system, [function().with_lower_filters(["nobody"])]);
        let missing: Status = "STATUS_OBJECT_NAME_NOT_FOUND".parse().expect("known");
        assert_eq!(device.state(system), DeviceState::Failed(missing));
    });
}

#[test]
fn a_filter_that_stays_attached_after_its_device_was_removed_is_found() {
    let found = run(4, |system| {
        let filter = member("filter", 1).with_parameter("StayAttached", Value::dword(1));
        let device = plug(system, [filter, function().with_upper_filters(["filter"])]);
        device.disable(system)
    });
    let report = found.expect_err("it is still attached");
    let Cause::BugCheck { code, parameters } = report.finding.cause else { panic!("{report}") };
    assert_eq!((code, parameters[0]), (0xC9, 0x21E), "a driver has not deleted its device object: {report}");
}
