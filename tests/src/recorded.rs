//! A recording of hotadd.sys at work while its machine grows, as pictures are made of.

use std::rc::Rc;

use ntlab::{config::Config, hot_add::NewProcessor, machine::System};
use recording::{Origin, Recording};
use workload::{
    Load, Manner, Plan, Target,
    record::{Recorded, Recorder},
};

use crate::{PATIENCE, SERVICE, quick_edu, run, sys};

/// Virtual nanoseconds that a lane waits, at most, before its next request: so that single requests can be seen.
const PAUSE: u64 = 150_000;
/// Virtual nanoseconds before the first addition, and after the last, in which as much is asked as can be.
const RUSH: u64 = 4_000_000;
/// Virtual nanoseconds between the end of one addition and the next.
const REST: u64 = 1_500_000;
/// Bytes of a memory module.
const MODULE: u64 = 1 << 30;

/// Requests that came to their end, and the recording.
///
/// # Panics
///
/// Where a promise is broken.
#[must_use]
pub fn recorded(seed: u64) -> (u64, Recording) {
    let command = Some("cargo test -p hotadd-tests --test recording".to_owned());
    let machine = Config { memory: 1 << 30, keep_timeline: true, ..Config::default() }.with_seed(seed);
    run(machine, |system| play(system, seed, Origin::Lab { seed, command }))
}

fn play(system: &System, seed: u64, origin: Origin) -> (u64, Recording) {
    system.install(workload::package(sys()));
    let devices = [("edu", system.plug(quick_edu())), ("software", system.plug(workload::software()))];
    let open = |number| Target::new(workload::open(system, number).expect("the device is started"));
    let targets = [open(0), open(1)];
    let followed = devices.iter().zip(&targets).map(|((name, device), target)| Recorded {
        device: *device,
        name: (*name).to_owned(),
        handle: Rc::clone(target.handle()),
    });
    let recorder = Recorder::start(system, origin, followed.collect()).expect("the driver tells its status");
    let manner = Manner { pause: PAUSE, ..Manner::default() };
    let load = Load::start_with(system, &targets, Plan { lanes: 16, seed, cancel_one_in: 32 }, manner);
    let mut sent = rush(system, &targets, seed);
    recorder.snapshot();
    for added in 0..6 {
        system.add_processor(NewProcessor::default()).expect("there is room");
        system.settle();
        if added % 3 == 1 {
            system.sleep(REST);
            system.add_memory(MODULE, 0).expect("there is room");
            system.settle();
        }
        system.sleep(REST);
    }
    recorder.snapshot();
    sent += rush(system, &targets, seed + 1) + stop(load);
    let recording = recorder.finish().expect("the driver tells its status");
    drop(targets);
    system.unload(SERVICE).expect("nothing is left behind");
    (sent, recording)
}

/// As many requests as 32 lanes can send; how many those were.
fn rush<'k>(system: &'k System, targets: &[Target<'k>], seed: u64) -> u64 {
    let load = Load::start(system, targets, Plan { lanes: 32, seed: !seed, cancel_one_in: 0 });
    system.sleep(RUSH);
    stop(load)
}

fn stop(load: Load<'_>) -> u64 {
    let (counts, wrong) = load.stop(PATIENCE);
    assert_eq!((wrong, counts.failed, counts.lost), (Vec::<String>::new(), 0, 0));
    counts.submitted
}
