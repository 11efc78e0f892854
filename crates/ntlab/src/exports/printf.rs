//! The C runtime's functions that write formatted text to a driver's buffer; `RtlStringCbPrintf` and its relatives are inline functions on top
//! of them.

use super::{
    Arguments, Export,
    format::{Formatter, c_string},
};
use crate::{export, finding::Finding, irql::any_level, kernel::Kernel, memory::Ptr};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("_snprintf", any_level(), snprintf),
    export!("_snwprintf", any_level(), snwprintf),
    export!("_vsnprintf", any_level(), vsnprintf),
    export!("_vsnwprintf", any_level(), vsnwprintf),
];

/// "`_snprintf`".
fn snprintf(k: &Kernel, buffer: Ptr<u8>, count: u64, format: Ptr<u8>, arguments: Arguments) -> i32 {
    let text = Formatter::of(k, "_snprintf", arguments).format(&narrow(format));
    put_narrow(buffer, count, &text)
}

/// "`_vsnprintf`": the arguments are an array.
fn vsnprintf(k: &Kernel, buffer: Ptr<u8>, count: u64, format: Ptr<u8>, list: Ptr<u64>) -> i32 {
    let text = Formatter::of(k, "_vsnprintf", Arguments::new(list)).format(&narrow(format));
    put_narrow(buffer, count, &text)
}

/// "`_snwprintf`".
fn snwprintf(k: &Kernel, buffer: Ptr<u16>, count: u64, format: Ptr<u16>, arguments: Arguments) -> i32 {
    let text = Formatter::of(k, "_snwprintf", arguments).wide().format(&wide(format));
    put_wide(buffer, count, &text)
}

/// "`_vsnwprintf`": the arguments are an array.
fn vsnwprintf(k: &Kernel, buffer: Ptr<u16>, count: u64, format: Ptr<u16>, list: Ptr<u64>) -> i32 {
    let text = Formatter::of(k, "_vsnwprintf", Arguments::new(list)).wide().format(&wide(format));
    put_wide(buffer, count, &text)
}

fn narrow(format: Ptr<u8>) -> Vec<u8> {
    c_string(format, usize::MAX)
}

/// A format of 16-bit characters.
fn wide(format: Ptr<u16>) -> Vec<u8> {
    let units = (0..).map(|position| format.offset(position).read()).take_while(|&unit| unit != 0);
    let narrow = |unit| {
        u8::try_from(unit)
            .unwrap_or_else(|_| Finding::not_modelled(format!("a format with the character {unit:#06x}")).raise())
    };
    units.map(narrow).collect()
}

fn put_narrow(buffer: Ptr<u8>, count: u64, text: &str) -> i32 {
    let bytes: Vec<u8> = text.chars().map(|character| u8::try_from(character).unwrap_or(b'?')).collect();
    put(buffer, count, &bytes)
}

fn put_wide(buffer: Ptr<u16>, count: u64, text: &str) -> i32 {
    put(buffer, count, &text.encode_utf16().collect::<Vec<u16>>())
}

/// Writes as much of the text as there is room for, with its end if there is room for that. Its length, or -1 where it is longer than the room.
fn put<T: Copy + Default>(buffer: Ptr<T>, count: u64, text: &[T]) -> i32 {
    let room = usize::try_from(count).unwrap_or(usize::MAX);
    let written = text.iter().copied().chain([T::default()]).take(room);
    for (position, unit) in written.enumerate() {
        buffer.offset(position).write(unit);
    }
    if text.len() > room { -1 } else { i32::try_from(text.len()).unwrap_or(i32::MAX) }
}
