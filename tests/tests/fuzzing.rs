//! Whatever is asked of a device by random control requests, alone or several at once, cancelled or with their handle closed: each ends as
//! the interface documents, nothing is left behind, and the device goes on.

use hotadd_tests::{each_seed, run, small, sys};
use ntlab::config::Config;
use workload::fuzz::{Corpus, Fuzz};

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
