//! Whatever is asked of a device by random control codes, inputs and outputs: it ends as the interface documents, nothing is left behind,
//! and the device goes on.

use hotadd_tests::{each_seed, on_bench};
use workload::fuzz;

const REQUESTS: u64 = 10_000;

#[test]
fn random_control_requests_end_as_documented() {
    each_seed(2, |seed| {
        on_bench(seed, |bench| {
            let handles = fuzz::open_all(bench.system).expect("devices that work open");

            let tally = fuzz::run(&handles, seed, REQUESTS);

            assert_eq!(tally.broken, Vec::<String>::new());
            assert_eq!((tally.requests, tally.statuses.values().sum()), (REQUESTS, REQUESTS));
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
            for handle in &handles[..1] {
                assert_eq!(workload::factorial(handle, 5).map(|answer| answer.factorial), Ok(120));
            }
        });
    });
}
