//! Slices end in the order in which they nest, whatever happens at the same time. What a reader makes of a trace is tested with Perfetto's
//! own schema, in `tests/tests/perfetto.rs`.

use super::{
    schema::Type,
    writer::{Slice, Writer},
};

fn slice(name: &str, begin: u64, end: u64) -> Slice<'_> {
    Slice { begin, end, name, category: "", notes: Vec::new() }
}

#[test]
fn slices_of_a_track_are_closed_from_the_inside() {
    let mut writer = Writer::default();
    let root = writer.group(None, "root", 0);
    let track = writer.track(root, "track", 0);
    let slices = [slice("outer", 0, 9), slice("inner", 2, 9), slice("innermost", 3, 4), slice("empty", 5, 5)];
    writer.slices(track, slices.into_iter().chain([slice("next", 9, 10)]));
    let written = writer.finish();
    let steps: Vec<(u64, bool)> = written
        .packet
        .iter()
        .filter_map(|packet| Some((packet.timestamp?, packet.track_event.as_ref()?.kind == i32::from(Type::SliceEnd))))
        .collect();
    let (begin, end) = (false, true);
    let expected =
        [(0, begin), (2, begin), (3, begin), (4, end), (5, begin), (5, end), (9, end), (9, end), (9, begin), (10, end)];
    assert_eq!(steps, expected);
}
