//! What a request does, instruction by instruction, in words: for whoever makes it do less.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
};

use anyhow::Result;
use ntlab::counting::{Counts, Detail, InstructionCount, SharedLine, Work, Writer};

use super::{
    hold,
    requests::{self, Counted, Engine, Kind},
};

/// Lines that are told one by one.
const LINES: usize = 64;

/// The listing of a request to the driver in the file `sys`.
///
/// # Errors
///
/// Those of [`requests::count`].
pub fn of(sys: &Path, kind: Kind, engine: Engine, processors: u32) -> Result<String> {
    let Counted { requests, counts } = requests::count(sys, kind, engine, processors)?;
    let mut text = format!(
        "{requests} requests, one after the other on each of {processors} processors; all figures are for one of them.\n\n"
    );
    describe(&mut text, &counts, requests)?;
    Ok(text)
}

/// The listing of a hold by the driver in the file `sys`, while so many requests wait.
///
/// # Errors
///
/// A run that stopped, or a request that failed.
pub fn of_hold(sys: &Path, engine: Engine, waiting: u32) -> Result<String> {
    let hold::Hold { asked, released, .. } = hold::hold(sys, engine, waiting, Detail::Instructions)?;
    let mut text = "The query-stop, until it is answered:\n\n".to_owned();
    describe(&mut text, &asked, 1)?;
    writeln!(text, "\nFrom then on, until the last of {waiting} requests is done:\n")?;
    describe(&mut text, &released, 1)?;
    Ok(text)
}

/// What was counted of so many requests.
fn describe(text: &mut String, counts: &Counts, requests: u32) -> Result<()> {
    let total = counts.total();
    let each = |count: u64| format!("{:.2}", requests::each(count, requests));
    writeln!(
        text,
        "{} instructions, {} kernel calls, {} atomics and {} of kernel functions, deepest stack {} bytes",
        each(total.instructions),
        each(total.kernel_call_count()),
        each(total.atomics),
        each(total.kernel_atomics),
        total.deepest_stack
    )?;
    for (within, work) in &counts.work {
        writeln!(text, "\n{within}: {}", work_in_words(work, &each))?;
        functions(text, counts, within, &each)?;
    }
    writeln!(text, "\nThe first kernel calls, in order:")?;
    calls(text, counts, requests)?;
    writeln!(text, "\nAtomics:")?;
    for instruction in counts.instructions.iter().filter(|instruction| instruction.is_atomic) {
        writeln!(text, "  {:>8}  {}", each(instruction.count), place(instruction))?;
    }
    lines(text, counts, requests)
}

/// The functions that a request to the driver in the file `sys` goes through, with their instructions, most first.
///
/// # Errors
///
/// Those of [`requests::count`].
pub fn by_function(sys: &Path, kind: Kind, engine: Engine) -> Result<Vec<(String, f64)>> {
    let Counted { requests, counts } = requests::count(sys, kind, engine, 1)?;
    Ok(most_first(&[counts], requests))
}

/// The functions that a hold by the driver in the file `sys` goes through while so many requests wait, with their instructions, most first.
///
/// # Errors
///
/// Those of [`of_hold`].
pub fn of_hold_by_function(sys: &Path, engine: Engine, waiting: u32) -> Result<Vec<(String, f64)>> {
    let hold::Hold { asked, released, .. } = hold::hold(sys, engine, waiting, Detail::Instructions)?;
    Ok(most_first(&[asked, released], 1))
}

fn most_first(counts: &[Counts], requests: u32) -> Vec<(String, f64)> {
    let mut functions: BTreeMap<String, u64> = BTreeMap::new();
    for instruction in counts.iter().flat_map(|counts| &counts.instructions) {
        *functions.entry(function_of(instruction)).or_default() += instruction.count;
    }
    let mut functions: Vec<_> = functions.into_iter().collect();
    functions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    functions.into_iter().map(|(function, count)| (function, requests::each(count, requests))).collect()
}

/// The function that an instruction is in, as the linker left it.
fn function_of(instruction: &InstructionCount) -> String {
    instruction.frames.last().and_then(|frame| frame.function.clone()).unwrap_or_else(|| "?".to_owned())
}

fn work_in_words(work: &Work, each: &impl Fn(u64) -> String) -> String {
    let runtime: Vec<String> =
        work.runtime_calls.iter().map(|(name, count)| format!("{} {name}", each(*count))).collect();
    let runtime = if runtime.is_empty() { String::new() } else { format!(", {}", runtime.join(", ")) };
    format!(
        "{} calls, {} instructions, {} kernel calls{runtime}, {} atomics, stack {} bytes",
        each(work.calls),
        each(work.instructions),
        each(work.kernel_call_count()),
        each(work.atomics),
        work.deepest_stack
    )
}

/// What is inlined of the language's library counts for who called it.
fn is_library(function: &str) -> bool {
    ["core::", "alloc::", "wdk_sys::"].iter().any(|library| function.starts_with(library))
}

/// Functions as the linker left them, each with what was inlined there.
fn functions(text: &mut String, counts: &Counts, within: &str, each: &impl Fn(u64) -> String) -> Result<()> {
    let mut functions: BTreeMap<String, (u64, BTreeMap<String, u64>)> = BTreeMap::new();
    for instruction in counts.instructions.iter().filter(|instruction| instruction.within == within) {
        let outer = function_of(instruction);
        let mut own = instruction.frames.iter().filter_map(|frame| frame.function.as_ref());
        let inner = own.find(|function| !is_library(function)).map_or_else(|| outer.clone(), Clone::clone);
        let (total, inlined) = functions.entry(outer).or_default();
        *total += instruction.count;
        *inlined.entry(inner).or_default() += instruction.count;
    }
    let mut functions: Vec<_> = functions.into_iter().collect();
    functions.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (outer, (count, inlined)) in functions {
        writeln!(text, "  {:>8}  {outer}", each(count))?;
        let mut inlined: Vec<_> = inlined.into_iter().filter(|(inner, _)| *inner != outer).collect();
        inlined.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (inner, count) in inlined {
            writeln!(text, "  {:>8}    {:>8}  {inner}", "", each(count))?;
        }
    }
    Ok(())
}

fn calls(text: &mut String, counts: &Counts, requests: u32) -> Result<()> {
    let all = counts.total();
    let made = all.kernel_call_count() + all.runtime_calls.values().sum::<u64>();
    let first = usize::try_from(made / u64::from(requests))?;
    for call in counts.calls.iter().take(first) {
        let inside = if call.inside == call.within { String::new() } else { format!(" > {}", call.inside) };
        writeln!(text, "  {}{inside}: {}", call.within, call.name)?;
    }
    Ok(())
}

fn place(instruction: &InstructionCount) -> String {
    let Some(first) = instruction.frames.first() else { return "?".to_owned() };
    let callers = instruction.frames.iter().skip(1).filter_map(|frame| frame.function.as_deref());
    callers.fold(first.to_string(), |place, caller| format!("{place} in {caller}"))
}

fn lines(text: &mut String, counts: &Counts, requests: u32) -> Result<()> {
    let (managers, own): (Vec<&SharedLine>, Vec<&SharedLine>) =
        counts.shared.iter().partition(|line| line.lies.is_io_managers());
    let moves = |lines: &[&SharedLine]| requests::each(lines.iter().map(|line| line.moves).sum(), requests);
    writeln!(text, "\nCache lines written to: {}. By more than one processor:", counts.written)?;
    let kinds: BTreeSet<String> = managers.iter().map(|line| line.lies.to_string()).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", Vec::from_iter(kinds).join(", ")) };
    writeln!(text, "  {} of the I/O manager's own{kinds}; {:.2} moves a request", managers.len(), moves(&managers))?;
    writeln!(text, "  {} others; {:.2} moves a request", own.len(), moves(&own))?;
    for line in own.iter().take(LINES) {
        let (first, last) =
            (line.processors.first().copied().unwrap_or(0), line.processors.last().copied().unwrap_or(0));
        writeln!(text, "\n  {}", line.lies)?;
        writeln!(
            text,
            "    {} processors ({first} to {last}), {} writes, {} moves",
            line.processors.len(),
            line.writes,
            line.moves
        )?;
        for (writer, count) in &line.writers {
            let writer = match writer {
                Writer::Driver(place) => place.clone(),
                Writer::Function(name) => (*name).to_owned(),
                Writer::Before(what) => format!("the kernel, before it calls the {what}"),
            };
            writeln!(text, "    {count:>8}  {writer}")?;
        }
    }
    Ok(())
}
