//! `ntlab imports` and `ntlab run`, with the drivers in C of crates/ntlab/tests/c.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn driver(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ntlab/tests/c").join(name).with_extension("c");
    kit::c_driver(&source).unwrap_or_else(|error| panic!("{name} builds: {error:#}")).sys
}

fn ntlab(command: &str, image: &Path, options: &[&str]) -> (i32, String, String) {
    let mut ntlab = Command::new(env!("CARGO_BIN_EXE_ntlab"));
    let Output { status, stdout, stderr } = ntlab.arg(command).arg(image).args(options).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

#[test]
fn imports_says_of_each_whether_the_lab_has_it() {
    let (code, out, _) = ntlab("imports", &driver("legacy"), &[]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("has    ProbeForRead") || out.contains("has    MmProbeAndLockPages"), "{out}");
    assert!(out.contains("who runs next is the seed's choice"), "the note on KeSetPriorityThread: {out}");
    assert!(out.trim_end().ends_with("of which the lab lacks 0"), "{out}");

    let (code, out, _) = ntlab("imports", &driver("lacking"), &["--json"]);
    assert_eq!(code, 1, "{out}");
    let list: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let lacks = |name: &str| {
        list.as_array().expect("a list").iter().find(|entry| entry["name"] == name).map(|entry| entry["has"] == false)
    };
    assert_eq!(lacks("IoAllocateErrorLogEntry"), Some(true), "{out}");
    assert_eq!(lacks("IoGetDeviceProperty"), Some(false), "{out}");
}

#[test]
fn run_takes_a_driver_without_a_device_from_load_to_unload() {
    let (code, out, error) = ntlab("run", &driver("legacy"), &["--seed", "5"]);
    assert_eq!((code, out.as_str()), (0, "DriverEntry succeeded\nunloaded, with nothing left\n"), "{error}");
}

#[test]
fn run_ends_with_2_and_one_line_where_the_file_is_of_no_use() {
    let (code, _, error) = ntlab("run", Path::new("/nowhere.sys"), &[]);
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    let (code, _, error) = ntlab("run", &driver("lacking"), &[]);
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(error.contains("ntoskrnl.exe!IoAllocateErrorLogEntry"), "{error}");
    let (code, _, error) = ntlab("imports", Path::new(file!()), &[]);
    assert_eq!(code, 2, "{error}");
}
