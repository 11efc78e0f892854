//! ETW: what the journal tells, a tracing session is told too.

use hotadd_abi::{Event, TRACE_PROVIDER, Wire};
use hotadd_tests::{Bench, each_seed, run, small};
use ntlab::{
    hot_add::NewProcessor,
    user::{TraceEvent, TraceValue as Value},
};

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
