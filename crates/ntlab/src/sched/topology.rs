//! Where processors sit: groups, numbers, NUMA nodes, and which of the places are taken by an active processor.

use std::cell::Cell;

use crate::config::Config;

/// Means every group in the functions that count processors.
pub const ALL_GROUPS: u16 = 0xFFFF;

/// Where a processor sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its group.
    pub group: u16,
    /// Its number in the group.
    pub number: u8,
    /// Its NUMA node.
    pub node: u16,
}

/// A NUMA node: processors of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// The group.
    pub group: u16,
    /// Its places in the group.
    pub mask: u64,
}

#[derive(Debug)]
struct Group {
    mask: u64,
    active: Cell<u64>,
    /// Index of its first place.
    first: u32,
}

/// The places of a machine.
#[derive(Debug)]
pub struct Topology {
    groups: Vec<Group>,
    nodes: Vec<Node>,
    places: Vec<Place>,
    active: Cell<u32>,
}

impl Topology {
    pub(super) fn new(config: &Config) -> Self {
        let mut topology = Self { groups: Vec::new(), nodes: Vec::new(), places: Vec::new(), active: Cell::new(0) };
        for group in &config.groups {
            topology.add_group(group.mask, &group.nodes);
        }
        topology
    }

    fn add_group(&mut self, mask: u64, nodes: &[u64]) {
        let group = narrow(self.groups.len());
        let first_node = self.nodes.len();
        self.nodes.extend(nodes.iter().map(|&mask| Node { group, mask }));
        let first = u32::try_from(self.places.len()).expect("a checked configuration has at most 2,048 places");
        self.groups.push(Group { mask, active: Cell::new(0), first });
        for number in (0..64).filter(|number| mask >> number & 1 != 0) {
            let node = nodes.iter().position(|node| node >> number & 1 != 0).expect("nodes split the mask");
            self.places.push(Place { group, number, node: narrow(first_node + node) });
        }
    }

    pub(super) fn activate(&self, index: u32) {
        let place = self.places[index as usize];
        let active = &self.groups[usize::from(place.group)].active;
        active.set(active.get() | 1 << place.number);
        self.active.set(self.active.get() + 1);
    }

    /// Every place, by processor index.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The NUMA nodes, by number.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The place with this index.
    #[must_use]
    pub fn place(&self, index: u32) -> Option<Place> {
        self.places.get(index as usize).copied()
    }

    /// The index of the place with this number in this group, active or not.
    #[must_use]
    pub fn index(&self, group: u16, number: u8) -> Option<u32> {
        let group = self.groups.get(usize::from(group))?;
        let bit = 1_u64.checked_shl(number.into())?;
        (group.mask & bit != 0).then(|| group.first + (group.mask & (bit - 1)).count_ones())
    }

    /// The index of the active processor with this number in this group.
    #[must_use]
    pub fn active_index(&self, group: u16, number: u8) -> Option<u32> {
        self.index(group, number).filter(|&index| self.is_active(index))
    }

    /// The highest number of a node.
    #[must_use]
    pub fn highest_node(&self) -> u16 {
        narrow(self.nodes.len() - 1)
    }

    /// Whether the processor with this index is active.
    #[must_use]
    pub fn is_active(&self, index: u32) -> bool {
        self.place(index).is_some_and(|place| self.active_mask(place.group) >> place.number & 1 != 0)
    }

    /// The active processors of a group; none for a group there is not.
    #[must_use]
    pub fn active_mask(&self, group: u16) -> u64 {
        self.groups.get(usize::from(group)).map_or(0, |group| group.active.get())
    }

    /// The places of a group; none for a group there is not.
    #[must_use]
    pub fn mask(&self, group: u16) -> u64 {
        self.groups.get(usize::from(group)).map_or(0, |group| group.mask)
    }

    /// How many processors of a group, or of [`ALL_GROUPS`], are active.
    #[must_use]
    pub fn active_count(&self, group: u16) -> u32 {
        if group == ALL_GROUPS { self.active.get() } else { self.active_mask(group).count_ones() }
    }

    /// How many processors a group, or [`ALL_GROUPS`], can have.
    #[must_use]
    pub fn maximum_count(&self, group: u16) -> u32 {
        if group == ALL_GROUPS { u32::from(narrow(self.places.len())) } else { self.mask(group).count_ones() }
    }

    /// How many groups there can be.
    #[must_use]
    pub fn maximum_groups(&self) -> u16 {
        narrow(self.groups.len())
    }

    /// How many groups have an active processor.
    #[must_use]
    pub fn active_groups(&self) -> u16 {
        narrow(self.groups.iter().filter(|group| group.active.get() != 0).count())
    }
}

fn narrow(number: usize) -> u16 {
    u16::try_from(number).expect("a checked configuration has at most 2,048 places")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn gapped() -> Topology {
        let groups = vec![
            config::Group { nodes: vec![0b0011, 0b1000], ..config::Group::new(0b1011) },
            config::Group::new(0b110),
        ];
        Topology::new(&Config { groups, ..Config::default() })
    }

    #[test]
    fn indices_count_through_masks_with_gaps() {
        let topology = gapped();
        let places: Vec<(u16, u8)> = topology.places().iter().map(|place| (place.group, place.number)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 3), (1, 1), (1, 2)]);
        for (index, &(group, number)) in (0..).zip(&places) {
            assert_eq!(topology.index(group, number), Some(index));
        }
        assert_eq!(
            [topology.index(0, 2), topology.index(1, 0), topology.index(2, 0), topology.index(0, 64)],
            [None; 4]
        );
    }

    #[test]
    fn counts_follow_activation_and_not_the_order_of_places() {
        let topology = gapped();
        topology.activate(0);
        topology.activate(4);
        assert_eq!((topology.active_mask(0), topology.active_mask(1)), (0b1, 0b100));
        assert_eq!((topology.active_count(ALL_GROUPS), topology.active_count(0), topology.active_groups()), (2, 1, 2));
        assert_eq!((topology.maximum_count(ALL_GROUPS), topology.maximum_count(1)), (5, 2));
        assert!(topology.is_active(4) && !topology.is_active(3) && !topology.is_active(99));
    }

    #[test]
    fn a_node_is_a_part_of_one_group() {
        let nodes: Vec<u16> = gapped().places().iter().map(|place| place.node).collect();
        assert_eq!(nodes, [0, 0, 1, 2, 2]);
    }
}
