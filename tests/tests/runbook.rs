//! What docs/windows.md says that can be held without Windows: QEMU's commands, breakpoints, and the journal's events.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::iter;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, each_seed, on_bench, sys};
use ntlab::{hot_add::NewProcessor, hw::qemu};
use pdb_addr2line::pdb::{FallibleIterator as _, PDB, SymbolData};
use serde_json::Value;

fn runbook() -> String {
    fs::read_to_string(kit::root().join("docs/windows.md")).expect("the runbook is there")
}

/// The blocks of code after a comment.
fn blocks(comment: &str) -> Vec<String> {
    let (text, comment) = (runbook(), format!("<!-- {comment} -->\n```"));
    let after = text.split(&comment).skip(1);
    let blocks: Vec<_> = after
        .map(|rest| {
            let (_, code) = rest.split_once('\n').expect("the block begins");
            code.split("```").next().unwrap_or_default().to_owned()
        })
        .collect();
    assert!(!blocks.is_empty(), "there is no {comment}");
    blocks
}

/// A QEMU that was started as the runbook says, as far as this machine has what that takes.
struct Qemu {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Qemu {
    fn start() -> Self {
        if let Err(error) = qemu::version() {
            panic!("{error}");
        }
        let line = blocks("qemu").concat().replace("\\\n", " ");
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("there is a command"));
        while let (Some(option), Some(value)) = (words.next(), words.next()) {
            match option {
                // There is no disk, no network, and the pipe in place of the port.
                "-drive" | "-cdrom" | "-netdev" | "-serial" => {}
                "-qmp" => {
                    command.args(["-qmp", "stdio"]);
                }
                "-device" if value.contains("netdev=") => {}
                _ => {
                    command.args([option, &value.replace("accel=kvm", "accel=tcg").replace("host", "qemu64")]);
                }
            }
        }
        command.args(["-S", "-display", "none", "-nodefaults"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("QEMU starts");
        let to = child.stdin.take().expect("it is piped");
        let from = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut qemu = Self { child, to, from };
        assert!(qemu.read().get("QMP").is_some(), "QEMU greets");
        qemu
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("QEMU can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// What QEMU answers; events before it are skipped.
    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.to, "{line}").expect("QEMU listens");
        loop {
            let answer = self.read();
            assert_eq!(answer.get("error"), None, "{line}");
            if let Some(answer) = answer.get("return") {
                return answer.clone();
            }
        }
    }
}

impl Qemu {
    /// How many of what a query lists are so.
    fn count(&mut self, query: &str, is_so: impl Fn(&Value) -> bool) -> usize {
        let answer = self.ask(&format!(r#"{{"execute": "{query}"}}"#));
        answer.as_array().expect("a list").iter().filter(|entry| is_so(entry)).count()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Gone already where it ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn qemu_does_what_the_runbook_tells_it() {
    let (mut processors, mut modules) = (Vec::new(), Vec::new());
    for block in blocks("qmp") {
        let mut qemu = Qemu::start();
        for line in block.lines() {
            qemu.ask(&line.replace("host-x86_64-cpu", "qemu64-x86_64-cpu"));
        }
        processors.push(qemu.count("query-hotpluggable-cpus", |place| place.get("qom-path").is_some()));
        modules.push(qemu.count("query-memory-devices", |device| device["data"]["hotplugged"] == true));
        let buses = qemu.ask(r#"{"execute": "query-pci"}"#);
        let devices = buses[0]["devices"].as_array().expect("a list");
        assert!(devices.iter().any(|device| device["id"]["vendor"] == 0x1234 && device["id"]["device"] == 0x11E8));
    }

    assert_eq!((processors, modules), (vec![3, 2], vec![0, 1]));
}

/// The names of the functions in the driver's PDB.
fn functions() -> Vec<String> {
    let file = File::open(sys().with_extension("pdb")).expect("the driver has symbols");
    let mut pdb = PDB::open(file).expect("they can be read");
    let debug = pdb.debug_information().expect("they can be read");
    let mut modules = debug.modules().expect("they can be read");
    let mut names = Vec::new();
    while let Some(module) = modules.next().expect("they can be read") {
        let Some(info) = pdb.module_info(&module).expect("they can be read") else { continue };
        let mut symbols = info.symbols().expect("they can be read");
        while let Some(symbol) = symbols.next().expect("they can be read") {
            if let Ok(SymbolData::Procedure(procedure)) = symbol.parse() {
                names.push(procedure.name.to_string().into_owned());
            }
        }
    }
    names
}

#[test]
fn every_breakpoint_is_a_function_of_the_driver() {
    let functions = functions();
    let text = runbook();
    let named: Vec<_> = text.split("`bm hotadd!").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    assert!(named.len() > 5);

    for name in named {
        let found = name.strip_suffix('*').map_or_else(
            || functions.iter().any(|function| function == name),
            |start| functions.iter().any(|function| function.starts_with(start)),
        );
        assert!(found, "{name} is no function of hotadd.sys");
    }
}

/// The events of a device, or of the driver, that one addition leads to; those that may come at any time are left out.
fn events(bench: Bench<'_>, device: u32, add: impl Fn(Bench<'_>)) -> Vec<EventKind> {
    let before = bench.journal().len();
    add(bench);
    bench.system.settle();
    let any_time = [EventKind::PlanRebuilt, EventKind::ProcessorArrival, EventKind::RequirementsFiltered];
    let events = bench.journal().into_iter().skip(before).filter(|event| [0, device].contains(&event.device));
    let kinds = events.filter_map(|event| EventKind::from_code(event.kind));
    kinds.filter(|kind| !any_time.contains(kind)).collect()
}

/// The events that the runbook expects.
fn expected(comment: &str) -> Vec<String> {
    let block = blocks(comment).concat();
    block.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn assert_expected(comment: &str, device: u32, add: impl Fn(Bench<'_>) + Copy) {
    each_seed(8, |seed| {
        on_bench(seed, |bench| {
            let seen: Vec<_> = events(bench, device, add).iter().map(|kind| format!("{kind:?}")).collect();
            assert_eq!(seen, expected(comment), "{comment}");
        });
    });
}

fn add_processor(bench: Bench<'_>) {
    bench.system.add_processor(NewProcessor::default()).expect("there is room");
}

#[test]
fn a_processor_leads_to_the_events_of_the_runbook() {
    assert_expected("journal: processor, edu", 1, add_processor);
    assert_expected("journal: processor, software", 2, add_processor);
}

#[test]
fn memory_leads_to_the_events_of_the_runbook() {
    assert_expected("journal: memory, edu", 1, |bench| bench.system.add_memory(1 << 30, 0).expect("there is room"));
}

/// Runs hotaddctl; its exit code, and what it prints, or says where it fails.
fn hotaddctl(arguments: &str) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = hotaddctl::run(iter::once("hotaddctl").chain(arguments.split(' ')), &mut out, &mut err);
    let said = if code == 0 { out } else { err };
    (code, String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn hotaddctl_takes_what_the_scripts_give_it() {
    for command in [
        "list --json",
        "status --json --device 0",
        "watch --json --from 7 --device 0",
        "send factorial --count 1000 --json --device 0",
        "send read --count 1000 --json --device 0",
        "send write --count 1000 --json --device 0",
        "selftest --device 0",
    ] {
        let (code, said) = hotaddctl(&format!("{command} --help"));
        assert_eq!(code, 0, "{command}: {said}");
    }
    assert_ne!(hotaddctl("status --nothing --help").0, 0);
}

#[test]
fn the_status_has_what_the_scripts_look_at() {
    let (code, status) = hotaddctl("--lab --seed 1 status --json");
    assert_eq!(code, 0, "{status}");
    let status: Value = serde_json::from_str(&status).expect("it is JSON");
    let script = fs::read_to_string(kit::root().join("scripts/windows/Invoke-HotaddProof.ps1")).expect("it is there");
    let mut named = 0;
    for variable in ["$before.", "$after.", "$Before.", "$Now.", "$Status."] {
        for rest in script.split(variable).skip(1) {
            let field: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(status.get(&field).is_some(), "{variable}{field}");
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
    assert_eq!(status["gate"], "running");
    let nodes = status["groups"].as_object().and_then(|groups| groups.values().next()).expect("a group");
    let processor = &nodes.as_object().and_then(|nodes| nodes.values().next()).expect("a node")[0];
    assert!(processor.get("index").is_some() && processor.get("requests").is_some(), "{processor}");
}
