//! What the documents say is there, is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The Markdown files that git knows, or would know, in order; those of others' libraries are theirs.
fn documents() -> Vec<PathBuf> {
    let mut command = std::process::Command::new("git");
    command.current_dir(kit::root()).args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]);
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names are UTF-8");
    let ours = names.lines().filter(|name| !name.split('/').any(|folder| folder == "vendor"));
    let documents: Vec<_> = ours.map(|name| kit::root().join(name)).collect();
    assert!(documents.contains(&kit::root().join("README.md")));
    documents
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// The destinations of links and pictures.
fn links(text: &str) -> Vec<String> {
    let links = parse(text).filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.into_string()),
        _ => None,
    });
    links.collect()
}

/// The names by which headings can be linked to, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut heading = None::<String>;
    for event in parse(text) {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { .. }), heading) => *heading = Some(String::new()),
            (Event::Text(part) | Event::Code(part), Some(heading)) => heading.push_str(&part),
            (Event::End(TagEnd::Heading(_)), heading) => {
                let words = heading.take().unwrap_or_default().to_lowercase().replace(' ', "-");
                anchors.insert(words.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect());
            }
            _ => {}
        }
    }
    anchors
}

/// What is wrong with a link from the document at `path`.
fn broken(path: &Path, text: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { path.to_owned() } else { path.with_file_name("").join(file) };
    if !target.exists() {
        return Some(format!("{}: {link} leads nowhere", path.display()));
    }
    let headings = if file.is_empty() { text.to_owned() } else { fs::read_to_string(&target).unwrap_or_default() };
    (!anchor.is_empty() && !anchors(&headings).contains(anchor))
        .then(|| format!("{}: {link} names no heading", path.display()))
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let broken: Vec<_> = documents()
        .iter()
        .flat_map(|path| {
            let text = read(path);
            links(&text).iter().filter_map(|link| broken(path, &text, link)).collect::<Vec<_>>()
        })
        .collect();

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let path = kit::root().join("README.md");
    let text = "# A heading of `code`\n[a](docs/lab.md) [b](docs/nothing.md) [c](#a-heading-of-code) [d](#none) [e](https://x.org)";

    let found: Vec<_> = links(text).iter().map(|link| broken(&path, text, link).is_some()).collect();

    assert_eq!(found, [false, true, false, true, false]);
}

#[test]
fn every_document_is_reached_from_the_readme() {
    let mut reached = BTreeSet::new();
    let mut next = vec![kit::root().join("README.md")];
    while let Some(path) = next.pop() {
        if !reached.insert(path.clone()) || path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let files = links(&read(&path)).into_iter().filter(|link| !link.contains("://") && !link.starts_with('#'));
        let files = files.map(|link| path.with_file_name("").join(link.split('#').next().unwrap_or_default()));
        next.extend(files.filter_map(|file| file.canonicalize().ok()));
    }
    let lost: Vec<_> = documents().into_iter().filter(|document| !reached.contains(document)).collect();

    assert!(lost.is_empty(), "no link leads to {lost:?}");
}

/// The links of a document whose text is code, with that text.
fn code_links(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut destination = None;
    for event in parse(text) {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) => destination = Some(dest_url.into_string()),
            Event::End(TagEnd::Link) => destination = None,
            Event::Code(name) => found.extend(destination.take().map(|destination| (name.into_string(), destination))),
            _ => {}
        }
    }
    found
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut named = 0;
    for path in documents() {
        for (name, link) in code_links(&read(&path)) {
            let file = path.with_file_name("").join(&link);
            let is_rust = file.extension().is_some_and(|extension| extension == "rs");
            if !is_rust || !link.contains("tests/") || name.contains(['.', '/']) {
                continue;
            }
            named += 1;
            let text = read(&file);
            // A function, or a line of a table of tests.
            let there = text.contains(&format!("fn {name}(")) || text.contains(&format!("{name} => "));
            assert!(there, "{}: {} has no {name}", path.display(), file.display());
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn what_is_generated_is_as_the_sources_are() {
    for document in &xtask::docs::GENERATED {
        let contents = document.contents(kit::root()).unwrap_or_else(|error| panic!("{error:#}"));
        let written = read(&kit::root().join(document.path));
        assert!(written == contents, "{} is stale: run `cargo xtask docs`", document.path);
    }
}

#[test]
fn the_control_codes_are_those_of_the_driver() {
    let document = read(&kit::root().join("docs/control-codes.md"));
    let codes = [
        ("IOCTL_HOTADD_FACTORIAL", hotadd_abi::IOCTL_HOTADD_FACTORIAL),
        ("IOCTL_HOTADD_STATUS", hotadd_abi::IOCTL_HOTADD_STATUS),
        ("IOCTL_HOTADD_PROCESSORS", hotadd_abi::IOCTL_HOTADD_PROCESSORS),
        ("IOCTL_HOTADD_JOURNAL_READ", hotadd_abi::IOCTL_HOTADD_JOURNAL_READ),
        ("IOCTL_HOTADD_JOURNAL_WAIT", hotadd_abi::IOCTL_HOTADD_JOURNAL_WAIT),
    ];

    for (name, value) in codes {
        let row = format!("| [`{name}`](#{}) | {value:#010X} |", name.to_lowercase());
        assert!(document.contains(&row), "{row}");
    }
    assert_eq!(document.lines().filter(|line| line.starts_with("### `IOCTL_")).count(), codes.len());
}

#[test]
fn every_crate_asks_for_documentation_of_what_is_public() {
    let names = fs::read_to_string(kit::root().join("Cargo.toml")).expect("the workspace has a manifest");
    let workspace: toml::Table = names.parse().expect("the manifest is TOML");
    let asked = |lints: &toml::Value| lints.get("rust")?.get("missing_docs")?.as_str().map(str::to_owned);
    let level = asked(&workspace["workspace"]["lints"]);
    assert!(level.as_deref().is_some_and(|level| level != "allow"), "the workspace: {level:?}");

    for member in workspace["workspace"]["members"].as_array().expect("members are a list") {
        let member = member.as_str().expect("members are paths");
        let manifest: toml::Table = read(&kit::root().join(member).join("Cargo.toml")).parse().expect("TOML");
        let lints = manifest.get("lints").unwrap_or_else(|| panic!("{member} has no lints"));
        let inherits = lints.get("workspace").is_some();
        let level = if inherits { level.clone() } else { asked(lints) };
        assert!(level.as_deref().is_some_and(|level| level != "allow"), "{member}: missing_docs is {level:?}");
    }
}
