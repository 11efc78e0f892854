//! A driver in C without PnP (tests/c/legacy.c): `StartIo`, device queues, timers, locks, lists, memory descriptor lists, threads.

use std::path::Path;

use ntlab::{
    config::Config,
    finding::Cause,
    machine::{Machine, System},
    pnp::DriverPackage,
    report::Report,
    user::{Access, Handle, Request, Status},
};

const CANCELLED: Status = Status(0xC000_0120_u32.cast_signed());
const ACCESS_VIOLATION: Status = Status(0xC000_0005_u32.cast_signed());
const METHOD_NEITHER: u32 = 3;

const fn code(function: u32, method: u32) -> u32 {
    0x22 << 16 | (0x800 + function) << 2 | method
}

fn run<T>(seed: u64, scenario: impl for<'k> FnOnce(&'k System, &Handle<'k>) -> T) -> Result<T, Box<Report>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/legacy.c");
    let image = kit::c_driver(&source).unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys;
    let machine = Machine::new(Config { seed, ..Config::default() }).expect("a possible machine");
    machine
        .run(|system| {
            system.load(DriverPackage::new("legacy", image)).expect("DriverEntry succeeds");
            let device = system.open(r"\\.\Legacy", Access::ReadWrite).expect("it has a name");
            let done = scenario(system, &device);
            device.close();
            system.unload("legacy").expect("nothing is open");
            done
        })
        .result
}

fn run_well<T>(seed: u64, scenario: impl for<'k> FnOnce(&'k System, &Handle<'k>) -> T) -> T {
    run(seed, scenario).unwrap_or_else(|report| panic!("seed {seed}: {report}"))
}

fn ask(device: &Handle<'_>, function: u32) -> (u32, Vec<u8>) {
    let answer = device.device_control(code(function, 0), &[], 32).expect("the driver answers");
    let (number, rest) = answer.split_at(4);
    (u32::from_le_bytes(number.try_into().expect("4 bytes")), rest.to_vec())
}

/// The driver checks what the kernel says, and tells the line of the first check that fails.
fn every_check_holds(function: u32) {
    for seed in 0..4 {
        assert_eq!(run_well(seed, |_, device| ask(device, function).0), 0, "a line of legacy.c; seed {seed}");
    }
}

#[test]
fn locks_are_had_and_given_back_as_their_pages_say() {
    every_check_holds(0);
}

#[test]
fn lists_and_device_queues_keep_their_order() {
    every_check_holds(1);
}

#[test]
fn a_system_thread_is_waited_for_by_its_handle_and_has_its_priority() {
    every_check_holds(2);
}

#[test]
fn memory_that_is_locked_is_the_memory_that_is_mapped() {
    every_check_holds(3);
}

#[test]
fn start_io_serves_one_request_after_the_other_in_order() {
    run_well(3, |_, device| {
        let pending: Vec<_> =
            (1..=9).map(|byte| device.submit(Request::Write { offset: 0, data: vec![byte; 4] })).collect();
        for request in pending {
            assert_eq!(request.wait().information, 4);
        }
        let (served, order) = ask(device, 4);
        assert_eq!((served, &order[..9]), (9, &[1, 2, 3, 4, 5, 6, 7, 8, 9][..]));
    });
}

#[test]
fn a_request_that_is_cancelled_leaves_the_device_queue_wherever_it_is() {
    for seed in 0..8 {
        run_well(seed, |_, device| {
            let pending: Vec<_> =
                (1..=6).map(|byte| device.submit(Request::Write { offset: 0, data: vec![byte] })).collect();
            for request in pending.iter().skip(1).step_by(2) {
                request.cancel();
            }
            let ends: Vec<Status> = pending.into_iter().map(|request| request.wait().status).collect();
            assert_eq!(ends[0], Status::SUCCESS, "nobody cancels the first");
            assert!(ends.iter().filter(|end| **end == CANCELLED).count() >= 2, "seed {seed}: {ends:?}");
            let served = ends.iter().filter(|end| end.is_success()).count();
            assert_eq!(ask(device, 4).0, u32::try_from(served).expect("at most 6"), "seed {seed}");
        });
    }
}

#[test]
fn a_users_pages_are_locked_and_mapped_or_an_exception_says_that_they_are_not_there() {
    run_well(0, |system, device| {
        let fill = code(8, METHOD_NEITHER);
        assert_eq!(device.device_control(fill, &[], 5000), Ok(vec![0x5A; 5000]));
        let memory = system.user_memory(&[0; 100]);
        let at = |output| device.submit(Request::ControlAt { code: fill, input: (0, 0), output }).wait().status;
        assert_eq!(at((memory.address(), 100)), Status::SUCCESS);
        assert_eq!(memory.read(), [0x5A; 100]);
        assert_eq!(at((memory.address(), 5000)), ACCESS_VIOLATION, "it ends before that");
        assert_eq!(at((u64::MAX - 4095, 100)), ACCESS_VIOLATION, "not the user's");
    });
}

#[test]
fn misuse_of_a_lock_is_found() {
    for (function, parameter) in [(5, 0x1000), (6, 0x37), (7, 0xD2)] {
        let report = run(0, |_, device| ask(device, function)).expect_err("the run stops");
        let Cause::BugCheck { code, parameters } = report.finding.cause else { panic!("no verdict: {report}") };
        assert_eq!((code, parameters[0]), (0xC4, parameter), "{report}");
    }
}
