//! A driver that shares nothing with hotadd, built by the same tool chain (tests/foreign), runs in the lab like any other.

use std::{path::PathBuf, sync::OnceLock};

use ntlab::{
    config::Config,
    machine::{Machine, Outcome, System},
    pnp::{Device, DeviceSpec, DeviceState, DriverPackage, Rebalance},
    user::{Access, Handle, Status},
};

const ID: &str = "ROOT\\MAILBOX";
const SERVICE: &str = "foreign";
const CLASS: (u32, u16, u16, [u8; 8]) = (0xF04E_1617, 0x0CA5, 0x4D07, [0x9A, 0x1B, 0x3C, 0x5D, 0x7E, 0x8F, 0x90, 0xA1]);
const INVALID_BUFFER_SIZE: Status = Status(0xC000_0206_u32.cast_signed());

fn package() -> DriverPackage {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let build = || kit::driver("foreign").unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys;
    DriverPackage::new(SERVICE, IMAGE.get_or_init(build)).for_ids([ID])
}

/// Runs a scenario in a machine with a mailbox.
fn outcome<T>(seed: u64, scenario: impl for<'k> FnOnce(&'k System, Device) -> T) -> Outcome<T> {
    let config = Config { seed, keep_trace: true, ..Config::default() };
    Machine::new(config).expect("a possible machine").run(|system| {
        system.install(package());
        let device = system.plug(DeviceSpec::software(ID));
        assert_eq!(device.state(system), DeviceState::Started);
        scenario(system, device)
    })
}

fn run<T>(scenario: impl for<'k> FnOnce(&'k System, Device) -> T) -> T {
    outcome(1, scenario).result.unwrap_or_else(|report| panic!("{report}"))
}

fn open(system: &System) -> Handle<'_> {
    system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled")
}

#[test]
fn the_last_message_is_read_again_and_again_until_the_next_one() {
    run(|system, _| {
        let mailbox = open(system);
        assert_eq!(mailbox.read(0, 100), Ok(vec![]), "no message yet");
        assert_eq!(mailbox.write(0, b"first"), Ok(5));
        assert_eq!(mailbox.write(0, b"the second message"), Ok(18));
        for _ in 0..2 {
            assert_eq!(mailbox.read(0, 100), Ok(b"the second message".to_vec()));
            assert_eq!(mailbox.read(0, 3), Ok(b"the".to_vec()));
        }
        assert_eq!(mailbox.write(0, &[0; 4097]), Err(INVALID_BUFFER_SIZE));
    });
}

#[test]
fn writers_and_readers_on_several_threads_never_see_half_a_message() {
    run(|system, _| {
        for letter in b'a'..=b'd' {
            system.spawn("writer", move |system| {
                let mailbox = open(system);
                for length in 1..100 {
                    mailbox.write(0, &vec![letter; length]).expect("there is memory");
                }
            });
        }
        let mailbox = open(system);
        for _ in 0..500 {
            let message = mailbox.read(0, 100).expect("a message or none");
            assert!(message.iter().all(|letter| *letter == message[0]), "{message:?}");
        }
    });
}

#[test]
fn it_unloads_with_nothing_left_and_comes_back() {
    run(|system, device| {
        let mailbox = open(system);
        mailbox.write(0, b"not to be leaked").expect("there is memory");
        mailbox.close();
        system.unload(SERVICE).expect("nothing keeps the device or the driver");
        assert_eq!(device.state(system), DeviceState::NoDriver);
        system.install(package());
        assert_eq!(device.state(system), DeviceState::Started);
        assert_eq!(open(system).read(0, 100), Ok(vec![]));
    });
}

#[test]
fn a_handle_to_a_device_that_was_pulled_out_ends_in_errors_and_not_in_a_crash() {
    run(|system, device| {
        let mailbox = open(system);
        mailbox.write(0, b"hello").expect("there is memory");
        device.surprise_remove(system);
        assert!(mailbox.read(0, 100).is_ok(), "its driver is there until the last handle is closed");
        mailbox.close();
        system.settle();
        assert_eq!(device.state(system), DeviceState::Removed);
    });
}

#[test]
fn a_device_without_resources_is_asked_to_stop_and_then_goes_on() {
    run(|system, device| {
        assert_eq!(device.rebalance(system), Rebalance::NotStopped);
        assert_eq!(open(system).write(0, b"still here"), Ok(10));
    });
}

#[test]
fn its_trace_depends_on_the_seed_alone() {
    let trace = |seed| {
        let outcome = outcome(seed, |system, device| {
            let mailbox = open(system);
            for length in 1..50 {
                mailbox.write(0, &vec![1; length]).expect("there is memory");
            }
            mailbox.close();
            device.disable(system)
        });
        format!("{:?}", outcome.events)
    };
    assert_eq!(trace(7), trace(7));
}
