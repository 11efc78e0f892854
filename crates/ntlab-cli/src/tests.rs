//! `ntlab imports` and `ntlab run`, with the drivers in C of crates/ntlab/tests/c.

use std::path::{Path, PathBuf};

use clap::Parser;
use ntlab::exec;

use crate::{Arguments, code, imports, one_line, run};

fn driver(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ntlab/tests/c").join(name).with_extension("c");
    kit::c_driver(&source).unwrap_or_else(|error| panic!("{name} builds: {error:#}")).sys
}

/// What a command line comes to: an exit code, and the error's line.
fn ntlab(command: &str, image: &Path, options: &[&str]) -> (u8, String) {
    let line = ["ntlab".as_ref(), command.as_ref(), image.as_os_str()];
    let line = line.into_iter().chain(options.iter().map(AsRef::as_ref));
    let ended = run(Arguments::try_parse_from(line).expect("a good command line").command);
    (code(&ended), ended.err().map_or_else(String::new, |error| format!("{error:#}")))
}

/// What `imports` prints.
fn table(name: &str) -> String {
    let mut out = Vec::new();
    imports::table(&mut out, &exec::imports(&driver(name)).expect("a driver image")).expect("memory takes it");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn imports_says_of_each_whether_the_lab_has_it_and_how_it_differs() {
    let table = table("legacy");
    assert!(table.contains("has    MmProbeAndLockPages"), "{table}");
    assert!(table.contains("who runs next is the seed's choice"), "the note on KeSetPriorityThread: {table}");
    assert!(table.trim_end().ends_with("of which the lab lacks 0"), "{table}");
    assert_eq!(ntlab("imports", &driver("legacy"), &[]), (0, String::new()));
}

#[test]
fn imports_ends_with_1_where_the_lab_lacks_any() {
    let table = table("lacking");
    assert!(table.contains("lacks  IoGetBootDiskInformation"), "{table}");
    assert!(table.contains("has    IoGetDeviceProperty"), "{table}");
    assert_eq!(ntlab("imports", &driver("lacking"), &["--json"]), (1, String::new()));
}

#[test]
fn run_takes_a_driver_without_a_device_from_load_to_unload() {
    assert_eq!(ntlab("run", &driver("legacy"), &["--seed", "5"]), (0, String::new()));
    assert_eq!(ntlab("run", &driver("leaking"), &["--json"]), (1, String::new()), "it leaves a block behind");
}

#[test]
fn run_ends_with_2_and_one_line_where_the_file_is_of_no_use() {
    let (code, error) = ntlab("run", Path::new("/nowhere.sys"), &[]);
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    let (code, error) = ntlab("run", &driver("lacking"), &[]);
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(error.contains("ntoskrnl.exe!IoGetBootDiskInformation"), "{error}");
    assert_eq!(ntlab("imports", Path::new(env!("CARGO_MANIFEST_PATH")), &[]).0, 2);
}

#[test]
fn run_plugs_in_the_pci_function_that_is_named() {
    assert_eq!(ntlab("run", &driver("pci"), &["--pci", "1b36:0005"]), (0, String::new()));
    assert_eq!(
        ntlab("run", &driver("pci"), &["--pci", "1b36:0005", "--bar", "0x20000", "--seed", "3"]),
        (0, String::new())
    );
}

#[test]
fn a_scenario_whose_other_drivers_are_not_there_is_of_no_use() {
    let path = std::env::temp_dir().join(format!("ntlab-{}.toml", std::process::id()));
    let text = "[driver]\n[[other-driver]]\nservice = \"a\"\nimage = \"/nowhere.sys\"\n";
    std::fs::write(&path, text).expect("the file is written");
    let (code, error) = ntlab("run", &driver("pci"), &["--scenario", &path.display().to_string()]);
    std::fs::remove_file(&path).expect("it is there");
    assert_eq!((code, error.as_str()), (2, "/nowhere.sys: there is no such driver image"));
}

#[test]
fn what_is_wrong_with_a_command_line_is_said_in_one_line() {
    let wrong = |line: &[&str]| {
        let Err(error) = Arguments::try_parse_from(line) else { panic!("{line:?} is right") };
        one_line(&error.to_string())
    };
    let said = [
        (wrong(&["ntlab", "run"]), "<DRIVER>"),
        (wrong(&["ntlab", "run", "a.sys", "--pci", "8086"]), "four hexadecimal digits of its vendor"),
        (wrong(&["ntlab", "run", "a.sys", "--pci", "8086:100e", "--bar", "100"]), "a power of two"),
        (wrong(&["ntlab", "run", "a.sys", "--bar", "64"]), "--pci"),
        (wrong(&["ntlab", "run", "a.sys", "--edu", "--pci", "8086:100e"]), "cannot be used with"),
        (wrong(&["ntlab", "run", "a.sys", "--hardware", "real"]), "possible values: model, qemu"),
    ];
    for (said, part) in said {
        assert!(said.starts_with("error: ") && said.contains(part) && said.lines().count() == 1, "{said}");
    }
}
