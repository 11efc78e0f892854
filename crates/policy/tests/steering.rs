//! Who takes which request.

use hotadd_policy::steering::{Processor, Seat, arrange};
use proptest::prelude::*;

/// The row and the seats of a set of processors.
fn seated(processors: &[Processor]) -> (Vec<Processor>, Vec<(Processor, Seat)>) {
    let mut row = vec![None; processors.len()];
    let mut seats = Vec::new();
    let count = arrange(processors.iter().copied(), u16::MAX, |processor, seat| {
        assert!(row[usize::from(seat.position)].replace(processor).is_none(), "two on one seat");
        seats.push((processor, seat));
    });
    assert_eq!(usize::from(count), processors.len());
    (row.into_iter().map(|processor| processor.expect("an empty seat")).collect(), seats)
}

/// Processors with ascending indices that have gaps, on nodes below 64.
fn processors() -> impl Strategy<Value = Vec<Processor>> {
    prop::collection::btree_map(0_u32..4096, 0_u16..64, 1..200)
        .prop_map(|map| map.into_iter().map(|(index, node)| Processor { index, node }).collect())
}

proptest! {
    #[test]
    fn a_requester_asks_each_processor_of_its_node_once_and_itself_first(processors in processors()) {
        let (row, seats) = seated(&processors);
        let count = u16::try_from(row.len()).unwrap();
        for (own, seat) in seats {
            let asked: Vec<Processor> = seat.neighbours(count).map(|position| row[usize::from(position)]).collect();
            prop_assert_eq!(asked[0], own);
            let mut indices: Vec<u32> = asked.iter().map(|processor| processor.index).collect();
            indices.sort_unstable();
            let on_node: Vec<u32> =
                processors.iter().filter(|other| other.node == own.node).map(|other| other.index).collect();
            prop_assert_eq!(indices, on_node);
        }
    }

    #[test]
    fn every_round_of_a_busy_node_gives_each_processor_exactly_one(processors in processors(), rounds in 1_u32..4) {
        let (row, seats) = seated(&processors);
        let count = u16::try_from(row.len()).unwrap();
        for (_, seat) in seats {
            let first = rounds * u32::from(count);
            let position = |turn| usize::from(seat.anybody(turn, count).unwrap());
            let mut round: Vec<u32> = (first..first + u32::from(count)).map(|turn| row[position(turn)].index).collect();
            round.sort_unstable();
            prop_assert_eq!(round, processors.iter().map(|processor| processor.index).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_seat_of_another_row_still_leads_into_this_one(position: u16, node_start: u16, node_end: u16, turn: u32, count: u16) {
        let seat = Seat { position, node_start, node_end };
        prop_assert!(seat.neighbours(count).all(|position| position < count));
        match count {
            0 => prop_assert_eq!(seat.anybody(turn, count), None),
            _ => prop_assert!(seat.anybody(turn, count).unwrap() < count),
        }
    }

    #[test]
    fn a_seat_survives_being_packed(position: u16, node_start: u16, node_end: u16) {
        let seat = Seat { position, node_start, node_end };
        prop_assert_eq!(Seat::unpack(seat.pack()), Some(seat));
    }

    #[test]
    fn a_row_never_has_more_seats_than_room(processors in processors(), room: u16) {
        let mut seats = 0;
        let count = arrange(processors.iter().copied(), room, |_, seat| {
            assert!(seat.position < room);
            seats += 1;
        });
        prop_assert_eq!(seats, count);
        prop_assert_eq!(usize::from(count), processors.len().min(usize::from(room)));
    }
}

#[test]
fn a_processor_without_a_seat_is_told_so() {
    assert_eq!(Seat::unpack(0), None);
}
