//! A driver in C that uses what older drivers use (tests/c/ddi.c): packets that the I/O manager builds, interlocked lists, strings, tables of
//! registry values, timers of devices, work queue items, the error log, events by handle, pages for a list, limits of remove locks.

use std::path::Path;

use ntlab::{
    config::Config,
    events::{Event, Kind},
    finding::Cause,
    machine::{Machine, Outcome},
    pnp::DriverPackage,
    registry::Value,
    rule::Rule,
    user::Access,
};

/// What the driver is asked to do, as ddi.c numbers it; the line of the first check that fails, or 0.
fn ask(seed: u64, function: u32) -> Outcome<u32> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/ddi.c");
    let image = kit::c_driver(&source).unwrap_or_else(|error| panic!("the driver builds: {error:#}")).sys;
    let machine = Machine::new(Config { seed, ..Config::default() }).expect("a possible machine");
    machine.run(|system| {
        let package = DriverPackage::new("ddi", image).with_parameter("Number", Value::dword(42));
        system.load(package.with_parameter("Text", Value::text("hello"))).expect("DriverEntry succeeds");
        let device = system.open(r"\\.\Ddi", Access::ReadWrite).expect("it has a name");
        let answer = device.device_control(0x22 << 16 | (0x800 + function) << 2, &[], 4).expect("it answers");
        device.close();
        system.unload("ddi").expect("nothing is open");
        u32::from_le_bytes(answer.try_into().expect("4 bytes"))
    })
}

fn every_check_holds(function: u32) {
    for seed in 0..4 {
        let line = ask(seed, function).result.unwrap_or_else(|report| panic!("seed {seed}: {report}"));
        assert_eq!(line, 0, "a line of ddi.c; seed {seed}");
    }
}

fn is_found(function: u32) -> (u32, u64) {
    let report = ask(1, function).result.expect_err("it is wrong");
    let Cause::BugCheck { code, parameters } = report.finding.cause else { panic!("{report}") };
    (code, parameters[0])
}

#[test]
fn packets_that_the_io_manager_builds_bring_their_results_back() {
    every_check_holds(0);
}

#[test]
fn interlocked_lists_and_counters_return_what_was_before() {
    every_check_holds(1);
}

#[test]
fn strings_of_both_kinds_are_converted_compared_and_read() {
    every_check_holds(2);
}

#[test]
fn tables_of_registry_values_are_answered_entry_by_entry() {
    every_check_holds(3);
}

#[test]
fn the_timer_of_a_device_goes_off_every_second_until_it_is_stopped() {
    every_check_holds(4);
}

#[test]
fn work_queue_items_run_once_each_in_kernel_mode() {
    every_check_holds(5);
}

#[test]
fn an_entry_of_the_error_log_is_in_the_trace() {
    let ran = ask(2, 6);
    let is_it = |event: &Event| matches!(&event.kind, Kind::Note(note) if note.starts_with("error log: 0xc0040004"));
    assert!(ran.events.iter().any(is_it));
    assert_eq!(ran.result.unwrap_or_else(|report| panic!("{report}")), 0, "a line of ddi.c");
}

#[test]
fn events_by_handle_are_waited_for_set_and_found_by_name() {
    every_check_holds(7);
}

#[test]
fn pages_of_a_list_are_mapped_and_a_part_of_a_list_is_of_the_same_pages() {
    every_check_holds(8);
}

#[test]
fn text_is_formatted_as_the_c_runtime_does_and_ends_where_the_buffer_does() {
    every_check_holds(14);
}

#[test]
fn a_remove_lock_has_the_limits_that_its_driver_set() {
    assert_eq!(is_found(9), (0xC4, Rule::RemoveLockCount as u64), "three acquisitions of at most two");
    assert_eq!(is_found(10), (0xC4, Rule::RemoveLockTime as u64), "61 seconds of at most one minute");
    assert_eq!(is_found(11), (0xC4, Rule::RemoveLockTag as u64), "given back with another tag");
}

#[test]
fn a_work_queue_item_that_is_queued_twice_is_found() {
    assert_eq!(is_found(12), (0xE4, 1));
}

#[test]
fn an_interlocked_list_whose_lock_is_held_is_found() {
    assert_eq!(is_found(13).0, 0xC4);
}
