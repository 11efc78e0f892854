//! ETW: what the journal tells, a tracing session is told too.

use std::{collections::BTreeSet, fs, path::Path};

use hotadd_abi::{Event, TRACE_PROVIDER, Wire};
use hotadd_tests::{Bench, each_seed, run, small, sys};
use ntlab::{
    hot_add::NewProcessor,
    user::{Class, TraceEvent, TraceValue as Value},
};
use roxmltree::Document;

/// Informational.
const LEVEL: u8 = 4;

/// The event of the journal that the fields of a traced event make, by the names that its metadata gives them.
fn decoded(event: &TraceEvent) -> Event {
    let fields = event.fields.as_ref().expect("its metadata describe all its fields");
    let field = |name: &str| {
        let found = fields.iter().find(|field| field.name == name);
        match found.unwrap_or_else(|| panic!("there is a field {name}")).value {
            Value::Unsigned(value) | Value::Hex(value) => value,
            ref other => panic!("{name} is {other:?}"),
        }
    };
    let short = |name: &str| u32::try_from(field(name)).expect("it has 32 bits");
    let status = fields.iter().find_map(|field| match field.value {
        Value::Signed(value) if field.name == "Status" => i32::try_from(value).ok(),
        _ => None,
    });
    Event {
        sequence: field("Sequence"),
        time: field("Time"),
        kind: short("Kind"),
        status: status.expect("there is a field Status"),
        device: short("Device"),
        processor: short("Processor"),
        group: short("Group"),
        number: short("Number"),
        affinity: field("Affinity"),
        before: field("Before"),
        count: field("Count"),
        duration: field("Duration"),
    }
}

#[test]
fn a_session_gets_every_event_of_the_journal_field_by_field() {
    each_seed(4, |seed| {
        run(small().with_seed(seed), |system| {
            system.trace(TRACE_PROVIDER, LEVEL);
            let bench = Bench::new(system);
            system.add_processor(NewProcessor::default()).expect("there is room");
            system.settle();

            let journal = bench.journal();
            let mut written: Vec<Event> = system
                .trace_events()
                .iter()
                .map(|event| {
                    assert_eq!((event.name.as_str(), event.level, event.payload.len()), ("Event", LEVEL, Event::SIZE));
                    assert_eq!(event.provider_name, "Hotadd");
                    let bytes =
                        Event::from_bytes(&event.payload).expect("they are those of the journal's event, in order");
                    assert_eq!(decoded(event), bytes, "the fields say what the bytes say");
                    bytes
                })
                .collect();
            // Two processors may write theirs in another order than they were numbered.
            written.sort_by_key(|event| event.sequence);
            assert!(journal.len() > 10);
            assert_eq!(written.get(..journal.len()), Some(&journal[..]));
            bench.end();
        });
    });
}

#[test]
fn a_session_for_errors_only_gets_none_of_them() {
    run(small().with_seed(1), |system| {
        system.trace(TRACE_PROVIDER, 2);
        let bench = Bench::new(system);
        assert!(!bench.journal().is_empty());
        assert_eq!(system.trace_events(), []);
        bench.end();
    });
}

/// A type of a field as `TraceLoggingProvider.h` names it.
fn type_name(code: u8) -> &'static str {
    match code {
        7 => "INT32",
        8 => "UINT32",
        10 => "UINT64",
        21 => "HEXINT64",
        other => panic!("the documentation has no name for type {other}"),
    }
}

/// The fields of the event whose metadata lies somewhere in the image: names and types.
fn fields_in_the_image() -> Vec<(String, String)> {
    let image = fs::read(sys()).expect("the driver is there");
    let name = b"\0Event\0";
    let places: Vec<usize> = (2..image.len() - name.len()).filter(|&at| image[at..].starts_with(name)).collect();
    let sized = places.iter().filter_map(|&at| {
        let size = usize::from(u16::from_le_bytes([image[at - 2], image[at - 1]]));
        image.get(at - 2..at - 2 + size)?.strip_prefix(&image[at - 2..at + name.len()])
    });
    let [metadata] = sized.filter(|fields| fields.starts_with(b"Sequence\0")).collect::<Vec<_>>()[..] else {
        panic!("the image has the event's metadata once")
    };
    let mut fields = Vec::new();
    let mut rest = metadata;
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let name = String::from_utf8(rest[..end].to_vec()).expect("names are text");
        fields.push((name, type_name(rest[end + 1]).to_owned()));
        rest = &rest[end + 2..];
    }
    fields
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_documentation_lists_every_field_of_the_image_s_metadata_with_its_type() {
    let text = repository("docs/tracing.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (name, kind) = (cells.next()?, cells.next()?);
        let kind = kind.strip_prefix('`')?.strip_suffix('`')?;
        Some((name.strip_suffix('`')?.to_owned(), kind.to_owned()))
    });
    assert_eq!(rows.collect::<Vec<_>>(), fields_in_the_image());
}

/// The provider's GUID as tools want it.
fn provider() -> String {
    Class::from(TRACE_PROVIDER).to_string().trim_matches(['{', '}']).to_uppercase()
}

#[test]
fn the_documentation_s_commands_name_the_provider() {
    let text = repository("docs/tracing.md");
    let guids: Vec<&str> = text.lines().filter_map(|line| line.split_once("-guid #")?.1.split(' ').next()).collect();
    assert_eq!(guids, [provider(), provider()]);
    assert!(text.contains(&format!("`{{{}}}`", provider())));
}

#[test]
fn the_profile_for_windows_performance_recorder_collects_the_provider_to_file_and_to_memory() {
    let text = repository("scripts/windows/hotadd.wprp");
    let profile = Document::parse(&text).expect("it is XML");
    let all = |name: &'static str| profile.descendants().filter(move |node| node.has_tag_name(name));
    let ids: BTreeSet<_> = profile.descendants().filter_map(|node| node.attribute("Id")).collect();
    for reference in ["EventCollectorId", "EventProviderId"] {
        assert_eq!(all(reference).count(), 1);
        assert!(
            all(reference).all(|node| node.attribute("Value").is_some_and(|value| ids.contains(value))),
            "{reference}"
        );
    }
    assert!(all("Profile").filter_map(|node| node.attribute("Base")).all(|base| ids.contains(base)));
    let [provided] = all("EventProvider").collect::<Vec<_>>()[..] else { panic!("there is one provider") };
    assert_eq!(provided.attribute("Name").map(str::to_uppercase), Some(provider()));
    assert_eq!((provided.attribute("NonPagedMemory"), provided.attribute("Level")), (Some("true"), Some("4")));
    for node in all("Profile") {
        let part = |name| node.attribute(name).unwrap_or_else(|| panic!("a profile has {name}"));
        assert_eq!(part("Id"), format!("{}.{}.{}", part("Name"), part("DetailLevel"), part("LoggingMode")));
        assert!(!part("Description").is_empty());
    }
    let modes: Vec<_> = all("Profile").filter_map(|node| node.attribute("LoggingMode")).collect();
    assert_eq!(modes, ["File", "Memory"]);
    let order: Vec<_> = all("Profiles")
        .flat_map(|node| node.children())
        .filter(roxmltree::Node::is_element)
        .map(|node| node.tag_name().name())
        .collect();
    assert_eq!(
        order,
        ["EventCollector", "EventProvider", "Profile", "Profile"],
        "the recorder wants them in this order"
    );
}
