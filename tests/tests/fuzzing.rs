//! Whatever is asked of a device by random control requests, alone or several at once, cancelled or with their handle closed: each ends as
//! the interface documents, nothing is left behind, and the device goes on.

use hotadd_abi::{IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ, IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS};
use hotadd_tests::{Bench, each_seed, run, small, status, sys};
use ntlab::{
    config::Config,
    user::{Access, Completion},
};
use workload::fuzz::{Control, Corpus, Facts, Fuzz, Meanwhile};

const REQUESTS: u64 = 10_000;

fn corpus() -> Corpus {
    Corpus::load(&xtask::fuzz::corpus_folder()).expect("the kept sequences can be read")
}

#[test]
fn random_control_requests_end_as_documented() {
    each_seed(2, |seed| {
        let plan = Fuzz { requests: REQUESTS, seed };
        let config = Config { note_blocks: true, time_limit_ns: plan.time_limit_ns(), ..small() }.with_seed(seed);
        let found = run(config, |system| plan.play(system, sys(), &corpus()));

        let tally = found.expect("no promise is broken").tally;
        assert!(tally.requests >= REQUESTS);
        assert_eq!(tally.statuses.values().sum::<u64>(), tally.requests, "every request ends once");
        for status in [
            "STATUS_SUCCESS",
            "STATUS_INVALID_DEVICE_REQUEST",
            "STATUS_ACCESS_DENIED",
            "STATUS_INFO_LENGTH_MISMATCH",
            "STATUS_INVALID_PARAMETER",
            "STATUS_BUFFER_TOO_SMALL",
            "STATUS_CANCELLED",
        ] {
            assert!(tally.statuses.get(status).is_some_and(|count| *count > 0), "{status}: {:?}", tally.statuses);
        }
    });
}

#[test]
fn every_kept_request_sequence_ends_as_documented() {
    each_seed(4, |seed| {
        let played = run(small().with_seed(seed), |system| Fuzz { requests: 0, seed }.play(system, sys(), &corpus()));
        assert_eq!(played.map(|found| found.tally.broken), Ok(vec![]));
    });
}

#[test]
fn an_answer_that_is_not_what_the_interface_says_is_told() {
    const NOTHING: Meanwhile = Meanwhile { cancelled: false, closed: false, closed_before: false };
    let control = |code, input: u16, first: u8| Control {
        handle: 0,
        code,
        input,
        bytes: vec![first],
        output: 4096,
        addresses: None,
    };
    run(small(), |system| {
        let bench = Bench::new(system);
        let handle = bench.open_software();
        let status = workload::status(&handle).expect("it answers");
        let right = Facts { journal_next: status.journal_next, processors_known: status.processors_known };
        let next = u8::try_from(right.journal_next).expect("there are few events yet");
        let one_event_more = Facts { journal_next: right.journal_next + 1, ..right };
        let one_processor_more = Facts { processors_known: right.processors_known + 1, ..right };
        // What each request's answer tells, so that a model which takes that for something else finds it wrong.
        for (control, wrong_facts) in [
            (control(IOCTL_HOTADD_STATUS, 0, 0), vec![one_event_more, one_processor_more]),
            (control(IOCTL_HOTADD_FACTORIAL, 8, 12), vec![]),
            (control(IOCTL_HOTADD_PROCESSORS, 8, 0), vec![one_processor_more]),
            (control(IOCTL_HOTADD_JOURNAL_READ, 16, 0), vec![one_event_more]),
            (control(IOCTL_HOTADD_JOURNAL_READ, 16, next + 1), vec![one_event_more]),
        ] {
            let done = handle.submit(control.request()).wait();
            let judge =
                |facts: Facts, done: &Completion| facts.judge(facts.expect(&control, Access::ReadWrite), NOTHING, done);
            assert_eq!(judge(right, &done), None, "{control:x?}");
            for facts in wrong_facts {
                assert!(judge(facts, &done).is_some(), "{control:x?} {facts:?}");
            }
            let other = |change: fn(&mut Completion)| {
                let mut other = done.clone();
                change(&mut other);
                other
            };
            let wrong_answers = [
                other(|done| done.status = status::CANCELLED),
                other(|done| done.information += 1),
                other(|done| done.output.push(0)),
                other(|done| done.output.iter_mut().for_each(|byte| *byte = !*byte)),
            ];
            for wrong in wrong_answers.iter().filter(|wrong| **wrong != done) {
                assert!(judge(right, wrong).is_some(), "{control:x?}: {wrong:x?}");
            }
        }
        drop(handle);
        bench.end();
    });
}
