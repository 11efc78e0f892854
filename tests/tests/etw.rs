//! ETW: what the journal tells, a tracing session is told too.

use hotadd_abi::{Event, Wire};
use hotadd_tests::{Bench, each_seed, run, small};
use ntlab::hot_add::NewProcessor;

/// The provider's GUID, which follows from its name `Hotadd` as that of every `TraceLogging` provider:
/// `{CDF4AFC0-7793-5B37-FE52-55FE53685FE9}`.
const PROVIDER: (u32, u16, u16, [u8; 8]) =
    (0xCDF4_AFC0, 0x7793, 0x5B37, [0xFE, 0x52, 0x55, 0xFE, 0x53, 0x68, 0x5F, 0xE9]);
/// Informational.
const LEVEL: u8 = 4;

#[test]
fn a_session_gets_every_event_of_the_journal_field_by_field() {
    each_seed(4, |seed| {
        run(small().with_seed(seed), |system| {
            system.trace(PROVIDER, LEVEL);
            let bench = Bench::new(system);
            system.add_processor(NewProcessor::default()).expect("there is room");
            system.settle();

            let journal = bench.journal();
            let mut written: Vec<Event> = system
                .trace_events()
                .iter()
                .map(|event| {
                    assert_eq!((event.name.as_str(), event.level, event.payload.len()), ("Event", LEVEL, Event::SIZE));
                    Event::from_bytes(&event.payload).expect("its fields are those of the journal's event, in order")
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
        system.trace(PROVIDER, 2);
        let bench = Bench::new(system);
        assert!(!bench.journal().is_empty());
        assert_eq!(system.trace_events(), []);
        bench.end();
    });
}
