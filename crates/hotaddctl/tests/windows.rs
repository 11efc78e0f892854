//! The program for Windows, built here and started under Wine, where there is no device.
#![cfg(target_os = "linux")]

use std::{path::Path, process::Output, sync::LazyLock};

/// Starts `hotaddctl.exe` with these arguments.
fn hotaddctl(arguments: &[&str]) -> Output {
    static PROGRAM: LazyLock<std::path::PathBuf> =
        LazyLock::new(|| kit::program("hotaddctl").unwrap_or_else(|error| panic!("it builds for Windows: {error:#}")));
    let program: &Path = &PROGRAM;
    kit::run_under_wine(program, arguments).unwrap_or_else(|error| panic!("there is Wine: {error:#}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}

#[test]
fn the_help_is_that_of_linux_without_the_lab() {
    let ran = hotaddctl(&["--help"]);
    let help = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    for word in ["list", "status", "watch", "send", "selftest", "completions", "4  access denied"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(!help.contains("--lab"), "{help}");
    assert!(!help.contains('\u{1b}'), "no colour where there is no terminal");
}

#[test]
fn without_a_device_every_command_ends_with_3_and_says_what_to_do() {
    for arguments in [&["list"][..], &["status", "--json"], &["watch"], &["send", "factorial"], &["selftest"]] {
        let ran = hotaddctl(arguments);
        let error = text(&ran.stderr);
        assert_eq!((ran.status.code(), error.lines().count()), (Some(3), 1), "{arguments:?}: {error}");
        assert!(error.contains("install the driver"), "{error}");
        assert_eq!(text(&ran.stdout), "");
    }
}

#[test]
fn completions_for_powershell_are_printed() {
    let ran = hotaddctl(&["completions", "powershell"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert!(text(&ran.stdout).contains("Register-ArgumentCompleter"));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let ran = hotaddctl(&["send", "everything"]);
    assert_eq!(ran.status.code(), Some(2), "{}", text(&ran.stderr));
}
