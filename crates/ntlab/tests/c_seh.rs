//! Structured exception handling and the user's own addresses, with a driver in C (tests/c/seh.c) that has no PnP.

use std::path::Path;

use ntlab::{
    config::{Config, Preemption},
    finding::Cause,
    machine::{Machine, System},
    pnp::DriverPackage,
    report::Report,
    user::{Access, Handle, Request, Status},
};

const ACCESS_VIOLATION: Status = Status(0xC000_0005_u32.cast_signed());
const DATATYPE_MISALIGNMENT: Status = Status(0x8000_0002_u32.cast_signed());
const METHOD_BUFFERED: u32 = 0;
const METHOD_NEITHER: u32 = 3;

const fn code(function: u32, method: u32) -> u32 {
    0x22 << 16 | (0x800 + function) << 2 | method
}
const COPY: u32 = code(0, METHOD_NEITHER);
const PROBE: u32 = code(12, METHOD_NEITHER);

fn run<T>(scenario: impl for<'k> FnOnce(&'k System, &Handle<'k>) -> T) -> Result<T, Box<Report>> {
    run_in(Config::default(), scenario)
}

fn run_in<T>(config: Config, scenario: impl for<'k> FnOnce(&'k System, &Handle<'k>) -> T) -> Result<T, Box<Report>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/seh.c");
    let image = kit::c_driver(&source).unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys;
    let machine = Machine::new(config).expect("a possible machine");
    machine
        .run(|system| {
            system.load(DriverPackage::new("seh", image)).expect("DriverEntry succeeds");
            let device = system.open(r"\\.\Seh", Access::ReadWrite).expect("it has a name");
            let done = scenario(system, &device);
            device.close();
            system.unload("seh").expect("nothing is open");
            done
        })
        .result
}

fn run_well<T>(scenario: impl for<'k> FnOnce(&'k System, &Handle<'k>) -> T) -> T {
    run(scenario).unwrap_or_else(|report| panic!("{report}"))
}

/// What the driver answers to one of its buffered codes: steps as text, and a number.
fn ask(device: &Handle<'_>, function: u32) -> (String, u64) {
    let answer = device.device_control(code(function, METHOD_BUFFERED), &[], 32).expect("the driver answers");
    let (steps, number) = answer.split_at(24);
    let text = steps.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
    (text, u64::from_le_bytes(number.try_into().expect("8 bytes")))
}

fn bug_check(function: u32) -> (u32, Box<Report>) {
    let report = run(|_, device| ask(device, function)).expect_err("the run stops");
    match report.finding.cause {
        Cause::BugCheck { code, .. } => (code, report),
        Cause::NotModelled | Cause::BrokenPromise => panic!("no verdict: {report}"),
    }
}

#[test]
fn filters_run_first_then_termination_handlers_from_the_inside_out_then_the_handler() {
    run_well(|_, device| assert_eq!(ask(device, 1).0, "abcdefg"));
}

#[test]
fn a_raised_status_unwinds_every_call_in_between() {
    run_well(|_, device| assert_eq!(ask(device, 2), ("0123".to_owned(), 0xC000_00A3)));
}

#[test]
fn a_filter_that_mends_the_fault_has_the_instruction_run_again() {
    run_well(|_, device| assert_eq!(ask(device, 3).1, 77));
}

#[test]
fn a_division_by_zero_is_an_exception() {
    run_well(|_, device| assert_eq!(ask(device, 4).1, 0xC000_0094));
}

#[test]
fn the_registers_of_a_function_are_its_own_again_in_its_handler() {
    run_well(|_, device| assert_eq!(ask(device, 5).1, 2 * (3 + 5 + 7 + 11 + 13) + 1 + 17));
}

#[test]
fn a_filter_that_goes_on_with_the_search_leaves_the_exception_to_the_next() {
    run_well(|_, device| assert_eq!(ask(device, 6).0, "abc"));
}

#[test]
fn an_exception_in_a_filter_can_be_handled_there() {
    run_well(|_, device| assert_eq!(ask(device, 7).0, "ab"));
}

#[test]
fn a_termination_handler_runs_when_its_block_is_left_in_any_way() {
    run_well(|_, device| assert_eq!(ask(device, 13).0, "abcd"));
}

#[test]
fn exceptions_in_stepped_code_find_the_same_handlers() {
    let config = Config { preemption: Preemption::Instructions { one_in: 5 }, ..Config::default() };
    let answers = run_in(config, |_, device| [1, 2, 3, 4, 5, 6, 7, 13].map(|function| ask(device, function)));
    let plain = run_well(|_, device| [1, 2, 3, 4, 5, 6, 7, 13].map(|function| ask(device, function)));
    assert_eq!(answers.unwrap_or_else(|report| panic!("{report}")), plain);
}

#[test]
fn an_exception_that_nobody_takes_is_a_bug_check_with_the_drivers_stack() {
    let (code, report) = bug_check(8);
    assert_eq!(code, 0x1E);
    let stack = &report.place.as_ref().expect("it happened in the machine").stack;
    let functions: Vec<&str> = stack.iter().filter_map(|frame| frame.function.as_deref()).collect();
    assert_eq!(functions, ["Store", "DispatchControl"], "{report}");
    assert!(stack[0].line.as_ref().is_some_and(|(file, _)| file.ends_with("seh.c")), "{report}");
}

#[test]
fn an_address_of_the_systems_is_a_bug_check_whatever_the_driver_handles() {
    assert_eq!(bug_check(9).0, 0xD5);
}

#[test]
fn a_users_address_at_dispatch_level_is_a_bug_check_whatever_the_driver_handles() {
    assert_ne!(bug_check(10).0, 0x1E);
}

#[test]
fn going_on_after_a_raised_status_is_a_bug_check() {
    let (code, report) = bug_check(14);
    assert_eq!(code, 0x1E);
    assert!(report.finding.sentence.contains("cannot be continued"), "{report}");
}

#[test]
fn inlined_reads_of_the_shared_page_tell_the_machines_time() {
    run_well(|system, device| {
        system.sleep(100_000_000);
        let answer = device.device_control(code(11, METHOD_BUFFERED), &[], 32).expect("the driver answers");
        let word = |at: usize| u64::from_le_bytes(answer[8 * at..8 * at + 8].try_into().expect("8 bytes"));
        assert!((1_000_000..=system.now() / 100).contains(&word(0)), "{}", word(0));
        assert!(word(1) - word(0) > 130_000_000_000_000_000, "since 1601: {}", word(1));
        assert_eq!(word(2), word(0) / 156_250);
    });
}

#[test]
fn a_driver_that_probes_gets_to_the_users_own_buffers() {
    run_well(|_, device| {
        let input: Vec<u8> = (0..200).collect();
        let output = device.device_control(COPY, &input, 300).expect("both are the user's");
        assert_eq!(output, (1..=200).collect::<Vec<u8>>());
    });
}

#[test]
fn addresses_that_are_not_the_users_end_the_request_and_nothing_else() {
    run_well(|system, device| {
        let input = system.user_memory(&[7; 100]);
        let output = system.user_memory(&[0; 100]);
        let ask = |from: (u64, u32), to: (u64, u32)| {
            device.submit(Request::ControlAt { code: COPY, input: from, output: to }).wait().status
        };
        let (from, to) = ((input.address(), 100), (output.address(), 100));
        assert_eq!(ask(from, to), Status::SUCCESS);
        assert_eq!(output.read(), [8; 100]);
        let system_address = u64::MAX - 0xFFFF;
        for (from, to) in [
            ((0, 8), to),
            (from, (0, 8)),
            ((from.0, 101), (to.0, 200)),
            ((system_address, 8), to),
            (from, (system_address, 8)),
        ] {
            assert_eq!(ask(from, to), ACCESS_VIOLATION);
        }
        drop(input);
        assert_eq!(ask(from, to), ACCESS_VIOLATION, "the memory is gone");
    });
}

#[test]
fn a_probe_checks_alignment_and_the_end_of_the_range() {
    run_well(|system, device| {
        let probe = |address: u64, length: u64, alignment: u64| {
            let words = [address, length, alignment].map(u64::to_le_bytes).concat();
            device.submit(Request::Control { code: PROBE, input: words, output: 0 }).wait().status
        };
        let memory = system.user_memory(&[0; 64]);
        let start = memory.address();
        assert_eq!(probe(start, 64, 8), Status::SUCCESS);
        assert_eq!(probe(start + 2, 4, 4), DATATYPE_MISALIGNMENT);
        assert_eq!(probe(start + 2, 4, 2), Status::SUCCESS);
        assert_eq!(probe(start, u64::MAX - start + 1, 1), ACCESS_VIOLATION, "it ends beyond all addresses");
        assert_eq!(probe(start, 1 << 46, 1), ACCESS_VIOLATION, "it ends in the system's");
        assert_eq!(probe(u64::MAX - 7, 0, 1), Status::SUCCESS, "nothing is not checked");
    });
}
