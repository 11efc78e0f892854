//! The rules of `InfVerif` that can be stated, after "INF Validation Errors and Warnings" and "`InfVerif` /h".
//!
//! docs/package.md lists them. Each is seen to fail: [`BREAKS`] has an edit of the INF for each that breaks it.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::stamped;

/// The violations of an INF, by `InfVerif`'s number.
pub type Violations = BTreeMap<u16, Vec<String>>;

/// For each rule an edit that breaks it: what to replace by what.
const BREAKS: &[(u16, &str, &str)] = &[
    (1001, "$WINDOWS NT$", "$CHICAGO$"),
    (1002, "Class       = System", "Class       = \"System"),
    (1003, "hotadd installation disk", "h\u{f6}tadd"),
    (1010, "{4D36E97D-E325-11CE-BFC1-08002BE10318}", "4D36E97D"),
    (1100, "hotadd.sys = 1", "hotadd.sys = 1,x64"),
    (1199, "NTamd64.10.0...19041", "NTamd64.10.0...15063"),
    (1203, "[EventLog_Install]", "[Elsewhere]"),
    (1204, "Provider       = \"hotadd\"", "Provider       = \"Microsoft\""),
    (1209, "[Driver_Files]", "[Driver_Files]\r\nhotadd.sys\r\n[Driver_Files]"),
    (1211, "[Edu_Install.NT.Services]", "[Edu_Install.NT.Services]\r\nAddService = b, 2, Service_Install"),
    (1213, "[SourceDisksFiles]", "[SourceDisksFiles]\r\nhotadd.cat = 1"),
    (1214, "hotadd.cat", r"catalogs\hotadd.cat"),
    (1217, "0.1.0.0", "0.1.0"),
    (1218, "11/21/2026", "2026-11-21"),
    (1224, "HKR,,TypesSupported", "HKX,,TypesSupported"),
    (1230, "hotadd.sys = 1", "other.sys = 1"),
    (1233, "CatalogFile = hotadd.cat", ""),
    (1234, "Provider    = %Provider%", ""),
    (1235, "DiskName       =", "Disk           ="),
    (1254, r"%13%\hotadd.sys", ""),
    (1257, "%%SystemRoot%%", "%10%"),
    (1268, "BufferPoolMaximum,%REG_DWORD_IF_ABSENT%,16777216", "BufferPoolMaximum,%REG_DWORD_IF_ABSENT%,16M"),
    (1271, "= Edu_Install,", "= ,"),
    (1273, "hotadd.sys = 1", "hotadd.sys = 2"),
    (1274, "NTamd64", "NT$ARCH$"),
    (1275, "DefaultDestDir = 13", ""),
    (1280, "Class       = System", "Class       = Net"),
    (1285, "[Driver_Files]", "[ClassInstall32]\r\n[Driver_Files]"),
    (1287, "NTamd64.10.0...19041", "NTamd64.10.x"),
    (1289, "ErrorControl  = 1", ""),
    (1296, "[Software_Install.NT.Services]", "[Software_Install.NT.Service]"),
    (1297, r"= Edu_Install, PCI\VEN_1234&DEV_11E8", ""),
    (1300, "[Driver_Files]", "[Edu_Install.NT.CoInstallers]\r\n[Driver_Files]"),
    (1301, "[Edu_Install.NT]", "[Edu_Install.NT]\r\nDelReg = Device_AddReg"),
    (1320, "HKR,,DeviceCharacteristics", r"HKLM,SYSTEM,DeviceCharacteristics"),
    (1322, "DefaultDestDir = 13", "DefaultDestDir = 12"),
    (1323, "HKR,Parameters,JournalEvents", "HKR,,JournalEvents"),
    (1324, "PnpLockdown = 1", "PnpLockdown = 0"),
    (1329, "HKR,,DeviceCharacteristics,%REG_DWORD%,0x100", "HKR,,UpperFilters,0x00010000,other"),
    (
        1333,
        "hotadd, %SPSVCINST_ASSOCSERVICE%, Service_Install, EventLog_Install",
        "hotadd, 2, Another, EventLog_Install",
    ),
    (1431, "MSISupported,%REG_DWORD%", "MSISupported,0"),
    (2083, "[Driver_Files]", "[Nobody]\r\nhotadd.sys\r\n[Driver_Files]"),
    (2084, r"%13%\hotadd.sys", r"%13%\other.sys"),
    (2085, r"%13%\hotadd.sys", r"\SystemRoot\hotadd.sys"),
];

#[test]
fn the_inf_keeps_every_rule() {
    assert_eq!(checks::violations(&stamped()), Violations::new());
}

#[test]
fn every_rule_is_broken_by_an_edit_that_breaks_it() {
    let inf = stamped();

    for (code, from, to) in BREAKS {
        assert!(inf.contains(from), "{code}: the INF has no {from}");
        let found = checks::violations(&inf.replacen(from, to, 1));
        assert!(found.contains_key(code), "{from} replaced by {to} does not break {code}, but {found:?}");
    }
}

#[test]
fn docs_package_md_lists_the_rules_that_are_tested() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/package.md");
    let document = fs::read_to_string(document).expect("docs/package.md is there");

    let listed: BTreeSet<u16> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
        .filter_map(|(code, _)| code.parse().ok())
        .collect();

    let tested: BTreeSet<u16> = BREAKS.iter().map(|(code, ..)| *code).collect();
    assert_eq!(listed, tested);
}
