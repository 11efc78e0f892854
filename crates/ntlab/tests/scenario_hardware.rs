//! Scenarios with hardware and drivers in a stack, as their files have it (tests/c/pci.c, bus.c, stack.c).

use std::path::{Path, PathBuf};

use ntlab::{config::Config, scenario::Scenario};

fn image(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name).with_extension("c");
    kit::c_driver(&source).unwrap_or_else(|error| panic!("{name} builds: {error:#}")).sys
}

/// Runs a scenario, whose `$NAME` stand for the images of the drivers in C.
fn run(text: &str) -> Result<(), String> {
    let text = ["pci", "bus", "stack"]
        .iter()
        .fold(text.to_owned(), |text, name| text.replace(&format!("${name}"), &image(name).display().to_string()));
    let scenario = Scenario::parse(&text).expect("it makes sense");
    for seed in 0..4 {
        let config = scenario.config().expect("a possible machine").with_seed(seed);
        scenario
            .run(Config { report_panics: true, ..config })
            .result
            .map_err(|report| format!("seed {seed}: {report}"))?;
    }
    Ok(())
}

const PCI: &str = r#"
before = [{ open = { handle = "h", interface = "{5b0f9d1c-60e2-4f0b-8f9d-2c6f0d1b7a31}" } }]
[driver]
image = "$pci"
ids = ['PCI\VEN_1B36&DEV_0005']
[[device]]
name = "memory"
hardware = { pci = { id = "1b36:0005", bar = 64 } }
[[thread]]
steps = [
    { read = { handle = "h", length = 4, offset = 60, returns = "00000000" } },
    { read = { handle = "h", length = 4, offset = 60, returns = "c3ffffff" } },
    { read = { handle = "h", length = 4, offset = 64, expect = "STATUS_INVALID_PARAMETER" } },
    { raise-interrupt = { device = "memory" } },
    { pause = { us = 100 } },
    { raise-interrupt = { device = "memory" } },
    { pause = { us = 100 } },
    { read = { handle = "h", length = 4, offset = 4, returns = "02000000" } },
    { rebalance = { device = "memory" } },
    { raise-interrupt = { device = "memory" } },
    { pause = { us = 100 } },
    { read = { handle = "h", length = 4, offset = 4, returns = "03000000" } },
]
"#;

#[test]
fn the_registers_of_a_pci_function_are_memory_and_its_line_is_raised_by_the_scenario() {
    assert_eq!(run(PCI), Ok(()));
}

#[test]
fn an_interrupt_is_connected_as_before_windows_vista_too() {
    let legacy = PCI.replacen("[[device]]", "parameters = { Legacy = 1 }\n[[device]]", 1);
    assert_eq!(run(&legacy), Ok(()));
}

#[test]
fn a_scenario_whose_interrupt_does_not_come_fails() {
    let without = PCI.replacen("    { raise-interrupt = { device = \"memory\" } },\n", "", 1);
    let broken = run(&without).expect_err("the driver counts one less");
    assert!(broken.contains("read returned 01000000, expected was 02000000"), "{broken}");
}

#[test]
fn a_bus_with_filters_over_its_children_is_described_by_a_scenario() {
    let scenario = r#"
before = [{ open = { handle = "child", interface = "{5b0f9d1c-60e2-4f0b-8f9d-2c6f0d1b7a31}" } }]
after = [{ surprise-remove = { device = "bus" } }]
[driver]
service = "bus"
image = "$bus"
ids = ['ROOT\BUS']
parameters = { Children = 3 }
[[other-driver]]
service = "function"
image = "$stack"
ids = ['STACK\CHILD']
upper-filters = ["filter"]
parameters = { Function = 1, Place = 1 }
[[other-driver]]
service = "filter"
image = "$stack"
parameters = { Place = 2 }
[[device]]
name = "bus"
hardware = { software = 'ROOT\BUS' }
[[thread]]
steps = [
    { control = { handle = "child", code = 0x222100, input = "00000000000000000000000000000000", output = 16, returns = "020201" } },
    { eject = { device = "bus/0", expect = 0x80000011 } },
    { close = { handle = "child" } },
    { eject = { device = "bus/0", expect = "STATUS_SUCCESS" } },
    { query-remove = { device = "bus/1", expect = "STATUS_SUCCESS" } },
]
"#;
    assert_eq!(run(scenario), Ok(()));
}
