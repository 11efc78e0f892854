//! The C runtime functions of the kernel.

use super::guest::{Guest, Running};
use crate::memory::Ptr;

fn bytes(guest: &Running<'_>, content: &[u8]) -> Ptr<u8> {
    let buffer = guest.k.memory.allocate_io_buffer(content.len());
    buffer.write_bytes(content);
    buffer
}

#[test]
fn memory_is_copied_moved_and_filled() {
    Guest::new().run(|guest| {
        let to = bytes(guest, &[0; 100]);
        let content: Vec<u8> = (0..100).collect();
        let from = bytes(guest, &content);
        assert_eq!(guest.call_with("copy", &[to.address(), from.address(), 100]), to.address());
        assert_eq!(to.read_bytes(100), content);
        let up = guest.call_with("move_bytes", &[to.address() + 10, to.address(), 90]);
        assert_eq!((up, to.read_bytes(100)[10..].to_vec()), (to.address() + 10, content[..90].to_vec()));
        guest.call_with("move_bytes", &[from.address(), from.address() + 10, 90]);
        assert_eq!(from.read_bytes(90), content[10..]);
        assert_eq!(guest.call_with("fill", &[to.address(), 0x15A, 100]), to.address());
        assert_eq!(to.read_bytes(100), [0x5A; 100]);
    });
}

#[test]
fn memory_is_compared() {
    Guest::new().run(|guest| {
        let (a, b) = (bytes(guest, b"same then A").address(), bytes(guest, b"same then B").address());
        assert_eq!(guest.call_with("compare", &[a, b, 10]), 0);
        assert!(guest.call_with("compare", &[a, b, 11]).cast_signed() < 0);
        assert!(guest.call_with("compare", &[b, a, 11]).cast_signed() > 0);
        assert_eq!(guest.call_with("compare", &[a, b, 0]), 0);
        assert_eq!(guest.call_with("matching", &[a, b, 11]), 10);
        assert_eq!(guest.call_with("matching", &[a, b, 10]), 10);
        assert_eq!(guest.call_with("matching", &[a, b, 0]), 0);
    });
}

#[test]
fn a_copy_that_overruns_a_block_faults_where_it_does() {
    Guest::new().run(|guest| {
        let (to, from) = (bytes(guest, &[0; 16]), bytes(guest, &[0; 64]));
        let finding = guest.unwinds_in(|| _ = guest.call_with("copy", &[to.address(), from.address(), 64]));
        assert_eq!(finding.sentence, "write to memory beyond the end of a pool block of 16 bytes, tag 'IoBf'");
    });
}

#[test]
fn frames_larger_than_a_page_work() {
    Guest::new().run(|guest| assert_eq!(guest.call("big", 5, 0), 7));
}
