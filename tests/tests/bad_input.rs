//! Bad input ends with the status that the interface promises (the tables of `hotadd-abi`), and returns nothing.

use hotadd_abi::{
    BUFFER_BYTES, Event, FactorialOutput, INTERFACE_CLASS, IOCTL_HOTADD_FACTORIAL, IOCTL_HOTADD_JOURNAL_READ,
    IOCTL_HOTADD_JOURNAL_WAIT, IOCTL_HOTADD_PROCESSORS, IOCTL_HOTADD_STATUS, JournalOutput, ProcessorStatistics,
    ProcessorsOutput, Status, Wire,
};
use hotadd_tests::{each_seed, on_bench, status};
use ntlab::user::{self, Access, Handle, Request};

/// A control code, the length of its input structure, and the least output that it needs.
const CODES: [(u32, usize, usize); 5] = [
    (IOCTL_HOTADD_FACTORIAL, 8, FactorialOutput::SIZE),
    (IOCTL_HOTADD_STATUS, 0, Status::SIZE),
    (IOCTL_HOTADD_PROCESSORS, 8, ProcessorsOutput::SIZE + ProcessorStatistics::SIZE),
    (IOCTL_HOTADD_JOURNAL_READ, 16, JournalOutput::SIZE + Event::SIZE),
    (IOCTL_HOTADD_JOURNAL_WAIT, 16, JournalOutput::SIZE + Event::SIZE),
];

/// The request ends with this error, and returns nothing.
#[track_caller]
fn refused(device: &Handle<'_>, request: Request, expected: user::Status) {
    let what = format!("{request:?}");
    let done = device.submit(request).wait();
    assert_eq!((done.status, done.information, done.output), (expected, 0, Vec::new()), "{what}");
}

const fn control(code: u32, input: Vec<u8>, output: usize) -> Request {
    Request::Control { code, input, output }
}

/// Tries `bad` on a device of each kind, and sees that it counts nothing and goes on.
fn on_both(bad: impl Fn(&Handle<'_>)) {
    each_seed(1, |seed| {
        on_bench(seed, |bench| {
            for device in [bench.open_edu(), bench.open_software()] {
                bad(&device);
                let after = workload::status(&device).expect("the driver goes on");
                assert_eq!((after.accepted, after.held), (0, 0), "nothing was accepted");
                assert_eq!(workload::factorial(&device, 5).map(|answer| answer.factorial), Ok(120));
            }
        });
    });
}

#[test]
fn an_unknown_control_code() {
    on_both(|device| {
        for code in [0, 0xFFFF_FFFC, IOCTL_HOTADD_STATUS + 1, IOCTL_HOTADD_JOURNAL_WAIT + 4, 0x0022_0004] {
            refused(device, control(code, vec![0; 16], 4096), status::INVALID_DEVICE_REQUEST);
            refused(device, control(code, Vec::new(), 0), status::INVALID_DEVICE_REQUEST);
        }
    });
}

#[test]
fn an_input_of_the_wrong_length() {
    on_both(|device| {
        for (code, input, _) in CODES {
            for length in (0..32).chain([4096]).filter(|length| *length != input) {
                refused(device, control(code, vec![0; length], 4096), status::INFO_LENGTH_MISMATCH);
                // The length of the input is looked at first.
                refused(device, control(code, vec![0xFF; length], 0), status::INFO_LENGTH_MISMATCH);
            }
        }
    });
}

#[test]
fn a_reserved_field_that_is_not_zero() {
    on_both(|device| {
        for (code, input, _) in CODES.into_iter().filter(|(_, input, _)| *input != 0) {
            for reserved in input / 2..input {
                let mut bytes = vec![0; input];
                bytes[reserved] = 1;
                refused(device, control(code, bytes.clone(), 4096), status::INVALID_PARAMETER);
                refused(device, control(code, bytes, 0), status::INVALID_PARAMETER);
            }
        }
    });
}

#[test]
fn an_output_that_is_too_small() {
    on_both(|device| {
        for (code, input, output) in CODES {
            for length in [0, 1, output / 2, output - 1] {
                refused(device, control(code, vec![0; input], length), status::BUFFER_TOO_SMALL);
            }
        }
    });
}

#[test]
fn a_journal_cursor_beyond_the_next_event() {
    on_both(|device| {
        let next = workload::status(device).expect("the driver answers").journal_next;
        for cursor in [next + 1000, u64::MAX] {
            assert_eq!(workload::journal_from(device, cursor), Err(status::INVALID_PARAMETER));
            refused(device, workload::journal(cursor).0, status::INVALID_PARAMETER);
            // The output is looked at last.
            let input = [cursor.to_le_bytes(), [0; 8]].concat();
            for code in [IOCTL_HOTADD_JOURNAL_READ, IOCTL_HOTADD_JOURNAL_WAIT] {
                refused(device, control(code, input.clone(), 0), status::INVALID_PARAMETER);
            }
        }
    });
}

#[test]
fn transfers_outside_of_the_buffer() {
    on_both(|device| {
        let size = workload::status(device).expect("the driver answers").buffer_bytes;
        assert!(size == u64::from(BUFFER_BYTES) || size == u64::from(BUFFER_BYTES) - 1);
        let (end, bytes) = (size.cast_signed(), vec![7; 8192]);
        let cases = [
            (-1, 1, status::INVALID_PARAMETER, status::INVALID_PARAMETER),
            (i64::MIN, 4, status::INVALID_PARAMETER, status::INVALID_PARAMETER),
            (i64::MAX, 4, status::INVALID_PARAMETER, status::INVALID_PARAMETER),
            (end, 1, status::END_OF_FILE, status::DISK_FULL),
            (end + 1, 0, status::END_OF_FILE, status::DISK_FULL),
            (end + 4096, 16, status::END_OF_FILE, status::DISK_FULL),
            (0, bytes.len(), status::INVALID_BUFFER_SIZE, status::INVALID_BUFFER_SIZE),
            (end - 1, 2, status::INVALID_BUFFER_SIZE, status::INVALID_BUFFER_SIZE),
            (1, usize::try_from(size).expect("it is small"), status::INVALID_BUFFER_SIZE, status::INVALID_BUFFER_SIZE),
        ];
        for (offset, length, read, write) in cases {
            refused(device, Request::Read { offset, length }, read);
            refused(device, Request::Write { offset, data: bytes[..length].to_vec() }, write);
        }
    });
}

#[test]
fn transfers_at_the_edges_are_no_bad_input() {
    each_seed(1, |seed| {
        on_bench(seed, |bench| {
            for device in [bench.open_edu(), bench.open_software()] {
                let size = workload::status(&device).expect("the driver answers").buffer_bytes;
                let all: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
                assert_eq!(device.write(0, &all), Ok(size));
                assert_eq!(device.read(0, all.len()), Ok(all.clone()));
                let last = size.cast_signed() - 1;
                assert_eq!(device.read(last, 1), Ok(all[all.len() - 1..].to_vec()));
                assert_eq!(device.read(last + 1, 0), Ok(Vec::new()));
                assert_eq!(device.write(last + 1, &[]), Ok(0));
                // Odd lengths at odd offsets.
                assert_eq!(device.read(333, 777), Ok(all[333..1110].to_vec()));
            }
        });
    });
}

#[test]
fn a_handle_without_the_access_that_the_code_asks_for() {
    each_seed(1, |seed| {
        on_bench(seed, |bench| {
            for link in bench.system.interfaces(INTERFACE_CLASS) {
                let with = |access| bench.system.open(&link, access).expect("it opens");
                let (none, read, write) = (with(Access::Attributes), with(Access::Read), with(Access::Write));
                for device in [&none, &read, &write] {
                    assert!(workload::status(device).is_ok() && workload::processors(device).is_ok());
                }
                for device in [&none, &read] {
                    assert_eq!(workload::factorial(device, 3).err(), Some(status::ACCESS_DENIED));
                    assert_eq!(device.write(0, &[1]), Err(status::ACCESS_DENIED));
                }
                for device in [&none, &write] {
                    assert_eq!(workload::journal_from(device, 0).err(), Some(status::ACCESS_DENIED));
                    refused(device, workload::journal(0).0, status::ACCESS_DENIED);
                    assert_eq!(device.read(0, 1), Err(status::ACCESS_DENIED));
                }
                assert!(workload::factorial(&write, 3).is_ok() && workload::journal_from(&read, 0).is_ok());
            }
        });
    });
}
