//! Many processors, in several groups whose masks have gaps, on several NUMA nodes.

use std::{collections::BTreeMap, rc::Rc};

use hotadd_abi::ProcessorStatistics;
use hotadd_tests::{Bench, Traffic, each_seed, run, small, sys};
use ntlab::{
    config::{Config, Group},
    hot_add::NewProcessor,
    machine::System,
    pnp::DeviceState,
};
use workload::{
    scale::Scale,
    uniform::{Served, Uniform},
};

/// 96 processors in three groups: a full half at each end, every other bit, and four nodes in all.
fn with_gaps() -> Config {
    const ENDS: u64 = 0xFFFF_0000_0000_FFFF;
    let groups = vec![
        Group { nodes: vec![0xFFFF, ENDS ^ 0xFFFF], ..Group::new(ENDS) },
        Group::new(0x5555_5555_5555_5555),
        Group::new(0xFFFF_FFFF_0000_0000),
    ];
    Config { groups, ..small() }
}

/// Each processor's group, number and node, by index.
fn places(config: &Config) -> Vec<(u16, u8, u32)> {
    let mut places = Vec::new();
    let mut first_node = 0;
    for (group, of) in (0..).zip(&config.groups) {
        let node = |number: u8| (first_node..).zip(&of.nodes).find(|(_, mask)| **mask >> number & 1 != 0);
        let members = (0..64).filter(|number| of.mask >> number & 1 != 0);
        places.extend(members.map(|number| (group, number, node(number).expect("a node has it").0)));
        first_node += u32::try_from(of.nodes.len()).expect("there are few");
    }
    places
}

fn statistics(bench: Bench<'_>) -> Vec<ProcessorStatistics> {
    workload::processors(&bench.open_software()).expect("statistics can be read")
}

/// Asks the software device from the processor `index`: it is served there.
fn reach(bench: Bench<'_>, index: u32) {
    assert!(bench.system.bind(index), "processor {index} is active");
    let number = index % 13;
    let answer = workload::factorial(&bench.open_software(), number).expect("the device answers");
    assert_eq!((answer.factorial, answer.processor), ((1..=number).product::<u32>(), index));
}

/// The same from each of `count` processors.
fn reach_all(bench: Bench<'_>, count: u32) {
    (0..count).for_each(|index| reach(bench, index));
    let statistics = statistics(bench);
    assert!(statistics.iter().all(|own| own.requests > 0), "{statistics:?}");
    assert_eq!(statistics.len(), count as usize);
}

#[test]
fn ninety_six_processors_in_groups_with_gaps_join_one_by_one_and_all_of_them_work() {
    each_seed(2, |seed| {
        let config = with_gaps();
        let places = places(&config);
        run(config.with_seed(seed), |system| {
            let bench = Bench::new(system);
            let traffic = Traffic::start(bench, 16, seed);
            // From the last to the first, so that groups fill in an order that is not theirs.
            for index in (2..96).rev() {
                let new = NewProcessor { place: Some(index), ..NewProcessor::default() };
                assert_eq!(system.add_processor(new), Ok(index));
            }
            traffic.run(200);
            system.settle();
            traffic.stop_unharmed();
            let status = bench.edu_status();
            assert_eq!([status.processors_maximum, status.processors_active, status.processors_steered], [96; 3]);
            assert_eq!(status.rebalances, 94);
            let told: Vec<_> = statistics(bench).iter().map(|own| (own.group, own.number, own.node)).collect();
            assert_eq!(told, places);
            reach_all(bench, 96);
            bench.end();
        });
    });
}

#[test]
fn a_processor_that_is_wanted_on_a_node_gets_its_block_for_that_node() {
    each_seed(4, |seed| {
        let config = with_gaps();
        let places = places(&config);
        run(config.with_seed(seed), |system| {
            let bench = Bench::new(system);
            let mut on_nodes = BTreeMap::new();
            for node in [3, 1, 2, 0, 2] {
                let new = NewProcessor { node: Some(node), ..NewProcessor::default() };
                let index = system.add_processor(new).expect("the node has room");
                on_nodes.insert(index, u32::from(node));
            }
            system.settle();
            for own in statistics(bench).iter().filter(|own| own.index > 1) {
                let (group, number, _) = places[own.index as usize];
                assert_eq!((own.group, own.number), (group, number));
                assert_eq!(on_nodes.get(&own.index), Some(&own.node));
            }
            for index in [0, 1].into_iter().chain(on_nodes.into_keys()) {
                reach(bench, index);
            }
            bench.end();
        });
    });
}

#[test]
fn interrupts_follow_a_rebalance_into_another_group() {
    each_seed(4, |seed| {
        let config = with_gaps();
        let places = places(&config);
        run(config.with_seed(seed), |system| {
            let bench = Bench::new(system);
            for index in [40, 41, 70, 71] {
                let new = NewProcessor { place: Some(index), ..NewProcessor::default() };
                assert_eq!(system.add_processor(new), Ok(index));
            }
            let mut groups = [0; 3];
            for _ in 0..12 {
                bench.edu.rebalance(system);
                let given = bench.edu.interrupts(system)[0];
                let status = bench.edu_status();
                assert_eq!((status.interrupt_group, status.interrupt_affinity), (given.group.into(), given.affinity));
                groups[usize::from(given.group)] += 1;
                let active =
                    |index: usize| places[index].0 == given.group && given.affinity >> places[index].1 & 1 != 0;
                let members = [0, 1, 40, 41, 70, 71].into_iter().filter(|index| active(*index)).count();
                assert_eq!(members, 2, "all of the group that are there");
                assert_eq!(workload::factorial(&bench.open_edu(), 5).map(|answer| answer.factorial), Ok(120));
            }
            assert!(groups.iter().filter(|times| **times > 0).count() > 1, "{groups:?}");
            bench.end();
        });
    });
}

/// The software device alone: a rebalance of hardware for each of two thousand processors is not what this is about.
fn on_software(config: Config, scenario: impl for<'k> FnOnce(&'k System, ntlab::pnp::Device)) {
    run(config, |system| {
        system.install(workload::package(sys()));
        let software = system.plug(workload::software());
        assert_eq!(software.state(system), DeviceState::Started);
        scenario(system, software);
        hotadd_tests::end(system);
    });
}

#[test]
fn nothing_is_lost_while_processors_join_in_bursts_and_every_device_is_rebalanced() {
    each_seed(2, |seed| {
        let scale = Scale { groups: 2, burst: 32, hardware: 4, software: 4, requests: 3000, lanes: 32, seed };
        let grown = run(scale.machine().expect("there is such a machine"), |system| scale.play(system, sys()));
        let grown = grown.unwrap_or_else(|broken| panic!("{broken}"));
        assert_eq!((grown.requests, grown.processors, grown.bursts.len()), (3000, 128, 4));
        assert_eq!((grown.rebalances, grown.memory), (2 * 4 * 8, 0b1111 << 30));
        assert!(grown.waited > 0 && grown.cancelled > 0, "{grown:?}");
    });
}

/// 96 processors that are all there, and the node of each.
fn on_all(seed: u64, uniform: &Uniform) -> (Served, Vec<u32>) {
    let config = Config { processors: 96, ..with_gaps() };
    let nodes: Vec<u32> = places(&config).iter().map(|(_, _, node)| *node).collect();
    let served = run(config.with_seed(seed), |system| {
        let bench = Bench::new(system);
        let handle = Rc::new(bench.open_software());
        let served = uniform.play(system, &handle);
        drop(handle);
        bench.end();
        served
    });
    (served.unwrap_or_else(|wrong| panic!("{wrong}")), nodes)
}

#[test]
fn under_uniform_load_no_processor_serves_over_five_quarters_of_the_mean() {
    each_seed(2, |seed| {
        for threads in [1, 3] {
            let (served, _) = on_all(seed, &Uniform { requesters: (0..96).collect(), threads, requests: 24 });
            let most = served.most_of_mean(96);
            assert!(most <= 1.25, "the busiest processor serves {most:.2} of the mean");
        }
    });
}

#[test]
fn a_request_is_served_on_the_node_of_its_requester_while_a_processor_is_free_there() {
    each_seed(2, |seed| {
        // Every fourth processor asks, so that three of four are free on each node.
        for threads in [1, 4] {
            let (served, nodes) =
                on_all(seed, &Uniform { requesters: (0..96).step_by(4).collect(), threads, requests: 40 });
            assert_eq!(served.far(|processor| nodes[processor as usize]), 0, "{:?}", served.by);
        }
    });
}

/// Requests of the software engine in a second of virtual time, for each of so many processors.
fn rate_of_each(processors: u32, seed: u64) -> f64 {
    let config = Config::new(processors, processors).expect("as many as Windows serves");
    let uniform = Uniform { requesters: (0..processors).collect(), threads: 2, requests: 64 };
    let served = run(config.with_seed(seed), |system| {
        system.install(workload::package(sys()));
        system.plug(workload::software());
        let handle = Rc::new(workload::open(system, 0).expect("the software device opens"));
        uniform.play(system, &handle)
    });
    served.unwrap_or_else(|wrong| panic!("{wrong}")).rate / f64::from(processors)
}

#[test]
fn throughput_in_virtual_time_grows_as_the_processors_do() {
    each_seed(1, |seed| {
        let [few, many] = [2, 128].map(|processors| rate_of_each(processors, seed));
        let kept = many / few;
        assert!(kept > 0.95, "of what each of 2 processors does, each of 128 does {kept:.2}: {few:.0}, {many:.0}");
    });
}

#[test]
fn two_thousand_and_forty_eight_processors_all_work() {
    each_seed(1, |seed| {
        let config = Config { memory: 4 << 30, ..Config::new(2, 2048).expect("as many as Windows serves") };
        on_software(config.with_seed(seed), |system, software| {
            for index in 2..2048 {
                assert_eq!(system.add_processor(NewProcessor::default()), Ok(index));
            }
            system.settle();
            // There is no other device.
            let bench = Bench { system, edu: software, software };
            let status = workload::status(&bench.open_software()).expect("the driver answers");
            assert_eq!([status.processors_maximum, status.processors_known, status.processors_steered], [2048; 3]);
            reach_all(bench, 2048);
        });
    });
}
