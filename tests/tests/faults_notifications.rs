//! Notifications that come late, several times and in another order change nothing but the time.

use hotadd_tests::{POOL_SHARE, each_seed, on_bench};
use ntlab::{hot_add::NewProcessor, pnp::Delivery};

#[test]
fn what_is_announced_late_and_three_times_is_done_once() {
    each_seed(6, |seed| {
        on_bench(seed, |bench| {
            let system = bench.system;
            system.deliver_notifications(Some(Delivery { latest: 500_000_000, times: 3 }));
            let before = bench.edu_status();
            for index in 2..6 {
                assert_eq!(system.add_processor(NewProcessor::default()), Ok(index));
                assert_eq!(system.add_memory(256 << 20, 0), Ok(()));
            }
            system.settle();
            let after = bench.edu_status();
            assert_eq!((after.processors_known, after.processors_steered), (6, 6));
            assert_eq!(after.memory_bytes - before.memory_bytes, 4 * (256 << 20), "each module counts once");
            let grown = (after.memory_bytes - before.memory_bytes) / POOL_SHARE;
            assert_eq!(after.pool_bytes - before.pool_bytes, grown, "the buffer pool follows once");
        });
    });
}
