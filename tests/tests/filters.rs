//! The driver keeps its promises between filter drivers: a lower one under it, an upper one over it (crates/ntlab/tests/c/stack.c).

use hotadd_tests::{Bench, SERVICE, Traffic, each_seed, end, quick_edu, run, small, sys};
use ntlab::{hot_add::NewProcessor, machine::System, pnp::DriverPackage, power::SystemState, registry::Value};

fn filter(service: &str) -> DriverPackage {
    let source = kit::root().join("crates/ntlab/tests/c/stack.c");
    let image = kit::c_driver(&source).unwrap_or_else(|error| panic!("the filter builds: {error:#}")).sys;
    DriverPackage::new(service, image).with_parameter("Place", Value::dword(1))
}

/// Runs `scenario` with both devices between filters; everything is unloaded afterwards.
fn between_filters(seed: u64, scenario: impl for<'k> FnOnce(Bench<'k>)) {
    run(small().with_seed(seed), |system: &System| {
        system.install(filter("over"));
        system.install(filter("under"));
        let package = workload::package(sys()).with_upper_filters(["over"]).with_lower_filters(["under"]);
        let bench = Bench::with(system, package, quick_edu());
        scenario(bench);
        end(system);
        for service in ["over", "under"] {
            if system.is_loaded(service) {
                assert_eq!(system.unload(service), Ok(()), "{service}");
            }
        }
        assert!(!system.is_loaded(SERVICE));
    });
}

#[test]
fn no_request_is_lost_while_processors_and_memory_are_added() {
    each_seed(4, |seed| {
        between_filters(seed, |bench| {
            let traffic = Traffic::start(bench, 8, seed);
            for processor in 2..5 {
                traffic.run(20);
                assert_eq!(bench.system.add_processor(NewProcessor::default()), Ok(processor));
            }
            assert_eq!(bench.system.add_memory(64 << 20, 0), Ok(()));
            traffic.run(40);
            bench.system.settle();
            let counts = traffic.stop_unharmed();
            assert!(counts.completed >= 60, "there was load: {counts:?}");
            assert_eq!(bench.edu_status().rebalances, 3, "one for each processor");
        });
    });
}

#[test]
fn it_sleeps_wakes_is_disabled_and_pulled_out() {
    each_seed(4, |seed| {
        between_filters(seed, |bench| {
            let traffic = Traffic::start(bench, 4, seed);
            traffic.run(10);
            assert_eq!(bench.system.sleep_system(SystemState::S3), Ok(()));
            traffic.run(10);
            traffic.stop_unharmed();
            assert_eq!(bench.edu.disable(bench.system), Ok(()));
            assert_eq!(bench.edu.enable(bench.system), Ok(()));
            assert_eq!(workload::factorial(&bench.open_edu(), 5).map(|answer| answer.factorial), Ok(120));
            bench.edu.surprise_remove(bench.system);
            bench.system.settle();
        });
    });
}
