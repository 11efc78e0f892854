//! `bench/include/hotadd.h`: crates/abi for drivers in C.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::control_codes::{Abi, Constant, Enumeration};
use super::source::Structure;

const FRONT: &str = "\
/*
 * The device interface, its control codes, their structures and numbers.
 *
 * Generated from crates/abi by `cargo xtask docs`; docs/control-codes.md says what they mean.
 */
#pragma once

";

/// The header.
///
/// # Errors
///
/// crates/abi cannot be read, or does not look as expected.
pub fn header(root: &Path) -> Result<String> {
    let abi = Abi::read(root)?;
    let mut text = FRONT.to_owned();
    for constant in &abi.constants {
        render_constant(&mut text, constant)?;
    }
    writeln!(text, "#define HOTADD_DEVICE_TYPE {:#X}", abi.device_type.context("there is no DEVICE_TYPE")?)?;
    for code in &abi.codes {
        let (name, function, access) = (&code.name, code.function, &code.access);
        writeln!(text, "#define {name} CTL_CODE(HOTADD_DEVICE_TYPE, {function:#X}, METHOD_BUFFERED, {access})")?;
    }
    for structure in &abi.structures {
        render_structure(&mut text, structure)?;
    }
    for enumeration in &abi.enumerations {
        render_enumeration(&mut text, enumeration)?;
    }
    Ok(text)
}

fn render_constant(text: &mut String, constant: &Constant) -> Result<()> {
    let name = match constant.name.as_str() {
        "INTERFACE_CLASS" => "GUID_DEVINTERFACE_HOTADD".to_owned(),
        "TRACE_PROVIDER" => "GUID_HOTADD_TRACE_PROVIDER".to_owned(),
        other => format!("HOTADD_{other}"),
    };
    if let [number] = constant.numbers.as_slice() {
        writeln!(text, "#define {name} {number}\n")?;
    } else {
        let fields: Vec<_> = constant.numbers.iter().map(|number| format!("{number:#X}")).collect();
        writeln!(text, "DEFINE_GUID({name}, {});\n", fields.join(", "))?;
    }
    Ok(())
}

fn render_structure(text: &mut String, structure: &Structure) -> Result<()> {
    let name = format!("HOTADD_{}", screaming(&structure.name.to_string()));
    writeln!(text, "\ntypedef struct _{name} {{")?;
    for field in &structure.fields {
        let kind = match field.kind.to_string().as_str() {
            "u8" => "UCHAR",
            "u16" => "USHORT",
            "u32" => "ULONG",
            "u64" => "ULONG64",
            "i32" => "LONG",
            other => bail!("{other} has no name in C"),
        };
        writeln!(text, "    {kind} {};", pascal(&field.name.to_string()))?;
    }
    writeln!(text, "}} {name}, *P{name};\nC_ASSERT(sizeof({name}) == {});", structure.size)?;
    Ok(())
}

fn render_enumeration(text: &mut String, enumeration: &Enumeration) -> Result<()> {
    let prefix = screaming(&enumeration.name);
    writeln!(text)?;
    for (value, name, _) in &enumeration.values {
        writeln!(text, "#define HOTADD_{prefix}_{} {value}", screaming(name))?;
    }
    Ok(())
}

/// `NotStarted`, `NOT_STARTED` or `not_started` as `NOT_STARTED`.
fn screaming(name: &str) -> String {
    let mut screaming = String::new();
    let mut after_small = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && after_small {
            screaming.push('_');
        }
        after_small = letter.is_ascii_lowercase();
        screaming.push(letter.to_ascii_uppercase());
    }
    screaming
}

/// `not_started` as `NotStarted`.
fn pascal(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_those_of_windows() {
        assert_eq!(screaming("FactorialInput"), "FACTORIAL_INPUT");
        assert_eq!(screaming("NOT_STARTED"), "NOT_STARTED");
        assert_eq!(pascal("last_hold_duration"), "LastHoldDuration");
    }
}
