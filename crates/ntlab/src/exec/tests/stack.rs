//! Where the driver is, by function and line.

use super::guest::{Guest, Running};
use crate::report::Report;

/// The functions on the stack when a call is stopped, innermost first; their files and lines.
fn stack(guest: &Running<'_>, name: &str, arguments: &[u64]) -> Vec<(String, String, u32)> {
    let finding = guest.unwinds_in(|| _ = guest.call_with(name, arguments));
    let report = Report::new(guest.k, finding);
    let frames = report.place.expect("it was found in the machine").stack;
    let part = |frame: crate::exec::StackFrame| {
        let function = frame.function.unwrap_or_default();
        let (file, line) = frame.line.unwrap_or_default();
        (function.rsplit("::").next().unwrap_or_default().to_owned(), file, line)
    };
    frames.into_iter().map(part).collect()
}

fn names(stack: &[(String, String, u32)]) -> Vec<&str> {
    stack.iter().map(|(function, ..)| function.as_str()).collect()
}

/// The line of the guest's source that contains `text`.
fn line_of(text: &str) -> u32 {
    let source = include_str!("../../../tests/guest/guest.rs");
    let index = source.lines().position(|line| line.contains(text)).expect("the source has the line");
    u32::try_from(index + 1).expect("the source is short")
}

#[test]
fn a_fault_is_reported_with_its_functions_and_lines() {
    Guest::new().run(|guest| {
        let stack = stack(guest, "write_to", &[0x10, 5]);
        assert_eq!(names(&stack), ["write_volatile", "store", "inlined", "middle", "write_to"]);
        let at = |name: &str| stack.iter().find(|(function, ..)| function == name).map(|(_, _, line)| *line);
        assert_eq!(at("inlined"), Some(line_of("store(p, value + 1)")));
        assert_eq!(at("middle"), Some(line_of("inlined(p, pad[5])")));
        assert!(stack.iter().any(|(_, file, _)| file == "tests/guest/guest.rs"), "{stack:?}");
    });
}

#[test]
fn the_stack_goes_on_through_kernel_calls_and_calls_back() {
    Guest::new().run(|guest| {
        let stack = stack(guest, "write_to_nested", &[0x10, 5]);
        assert!(names(&stack).ends_with(&["middle", "write_to", "write_to_nested"]), "{stack:?}");
    });
}

#[test]
fn a_fault_in_a_runtime_function_shows_who_called_it() {
    Guest::new().run(|guest| {
        let stack = stack(guest, "compare", &[0x10, 0x10, 5]);
        assert_eq!(names(&stack), ["memcmp", "compare"]);
    });
}

#[test]
fn a_wild_jump_shows_who_jumped() {
    Guest::new().run(|guest| {
        let stack = stack(guest, "call_to", &[0x10, 5]);
        assert_eq!(names(&stack), ["", "call_to"]);
    });
}

#[test]
fn a_finding_in_a_kernel_function_shows_the_driver_that_called_it() {
    Guest::new().run(|guest| {
        let stack = stack(guest, "nest", &[1000, 0]);
        assert!(names(&stack).len() > 20 && names(&stack).iter().all(|name| *name == "nest"), "{stack:?}");
    });
}

#[test]
fn a_stack_overflow_shows_its_frames() {
    Guest::new().run(|guest| {
        let stack = stack(guest, "overflow", &[0, 1]);
        let frames = names(&stack).iter().filter(|name| **name == "overflow").count();
        assert!(frames > 20, "{stack:?}");
    });
}

#[test]
fn a_report_says_no_address_of_the_host() {
    let texts: Vec<String> = (0..2)
        .map(|_| {
            Guest::new().run(|guest| {
                let block = guest.k.memory.allocate_io_buffer(32);
                let finding = guest.finding("write_to", block.address() + 32, 5);
                Report::new(guest.k, finding).to_string()
            })
        })
        .collect();
    assert!(texts[0].contains("PAGE_FAULT_BEYOND_END_OF_ALLOCATION (Pool+0x1000, 0x1, Images+"), "{}", texts[0]);
    assert_eq!(texts[0], texts[1]);
}
