//! The journal: numbered events from a cursor, how many were missed, and waiting for the next one.

use hotadd_abi::EventKind;
use hotadd_tests::{Bench, each_seed, on_bench, quick_edu, run, small, status, sys};
use ntlab::{
    config::Config,
    events::Kind,
    hot_add::NewProcessor,
    machine::Machine,
    pnp::Rebalance,
    registry::Value,
    user::{Handle, Pending},
};

const SECOND: u64 = 1_000_000_000;
fn next_of(device: &Handle<'_>) -> u64 {
    workload::status(device).expect("the driver answers").journal_next
}

fn wait<'k>(device: &Handle<'k>, cursor: u64) -> Pending<'k> {
    device.submit(workload::journal(cursor).0)
}

#[test]
fn events_are_numbered_without_gaps_and_in_time() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            bench.system.add_processor(NewProcessor::default()).expect("there is room");
            bench.system.settle();
            let events = bench.journal();
            assert!(events.len() > 10);
            for (number, event) in (0..).zip(&events) {
                assert_eq!(event.sequence, number);
                assert!(EventKind::from_code(event.kind).is_some(), "{event:?}");
            }
            assert!(events.is_sorted_by_key(|event| event.time));
        });
    });
}

#[test]
fn a_cursor_goes_on_where_the_last_read_ended() {
    each_seed(2, |seed| {
        on_bench(seed, |bench| {
            let device = bench.open_edu();
            let all = workload::journal_from(&device, 0).expect("it can be read");
            for cursor in [1, all.next / 2, all.next - 1] {
                let rest = workload::journal_from(&device, cursor).expect("it can be read");
                let skipped = usize::try_from(cursor).expect("it is small");
                assert_eq!((&rest.events[..], rest.missed), (&all.events[skipped..], 0));
            }
            let none = workload::journal_from(&device, all.next).expect("the next event can be asked for");
            assert_eq!((none.events.len(), none.next), (0, all.next));
        });
    });
}

#[test]
fn a_slow_reader_is_told_how_many_events_it_missed() {
    each_seed(2, |seed| {
        run(small().with_seed(seed), |system| {
            let package = workload::package(sys()).with_parameter("JournalEvents", Value::dword(64));
            let bench = Bench::with(system, package, quick_edu());
            let device = bench.open_software();
            for _ in 0..20 {
                bench.edu.rebalance(system);
            }
            let next = next_of(&device);
            let journal = workload::journal_from(&device, 3).expect("it can be read");
            assert_eq!((journal.missed, journal.next), (next - 64 - 3, next));
            assert_eq!(journal.events.first().map(|event| event.sequence), Some(next - 64));
            drop(device);
            bench.end();
        });
    });
}

#[test]
fn a_wait_ends_with_the_next_event() {
    each_seed(8, |seed| {
        on_bench(seed, |bench| {
            let device = bench.open_software();
            bench.system.settle();
            let (_, parse) = workload::journal(0);
            for _ in 0..3 {
                let next = next_of(&device);
                let waiting = [wait(&device, next), wait(&device, next)];
                bench.system.sleep(1_000_000);
                assert!(waiting.iter().all(|waiting| !waiting.is_done()), "there is nothing yet");
                assert_eq!(bench.edu.query_stop(bench.system), Ok(()));
                for waiting in waiting {
                    let done = waiting.wait();
                    assert!(done.status.is_success());
                    let journal = parse(&done.output);
                    assert_eq!(journal.events.first().map(|event| event.sequence), Some(next));
                }
            }
        });
    });
}

#[test]
fn a_wait_for_events_that_are_there_ends_at_once() {
    each_seed(2, |seed| {
        on_bench(seed, |bench| {
            let (request, parse) = workload::journal(0);
            let done = bench.open_edu().submit(request).wait();
            assert_eq!(parse(&done.output).events.first().map(|event| event.sequence), Some(0));
        });
    });
}

#[test]
fn a_wait_ends_when_it_is_cancelled_or_its_handle_closed() {
    each_seed(8, |seed| {
        on_bench(seed, |bench| {
            bench.system.settle();
            let device = bench.open_software();
            let cancelled = wait(&device, next_of(&device));
            assert!(cancelled.cancel());
            assert_eq!(cancelled.wait().status, status::CANCELLED);
            let closed = [wait(&device, next_of(&device)), wait(&device, next_of(&device))];
            let other = bench.open_edu();
            let stays = wait(&other, next_of(&other));
            device.close();
            for waiting in closed {
                assert_eq!(waiting.wait().status, status::CANCELLED);
            }
            assert!(!stays.is_done(), "another handle's wait goes on");
            stays.cancel();
            assert_eq!(stays.wait().status, status::CANCELLED);
        });
    });
}

/// Waits for the event behind those that there are as soon as drivers have made `delay` more kernel calls, while an event is recorded.
/// How often a request was put into a queue; none where the rebalance that records them makes fewer calls.
fn queued_during_an_event(delay: u64) -> Option<usize> {
    let config = Config { keep_trace: true, ..small().with_seed(delay) };
    let outcome = Machine::new(config).expect("the machine makes sense").run(|system| {
        let bench = Bench::new(system);
        system.settle();
        let device = bench.open_software();
        let from = system.now();
        let call = system.kernel_calls() + delay;
        let edu = bench.edu;
        system.spawn("recorder", move |system| assert_eq!(edu.rebalance(system), Rebalance::Restarted));
        let was_reached = system.wait_for_call(call, SECOND);
        let waiting = wait(&device, next_of(&device));
        system.sleep(SECOND);
        waiting.cancel();
        let ended = waiting.wait().status;
        assert!(ended.is_success() || ended == status::CANCELLED, "{ended}");
        drop(device);
        bench.end();
        was_reached.then_some(from)
    });
    let from = outcome.result.unwrap_or_else(|report| panic!("{report}"))?;
    let calls = outcome.events.iter().filter(|event| event.time >= from);
    Some(calls.filter(|event| matches!(event.kind, Kind::KernelCall("IoCsqInsertIrpEx"))).count())
}

#[test]
fn a_wait_stays_in_its_queue_until_it_ends() {
    let delays = (1..).map_while(|delay| Some((delay, queued_during_an_event(delay)?)));
    let looked_at = delays.inspect(|(delay, queued)| {
        assert!(*queued <= 1, "HOTADD_SEED={delay}: the cleanup of its handle would have missed it");
    });
    assert!(looked_at.count() > 100, "a rebalance takes more kernel calls");
}

#[test]
fn a_device_that_is_gone_tells_that_and_then_refuses_to_wait() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let device = bench.open_edu();
            bench.system.settle();
            let (request, parse) = workload::journal(next_of(&device));
            let waiting = device.submit(request);
            bench.edu.surprise_remove(bench.system);
            let events = parse(&waiting.wait().output).events;
            assert!(!events.is_empty() && events.iter().all(|event| event.device == 1), "{events:?}");
            assert_eq!(wait(&device, next_of(&device)).wait().status, status::DELETE_PENDING);
        });
    });
}

#[test]
fn every_event_of_a_processor_says_which_one() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            bench.system.add_processor(NewProcessor { place: Some(5), ..NewProcessor::default() }).expect("it is free");
            bench.system.settle();
            for kind in [EventKind::ProcessorAddStart, EventKind::ProcessorAddComplete] {
                let events = bench.events(kind);
                let said: Vec<_> = events.iter().map(|event| (event.processor, event.group, event.number)).collect();
                assert_eq!(said, [(0, 0, 0), (1, 0, 1), (5, 0, 5)]);
            }
            assert!(!bench.events(EventKind::ProcessorArrival).is_empty());
        });
    });
}
