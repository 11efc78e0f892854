//! Text to the debugger, which goes to the trace, and bug checks that drivers ask for.

use super::{
    Arguments, Export,
    format::{Formatter, LONGEST, c_string},
};
use crate::{
    events::Kind,
    export,
    finding::Finding,
    irql::{DIRQL_MAX, any_level, at_most},
    kernel::Kernel,
    memory::Ptr,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("DbgPrint", at_most(DIRQL_MAX), dbg_print),
    export!("DbgPrintEx", at_most(DIRQL_MAX), dbg_print_ex),
    export!("KeBugCheck", any_level(), ke_bug_check),
    export!("KeBugCheckEx", any_level(), ke_bug_check_ex),
];

/// "`DbgPrint` function".
fn dbg_print(k: &Kernel, format: Ptr<u8>, arguments: Arguments) -> i32 {
    let mut text = Formatter::of(k, "DbgPrint", arguments).naming_places().format(&c_string(format, LONGEST));
    text.truncate(text.floor_char_boundary(LONGEST));
    k.record(|| Kind::Print(text.trim_end().into()));
    0
}

/// "`DbgPrintEx` function". Every component and level is let through.
fn dbg_print_ex(k: &Kernel, _component: u32, _level: u32, format: Ptr<u8>, arguments: Arguments) -> i32 {
    dbg_print(k, format, arguments)
}

/// "`KeBugCheck` function".
fn ke_bug_check(_: &Kernel, code: u32) {
    Finding::bug_check(code, [0; 4], format!("the driver called KeBugCheck({code:#x})")).raise();
}

/// "`KeBugCheckEx` function".
fn ke_bug_check_ex(_: &Kernel, code: u32, a: u64, b: u64, c: u64, d: u64) {
    Finding::bug_check(code, [a, b, c, d], format!("the driver called KeBugCheckEx({code:#x}, …)")).raise();
}
