//! docs/performance.md, its charts, and the figures they are made of.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Figure,
    charts::{Bars, Curves},
    figures::{Group, Row, Unit},
    goals, listing,
    report::{self, Report},
    requests::{Engine, Kind},
    sizes::Sizes,
};
use crate::drivers::Driver;

/// Where the figures lie that a test holds the driver against.
pub const FIGURES: &str = "docs/performance/figures.json";
const DOCUMENT: &str = "docs/performance.md";
const CHARTS: &str = "docs/performance";
/// Parts of a figure that are told.
const PARTS: usize = 16;

const HEAD: &str = "\
# Performance

<!-- Written by `cargo xtask bench --write-docs`: what is to be changed is changed in xtask/src/bench. -->

    cargo xtask bench --write-docs

What Rust and the safe building blocks of `crates/wdm` cost is measured against drivers in C, in the same run of the same lab:

- **hotadd** beside the **peer** ([bench/peer](../bench/peer)): the same jobs in C, written the way the documentation teaches, built by
  clang at -O2.
- the **floor** in Rust beside that in C ([bench](../bench)): a driver that completes every request in its dispatch routine, and
  nothing else.

";

const METHOD: &str = "\
## How it is counted

Everything but what stands under *In host time* is counted by the lab, so that it is exact: the same images give the same figures on any
machine. `ntlab::counting` runs the driver's code instruction by instruction.

- **Instructions** are those of the driver's image. What the kernel does for it is counted as calls by name; so are the C runtime functions
  that the kernel exports (`memcpy`), which stand apart and are no kernel calls. A repeated string instruction is one.
- **A request** is sent by a thread that is bound to a processor with nothing else to do, after 32 that were not counted, and is everything
  that the driver does for it: dispatch routine, ISR, DPC, and what kernel functions call back. The figure is the mean of 8.
- **Atomics** are the locked instructions of the driver, and one for each call of a kernel function that cannot do without one, because it
  takes a lock, counts a reference or queues something (the table is `ATOMIC` in crates/ntlab/src/counting/writes.rs): else a
  driver would have none as soon as it leaves them to the kernel. The driver's own stand in a row of their own.
- **Cache lines** have 64 bytes. Threads bound to each of so many processors send factorials at the same time, each one after the other, 32
  before and 8 that are counted, beyond 64 processors 2 and 1. Counted are lines that the instructions of the driver, or kernel functions on its behalf (`FUNCTIONS` in the
  same file: the spin lock, the remove lock, the DPC that they are given), write to on more than one processor. A move is a write
  by another processor than the one before. What the I/O manager has them share with any driver is left out: IRPs,
  file objects, device objects without their extensions, MDLs, buffers of requests; so is what the kernel keeps for itself, as its
  queues of DPCs. Pool blocks lie on pages of their own, so that two blocks never share a line here.
- **A hold** is counted from the query-stop until the last of the requests that came meanwhile is done. They are sent while the device is
  held, one after the other by one thread; what sending them takes is left out. Virtual time is that of the machine in the
  lab: 100 ns for each kernel call, and what the hardware takes. The software device has no resources, so that the PnP manager asks
  it to stop and then takes that back.
- **A processor joins**: AddStart and AddComplete are the callback that KeRegisterProcessorChangeCallback was given; the first processor is
  announced when the driver is loaded. What follows is the interface arrival notification and the work items that are queued by then. Bytes are
  those that the driver asks of pool.
- **Bytes** are of pool that the driver has asked for, by difference. Cache-aware run-down protection is 8 bytes in the lab, and about a
  line for each processor in Windows.
- **The deepest stack** is measured at each instruction of the whole demo, from the kernel's call to the lowest stack pointer. For a kernel
  function that calls the driver back, 256 bytes are added. Interrupts and DPCs, which may lie on top, begin anew.

`cargo xtask bench --listing factorial` tells what a request consists of: instructions by function, kernel calls in order, atomics and
shared lines with their places ([--engine edu] [--processors 8] [--image FILE]); `--listing hold` the same of a hold ([--waiting 64]).
`cargo xtask bench --listing image` tells what the bytes of an image are, by part of the file, by source and by function.

A test ([tests/tests/performance.rs](../tests/tests/performance.rs)) counts again and fails when a goal is lost that is met here.
";

/// Writes the document, its charts and the figures below `root`; returns what was written.
///
/// # Errors
///
/// A file that cannot be written, or a run that stopped.
pub fn write(root: &Path, report: &Report) -> Result<Vec<PathBuf>> {
    let charts = charts(report)?;
    let mut files: Vec<(PathBuf, String)> = vec![
        (root.join(DOCUMENT), text(report, &charts)?),
        (root.join(FIGURES), serde_json::to_string_pretty(report)? + "\n"),
    ];
    for Chart { name, svg, .. } in charts {
        files.push((root.join(CHARTS).join(name).with_extension("svg"), svg));
    }
    fs::create_dir_all(root.join(CHARTS))?;
    for (path, content) in &files {
        fs::write(path, content).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// A chart, and where it belongs.
struct Chart {
    /// None for what is over the number of processors.
    group: Option<Group>,
    name: String,
    title: String,
    svg: String,
}

impl Chart {
    fn new(group: Option<Group>, name: impl Into<String>, title: impl Into<String>, svg: String) -> Self {
        Self { group, name: name.into(), title: title.into(), svg }
    }
}

fn charts(report: &Report) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for (name, title, figure) in [
        ("instructions", "Instructions of a request", "instructions"),
        ("kernel-calls", "Kernel calls of a request", "kernel-calls"),
        ("atomics", "Atomics of a request", "atomics"),
    ] {
        let bars = of_requests(report, title, figure);
        if !bars.bars.is_empty() {
            charts.push(Chart::new(Some(Group::Request), name, title, bars.draw()?));
        }
    }
    for (group, name, title, prefix, suffix) in [
        (Group::Lines, "moves", "Moves of shared cache lines, a request", "lines/", "/moves"),
        (Group::Processor, "joining", "Instructions of AddStart + AddComplete", "processor/", "/instructions"),
        (
            Group::Processor,
            "arrival",
            "Instructions of what follows when a processor joins",
            "arrival/",
            "/instructions",
        ),
    ] {
        let curves =
            Curves { title: title.to_owned(), x: "processors", curves: over_processors(report, prefix, suffix) };
        if curves.curves.iter().any(|(_, points)| points.len() > 1) {
            charts.push(Chart::new(Some(group), name, title, curves.draw()?));
        }
    }
    for curve in &report.curves {
        let title = format!("{}, {}", curve.what, curve.unit);
        let curves = vec![(Driver::HOTADD.to_string(), curve.points.clone())];
        let svg = Curves { title: title.clone(), x: "processors", curves }.draw()?;
        charts.push(Chart::new(None, file_name(&curve.what), title, svg));
    }
    Ok(charts)
}

/// Words as the name of a file.
fn file_name(words: &str) -> String {
    let plain: String =
        words.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    plain.split_whitespace().take(5).collect::<Vec<_>>().join("-")
}

fn of_requests(report: &Report, title: &'static str, figure: &str) -> Bars {
    let wanted = |row: &&Row| row.id.starts_with("request/") && row.id.ends_with(&format!("/{figure}"));
    let bar = |row: &Row| {
        let words: Vec<&str> = row.id.split('/').collect();
        let label = words.get(1..3).map(|words| format!("{} {}", words[0], words[1])).unwrap_or_default();
        (label, vec![Some(row.rust), row.c])
    };
    let bars = report.rows.iter().filter(wanted).map(bar).collect();
    Bars { title, series: vec![Driver::HOTADD.name, Driver::PEER.name], bars }
}

fn over_processors(report: &Report, prefix: &str, suffix: &str) -> Vec<(String, Vec<(u32, f64)>)> {
    let points = |value: fn(&Row) -> Option<f64>| {
        let point = |row: &Row| Some((row.id.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()?, value(row)?));
        report.rows.iter().filter_map(point).collect::<Vec<(u32, f64)>>()
    };
    let curves = [(Driver::HOTADD, points(|row| Some(row.rust))), (Driver::PEER, points(|row| row.c))];
    curves
        .into_iter()
        .filter(|(_, points)| !points.is_empty())
        .map(|(driver, points)| (driver.to_string(), points))
        .collect()
}

fn text(report: &Report, charts: &[Chart]) -> Result<String> {
    let mut text = HEAD.to_owned();
    let (met, judged) =
        report.rows.iter().filter_map(|row| row.met).fold((0, 0), |(met, all), is| (met + i32::from(is), all + 1));
    writeln!(text, "{met} of {judged} goals are met.\n")?;
    for group in Group::ALL {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.group == group).collect();
        if !rows.is_empty() {
            section(&mut text, group, &rows, charts)?;
        }
    }
    if !report.curves.is_empty() {
        over_all(&mut text, report, charts)?;
    }
    if !report.host.is_empty() {
        of_host(&mut text, &report.host)?;
    }
    unmet(&mut text, report)?;
    text.push_str(METHOD);
    Ok(text)
}

fn section(text: &mut String, group: Group, rows: &[&Row], charts: &[Chart]) -> Result<()> {
    writeln!(text, "## {}\n", group.title())?;
    for chart in charts.iter().filter(|chart| chart.group == Some(group)) {
        writeln!(text, "![{}](performance/{}.svg)\n", chart.title, chart.name)?;
    }
    writeln!(text, "| figure | goal | hotadd | peer | ratio | met |\n|---|---|---:|---:|---:|---|")?;
    for row in rows {
        writeln!(text, "| {} |", report::cells(row).join(" | "))?;
    }
    writeln!(text)?;
    if rows.iter().any(|row| row.id.starts_with("floor/")) {
        writeln!(text, "In rows of the floor, the drivers are the floor in Rust and that in C.\n")?;
    }
    Ok(())
}

fn over_all(text: &mut String, report: &Report, charts: &[Chart]) -> Result<()> {
    writeln!(text, "## Over the number of processors\n\nOf hotadd alone, in virtual time or counted.\n")?;
    for chart in charts.iter().filter(|chart| chart.group.is_none()) {
        writeln!(text, "![{}](performance/{}.svg)\n", chart.title, chart.name)?;
    }
    let sizes = report.curves.first().map(|curve| &curve.points[..]).unwrap_or_default();
    let sizes: Vec<String> = sizes.iter().map(|(processors, _)| processors.to_string()).collect();
    writeln!(text, "| figure | {} |\n|---|{}", sizes.join(" | "), "---:|".repeat(sizes.len()))?;
    for curve in &report.curves {
        let values: Vec<String> = curve.points.iter().map(|(_, value)| report::number(*value, Unit::Count)).collect();
        writeln!(text, "| {}, {} | {} |", curve.what, curve.unit, values.join(" | "))?;
    }
    writeln!(text)?;
    Ok(())
}

fn of_host(text: &mut String, figures: &[Figure]) -> Result<()> {
    writeln!(text, "## The lab, in host time\n\nOn the machine that wrote this; another one has other figures.\n")?;
    writeln!(text, "| measure | goal | here |\n|---|---|---:|")?;
    for Figure { what, goal, measured } in figures {
        writeln!(text, "| {what} | {goal} | {measured} |")?;
    }
    writeln!(text)?;
    Ok(())
}

/// Why goals are not met: what the figures are made of.
fn unmet(text: &mut String, report: &Report) -> Result<()> {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.met == Some(false)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(text, "## Goals that are not met, and what those figures are made of\n")?;
    for row in rows {
        let [what, goal, rust, c, ..] = report::cells(row);
        let beside = if c.is_empty() { String::new() } else { format!(", {c} in C") };
        writeln!(text, "### {what}: {rust}{beside}; goal {goal}\n")?;
        if let Some(why) = goals::why(&row.id) {
            writeln!(text, "{why}\n")?;
        }
        parts(text, row)?;
        functions(text, row)?;
        code(text, row)?;
    }
    Ok(())
}

fn parts(text: &mut String, row: &Row) -> Result<()> {
    let names: BTreeSet<&String> = row.rust_parts.keys().chain(row.c_parts.keys()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&String> = names.into_iter().collect();
    let of = |name: &String| row.rust_parts.get(name).copied().unwrap_or(0.0);
    names.sort_by(|a, b| of(b).total_cmp(&of(a)));
    writeln!(text, "| part | hotadd | peer |\n|---|---:|---:|")?;
    for name in names.iter().take(PARTS) {
        let c = row.c_parts.get(*name).copied().unwrap_or(0.0);
        writeln!(text, "| {name} | {:.2} | {c:.2} |", of(name))?;
    }
    if names.len() > PARTS {
        writeln!(text, "| {} more | | |", names.len() - PARTS)?;
    }
    writeln!(text)?;
    Ok(())
}

/// The functions of both drivers, where the figure is of instructions of a request or of a hold.
fn functions(text: &mut String, row: &Row) -> Result<()> {
    let id = row.id.strip_prefix("floor/");
    let drivers = if id.is_some() { [Driver::FLOOR_RUST, Driver::FLOOR_C] } else { [Driver::HOTADD, Driver::PEER] };
    let words: Vec<&str> = id.unwrap_or(&row.id).split('/').collect();
    let [group @ ("request" | "hold"), engine, what, "instructions"] = words[..] else { return Ok(()) };
    let Some(engine) = Engine::named(engine) else { return Ok(()) };
    for driver in drivers {
        let sys = driver.build()?.sys;
        let functions = match (group, Kind::named(what)) {
            ("request", Some(kind)) => listing::by_function(&sys, kind, engine)?,
            _ => listing::of_hold_by_function(&sys, engine, what.parse()?)?,
        };
        writeln!(text, "Instructions of {driver} by function:\n\n| function | instructions |\n|---|---:|")?;
        for (function, count) in functions.into_iter().take(PARTS) {
            writeln!(text, "| `{function}` | {count:.2} |")?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// The code of both drivers, where the figure is the size of the file.
fn code(text: &mut String, row: &Row) -> Result<()> {
    if row.id != "image/file" {
        return Ok(());
    }
    for driver in [Driver::HOTADD, Driver::PEER] {
        let Sizes { sources, functions, .. } = Sizes::of(&driver.build()?.sys)?;
        for (title, sizes) in [("source, wherever it was inlined", sources), ("function", functions)] {
            writeln!(text, "Code of {driver} by {title}:\n\n| | bytes |\n|---|---:|")?;
            for (name, bytes) in sizes.iter().take(PARTS) {
                writeln!(text, "| `{name}` | {bytes} |")?;
            }
            let rest = sizes.get(PARTS..).unwrap_or_default();
            if !rest.is_empty() {
                writeln!(text, "| {} more | {} |", rest.len(), rest.iter().map(|(_, bytes)| bytes).sum::<u64>())?;
            }
            writeln!(text)?;
        }
    }
    Ok(())
}
