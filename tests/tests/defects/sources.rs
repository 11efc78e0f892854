//! The driver's sources: what defects there are, and the lines that have marks.

use std::{fs, path::Path};

/// The driver's source that belongs to a test's: both are called like their topic.
pub fn topic(test: &str) -> String {
    let name = Path::new(test).file_name().expect("a test is in a file");
    name.to_string_lossy().into_owned()
}

fn source(topic: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("defects/src").join(topic);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The number of the one line with the mark of a defect: a comment at its end, with the names of one defect or several.
pub fn marked_line(topic: &str, name: &str) -> u32 {
    let source = source(topic);
    let is_marked = |line: &str| {
        line.split_once("// DEFECT ").is_some_and(|(_, names)| names.split_whitespace().any(|marked| marked == name))
    };
    let lines = source.lines().enumerate().filter(|(_, line)| is_marked(line));
    let marked: Vec<usize> = lines.map(|(index, _)| index + 1).collect();
    let [line] = *marked else { panic!("{topic}: {} lines are marked `// DEFECT {name}`, not one", marked.len()) };
    u32::try_from(line).expect("sources are short")
}

/// The names of the defects in a source.
fn names(topic: &str) -> Vec<String> {
    let source = source(topic);
    let after = source.split("Defect::new(").skip(1);
    after.map(|text| text.split('"').nth(1).expect("a defect has a name").to_owned()).collect()
}

#[test]
fn every_defect_has_its_tests() {
    for (topic, tested) in crate::TOPICS {
        assert_eq!(
            names(topic),
            *tested,
            "{topic}: the driver's table and the tests' have other defects, or another order"
        );
    }
}
