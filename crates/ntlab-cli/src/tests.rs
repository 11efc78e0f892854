//! `ntlab imports` and `ntlab run`, with the drivers in C of crates/ntlab/tests/c.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command as Process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

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
    let path = env::temp_dir().join(format!("ntlab-{}.toml", std::process::id()));
    let text = "[driver]\n[[other-driver]]\nservice = \"a\"\nimage = \"/nowhere.sys\"\n";
    fs::write(&path, text).expect("the file is written");
    let (code, error) = ntlab("run", &driver("pci"), &["--scenario", &path.display().to_string()]);
    fs::remove_file(&path).expect("it is there");
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

/// A driver that reads the identification of an `edu`.
const IDENTIFICATION: &str = r#"
[driver]
ids = ['PCI\VEN_1234&DEV_11E8']
[[device]]
name = "edu"
hardware = { edu = { messages = "never" } }
[[thread]]
steps = [
    { open = { handle = "h", interface = "{5b0f9d1c-60e2-4f0b-8f9d-2c6f0d1b7a31}", expect = "STATUS_SUCCESS" } },
    { read = { handle = "h", length = 4, offset = 0, returns = "ed000001" } },
]
"#;

/// What `ntlab run` of it comes to, and whether a QEMU with an `edu` ran meanwhile.
fn identify(options: &[&str]) -> ((u8, String), bool) {
    let directory = tempfile::tempdir().expect("there is room");
    let file = directory.path().join("identification.toml");
    fs::write(&file, IDENTIFICATION).expect("there is room");
    let options = [&["--scenario", file.to_str().expect("the path is text")], options].concat();
    let image = driver("pci");

    let children =
        Path::new("/proc").join(fs::read_link("/proc/thread-self").expect("the host tells")).join("children");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watches = scope.spawn(|| {
            let mut seen = false;
            while !is_over.load(Ordering::Relaxed) {
                seen |= has_edu(&children);
                thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        let ended = ntlab("run", &image, &options);
        is_over.store(true, Ordering::Relaxed);
        (ended, watches.join().expect("it ends"))
    })
}

/// Whether one of the processes in the file is a QEMU with an `edu`.
fn has_edu(children: &Path) -> bool {
    // The thread, and each child, may have ended meanwhile.
    let children = fs::read_to_string(children).unwrap_or_default();
    let line = |child| fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
    children.split_whitespace().map(line).any(|line| line.starts_with("qemu-system") && line.contains("edu,"))
}

#[test]
fn run_puts_the_real_device_behind_edu_where_it_is_asked_to() {
    assert_eq!(identify(&[]), ((0, String::new()), false));
    assert_eq!(identify(&["--hardware", "model"]), ((0, String::new()), false));
    assert_eq!(identify(&["--hardware", "qemu"]), ((0, String::new()), true));
    assert_eq!(ntlab("run", &driver("pci"), &["--edu", "--hardware", "qemu"]), (0, String::new()));
}

#[test]
fn run_on_real_hardware_names_the_package_in_one_line_where_qemu_is_absent() {
    const ALONE: &str = "NTLAB_TEST_WITHOUT_QEMU";
    if let Some(image) = env::var_os(ALONE) {
        let (code, error) = ntlab("run", Path::new(&image), &["--edu", "--hardware", "qemu"]);
        eprintln!("{error}");
        assert_eq!(code, 2);
        return;
    }
    // What programs are found is the whole process's: another one runs this test where there are none.
    let name = "tests::run_on_real_hardware_names_the_package_in_one_line_where_qemu_is_absent";
    let mut again = Process::new(env::current_exe().expect("the host knows it"));
    let again = again.args(["--exact", name, "--nocapture"]).env("PATH", "/nonexistent").env(ALONE, driver("pci"));
    let ended = again.output().expect("it starts");
    assert!(ended.status.success(), "{ended:?}");
    let said =
        "qemu-system-x86_64 is not installed; on Debian: apt-get install --no-install-recommends qemu-system-x86\n";
    assert_eq!(String::from_utf8_lossy(&ended.stderr), said);
}
