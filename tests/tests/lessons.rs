//! Mistakes that other drivers shipped with, each one a scenario that this driver comes out of unharmed.

use std::{cell::Cell, rc::Rc};

use hotadd_abi::{EventKind, Gate, InterruptMode, hold};
use hotadd_tests::{Bench, Traffic, each_seed, end, on_bench, quick_edu, run, small, status, sys, with_all_seeds};
use ntlab::{
    config::{Config, Group},
    events::{Event, Kind},
    hot_add::NewProcessor,
    machine::{Machine, System},
    pnp::{DeviceSpec, DeviceState, Rebalance},
    user::{self, Handle, Pending, Request},
};

/// The device stays out of rebalances after a hot add.
const NO_REBALANCE: u32 = 1;

/// Runs `scenario` with an `edu` that is made as `edu` says.
fn with_edu(seed: u64, edu: DeviceSpec, scenario: impl FnOnce(Bench<'_>)) {
    run(small().with_seed(seed), |system| {
        let bench = Bench::with(system, workload::package(sys()), edu);
        scenario(bench);
        bench.end();
    });
}

/// Requests of every kind, with the right answers.
fn use_it(device: &Handle<'_>) {
    assert_eq!(workload::factorial(device, 12).map(|answer| answer.factorial), Ok(479_001_600));
    let data: Vec<u8> = (0..=255).collect();
    assert_eq!(device.write(700, &data), Ok(256));
    assert_eq!(device.read(700, 256), Ok(data));
}

/// The processors that the driver has blocks for.
fn known(bench: Bench<'_>) -> Vec<u32> {
    let statistics = workload::processors(&bench.open_software()).expect("statistics can be read");
    statistics.iter().map(|processor| processor.index).collect()
}

fn at(place: u32) -> NewProcessor {
    NewProcessor { place: Some(place), ..NewProcessor::default() }
}

/// Starts a rebalance of the `edu` device on another thread, and returns when requests are held for it.
fn begin_rebalance(bench: Bench<'_>) -> Rc<Cell<Option<Rebalance>>> {
    let ended = Rc::new(Cell::new(None));
    let end = Rc::clone(&ended);
    bench.system.spawn("rebalance", move |system| end.set(Some(bench.edu.rebalance(system))));
    while bench.edu_status().hold_reasons & hold::PNP_STOP == 0 {
        bench.system.sleep(100_000);
    }
    assert_eq!(bench.edu_status().gate, Gate::Holding.code());
    ended
}

fn rebalance_ended(bench: Bench<'_>, ended: &Cell<Option<Rebalance>>) -> Rebalance {
    loop {
        if let Some(ended) = ended.get() {
            return ended;
        }
        bench.system.sleep(1_000_000);
    }
}

#[test]
fn a_processor_that_does_not_start_after_add_start_is_forgotten_and_can_come_later() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            for place in [7, 4] {
                let before = known(bench);
                let failing = NewProcessor { fails: Some(status::UNSUCCESSFUL), ..at(place) };
                assert_eq!(bench.system.add_processor(failing), Err(status::UNSUCCESSFUL));
                assert_eq!(known(bench), before);
                traffic.run(20);
                assert_eq!(bench.system.add_processor(at(place)), Ok(place));
                traffic.run(20);
            }
            bench.system.settle();
            traffic.stop_unharmed();
            assert_eq!(known(bench), [0, 1, 4, 7]);
            let failures = bench.events(EventKind::ProcessorAddFailure);
            let failures: Vec<_> = failures.iter().map(|event| (event.processor, user::Status(event.status))).collect();
            assert_eq!(failures, [(7, status::UNSUCCESSFUL), (4, status::UNSUCCESSFUL)]);
        });
    });
}

#[test]
fn a_processor_without_memory_for_its_block_is_refused_and_nothing_else_changes() {
    each_seed(3, |seed| {
        with_edu(seed, quick_edu().with_rebalance_policy(NO_REBALANCE), |bench| {
            let mut vetoes = 0;
            loop {
                bench.system.settle();
                bench.system.fail_call(vetoes + 1);
                let added = bench.system.add_processor(NewProcessor::default());
                bench.system.fail_call(0);
                if added.is_ok() {
                    break;
                }
                vetoes += 1;
                assert_eq!(added, Err(status::INSUFFICIENT_RESOURCES));
                assert_eq!(known(bench), [0, 1]);
                let status = bench.edu_status();
                assert_eq!((status.processors_known, status.processors_steered, status.processors_active), (2, 2, 2));
            }
            assert_eq!(vetoes, 1, "a block takes one allocation");
            assert_eq!(bench.events(EventKind::ProcessorVetoed).len() as u64, vetoes);
            assert!(bench.events(EventKind::ProcessorAddFailure).is_empty(), "who vetoes is not told of the failure");
            bench.system.settle();
            assert_eq!(bench.edu_status().processors_steered, 3);
        });
    });
}

#[test]
fn processors_beyond_the_first_group_are_told_apart_by_group_and_number() {
    each_seed(4, |seed| {
        let config = Config { groups: vec![Group::new(0b11), Group::new(0b110), Group::new(0b1)], ..small() };
        run(config.with_seed(seed), |system| {
            let bench = Bench::new(system);
            let traffic = Traffic::start(bench, 8, seed);
            for index in [4, 2, 3] {
                assert_eq!(system.add_processor(at(index)), Ok(index));
            }
            traffic.run(300);
            system.settle();
            traffic.stop_unharmed();
            let statistics = workload::processors(&bench.open_edu()).expect("statistics can be read");
            let places: Vec<_> = statistics.iter().map(|own| (own.index, own.group, own.number)).collect();
            assert_eq!(places, [(0, 0, 0), (1, 0, 1), (2, 1, 1), (3, 1, 2), (4, 2, 0)]);
            // Requests are counted where they are finished: a DPC that went to the wrong processor would leave one without.
            assert!(statistics.iter().all(|own| own.requests > 0), "{statistics:?}");
            bench.end();
        });
    });
}

#[test]
fn the_driver_loads_where_only_one_of_many_processors_is_there_and_serves_the_last_one_first() {
    each_seed(3, |seed| {
        let config = Config { memory: 4 << 30, ..Config::new(1, 200).expect("it makes sense") };
        run(config.with_seed(seed), |system| {
            let bench = Bench::new(system);
            let status = bench.edu_status();
            assert_eq!((status.processors_maximum, status.processors_active, status.processors_known), (200, 1, 1));
            // The highest index, far beyond the count of active processors.
            assert_eq!(system.add_processor(at(199)), Ok(199));
            system.settle();
            let traffic = Traffic::start(bench, 8, seed);
            traffic.run(100);
            traffic.stop_unharmed();
            let statistics = workload::processors(&bench.open_edu()).expect("statistics can be read");
            let served: Vec<_> = statistics.iter().map(|own| (own.index, own.requests > 0)).collect();
            assert_eq!(served, [(0, true), (199, true)]);
            bench.end();
        });
    });
}

#[test]
fn while_processors_are_being_added_everything_else_goes_on() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            let added = Rc::new(Cell::new(0));
            for number in 0..6 {
                let added = Rc::clone(&added);
                bench.system.spawn("adds a processor", move |system| {
                    system.sleep(number * 30_000);
                    system.add_processor(NewProcessor::default()).expect("there is room");
                    added.update(|added| added + 1);
                });
            }
            assert_eq!(bench.system.add_memory(256 << 20, 0), Ok(()));
            assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
            while added.get() < 6 {
                traffic.run(5);
            }
            bench.system.settle();
            traffic.stop_unharmed();
            assert_eq!(bench.edu_status().processors_steered, 8);
        });
    });
}

#[test]
fn a_processor_may_come_between_the_requirements_of_a_device_and_its_start() {
    let between = Cell::new(0);
    each_seed(16, |seed| {
        run(small().with_seed(seed), |system| {
            system.install(workload::package(sys()));
            let software = system.plug(workload::software());
            let added = Rc::new(Cell::new(0));
            for number in 0..6 {
                let added = Rc::clone(&added);
                system.spawn("adds a processor", move |system| {
                    system.sleep(seed * 1_000 + number * 10_000);
                    system.add_processor(NewProcessor::default()).expect("there is room");
                    added.update(|added| added + 1);
                });
            }
            let edu = system.plug(quick_edu());
            let bench = Bench { system, edu, software };
            while added.get() < 6 {
                system.sleep(1_000_000);
            }
            system.settle();
            assert_eq!(edu.state(system), DeviceState::Started);
            use_it(&bench.open_edu());
            let status = bench.edu_status();
            assert_eq!((status.processors_steered, status.interrupt_affinity), (8, 0xFF));
            between.update(|between| between + added_before_start(bench));
            bench.end();
        });
    });
    assert!(between.get() > 0 || !with_all_seeds(), "the scenario never came to what it is for");
}

/// How many processors were announced between the requirements and the first start of the `edu` device.
fn added_before_start(bench: Bench<'_>) -> usize {
    let journal = bench.journal();
    let place = |kind: EventKind| {
        journal.iter().position(|event| (event.kind, event.device) == (kind.code(), 2)).expect("the journal has it")
    };
    let between = place(EventKind::RequirementsFiltered)..place(EventKind::DeviceStarted);
    journal[between].iter().filter(|event| event.kind == EventKind::ProcessorAddStart.code()).count()
}

#[test]
fn a_device_that_is_not_started_is_no_concern_of_a_processor_that_is_added() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            assert_eq!(bench.edu.disable(bench.system), Ok(()));
            assert_eq!(bench.system.add_processor(NewProcessor::default()), Ok(2));
            bench.system.settle();
            use_it(&bench.open_software());
            assert_eq!(bench.edu.enable(bench.system), Ok(()));
            use_it(&bench.open_edu());
            let status = bench.edu_status();
            assert_eq!((status.processors_steered, status.interrupt_affinity), (3, 0b111));
        });
    });
}

#[test]
fn after_each_processor_the_device_is_rebalanced_and_answers() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let device = bench.open_edu();
            for rebalances in 1..=6 {
                assert!(bench.system.add_processor(NewProcessor::default()).is_ok());
                assert_eq!(bench.edu_status().rebalances, rebalances);
                use_it(&device);
            }
        });
    });
}

#[test]
fn a_stop_waits_for_the_transfer_that_the_device_is_at() {
    each_seed(6, |seed| {
        // A transfer takes 100 ms.
        with_edu(seed, DeviceSpec::edu(), |bench| {
            let device = bench.open_edu();
            let data: Vec<u8> = (0..64).map(|byte| byte ^ 0x5A).collect();
            let pending = device.submit(Request::Write { offset: 32, data: data.clone() });
            bench.system.sleep(10_000_000);
            assert!(!pending.is_done());
            assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
            assert!(pending.is_done(), "it ended before the device was stopped");
            assert_eq!(pending.wait().status, user::Status::SUCCESS);
            let drained = bench.events(EventKind::GateDrained);
            let waited = drained.last().map(|event| event.duration / 10_000);
            assert!(waited.is_some_and(|milliseconds| (50..200).contains(&milliseconds)), "{waited:?} ms");
            assert_eq!(device.read(32, 64), Ok(data));
        });
    });
}

#[test]
fn what_a_stop_takes_down_the_restart_makes_again() {
    each_seed(4, |seed| {
        on_bench(seed, |bench| {
            let device = bench.open_edu();
            assert_eq!(device.write(0, &[7; 32]), Ok(32));
            for _ in 0..5 {
                assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
                assert_eq!(device.read(0, 32), Ok(vec![7; 32]));
                use_it(&device);
            }
        });
    });
}

/// As the group version or as messages: it is disconnected as what it was connected as, or the lab stops the run.
#[test]
fn interrupts_work_whether_a_rebalance_gives_a_message_or_a_line() {
    let changes = Cell::new(0);
    each_seed(6, |seed| {
        with_edu(seed, quick_edu().with_scarce_messages(), |bench| {
            let mut before = bench.edu_status().interrupt_mode;
            for _ in 0..10 {
                assert_eq!(bench.edu.rebalance(bench.system), Rebalance::Restarted);
                let is_message = bench.edu.interrupts(bench.system)[0].message;
                let expected = if is_message { InterruptMode::Message } else { InterruptMode::Line };
                let mode = bench.edu_status().interrupt_mode;
                assert_eq!(mode, expected.code());
                use_it(&bench.open_edu());
                changes.update(|changes| changes + u32::from(mode != before));
                before = mode;
            }
            assert_eq!(bench.edu_status().timeouts, 0);
        });
    });
    assert!(changes.get() > 0 || !with_all_seeds(), "the scenario never came to what it is for");
}

#[test]
fn held_requests_are_released_in_the_order_they_came() {
    each_seed(6, |seed| {
        with_edu(seed, DeviceSpec::edu(), |bench| {
            let device = bench.open_edu();
            let ended = begin_rebalance(bench);
            let mut pending = writes_and_reads(&device);
            assert!(pending.iter().all(|pending| !pending.is_done()), "all of them are held");
            assert_eq!(bench.edu_status().held, pending.len() as u64);

            // The fifth write: what is read after it is from the fourth.
            let cancelled = pending.remove(8);
            cancelled.cancel();
            let left = cancelled.wait_for(1_000_000).expect("one that is cancelled leaves at once");
            assert_eq!(left.status, status::CANCELLED);

            let expected = [0, 1, 2, 3, 3, 5];
            let mut read = Vec::new();
            while !pending.is_empty() {
                let done = pending.remove(0).wait();
                assert_eq!(done.status, user::Status::SUCCESS);
                assert!(pending.iter().all(|pending| !pending.is_done()), "those that came later end later");
                read.extend(done.output.first().copied());
            }
            assert_eq!(read, expected);
            assert_eq!(rebalance_ended(bench, &ended), Rebalance::Restarted);
            assert_eq!(bench.edu_status().last_hold_waited, 12);
        });
    });
}

/// Six times a write and a read of the same bytes.
fn writes_and_reads<'k>(device: &Handle<'k>) -> Vec<Pending<'k>> {
    let round =
        |number: u8| [Request::Write { offset: 64, data: vec![number; 8] }, Request::Read { offset: 64, length: 8 }];
    (0..6).flat_map(round).map(|request| device.submit(request)).collect()
}

#[test]
fn a_cancelled_stop_lets_requests_go_only_after_lower_drivers_have_had_it() {
    each_seed(4, |seed| {
        let config = Config { keep_trace: true, ..small() };
        let machine = Machine::new(config.with_seed(seed)).expect("the machine makes sense");
        let outcome = machine.run(|system| {
            let bench = Bench::with(system, workload::package(sys()), DeviceSpec::edu());
            let device = bench.open_edu();
            // While this transfer takes its 100 ms, the query waits for it.
            let transfer = device.submit(Request::Read { offset: 0, length: 8 });
            system.sleep(1_000_000);
            system.spawn("query-stop", move |system| assert_eq!(bench.edu.query_stop(system), Ok(())));
            system.sleep(10_000_000);
            let held = device.submit(Request::Read { offset: 0, length: 8 });
            assert_eq!(bench.edu_status().held, 1);
            for pending in [transfer, held] {
                assert_eq!(pending.wait().status, user::Status::SUCCESS);
            }
            drop(device);
            bench.end();
        });
        if let Err(report) = outcome.result {
            panic!("{report}");
        }
        let cancelled = outcome.events.iter().skip_while(|event| !is_cancel_stop(event));
        let next = cancelled.filter_map(|event| match event.kind {
            Kind::KernelCall(name @ ("IofCallDriver" | "IoCsqRemoveNextIrp")) => Some(name),
            _ => None,
        });
        assert_eq!(next.take(2).collect::<Vec<_>>(), ["IofCallDriver", "IoCsqRemoveNextIrp"]);
    });
}

/// `IRP_MN_CANCEL_STOP_DEVICE` on its way to the first device.
fn is_cancel_stop(event: &Event) -> bool {
    matches!(&event.kind, Kind::Note(note) if **note == *"PnP request 0x06 to device 1")
}

#[test]
fn a_device_whose_restart_fails_fails_what_was_held_and_goes_when_its_handle_closes() {
    each_seed(6, |seed| {
        with_edu(seed, DeviceSpec::edu(), |bench| {
            let device = bench.open_edu();
            bench.edu.fail_next_start(bench.system);
            let ended = begin_rebalance(bench);
            let pending = writes_and_reads(&device);
            let count = pending.len() as u64;
            for pending in pending {
                assert_eq!(pending.wait().status, status::DELETE_PENDING);
            }
            assert_eq!(rebalance_ended(bench, &ended), Rebalance::RestartFailed(status::UNSUCCESSFUL));
            let said = workload::status(&device).expect("a handle that is open is answered");
            assert_eq!((said.failed, said.held), (count, 0), "each of them once");
            assert_eq!(bench.edu.state(bench.system), DeviceState::SurpriseRemoved);
            device.close();
            bench.system.settle();
            assert_eq!(bench.edu.state(bench.system), DeviceState::Failed(status::UNSUCCESSFUL));
            assert!(hotadd_tests::open(bench.system, "PCI").is_err());
        });
    });
}

#[test]
fn a_driver_that_finds_no_memory_when_it_is_loaded_says_so_and_leaves_nothing() {
    let failed = Cell::new(0);
    each_seed(12, |seed| {
        run(small().with_seed(seed), |system: &System| {
            system.install(workload::package(sys()));
            system.fail_call(seed + 1);
            let device = system.plug(workload::software());
            system.fail_call(0);
            // What it can do without, as a trace session, may fail.
            if let DeviceState::Failed(_) = device.state(system) {
                failed.update(|failed| failed + 1);
                assert!(!system.is_loaded(hotadd_tests::SERVICE));
                assert_eq!(device.enable(system), Ok(()));
            }
            assert_eq!(device.state(system), DeviceState::Started);
            end(system);
        });
    });
    assert!(failed.get() > 0 || !with_all_seeds(), "the scenario never came to what it is for");
}
