//! What the I/O manager promises drivers and user processes, tried with the driver in tests/guest/requests.rs.

use std::{path::PathBuf, sync::OnceLock};

use windows_sys::Win32::Foundation::{
    STATUS_ACCESS_DENIED, STATUS_CANCELLED, STATUS_DELETE_PENDING, STATUS_DEVICE_BUSY, STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_UNSUCCESSFUL,
};

use super::{
    device,
    driver::{self, LoadError, NotUnloaded},
    name::Named,
};
use crate::{
    config::Config,
    exec::tests::build,
    finding::{Cause, Finding},
    machine::{Machine, Outcome, System},
    registry::Value,
    rule::Rule,
    sched::VERIFIER,
    user::{Access, Handle, Pending, Request, Status},
};

const IO_MANAGER_VIOLATION: u32 = 0xC9;

fn image() -> PathBuf {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| build("requests")).clone()
}

/// A control code that any handle may use.
const fn code(function: u32) -> u32 {
    0x22 << 16 | function << 2
}

fn run<T>(scenario: impl for<'k> FnOnce(&'k System) -> T) -> Outcome<T> {
    run_with(Config::default(), scenario)
}

/// Runs a scenario with the driver loaded, which is unloaded afterwards.
fn run_with<T>(config: Config, scenario: impl for<'k> FnOnce(&'k System) -> T) -> Outcome<T> {
    Machine::new(config).expect("a valid machine").run(|system| {
        let k = &system.kernel;
        let loaded = driver::load(k, &image(), "requests", &[("Answer", Value::dword(42))]).expect("it loads");
        let result = scenario(system);
        driver::unload(k, loaded).expect("it unloads");
        result
    })
}

fn open(system: &System) -> Handle<'_> {
    system.open(r"\\.\LabRequests", Access::ReadWrite).expect("it opens")
}

fn ask(system: &System, function: u32) -> Result<Vec<u8>, Status> {
    open(system).device_control(code(function), &[0; 16], 16)
}

/// What stopped a run in which the device was sent one control code.
fn finding(function: u32) -> Finding {
    let outcome = run(|system| {
        let device = open(system);
        let done = device.submit(Request::Control { code: code(function), input: vec![0; 16], output: 16 }).wait();
        // Whoever wrote to the buffer of the first request is found when the second uses it.
        (done, device.device_control(code(0x800), &[0; 16], 16))
    });
    outcome.result.expect_err("the run is stopped").finding
}

fn assert_bug_check(function: u32, code: u32, first: Option<u64>) {
    let found = finding(function);
    let Cause::BugCheck { code: is, parameters } = found.cause else { panic!("{found:?}") };
    assert_eq!((is, first.map(|_| parameters[0])), (code, first), "{}", found.sentence);
}

#[test]
fn a_buffered_request_returns_as_many_bytes_as_the_driver_says() {
    let outcome = run(|system| open(system).device_control(code(0x800), b"12345", 3));
    assert_eq!(outcome.result.expect("no finding"), Ok(b"123".to_vec()));
}

#[test]
fn a_request_without_buffers_has_no_system_buffer_and_succeeds() {
    let outcome = run(|system| open(system).device_control(code(0x800), b"", 0));
    assert_eq!(outcome.result.expect("no finding"), Ok(Vec::new()));
}

#[test]
fn an_error_returns_no_output_and_a_warning_does() {
    let outcome = run(|system| {
        let device = open(system);
        [0x808, 0x809].map(|function| {
            device.submit(Request::Control { code: code(function), input: vec![7; 4], output: 4 }).wait()
        })
    });
    let [error, warning] = outcome.result.expect("no finding");
    assert_eq!((error.status, error.output), (Status(STATUS_UNSUCCESSFUL), vec![]));
    assert_eq!((warning.status, warning.output), (Status(STATUS_DEVICE_BUSY), vec![7; 4]));
}

#[test]
fn an_unknown_code_and_a_major_function_without_a_routine_are_invalid_device_requests() {
    let outcome = run(|system| ask(system, 0x8FF));
    assert_eq!(outcome.result.expect("no finding"), Err(Status(STATUS_INVALID_DEVICE_REQUEST)));
}

#[test]
fn reads_and_writes_carry_their_bytes_and_their_offset() {
    let outcome = run(|system| {
        let device = open(system);
        let written = device.write(5, &[5, 6, 7]);
        let wrong = device.write(5, &[0, 0, 0]);
        (device.read(3, 4), written, wrong, device.read(0, 0))
    });
    let expected = (Ok(vec![3, 4, 5, 6]), Ok(3), Err(Status(STATUS_UNSUCCESSFUL)), Ok(vec![]));
    assert_eq!(outcome.result.expect("no finding"), expected);
}

#[test]
fn a_negative_offset_never_reaches_the_driver() {
    let outcome = run(|system| open(system).read(-1, 4));
    assert_eq!(outcome.result.expect("no finding"), Err(Status(STATUS_INVALID_PARAMETER)));
}

#[test]
fn a_handle_can_do_what_it_was_opened_for_and_no_more() {
    let outcome = run(|system| {
        let reader = system.open(r"\\.\LabRequests", Access::Read).expect("it opens");
        let needs_write = code(0x800) | 2 << 14;
        let nothing = system.open(r"\??\LABREQUESTS", Access::Attributes).expect("it opens");
        (
            reader.write(0, &[0]),
            reader.device_control(needs_write, &[], 0),
            reader.read(0, 1),
            nothing.read(0, 1),
            nothing.device_control(code(0x800), b"a", 1),
        )
    });
    let denied = Status(STATUS_ACCESS_DENIED);
    let expected = (Err(denied), Err(denied), Ok(vec![0]), Err(denied), Ok(b"a".to_vec()));
    assert_eq!(outcome.result.expect("no finding"), expected);
}

#[test]
fn opening_what_is_not_there_fails() {
    let outcome = run(|system| system.open(r"\\.\Nobody", Access::Read).err());
    assert_eq!(outcome.result.expect("no finding"), Some(Status(STATUS_OBJECT_NAME_NOT_FOUND)));
}

#[test]
fn a_queued_request_ends_when_it_is_released_and_not_before() {
    let outcome = run(|system| {
        let device = open(system);
        let held = device.submit(Request::Control { code: code(0x801), input: vec![], output: 0 });
        system.sleep(1_000_000);
        let before = held.is_done();
        let released = device.device_control(code(0x802), &[], 0);
        (before, released, held.wait().status)
    });
    assert_eq!(outcome.result.expect("no finding"), (false, Ok(vec![]), Status::SUCCESS));
}

#[test]
fn a_cancelled_request_leaves_the_queue_and_ends_as_cancelled() {
    let outcome = run(|system| {
        let device = open(system);
        let held = device.submit(Request::Control { code: code(0x801), input: vec![], output: 0 });
        let told = held.cancel();
        let status = held.wait().status;
        (told, status, device.device_control(code(0x802), &[], 0))
    });
    let expected = (true, Status(STATUS_CANCELLED), Err(Status(STATUS_DEVICE_BUSY)));
    assert_eq!(outcome.result.expect("no finding"), expected);
}

#[test]
fn a_cancel_routine_of_the_drivers_own_is_called_with_the_cancel_lock() {
    let outcome = run(|system| {
        let device = open(system);
        let held = device.submit(Request::Control { code: code(0x80D), input: vec![], output: 0 });
        (held.cancel(), held.wait().status)
    });
    assert_eq!(outcome.result.expect("no finding"), (true, Status(STATUS_CANCELLED)));
}

#[test]
fn closing_a_handle_cleans_up_first_and_closes_when_no_request_is_left() {
    let outcome = run(|system| {
        let observer = open(system);
        let device = open(system);
        let held = device.submit(Request::Control { code: code(0x801), input: vec![], output: 0 });
        device.close();
        let status = held.wait().status;
        (status, observer.device_control(code(0x810), &[], 16))
    });
    let (status, counts) = outcome.result.expect("no finding");
    assert_eq!(status, Status(STATUS_CANCELLED));
    assert_eq!(counts, Ok([2, 1, 1, 42].map(u32::to_le_bytes).concat()));
}

#[test]
fn a_worker_thread_runs_a_work_item_and_the_driver_may_free_it_there() {
    let outcome = run(|system| ask(system, 0x80B).map(|output| output.len()));
    assert_eq!(outcome.result.expect("no finding"), Ok(16));
}

#[test]
fn a_driver_gets_a_packet_of_its_own_back_in_its_completion_routine() {
    let outcome = run(|system| ask(system, 0x80C));
    assert_eq!(outcome.result.expect("no finding"), Err(Status(STATUS_INVALID_DEVICE_REQUEST)));
}

/// Runs something with a handle to a stack of two devices.
fn with_stack<T>(action: impl FnOnce(&Handle<'_>) -> T) -> Outcome<T> {
    run(|system| {
        ask(system, 0x814).expect("the upper device is attached");
        let device = system.open(r"\Device\LabLower", Access::ReadWrite).expect("it opens");
        let result = action(&device);
        device.close();
        ask(system, 0x815).expect("the upper device is detached");
        result
    })
}

/// Sends a control code to the stack: how many bytes it returned.
fn ask_stack(function: u32) -> Outcome<Result<usize, Status>> {
    with_stack(|device| device.device_control(code(function), &[0; 16], 16).map(|output| output.len()))
}

#[test]
fn a_packet_passes_down_a_stack_and_completes_up_it_whether_the_lower_driver_pends_it_or_not() {
    for way in [0x900, 0xA00, 0xC00] {
        assert_eq!(ask_stack(way).result.expect("no finding"), Ok(16), "{way:#x} at once");
        assert_eq!(ask_stack(way | 0x0B).result.expect("no finding"), Ok(16), "{way:#x} pended");
    }
}

#[test]
fn a_completion_routine_that_drops_the_mark_stops_the_run() {
    let found = ask_stack(0xB0B).result.expect_err("the mark is missed").finding;
    assert!(found.sentence.contains("PendingReturned"), "{}", found.sentence);
    assert_eq!(ask_stack(0xB00).result.expect("no finding"), Ok(16), "nothing was pended");
}

#[test]
fn an_upper_driver_that_hides_that_the_lower_one_pended_stops_the_run() {
    let found = ask_stack(0xD0B).result.expect_err("the status is wrong").finding;
    assert!(matches!(found.cause, Cause::BugCheck { code: IO_MANAGER_VIOLATION, .. }), "{}", found.sentence);
}

#[test]
fn direct_reads_and_writes_go_to_the_users_own_pages() {
    let outcome = with_stack(|device| {
        let bytes: Vec<u8> = (0..5000_u32).map(|index| index as u8).collect();
        (device.read(0, 5000) == Ok(bytes.clone()), device.write(0, &bytes), device.read(0, 0))
    });
    assert_eq!(outcome.result.expect("no finding"), (true, Ok(5000), Ok(vec![])));
}

#[test]
fn a_remove_lock_refuses_after_it_was_waited_on() {
    let outcome = run(|system| ask(system, 0x812));
    let expected = [0, 0, STATUS_DELETE_PENDING].map(i32::to_le_bytes).concat();
    assert_eq!(outcome.result.expect("no finding"), Ok(expected));
}

#[test]
fn a_request_completed_twice_stops_the_run() {
    assert_bug_check(0x803, 0x44, None);
}

#[test]
fn a_packet_that_completed_is_gone() {
    assert_bug_check(0x818, 0xCC, None);
    assert_bug_check(0x819, IO_MANAGER_VIOLATION, Some(0x03));
}

#[test]
fn a_stack_location_that_was_not_set_up_or_is_marked_pending_stops_the_run() {
    for (function, code) in [(0xE00, 0x212), (0xF00, 0x206)] {
        let found = ask_stack(function).result.expect_err("the stack location is wrong").finding;
        let Cause::BugCheck { code: IO_MANAGER_VIOLATION, parameters } = found.cause else { panic!("{found:?}") };
        assert_eq!(parameters[0], code, "{}", found.sentence);
    }
}

/// What stops a run that waits for a request which its driver keeps, and what the report says of where it is.
fn lost(end: impl for<'k> FnOnce(&'k System, Handle<'k>, Pending<'k>)) -> (Finding, String) {
    let outcome = run(|system| {
        let device = open(system);
        let kept = device.submit(Request::Control { code: code(0x817), input: vec![], output: 0 });
        end(system, device, kept);
    });
    let report = outcome.result.expect_err("the request is missed");
    let place = report.related.iter().flat_map(|(_, stack)| stack).map(ToString::to_string).collect();
    (report.finding, place)
}

#[test]
fn a_request_that_is_kept_for_good_and_cannot_be_cancelled_stops_the_run_with_where_it_was_last_seen() {
    for (found, place) in [lost(|system, _, _| system.settle()), lost(|_, _, kept| drop(kept.wait()))] {
        let Cause::BugCheck { code: VERIFIER, parameters } = found.cause else { panic!("{found:?}") };
        assert_eq!(parameters[0], Rule::LostIrp as u64, "{}", found.sentence);
        assert!(found.sentence.contains("last seen with driver requests, device"), "{}", found.sentence);
        assert!(place.contains("control"), "{place}");
    }
}

#[test]
fn a_request_that_outlives_the_cleanup_of_its_handle_stops_the_run() {
    let (found, _) = lost(|system, device, _| {
        device.close();
        system.settle();
    });
    assert!(found.sentence.contains("its handle is closed"), "{}", found.sentence);
}

#[test]
fn a_request_that_can_be_cancelled_may_be_kept() {
    let outcome = run(|system| {
        let device = open(system);
        let held = device.submit(Request::Control { code: code(0x801), input: vec![], output: 0 });
        system.settle();
        held.cancel()
    });
    assert!(outcome.result.expect("no finding"));
}

#[test]
fn status_pending_and_the_mark_must_agree() {
    assert_bug_check(0x804, IO_MANAGER_VIOLATION, Some(0x23D));
    assert_bug_check(0x805, IO_MANAGER_VIOLATION, Some(0x23E));
}

#[test]
fn what_a_dispatch_routine_returns_must_be_what_it_completed_with() {
    assert_bug_check(0x80E, IO_MANAGER_VIOLATION, Some(0x224));
}

#[test]
fn a_request_that_is_neither_completed_nor_pended_stops_the_run() {
    assert_bug_check(0x807, IO_MANAGER_VIOLATION, Some(0x226));
}

#[test]
fn more_output_than_there_is_room_for_stops_the_run() {
    assert_bug_check(0x806, 0xC4, Some(Rule::OutputTooLong as u64));
}

#[test]
fn completing_a_request_whose_cancel_routine_is_set_stops_the_run() {
    assert_bug_check(0x80F, IO_MANAGER_VIOLATION, Some(0x07));
}

#[test]
fn a_write_to_the_buffer_of_a_completed_request_stops_the_run() {
    assert_bug_check(0x80A, 0xCC, None);
    let outcome = run(|system| {
        // The first requests are those whose buffers go with them.
        (0..20).for_each(|_| drop(ask(system, 0x800)));
        let done = ask(system, 0x80A);
        (done, ask(system, 0x800))
    });
    let found = outcome.result.expect_err("the next request notices it").finding;
    assert!(found.sentence.contains("wrote to the buffer of a request"), "{}", found.sentence);
}

#[test]
fn a_write_beyond_the_end_of_a_buffer_stops_the_run() {
    let outcome = run(|system| open(system).device_control(code(0x813), &[0; 5], 5));
    assert!(outcome.result.is_err());
}

#[test]
fn an_event_reaches_the_session_that_asked_for_its_provider_and_level() {
    let provider = (0x1234_5678, 0, 0, [0; 8]);
    let outcome = run(|system| {
        let unheard = ask(system, 0x816);
        let nothing = system.trace_events();
        system.trace(provider, 3);
        (unheard, nothing, ask(system, 0x816), system.trace_events())
    });
    let (unheard, nothing, told, events) = outcome.result.expect("no finding");
    assert_eq!((unheard, nothing), (Ok(0_u32.to_le_bytes().to_vec()), vec![]));
    assert_eq!(told, Ok(103_u32.to_le_bytes().to_vec()));
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.name.as_str(), event.level, &event.payload[..]), ("Counted", 3, &[7][..]));
    assert!(event.to_string().ends_with(" us level 3 /Counted count=7"), "{event}");
}

#[test]
fn what_a_driver_leaves_behind_is_named_when_it_is_unloaded() {
    let outcome = run(|system| ask(system, 0x811));
    let sentence = outcome.result.expect_err("the leak is found").finding.sentence;
    assert!(sentence.contains("left behind: a work item"), "{sentence}");
}

#[test]
fn a_driver_is_not_unloaded_while_its_object_is_referenced_or_its_device_is_open() {
    let outcome = run(|system| {
        let k = &system.kernel;
        let Some((Named::Device(device), _)) = k.io.names.resolve(r"\Device\LabRequests") else { panic!("no device") };
        let driver = device::driver_of(device);
        driver::reference(k, driver);
        let referenced = driver::unload(k, driver);
        driver::dereference(k, driver);
        let handle = open(system);
        let opened = driver::unload(k, driver);
        handle.close();
        (referenced, opened)
    });
    let expected = (Err(NotUnloaded::References(1)), Err(NotUnloaded::Devices(1)));
    assert_eq!(outcome.result.expect("no finding"), expected);
}

#[test]
fn an_image_that_is_not_there_is_a_load_error() {
    let machine = Machine::new(Config::default()).expect("a valid machine");
    let outcome =
        machine.run(|system| driver::load(&system.kernel, &PathBuf::from("nowhere.sys"), "nowhere", &[]).err());
    assert!(matches!(outcome.result.expect("no finding"), Some(LoadError::Image(_))));
}

#[test]
fn the_trace_of_requests_depends_on_the_seed_alone() {
    let trace = |seed| {
        let outcome = run_with(Config { keep_trace: true, ..Config::default().with_seed(seed) }, |system| {
            let device = open(system);
            let requests = (0..8).map(|_| Request::Control { code: code(0x801), input: vec![], output: 0 });
            let held: Vec<_> = requests.map(|request| device.submit(request)).collect();
            held.iter().step_by(2).for_each(|held| assert!(held.cancel()));
            device.close();
            held.into_iter().map(|held| held.wait().status).collect::<Vec<_>>()
        });
        (outcome.result.expect("no finding"), outcome.events)
    };
    assert_eq!(trace(3), trace(3));
}

#[test]
fn bytes_that_the_driver_claims_and_has_not_written_stop_the_run() {
    let outcome = run(|system| open(system).device_control(code(0x809), b"1234", 64));
    let found = outcome.result.expect_err("the run is stopped").finding;
    let Cause::BugCheck { code, parameters } = found.cause else { panic!("{found:?}") };
    assert_eq!((code, parameters[0], parameters[2]), (0xC4, Rule::UnwrittenOutput as u64, 8), "{}", found.sentence);
    assert!(found.sentence.contains("the system buffer behind the input"), "{}", found.sentence);
}
