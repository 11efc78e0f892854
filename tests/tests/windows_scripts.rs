//! The PowerShell scripts of docs/windows.md parse, are careful, and call nothing that is not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tree_sitter::{Node, Parser, Tree};

/// What the scripts call of PowerShell itself and of the modules of Windows.
const CMDLETS: &[&str] = &[
    "Add-Content",
    "Add-VMDvdDrive",
    "ConvertFrom-Json",
    "ConvertTo-Json",
    "Copy-Item",
    "Export-ModuleMember",
    "ForEach-Object",
    "Format-List",
    "Format-Table",
    "Get-ChildItem",
    "Get-CimInstance",
    "Get-Command",
    "Get-Date",
    "Get-Item",
    "Get-ItemProperty",
    "Get-Location",
    "Get-PnpDevice",
    "Get-PnpDeviceProperty",
    "Get-VM",
    "Get-VMDvdDrive",
    "Get-VMHardDiskDrive",
    "Get-WinEvent",
    "Get-WindowsDriver",
    "Import-Certificate",
    "Import-Module",
    "Join-Path",
    "New-Item",
    "New-VM",
    "Out-Null",
    "Out-String",
    "Pop-Location",
    "Push-Location",
    "Remove-Item",
    "Remove-VM",
    "Resolve-Path",
    "Restart-Computer",
    "Select-Object",
    "Set-Content",
    "Set-ItemProperty",
    "Set-StrictMode",
    "Set-VM",
    "Set-VMComPort",
    "Set-VMDvdDrive",
    "Set-VMFirmware",
    "Set-VMMemory",
    "Set-VMProcessor",
    "Sort-Object",
    "Split-Path",
    "Start-Process",
    "Start-Sleep",
    "Stop-Process",
    "Stop-VM",
    "Tee-Object",
    "Test-Path",
    "Where-Object",
    "Write-Output",
    "Write-Verbose",
    "Write-Warning",
];

const FOLDER: &str = "scripts/windows";
const MODULE: &str = "HotAdd.psm1";

/// The scripts and their module, with their text, in order.
fn scripts() -> Vec<(PathBuf, String)> {
    let folder = kit::root().join(FOLDER);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    let is_script =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "ps1" || extension == "psm1");
    let paths: BTreeSet<_> = paths.filter(is_script).collect();
    let texts = paths.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, text)
    });
    texts.collect()
}

fn is_module(path: &Path) -> bool {
    path.ends_with(MODULE)
}

fn parse(text: &str) -> Tree {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_powershell::LANGUAGE.into()).expect("the grammar fits the parser");
    parser.parse(text, None).expect("there is no time limit")
}

/// All nodes below `node`, and itself.
fn nodes(node: Node<'_>) -> Vec<Node<'_>> {
    let mut found = vec![node];
    let mut next = 0;
    while let Some(&node) = found.get(next) {
        found.extend((0..node.child_count()).filter_map(|index| node.child(index)));
        next += 1;
    }
    found
}

/// The lines on which the text is not PowerShell.
fn errors(text: &str) -> Vec<usize> {
    let tree = parse(text);
    let wrong = nodes(tree.root_node()).into_iter().filter(|node| node.is_error() || node.is_missing());
    wrong.map(|node| node.start_position().row + 1).collect()
}

/// The texts of all nodes of a kind.
fn texts<'t>(tree: &Tree, kind: &str, text: &'t str) -> BTreeSet<&'t str> {
    let found = nodes(tree.root_node()).into_iter().filter(|node| node.kind() == kind);
    found.filter_map(|node| text.get(node.byte_range())).collect()
}

/// The commands that a script calls by name.
fn calls(text: &str) -> BTreeSet<&str> {
    texts(&parse(text), "command_name", text)
}

/// The functions that a script defines.
fn functions(text: &str) -> BTreeSet<&str> {
    texts(&parse(text), "function_name", text)
}

#[test]
fn every_script_parses() {
    let scripts = scripts();
    assert!(scripts.len() > 5, "{scripts:?}");

    for (path, text) in scripts {
        assert_eq!(errors(&text), [0_usize; 0], "lines of {} that are not PowerShell", path.display());
    }
}

#[test]
fn a_script_that_is_no_powershell_is_found() {
    assert_eq!(errors("Set-StrictMode -Version Latest\n"), [0_usize; 0]);
    assert_ne!(errors("if ($true) {\n    Write-Output 'no end'\n"), [0_usize; 0]);
    assert_ne!(errors("param([string $Name)\n"), [0_usize; 0]);
}

#[test]
fn every_script_stops_at_an_error_and_at_a_name_that_nobody_has_set() {
    for (path, text) in scripts() {
        for line in ["Set-StrictMode -Version Latest", "$ErrorActionPreference = 'Stop'"] {
            assert!(text.lines().any(|other| other == line), "{} lacks {line}", path.display());
        }
    }
}

#[test]
fn every_script_says_what_it_does_and_can_be_asked_what_it_would() {
    for (path, text) in scripts().into_iter().filter(|(path, _)| !is_module(path)) {
        for part in [".SYNOPSIS", ".EXAMPLE", "[CmdletBinding(SupportsShouldProcess", "$PSCmdlet.ShouldProcess("] {
            assert!(text.contains(part), "{} lacks {part}", path.display());
        }
    }
}

#[test]
fn every_parameter_of_a_script_is_described() {
    for (path, text) in scripts().into_iter().filter(|(path, _)| !is_module(path)) {
        let (_, block) = text.split_once("\nparam(\n").unwrap_or_else(|| panic!("{} takes nothing", path.display()));
        let (block, _) = block.split_once("\n)\n").expect("the parameters end");
        // The parameter is the first variable behind the attributes, each of which ends with a bracket and a space.
        let names = block.lines().filter_map(|line| line.split("] $").last()?.split([',', ' ']).next());
        for name in names {
            assert!(text.contains(&format!(".PARAMETER {name}\n")), "{} does not say what {name} is", path.display());
        }
    }
}

#[test]
fn whatever_is_called_is_there() {
    let scripts = scripts();
    let module =
        scripts.iter().find(|(path, _)| is_module(path)).map(|(_, text)| functions(text)).expect("the module is there");
    let known: BTreeSet<&str> = CMDLETS.iter().copied().chain(module).collect();

    for (path, text) in &scripts {
        let own = functions(text);
        let named = calls(text).into_iter().filter(|name| !name.starts_with(['$', '&', '"', '\'']));
        let unknown: Vec<_> = named.filter(|name| !known.contains(name) && !own.contains(name)).collect();
        assert!(unknown.is_empty(), "{} calls {unknown:?}", path.display());
    }
}

#[test]
fn nothing_is_shared_that_nobody_uses() {
    let scripts = scripts();
    let called: BTreeSet<&str> = scripts.iter().flat_map(|(_, text)| calls(text)).collect();
    let module =
        scripts.iter().find(|(path, _)| is_module(path)).map(|(_, text)| functions(text)).expect("the module is there");

    let unused: Vec<_> =
        module.difference(&called).chain(CMDLETS.iter().filter(|name| !called.contains(*name))).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn docs_windows_names_every_script_and_no_other() {
    let text = fs::read_to_string(kit::root().join("docs/windows.md")).expect("the runbook is there");
    let words = text.split(|c: char| !(c.is_alphanumeric() || "-._".contains(c)));
    let is_script = |word: &&str| Path::new(word).extension().is_some_and(|extension| extension == "ps1");
    let named: BTreeSet<_> = words.filter(is_script).map(str::to_owned).collect();
    let there = scripts().into_iter().filter(|(path, _)| !is_module(path));
    let there: BTreeSet<_> =
        there.map(|(path, _)| path.file_name().expect("a file").to_string_lossy().into_owned()).collect();

    assert_eq!(named, there);
}
