//! Which processors an interrupt goes to ("Interrupt affinity" and the page of `IRQ_DEVICE_POLICY`).

use crate::{choices::Choices, sched::Place};

/// `IRQ_DEVICE_POLICY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Whatever suits the system: the lab takes one processor.
    MachineDefault,
    /// The processors of the device's node.
    AllClose,
    /// One processor of the device's node.
    OneClose,
    /// Every processor.
    All,
    /// Those in the mask.
    Specified,
    /// Different messages to different processors. The messages of an MSI capability share one affinity, so that all
    /// processors are allowed.
    SpreadMessages,
}

impl Policy {
    /// The policy with this number; none for the one reserved for the system and unknown ones.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::MachineDefault,
            1 => Self::AllClose,
            2 => Self::OneClose,
            3 => Self::All,
            4 => Self::Specified,
            5 => Self::SpreadMessages,
            _ => return None,
        })
    }
}

/// What an interrupt asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// How processors are chosen.
    pub policy: Policy,
    /// The group they are chosen from; none for any one group.
    pub group: Option<u16>,
    /// The mask for [`Policy::Specified`]; it counts only with a group.
    pub targeted: u64,
    /// The device's NUMA node.
    pub node: u16,
}

/// The processors of `active` that an interrupt with this wish may go to: a group, and a mask in it. None if there is no such
/// processor.
#[must_use]
pub fn affinity(wish: Wish, active: &[Place], choices: &Choices) -> Option<(u16, u64)> {
    let group = wish.group.or_else(|| active.get(choices.below(active.len())).map(|place| place.group))?;
    let members: Vec<_> = active.iter().copied().filter(|processor| processor.group == group).collect();
    let on_node: Vec<_> = members.iter().copied().filter(|processor| processor.node == wish.node).collect();
    let close = if on_node.is_empty() { &members } else { &on_node };
    let mask = match wish.policy {
        Policy::Specified if wish.group.is_some() => mask_of(&members) & wish.targeted,
        Policy::MachineDefault | Policy::Specified => one_of(&members, choices),
        Policy::AllClose => mask_of(close),
        Policy::OneClose => one_of(close, choices),
        Policy::All | Policy::SpreadMessages => mask_of(&members),
    };
    (mask != 0).then_some((group, mask))
}

const fn bit(processor: Place) -> u64 {
    1 << processor.number
}

fn mask_of(processors: &[Place]) -> u64 {
    processors.iter().fold(0, |mask, processor| mask | bit(*processor))
}

fn one_of(processors: &[Place], choices: &Choices) -> u64 {
    processors.get(choices.below(processors.len())).map_or(0, |processor| bit(*processor))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two groups; in the first, processor 2 is missing and 3 is on node 1.
    const ACTIVE: [Place; 5] = [
        Place { group: 0, number: 0, node: 0 },
        Place { group: 0, number: 1, node: 0 },
        Place { group: 0, number: 3, node: 1 },
        Place { group: 1, number: 0, node: 2 },
        Place { group: 1, number: 63, node: 2 },
    ];

    fn wish(policy: Policy) -> Wish {
        Wish { policy, group: Some(0), targeted: 0b1100, node: 0 }
    }

    fn chosen(wish: Wish) -> Option<(u16, u64)> {
        affinity(wish, &ACTIVE, &Choices::new(1))
    }

    #[test]
    fn all_processors_are_those_active_in_the_group_gaps_left_out() {
        assert_eq!(chosen(wish(Policy::All)), Some((0, 0b1011)));
        assert_eq!(chosen(wish(Policy::SpreadMessages)), Some((0, 0b1011)));
        assert_eq!(chosen(Wish { group: Some(1), ..wish(Policy::All) }), Some((1, 1 | 1 << 63)));
    }

    #[test]
    fn close_processors_are_those_of_the_node_or_all_where_the_node_has_none() {
        assert_eq!(chosen(wish(Policy::AllClose)), Some((0, 0b0011)));
        assert_eq!(chosen(Wish { node: 1, ..wish(Policy::AllClose) }), Some((0, 0b1000)));
        assert_eq!(chosen(Wish { node: 7, ..wish(Policy::AllClose) }), Some((0, 0b1011)));
    }

    #[test]
    fn one_processor_is_one_of_those_allowed() {
        for seed in 0..50 {
            let one = |policy| affinity(wish(policy), &ACTIVE, &Choices::new(seed)).map_or(0, |(_, mask)| mask);
            assert_eq!((one(Policy::OneClose).count_ones(), one(Policy::OneClose) & !0b0011), (1, 0));
            assert_eq!((one(Policy::MachineDefault).count_ones(), one(Policy::MachineDefault) & !0b1011), (1, 0));
        }
    }

    #[test]
    fn without_a_group_one_that_has_processors_is_taken_and_targets_do_not_count() {
        let any = |policy, seed| affinity(Wish { group: None, ..wish(policy) }, &ACTIVE, &Choices::new(seed));
        let all: std::collections::BTreeSet<_> = (0..50).map(|seed| any(Policy::All, seed)).collect();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [Some((0, 0b1011)), Some((1, 1 | 1 << 63))]);
        for seed in 0..50 {
            assert_eq!(any(Policy::Specified, seed).map(|(_, mask)| mask.count_ones()), Some(1));
        }
    }

    #[test]
    fn specified_processors_count_only_as_far_as_they_are_active() {
        assert_eq!(chosen(wish(Policy::Specified)), Some((0, 0b1000)));
        assert_eq!(chosen(Wish { targeted: 0b0100, ..wish(Policy::Specified) }), None);
    }

    #[test]
    fn a_group_without_processors_satisfies_nothing() {
        assert_eq!(chosen(Wish { group: Some(2), ..wish(Policy::All) }), None);
        assert_eq!(chosen(Wish { group: Some(2), ..wish(Policy::MachineDefault) }), None);
    }

    #[test]
    fn the_policy_reserved_for_the_system_is_none() {
        assert_eq!(Policy::from_number(4), Some(Policy::Specified));
        assert_eq!((Policy::from_number(6), Policy::from_number(99)), (None, None));
    }
}
