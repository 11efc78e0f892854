//! `announcer.sys`, the example of docs/writing-a-driver.md, keeps what it says.

use std::{path::PathBuf, sync::OnceLock};

use hotadd_tests::{each_seed, run, small, status};
use ntlab::{
    config::Config,
    hot_add::NewProcessor,
    machine::System,
    pnp::{Device, DeviceSpec, DeviceState, DriverPackage, Rebalance},
    user::{Access, Completion, Handle, Pending, Request, Status},
};

const SERVICE: &str = "announcer";
const SOFTWARE: &str = "ROOT\\ANNOUNCER";
const PCI: &str = "PCI\\VEN_1234&DEV_0001";
const CLASS: (u32, u16, u16, [u8; 8]) = (0x7D2B_93A4, 0x51C6, 0x4E0F, [0xA8, 0x35, 0x1B, 0x60, 0xC4, 0x9E, 0x27, 0xD1]);
/// Longer than anything takes that does not wait for a processor, in virtual nanoseconds.
const A_WHILE: u64 = 1_000_000_000;

/// Runs a scenario with several seeds, on a machine with two of six processors and one announcer.
fn with(device: &DeviceSpec, scenario: impl Fn(&System, Device)) {
    with_seeds(8, device, scenario);
}

fn with_seeds(seeds: u64, device: &DeviceSpec, scenario: impl Fn(&System, Device)) {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let image = IMAGE.get_or_init(|| kit::driver(SERVICE).unwrap_or_else(|error| panic!("it builds: {error:#}")).sys);
    each_seed(seeds, |seed| {
        let machine = Config::new(2, 6).expect("the machine makes sense");
        run(Config { memory: small().memory, switch_every: 4, ..machine }.with_seed(seed), |system| {
            system.install(DriverPackage::new(SERVICE, image).for_ids([SOFTWARE, PCI]));
            let device = system.plug(device.clone());
            assert_eq!(device.state(system), DeviceState::Started);
            scenario(system, device);
            system.settle();
            // It may have gone with its only device.
            if system.is_loaded(SERVICE) {
                system.unload(SERVICE).expect("nothing is left that keeps it");
            }
        });
    });
}

fn software() -> DeviceSpec {
    DeviceSpec::software(SOFTWARE)
}

fn open(system: &System) -> Handle<'_> {
    system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled")
}

/// A read by someone who knows of so many processors.
fn read<'k>(handle: &Handle<'k>, known: i64) -> Pending<'k> {
    handle.submit(Request::Read { offset: known, length: 4 })
}

/// How many processors a read told of.
fn told(done: &Completion) -> Result<u32, Status> {
    done.success().map(|done| u32::from_le_bytes(done.output.as_slice().try_into().expect("four bytes")))
}

/// Waits for a while; gives back what still waits.
fn still_waiting(reading: Pending<'_>) -> Pending<'_> {
    reading.wait_for(A_WHILE).expect_err("no processor was added")
}

fn add(system: &System) {
    system.add_processor(NewProcessor::default()).expect("there is room for one more");
}

#[test]
fn who_knows_less_than_there_is_has_the_answer_at_once() {
    with(&software(), |system, _| {
        assert_eq!(told(&read(&open(system), 0).wait()), Ok(2));
        assert_eq!(told(&read(&open(system), 1).wait()), Ok(2));
    });
}

#[test]
fn a_read_waits_for_the_next_processor() {
    with(&software(), |system, _| {
        let (one, other) = (open(system), open(system));
        let reading = [read(&one, 2), read(&one, 2), read(&other, 2)].map(still_waiting);
        add(system);
        assert_eq!(reading.map(|reading| told(&reading.wait())), [Ok(3); 3]);
    });
}

#[test]
fn who_reads_on_from_the_last_answer_misses_no_processor() {
    with(&software(), |system, _| {
        system.spawn("administrator", |system| (0..4).for_each(|_| add(system)));
        let (handle, mut known) = (open(system), 0);
        while known < 6 {
            let now = told(&read(&handle, known.into()).wait()).expect("there is more to come");
            assert!(now >= known, "{now} after {known}");
            known = now;
        }
    });
}

#[test]
fn a_read_that_comes_while_a_processor_is_added_is_told_of_it() {
    // So many that with one of them the addition lies between the reader's look at the number and its wait.
    with_seeds(200, &software(), |system, _| {
        let handle = open(system);
        let addition = system.begin_addition(NewProcessor::default()).expect("nobody objects");
        system.spawn("administrator", |system| {
            system.activate(&addition);
            system.complete_addition(addition);
        });
        while told(&read(&handle, 2).wait()) != Ok(3) {}
    });
}

#[test]
fn a_rebalance_does_not_disturb_a_read_that_waits() {
    with(&DeviceSpec::pci(0x1234, 1, 0x1000), |system, device| {
        let handle = open(system);
        let reading = still_waiting(read(&handle, 2));
        assert_eq!(device.rebalance(system), Rebalance::Restarted);
        let reading = still_waiting(reading);
        add(system);
        assert_eq!(told(&reading.wait()), Ok(3));
        assert_eq!(told(&read(&handle, 2).wait()), Ok(3), "the device works on");
    });
}

#[test]
fn a_read_that_is_cancelled_ends_alone() {
    with(&software(), |system, _| {
        let handle = open(system);
        let [one, other] = [read(&handle, 2), read(&handle, 2)].map(still_waiting);
        assert!(one.cancel());
        assert_eq!(one.wait().status, status::CANCELLED);
        let other = still_waiting(other);
        add(system);
        assert_eq!(told(&other.wait()), Ok(3));
    });
}

#[test]
fn a_read_ends_once_whether_it_is_cancelled_or_answered_first() {
    with(&software(), |system, _| {
        let handle = open(system);
        let reading: Vec<_> = (0..8).map(|_| read(&handle, 2)).collect();
        system.spawn("administrator", add);
        for reading in reading {
            reading.cancel();
            let done = reading.wait();
            assert!(done.status == status::CANCELLED || told(&done) == Ok(3), "{done:?}");
        }
    });
}

#[test]
fn closing_the_handle_ends_its_reads_and_no_others() {
    with(&software(), |system, _| {
        let [closed, open] = [open(system), open(system)];
        let [ended, waiting] = [read(&closed, 2), read(&open, 2)].map(still_waiting);
        closed.close();
        assert_eq!(ended.wait().status, status::CANCELLED);
        let waiting = still_waiting(waiting);
        add(system);
        assert_eq!(told(&waiting.wait()), Ok(3));
    });
}

#[test]
fn a_device_that_is_pulled_out_ends_its_reads() {
    with(&software(), |system, device| {
        let handle = open(system);
        let reading = still_waiting(read(&handle, 2));
        device.surprise_remove(system);
        assert_eq!(reading.wait().status, status::DELETE_PENDING);
        assert_eq!(read(&handle, 2).wait().status, status::DELETE_PENDING);
        handle.close();
        system.settle();
        assert!(device.is_gone(system), "nobody has it open");
    });
}

#[test]
fn a_buffer_without_room_for_the_answer_is_refused() {
    with(&software(), |system, _| {
        let reading = open(system).submit(Request::Read { offset: 2, length: 3 });
        assert_eq!(reading.wait().status, status::BUFFER_TOO_SMALL);
    });
}

#[test]
fn a_device_without_a_handle_goes_and_comes_back() {
    with(&software(), |system, device| {
        device.disable(system).expect("nobody uses it");
        add(system);
        device.enable(system).expect("it works");
        assert_eq!(told(&read(&open(system), 0).wait()), Ok(3));
    });
}
