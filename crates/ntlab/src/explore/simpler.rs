//! Schedules that are simpler than one: what may be tried in its place.
//!
//! A schedule is simpler with fewer draws, then with lower ones, then with earlier ones.

use crate::choices::{Draw, Stream};

/// How far a schedule is from the one in which nothing happens.
pub(super) fn weight(draws: &[Draw]) -> (usize, u64, u64) {
    let sum = |of: fn(&Draw) -> u64| draws.iter().map(of).fold(0, u64::saturating_add);
    (draws.len(), sum(|draw| draw.value), sum(|draw| draw.at))
}

/// A way to make a schedule simpler at the draw number `at`; none of what it tries is longer.
pub(super) type Way = fn(draws: &[Draw], at: usize) -> Vec<Vec<Draw>>;

/// All ways to make a schedule simpler at one draw, the most promising first.
pub(super) const WAYS: [Way; 5] = [joined, without_and_closer, lower, closer, earlier];

/// Without the draws of a span.
pub(super) fn without(draws: &[Draw], span: std::ops::Range<usize>) -> Vec<Draw> {
    let mut left = draws.to_vec();
    left.drain(span);
    left
}

/// Two spans of the same code, which three switches from the draw on lie around, become one: who ran first runs on as long as it did after
/// it came back, and then the other for as long as it did.
fn joined(draws: &[Draw], at: usize) -> Vec<Vec<Draw>> {
    let Some([first, back, last]) = draws.get(at..at + 3) else { return Vec::new() };
    if last.stream != Stream::Switch {
        return Vec::new();
    }
    let mut joined = without(draws, at + 1..at + 3);
    joined[at].at = first.at + (last.at - back.at);
    vec![joined]
}

/// Without the draw, and what follows it in its stream comes as much earlier as if a few numbers had been taken out there.
fn without_and_closer(draws: &[Draw], at: usize) -> Vec<Vec<Draw>> {
    let Some(gap) = gap_after(draws, at) else { return Vec::new() };
    powers(gap).into_iter().map(|by| without(&shifted(draws, at + 1, by), at..at + 1)).collect()
}

/// The draw and what follows it in its stream come earlier.
fn closer(draws: &[Draw], at: usize) -> Vec<Vec<Draw>> {
    halves(gap_before(draws, at)).into_iter().map(|by| shifted(draws, at, by)).collect()
}

/// The draw alone comes earlier.
fn earlier(draws: &[Draw], at: usize) -> Vec<Vec<Draw>> {
    let moved = |by| {
        let mut draws = draws.to_vec();
        draws[at].at -= by;
        draws
    };
    halves(gap_before(draws, at)).into_iter().map(moved).collect()
}

/// The draw is nearer to the ordinary one.
fn lower(draws: &[Draw], at: usize) -> Vec<Vec<Draw>> {
    let value = draws[at].value;
    let lowered = |by| {
        let mut draws = draws.to_vec();
        draws[at].value -= by;
        draws
    };
    halves(value - 1).into_iter().map(lowered).collect()
}

/// The draws from number `from` on that are of the same stream as it come `by` numbers earlier.
fn shifted(draws: &[Draw], from: usize, by: u64) -> Vec<Draw> {
    let stream = draws[from].stream;
    let mut draws = draws.to_vec();
    draws[from..].iter_mut().filter(|draw| draw.stream == stream).for_each(|draw| draw.at -= by);
    draws
}

/// How much earlier a draw can come and still be after the one before it in its stream.
fn gap_before(draws: &[Draw], at: usize) -> u64 {
    let draw = draws[at];
    let before = at.checked_sub(1).map(|before| draws[before]).filter(|before| before.stream == draw.stream);
    before.map_or(draw.at, |before| draw.at - before.at - 1)
}

/// How far the next draw of the stream is; none if this is the last.
fn gap_after(draws: &[Draw], at: usize) -> Option<u64> {
    let next = draws.get(at + 1).filter(|next| next.stream == draws[at].stream)?;
    Some(next.at - draws[at].at)
}

/// `most`, a half of it, a quarter of it, down to 1.
fn halves(most: u64) -> Vec<u64> {
    std::iter::successors(Some(most), |by| Some(by / 2)).take_while(|&by| by > 0).collect()
}

/// 1, 2, 4 and so on up to `most`.
fn powers(most: u64) -> Vec<u64> {
    std::iter::successors(Some(1_u64), |by| by.checked_mul(2)).take_while(|&by| by <= most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(stream: Stream, at: u64, value: u64) -> Draw {
        Draw { stream, at, of: 10, value }
    }

    /// Two switches, at 4 and 9, and an event at 6.
    fn some() -> Vec<Draw> {
        vec![draw(Stream::Switch, 4, 1), draw(Stream::Switch, 9, 3), draw(Stream::Event, 6, 2)]
    }

    fn all(draws: &[Draw]) -> Vec<Vec<Draw>> {
        (0..draws.len()).flat_map(|at| WAYS.into_iter().flat_map(move |way| way(draws, at))).collect()
    }

    #[test]
    fn whatever_is_tried_is_simpler_and_in_order() {
        let mut queue = vec![some()];
        let mut tried = 0;
        while let Some(draws) = queue.pop() {
            for simpler in all(&draws) {
                assert!(weight(&simpler) < weight(&draws), "{simpler:?} instead of {draws:?}");
                assert!(simpler.is_sorted() && simpler.iter().all(|draw| draw.value > 0), "{simpler:?}");
                tried += 1;
                if tried < 1000 {
                    queue.push(simpler);
                }
            }
        }
    }

    #[test]
    fn draws_come_earlier_alone_and_with_what_follows_and_become_lower() {
        let tried = all(&some());
        let has = |wanted: [(u64, u64); 3]| {
            tried.iter().any(|draws| draws.iter().map(|draw| (draw.at, draw.value)).eq(wanted))
        };
        assert!(has([(0, 1), (9, 3), (6, 2)]), "the first switch alone");
        assert!(has([(0, 1), (5, 3), (6, 2)]), "the second with it");
        assert!(has([(4, 1), (5, 3), (6, 2)]), "the second alone");
        assert!(has([(4, 1), (9, 1), (6, 2)]), "to another processor");
        assert!(has([(4, 1), (9, 3), (0, 2)]), "the event");
    }

    #[test]
    fn two_spans_become_one_that_is_as_long() {
        // One runs to 4, the other to 9, the first to 11, the other from there on.
        let draws = [(4, 1), (9, 1), (11, 1)].map(|(at, value)| draw(Stream::Switch, at, value));
        assert_eq!(joined(&draws, 0), [vec![draw(Stream::Switch, 6, 1)]]);
        assert_eq!(joined(&draws, 1), Vec::<Vec<Draw>>::new());
        assert_eq!(joined(&some(), 0), Vec::<Vec<Draw>>::new(), "an event is no switch");
    }

    #[test]
    fn what_follows_a_draw_that_is_taken_out_moves_up() {
        let mut tried = without_and_closer(&some(), 0);
        for draws in &mut tried {
            draws.truncate(1);
        }
        assert_eq!(tried, [8, 7, 5].map(|at| vec![draw(Stream::Switch, at, 3)]));
        assert_eq!(without_and_closer(&some(), 1), Vec::<Vec<Draw>>::new(), "nothing follows it in its stream");
    }
}
